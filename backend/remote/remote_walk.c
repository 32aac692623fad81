/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A walk goes on whenever an answer comes, in one loop: who has the turn takes what has come, looks
 * into directories, and sends what there is to send. It stops where memory would grow without an
 * answer.
 */
#include "remote/remote_walk.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "remote/remote_walk_calls.h"

/* Missing digests of one check that are told apart. */
enum { ABSENT_MAX = 1 << 16 };

/* --- what is found --- */

static int note_missing(struct remote_walk *walk, const struct digest *digest, struct err *err)
{
    bool is_new = true;
    struct tree_missing *missing = &walk->missing;
    if (walk->absent.count < ABSENT_MAX && digest_set_add(&walk->absent, digest, &is_new, err) != 0)
        return -(int)err->code;
    if (!is_new)
        return 0;
    if (missing->count < TREE_MISSING_MAX)
        missing->digests[missing->count] = *digest;
    missing->count++;
    return 0;
}

/* What never can work says more than what may pass. */
static void fail(struct remote_walk *walk, const struct err *err)
{
    if (walk->err.code == ERR_OK || (err->code == ERR_INVALID && walk->err.code != ERR_INVALID))
        walk->err = *err;
}

/* Requests stay below 1 MiB, with hashes of SHA-512 as well, which are twice as long. */
static bool has_room(const struct remote_walk *walk)
{
    enum { HASHES_MAX = CAS_FIND_MAX * 32 }; /* bytes */
    if (walk->find == NULL || walk->find->digests.count == 0)
        return true;
    const struct digest_set *digests = &walk->find->digests;
    return digests->count < CAS_FIND_MAX &&
           digests->count * digest_hash_size(digests->digests[0].function) < HASHES_MAX;
}

static int send_find(struct remote_walk *walk, struct err *err)
{
    struct remote_walk_find *find = walk->find;
    if (walk->finds_under_way == REMOTE_WALK_FINDS_MAX)
        return 0;
    walk->find = NULL;
    int rc = remote_walk_find_send(find, err);
    walk->finds_under_way += rc == 0;
    walk->under_way += rc == 0;
    return rc;
}

/* One more directory is known. */
static int count_directory(struct remote_walk *walk, struct err *err)
{
    if (walk->directories.count > TREE_DIRECTORIES_MAX)
        return err_set(err, ERR_INVALID, "a tree has more than %d directories",
                       TREE_DIRECTORIES_MAX);
    if (walk->directories.count <= REMOTE_WALK_FEW)
        return 0;
    walk->many++;
    if (atomic_fetch_add(&walk->source->many, 1) < REMOTE_WALK_MANY)
        return 0;
    return err_set(err, ERR_UNAVAILABLE,
                   "too many trees of more than %d directories are being checked at the same time: "
                   "try again later",
                   REMOTE_WALK_FEW);
}

/* A digest that is to be asked for. Not without room. */
static int note(struct remote_walk *walk, const struct digest *digest, bool is_directory,
                struct err *err)
{
    bool is_new;
    if (digest_is_empty(digest))
        return 0;
    if (is_directory) {
        if (digest_set_add(&walk->directories, digest, &is_new, err) != 0)
            return -(int)err->code;
        if (!is_new)
            return 0;
        if (count_directory(walk, err) != 0)
            return -(int)err->code;
    }
    if (digest->size == 0) /* there is no such content, whatever the CAS makes of it */
        return note_missing(walk, digest, err);
    if (walk->find == NULL && (walk->find = remote_walk_find_new(walk)) == NULL)
        return err_no_memory(err, "the check of a tree");
    int rc = digest_set_add(&walk->find->digests, digest, &is_new, err);
    return rc == 0 && !has_room(walk) ? send_find(walk, err) : rc;
}

static int note_lists(struct remote_walk *walk, struct err *err)
{
    const struct tree_list *list = &walk->lists[walk->list];
    int rc = 0;
    while (rc == 0 && walk->listed < list->count && has_room(walk))
        rc = note(walk, &list->digests[walk->listed++], list->are_directories, err);
    if (walk->listed == list->count) {
        walk->list++;
        walk->listed = 0;
    }
    if (walk->list == walk->list_count) {
        free(walk->lists);
        walk->lists = NULL;
    }
    return rc;
}

/* --- what is looked into --- */

static void begin_directory(struct remote_walk *walk, struct tree_directory *directory)
{
    walk->at = directory;
    walk->child = 0;
}

static int look_into(struct remote_walk *walk, struct err *err)
{
    const struct tree_directory *at = walk->at;
    size_t count = at->directory_count + at->file_count;
    int rc = 0;
    while (rc == 0 && walk->child < count && has_room(walk)) {
        struct digest digest;
        bool is_directory = walk->child < at->directory_count;
        tree_directory_child(at, walk->child++, &digest);
        rc = note(walk, &digest, is_directory, err);
    }
    if (walk->child == count) {
        tree_directories_unpin(&walk->source->directories, walk->at);
        walk->at = NULL;
    }
    return rc;
}

/* Of the large directory nothing is in memory any more. */
static void leave_gate(struct remote_walk *walk)
{
    walk->large = NULL;
    if (walk->is_in_gate)
        remote_gate_leave(&walk->source->large);
    walk->is_in_gate = false;
}

static void free_read(struct remote_walk *walk, struct remote_walk_read *read)
{
    bool is_large = read == walk->large;
    remote_walk_read_free(read);
    if (is_large)
        leave_gate(walk);
}

/* The next directory of those that were read. */
static int take_read(struct remote_walk *walk, struct err *err)
{
    struct remote_walk_read *read = walk->read;
    int rc = 0;
    if (read->looked_into == read->count) {
        walk->read = read->next;
        free_read(walk, read);
        return 0;
    }
    size_t index = read->looked_into++;
    if (read->directories[index] == NULL)
        rc = note_missing(walk, &read->digests[index], err);
    else
        begin_directory(walk, read->directories[index]);
    read->directories[index] = NULL;
    return rc;
}

/* --- what is read --- */

/* On failure READ is gone. */
static int send_read(struct remote_walk *walk, struct remote_walk_read *read, struct err *err)
{
    if (walk->reads_under_way == 0 && ++walk->levels > REMOTE_WALK_LEVELS_MAX) {
        remote_walk_read_free(read);
        return err_set(err, ERR_INVALID, "a tree has more than %d levels of directories",
                       REMOTE_WALK_LEVELS_MAX);
    }
    int rc = remote_walk_read_send(read, err);
    walk->reads_under_way += rc == 0;
    walk->under_way += rc == 0;
    return rc;
}

static int send_batch(struct remote_walk *walk, struct err *err)
{
    struct remote_walk_read *batch = walk->batch;
    walk->batch = NULL;
    return send_read(walk, batch, err);
}

/* IS_STUCK: it has to wait for an answer. */
static int add_to_batch(struct remote_walk *walk, const struct digest *digest, bool *is_stuck,
                        struct err *err)
{
    if (walk->batch != NULL && !remote_walk_read_has_room(walk->batch, digest)) {
        *is_stuck = walk->reads_under_way == REMOTE_WALK_READS_MAX;
        int rc = *is_stuck ? 0 : send_batch(walk, err);
        if (rc != 0 || *is_stuck)
            return rc;
    }
    if (walk->batch == NULL && (walk->batch = remote_walk_read_new(walk)) == NULL)
        return err_no_memory(err, "the check of a tree");
    return remote_walk_read_add(walk->batch, digest, err);
}

static int begin_large(struct remote_walk *walk, const struct digest *digest, bool *is_stuck,
                       struct err *err)
{
    *is_stuck = walk->large != NULL;
    if (*is_stuck)
        return 0;
    walk->large = remote_walk_read_new(walk);
    if (walk->large == NULL)
        return err_no_memory(err, "the check of a tree");
    int rc = remote_walk_read_add(walk->large, digest, err);
    if (rc != 0)
        return rc;
    walk->is_in_gate = remote_gate_enter(&walk->source->large, &walk->wait);
    walk->under_way += !walk->is_in_gate;
    return 0;
}

/* The next directory: it is remembered, or is to be read. */
static int look_up(struct remote_walk *walk, bool *is_stuck, struct err *err)
{
    const struct digest *digest = &walk->directories.digests[walk->next];
    char text[DIGEST_TEXT_MAX];
    int rc = 0;
    if (digest->size > TREE_DIRECTORY_SIZE_MAX)
        return err_set(err, ERR_INVALID, "directory %s is larger than %d bytes",
                       digest_text(digest, text), TREE_DIRECTORY_SIZE_MAX);
    struct tree_directory *known = tree_directories_get(&walk->source->directories, digest);
    if (known != NULL)
        begin_directory(walk, known);
    else if (digest->size == 0)
        rc = note_missing(walk, digest, err);
    else if (digest->size > walk->batch_max)
        rc = begin_large(walk, digest, is_stuck, err);
    else
        rc = add_to_batch(walk, digest, is_stuck, err);
    walk->next += !*is_stuck;
    return rc;
}

/* --- the turn --- */

/*
 * All that could be found without an answer is. What is not full is sent when no more can come: of
 * a level all at once, of the digests at the end.
 */
static int send_rest(struct remote_walk *walk, struct err *err)
{
    struct remote_walk_read *large = walk->large;
    int rc = 0;
    if (walk->batch != NULL && walk->reads_under_way == 0)
        rc = send_batch(walk, err);
    if (rc == 0 && large != NULL && walk->is_in_gate && !large->is_sent &&
        walk->reads_under_way < REMOTE_WALK_READS_MAX) {
        rc = send_read(walk, large, err);
        if (rc != 0)
            leave_gate(walk);
    }
    bool is_all =
        walk->reads_under_way == 0 && walk->large == NULL && walk->next == walk->directories.count;
    return rc == 0 && is_all && walk->find != NULL ? send_find(walk, err) : rc;
}

static int go_on(struct remote_walk *walk, struct err *err)
{
    int rc = has_room(walk) ? 0 : send_find(walk, err);
    bool is_stuck = false;
    while (rc == 0 && !is_stuck && has_room(walk)) {
        if (walk->at != NULL)
            rc = look_into(walk, err);
        else if (walk->lists != NULL)
            rc = note_lists(walk, err);
        else if (walk->read != NULL)
            rc = take_read(walk, err);
        else if (walk->next < walk->directories.count)
            rc = look_up(walk, &is_stuck, err);
        else
            break;
    }
    return rc == 0 && has_room(walk) ? send_rest(walk, err) : rc;
}

static int end_find(struct remote_walk *walk, struct remote_walk_find *find, struct err *err)
{
    int rc = 0;
    walk->finds_under_way--;
    for (size_t i = 0; rc == 0 && find->call.err.code == ERR_OK && i < find->find.count; i++)
        if (find->is_missing[i])
            rc = note_missing(walk, &find->digests.digests[i], err);
    remote_walk_find_free(find);
    return rc;
}

static void end_read(struct remote_walk *walk, struct remote_walk_read *read)
{
    walk->reads_under_way--;
    if (read->call.err.code != ERR_OK) {
        free_read(walk, read);
        return;
    }
    if (walk->read == NULL)
        walk->read = read;
    else
        walk->read_by->next = read;
    walk->read_by = read;
}

/* What has come. */
static void take_back(struct remote_walk *walk)
{
    struct err err;
    (void)pthread_mutex_lock(&walk->lock);
    struct remote_walk_call *call = walk->back;
    walk->back = NULL;
    walk->back_end = &walk->back;
    if (walk->is_admitted) {
        walk->is_in_gate = true;
        walk->under_way--;
    }
    walk->is_admitted = false;
    (void)pthread_mutex_unlock(&walk->lock);
    while (call != NULL) {
        struct remote_walk_call *next = call->next;
        walk->under_way--;
        if (call->err.code != ERR_OK)
            fail(walk, &call->err);
        if (call->is_read)
            end_read(walk, (struct remote_walk_read *)call);
        else if (end_find(walk, (struct remote_walk_find *)call, &err) != 0)
            fail(walk, &err);
        call = next;
    }
}

/* What is known to be missing is an answer, whatever else could not be asked. */
static void conclude(struct remote_walk *walk)
{
    char text[DIGEST_TEXT_MAX];
    if (walk->err.code == ERR_OK)
        assert(walk->find == NULL && walk->batch == NULL && walk->large == NULL &&
               walk->next == walk->directories.count);
    if (walk->err.code != ERR_INVALID && walk->missing.count != 0)
        (void)err_set(&walk->err, ERR_PRECONDITION, "%zu blobs are missing, the first is %s",
                      walk->missing.count, digest_text(&walk->missing.digests[0], text));
}

/*
 * Whether it goes on for nobody: not with a directory that it has waited for at the gate, and not
 * for long, as a tree may be so deep that it takes a call for each of very many levels.
 */
static bool is_given_up(struct remote_walk *walk)
{
    if (!atomic_load(&walk->is_unwanted))
        return false;
    if (walk->large != NULL && !walk->large->is_sent)
        return true;
    return walk->unwanted_turns++ >= REMOTE_WALK_UNWANTED_TURNS;
}

bool remote_walk_run(struct remote_walk *walk)
{
    struct err err;
    bool has_more, is_over;
    do {
        take_back(walk);
        if (walk->err.code == ERR_OK && is_given_up(walk)) {
            (void)err_set(&err, ERR_CANCELLED, "nobody waits for the check any more");
            fail(walk, &err);
        }
        if (walk->err.code == ERR_OK && go_on(walk, &err) != 0)
            fail(walk, &err);
        (void)pthread_mutex_lock(&walk->lock);
        has_more = walk->back != NULL || walk->is_admitted;
        is_over = !has_more && walk->under_way == 0;
        walk->is_running = has_more || is_over;
        (void)pthread_mutex_unlock(&walk->lock);
    } while (has_more);
    if (is_over)
        conclude(walk);
    return is_over;
}

void remote_walk_take_back(struct remote_walk_call *call, const struct err *err)
{
    struct remote_walk *walk = call->walk;
    call->err.code = ERR_OK;
    if (err != NULL)
        call->err = *err;
    call->next = NULL;
    (void)pthread_mutex_lock(&walk->lock);
    *walk->back_end = call;
    walk->back_end = &call->next;
    bool is_ours = !walk->is_running;
    walk->is_running = true;
    (void)pthread_mutex_unlock(&walk->lock);
    /* Unless the turn is ours, the walk may be gone. */
    if (is_ours)
        walk->wake(walk);
}

struct remote_walk *remote_walk_admit(struct remote_gate_wait *wait)
{
    struct remote_walk *walk =
        (struct remote_walk *)((char *)wait - offsetof(struct remote_walk, wait));
    (void)pthread_mutex_lock(&walk->lock);
    walk->is_admitted = true;
    bool is_ours = !walk->is_running;
    walk->is_running = true;
    (void)pthread_mutex_unlock(&walk->lock);
    return is_ours ? walk : NULL;
}

/* --- begin and end --- */

/* One block of memory; those that are empty are left out. */
static int copy_lists(struct remote_walk *walk, const struct tree_list *lists, size_t list_count,
                      struct err *err)
{
    size_t count = 0, digest_count = 0;
    for (size_t i = 0; i < list_count; i++) {
        count += lists[i].count != 0;
        digest_count += lists[i].count;
    }
    if (count == 0)
        return 0;
    walk->lists = malloc(count * sizeof(*lists) + digest_count * sizeof(struct digest));
    if (walk->lists == NULL)
        return err_no_memory(err, "the check of a tree");
    struct digest *digests = (struct digest *)(walk->lists + count);
    for (size_t i = 0; i < list_count; i++) {
        if (lists[i].count == 0)
            continue;
        memcpy(digests, lists[i].digests, lists[i].count * sizeof(*digests));
        walk->lists[walk->list_count] = lists[i];
        walk->lists[walk->list_count++].digests = digests;
        digests += lists[i].count;
    }
    return 0;
}

void remote_walk_init(struct remote_walk *walk, struct remote_source *source,
                      const struct tree_list *lists, size_t list_count)
{
    struct err err;
    *walk = (struct remote_walk){.source = source,
                                 .batch_max = cas_connections_batch(source->connections),
                                 .is_running = true,
                                 .back_end = &walk->back};
    (void)pthread_mutex_init(&walk->lock, NULL);
    if (copy_lists(walk, lists, list_count, &err) != 0)
        fail(walk, &err);
}

void remote_walk_fini(struct remote_walk *walk)
{
    if (walk->at != NULL)
        tree_directories_unpin(&walk->source->directories, walk->at);
    while (walk->read != NULL) {
        struct remote_walk_read *next = walk->read->next;
        free_read(walk, walk->read);
        walk->read = next;
    }
    free_read(walk, walk->large);
    remote_walk_read_free(walk->batch);
    remote_walk_find_free(walk->find);
    (void)atomic_fetch_sub(&walk->source->many, walk->many);
    digest_set_fini(&walk->directories);
    digest_set_fini(&walk->absent);
    free(walk->lists);
    (void)pthread_mutex_destroy(&walk->lock);
}
