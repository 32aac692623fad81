/* SPDX-License-Identifier: Apache-2.0 */
/* The load: pushes, uploads, reads and removals in several threads, and the memory of them. */
#include "cas_load.h"

#include <pthread.h>
#include <semaphore.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum {
    KEPT = 96,          /* blobs that are pushed */
    KEPT_AT_FIRST = 64, /* the first time; so that each time something is new */
    PUSHERS = 3,
    PUSH_MIN = 6, /* blobs of a push */
    PUSH_MAX = 20,
    PUSHES_MIN = 6, /* of each thread */
    UPLOADERS = 2,
    UPLOADS = 45,       /* of each */
    BATCH_MAX = 24,     /* blobs of an upload */
    SMALL_MAX = 3000,   /* bytes of a blob in a batch */
    GATHERED = 20000,   /* bytes of blobs that get a segment of their own, ... */
    STREAMED = 270000,  /* ... and of those that are not kept in memory before */
    PIECE = 50000,      /* bytes that are appended at once */
    CAPTURE_US = 15000, /* between two looks at what is mapped */
    PUSH_US = 1000,     /* between two pushes */
};

struct blob {
    uint64_t seed;
    size_t size;
    struct digest digest;
};

/* Somebody looked for a blob, between two events. */
struct look {
    size_t begun;
    size_t ended;
    bool is_present;
};

struct push {
    size_t begun;
    size_t acknowledged;
};

/* A blob that is pushed. */
struct kept {
    struct blob blob;
    struct look *looks;
    size_t look_count, look_capacity;
    struct push *pushes;
    size_t push_count, push_capacity;
};

struct cas_load {
    pthread_mutex_t lock; /* of all that is noted */
    struct power_cut *cut;
    struct cas *cas;
    uint64_t random;
    uint64_t next_seed;
    struct kept kept[KEPT];
    size_t active;       /* of the kept, those that are pushed */
    struct blob *others; /* that were uploaded once */
    size_t other_count, other_capacity;
    size_t *acknowledged; /* events */
    size_t push_count, push_capacity;
    char fault[256];
    atomic_int uploading; /* threads */
    atomic_bool done;
};

/* --- small things --- */

static void *grown(void *array, size_t count, size_t *capacity, size_t size)
{
    if (count < *capacity)
        return array;
    *capacity = *capacity == 0 ? 64 : 2 * *capacity;
    array = realloc(array, *capacity * size);
    if (array == NULL)
        abort();
    return array;
}

static uint64_t next_random(uint64_t *random)
{
    *random += 0x9e3779b97f4a7c15;
    uint64_t mixed = *random;
    mixed = (mixed ^ mixed >> 30) * 0xbf58476d1ce4e5b9;
    mixed = (mixed ^ mixed >> 27) * 0x94d049bb133111eb;
    return mixed ^ mixed >> 31;
}

static size_t below(uint64_t *random, size_t bound)
{
    return (size_t)(next_random(random) % bound);
}

static void note_fault(struct cas_load *load, const char *what, const struct err *err)
{
    (void)pthread_mutex_lock(&load->lock);
    if (load->fault[0] == '\0')
        (void)snprintf(load->fault, sizeof(load->fault), "%s: %.200s", what,
                       err != NULL ? err->msg : "it may not be");
    (void)pthread_mutex_unlock(&load->lock);
}

/* The bytes that SEED stands for, to be freed. */
static uint8_t *bytes_of(uint64_t seed, size_t size)
{
    uint64_t random = seed;
    uint8_t *bytes = malloc(size + sizeof(random));
    if (bytes == NULL)
        abort();
    for (size_t i = 0; i < size; i += sizeof(random)) {
        uint64_t word = next_random(&random);
        memcpy(bytes + i, &word, sizeof(word));
    }
    return bytes;
}

/* Returns its bytes, to be freed. */
static uint8_t *make_blob(uint64_t seed, size_t size, struct blob *blob)
{
    struct err err;
    uint8_t *bytes = bytes_of(seed, size);
    *blob = (struct blob){.seed = seed, .size = size};
    if (digest_compute(DIGEST_SHA256, bytes, size, &blob->digest, &err) != 0)
        abort();
    return bytes;
}

static size_t kept_size(size_t index, uint64_t *random)
{
    if (index % 32 == 31)
        return STREAMED + below(random, 100000);
    return index % 8 == 7 ? GATHERED + below(random, GATHERED) : 1 + below(random, SMALL_MAX);
}

struct cas_load *cas_load_new(uint64_t seed)
{
    struct cas_load *load = calloc(1, sizeof(*load));
    if (load == NULL || pthread_mutex_init(&load->lock, NULL) != 0)
        abort();
    load->random = seed;
    load->next_seed = 1;
    for (size_t i = 0; i < KEPT; i++)
        free(make_blob(load->next_seed++, kept_size(i, &load->random), &load->kept[i].blob));
    return load;
}

void cas_load_free(struct cas_load *load)
{
    for (size_t i = 0; i < KEPT; i++) {
        free(load->kept[i].looks);
        free(load->kept[i].pushes);
    }
    free(load->others);
    free(load->acknowledged);
    (void)pthread_mutex_destroy(&load->lock);
    free(load);
}

void cas_load_record(struct cas_load *load, struct power_cut *cut)
{
    load->cut = cut;
}

const char *cas_load_fault(const struct cas_load *load)
{
    return load->fault[0] != '\0' ? load->fault : NULL;
}

size_t cas_load_pushes(const struct cas_load *load)
{
    return load->push_count;
}

size_t cas_load_push_event(const struct cas_load *load, size_t index)
{
    return load->acknowledged[index];
}

/* --- what is noted --- */

static void add_look(struct kept *kept, const struct look *look)
{
    kept->looks = grown(kept->looks, kept->look_count, &kept->look_capacity, sizeof(*kept->looks));
    kept->looks[kept->look_count++] = *look;
}

static void add_push(struct kept *kept, const struct push *push)
{
    kept->pushes =
        grown(kept->pushes, kept->push_count, &kept->push_capacity, sizeof(*kept->pushes));
    kept->pushes[kept->push_count++] = *push;
}

static void note_push(struct cas_load *load, size_t first, size_t count, const struct push *push)
{
    (void)pthread_mutex_lock(&load->lock);
    for (size_t i = first; i < first + count; i++)
        add_push(&load->kept[i], push);
    load->acknowledged = grown(load->acknowledged, load->push_count, &load->push_capacity,
                               sizeof(*load->acknowledged));
    load->acknowledged[load->push_count++] = push->acknowledged;
    (void)pthread_mutex_unlock(&load->lock);
}

/*
 * Looks for COUNT of the kept from FIRST on. What is not known may have been evicted while the
 * tables were made anew, and is uploaded again. Returns how many were not seen.
 */
static size_t look_for(struct cas_load *load, struct cas_hold *hold, size_t first, size_t count,
                       enum cas_presence *presence)
{
    struct digest digests[KEPT];
    size_t missing = 0;
    for (size_t i = 0; i < count; i++)
        digests[i] = load->kept[first + i].blob.digest;
    struct look look = {.begun = power_cut_events(load->cut)};
    cas_find_verified(load->cas, hold, digests, count, presence);
    look.ended = power_cut_events(load->cut);
    (void)pthread_mutex_lock(&load->lock);
    for (size_t i = 0; i < count; i++) {
        look.is_present = presence[i] == CAS_PRESENT;
        missing += !look.is_present;
        add_look(&load->kept[first + i], &look);
    }
    (void)pthread_mutex_unlock(&load->lock);
    return missing;
}

size_t cas_load_look(struct cas_load *load, struct cas *cas)
{
    enum cas_presence presence[KEPT];
    size_t begun = power_cut_events(load->cut);
    load->cas = cas;
    (void)look_for(load, NULL, 0, KEPT, presence);
    return begun;
}

/* Whether nobody can have found the blob missing after event BEGIN and before END. */
static bool is_unbroken(const struct kept *kept, size_t begin, size_t end)
{
    for (size_t i = 0; i < kept->look_count; i++) {
        const struct look *look = &kept->looks[i];
        if (!look->is_present && look->ended >= begin && look->begun <= end)
            return false;
    }
    return true;
}

/* The last push before the cut counts, and the first look behind it. */
static bool is_required(const struct kept *kept, size_t at)
{
    const struct push *last = NULL;
    const struct look *next = NULL;
    for (size_t i = 0; i < kept->push_count; i++) {
        const struct push *push = &kept->pushes[i];
        if (push->acknowledged <= at && (last == NULL || push->begun > last->begun))
            last = push;
    }
    for (size_t i = 0; i < kept->look_count; i++) {
        const struct look *look = &kept->looks[i];
        if (look->is_present && look->begun >= at && (next == NULL || look->ended < next->ended))
            next = look;
    }
    return last != NULL && next != NULL && is_unbroken(kept, last->begun, next->ended);
}

void cas_load_cut(struct cas_load *load, size_t at)
{
    const struct push always = {.begun = 0, .acknowledged = 0};
    load->push_count = 0;
    for (size_t i = 0; i < KEPT; i++) {
        struct kept *kept = &load->kept[i];
        bool was_required = is_required(kept, at);
        kept->push_count = 0;
        kept->look_count = 0;
        if (was_required)
            add_push(kept, &always);
    }
}

/* --- uploads --- */

/* A full store is none of its faults: for a moment all of it may be in use. */
static bool is_accepted(struct cas_load *load, const char *what, const struct err *err)
{
    if (err->code != ERR_OK && err->code != ERR_EXHAUSTED)
        note_fault(load, what, err);
    return err->code == ERR_OK;
}

/* Sends PIECE by PIECE; gives up after SIZE bytes, if that is not all. */
static bool stream_blob(struct cas_load *load, const struct blob *blob, const uint8_t *bytes,
                        size_t size)
{
    struct cas_writer *writer;
    struct err err = {.code = ERR_OK};
    if (cas_writer_open(load->cas, &blob->digest, &writer, &err) != 0)
        return is_accepted(load, "open a writer", &err);
    for (size_t at = 0; at < size; at += PIECE) {
        if (cas_writer_append(writer, bytes + at, size - at < PIECE ? size - at : PIECE, &err) !=
            0) {
            cas_writer_abort(writer);
            return is_accepted(load, "append", &err);
        }
    }
    if (size < blob->size) {
        cas_writer_abort(writer);
        return false;
    }
    if (cas_writer_commit(writer, &err) == 0)
        return true;
    /* What was there when it was opened may have been evicted since. */
    if (err.code != ERR_UNAVAILABLE)
        (void)is_accepted(load, "commit", &err);
    return false;
}

/* Those of the kept from FIRST on that were not found. */
static void upload_missing(struct cas_load *load, struct cas_hold *hold, size_t first, size_t count,
                           const enum cas_presence *presence)
{
    struct cas_blob batch[PUSH_MAX];
    uint8_t *bytes[PUSH_MAX];
    size_t in_batch = 0;
    for (size_t i = 0; i < count; i++) {
        const struct blob *blob = &load->kept[first + i].blob;
        if (presence[i] == CAS_PRESENT)
            continue;
        uint8_t *all = bytes_of(blob->seed, blob->size);
        if (blob->size > SMALL_MAX) {
            (void)stream_blob(load, blob, all, blob->size);
            free(all);
            continue;
        }
        bytes[in_batch] = all;
        batch[in_batch++] = (struct cas_blob){.digest = blob->digest, .data = {all, blob->size}};
    }
    cas_put(load->cas, hold, batch, in_batch);
    for (size_t i = 0; i < in_batch; i++) {
        (void)is_accepted(load, "put", &batch[i].err);
        free(bytes[i]);
    }
}

/* --- pushes --- */

struct waiting {
    struct cas_sync sync;
    struct cas_load *load;
    size_t acknowledged;
    struct err err;
    sem_t done;
};

static void on_synced(struct cas_sync *sync, const struct err *err)
{
    struct waiting *waiting = (struct waiting *)sync;
    waiting->acknowledged = power_cut_events(waiting->load->cut);
    waiting->err.code = ERR_OK;
    if (err != NULL)
        waiting->err = *err;
    (void)sem_post(&waiting->done);
}

static bool make_durable(struct cas_load *load, struct cas_hold *hold, size_t *acknowledged)
{
    struct waiting waiting = {.sync = {.hold = hold, .done = on_synced}, .load = load};
    (void)sem_init(&waiting.done, 0, 0);
    cas_sync(load->cas, &waiting.sync);
    while (sem_wait(&waiting.done) != 0)
        continue;
    (void)sem_destroy(&waiting.done);
    if (waiting.err.code != ERR_OK)
        note_fault(load, "push", &waiting.err);
    *acknowledged = waiting.acknowledged;
    return waiting.err.code == ERR_OK;
}

/* What is missing is uploaded before the push, or as a part of it. */
static void push_some(struct cas_load *load, uint64_t *random)
{
    struct cas_hold hold;
    enum cas_presence presence[PUSH_MAX];
    size_t count = PUSH_MIN + below(random, PUSH_MAX - PUSH_MIN);
    size_t first = below(random, load->active - count);
    bool is_before = below(random, 2) == 0;
    if (!is_before)
        cas_hold_begin(load->cas, &hold);
    if (look_for(load, is_before ? NULL : &hold, first, count, presence) > 0)
        upload_missing(load, is_before ? NULL : &hold, first, count, presence);
    if (is_before)
        cas_hold_begin(load->cas, &hold);
    struct push push = {.begun = power_cut_events(load->cut)};
    if (look_for(load, &hold, first, count, presence) == 0 &&
        make_durable(load, &hold, &push.acknowledged))
        note_push(load, first, count, &push);
    cas_hold_end(&hold);
}

/* --- threads --- */

struct thread {
    pthread_t id;
    struct cas_load *load;
    uint64_t random;
};

static void *push_thread(void *argument)
{
    struct thread *thread = argument;
    struct cas_load *load = thread->load;
    for (unsigned i = 0; i < PUSHES_MIN || atomic_load(&load->uploading) > 0; i++) {
        push_some(load, &thread->random);
        (void)usleep(PUSH_US);
    }
    return NULL;
}

static uint64_t take_seed(struct cas_load *load)
{
    (void)pthread_mutex_lock(&load->lock);
    uint64_t seed = load->next_seed++;
    (void)pthread_mutex_unlock(&load->lock);
    return seed;
}

static void note_other(struct cas_load *load, const struct blob *blob)
{
    (void)pthread_mutex_lock(&load->lock);
    load->others =
        grown(load->others, load->other_count, &load->other_capacity, sizeof(*load->others));
    load->others[load->other_count++] = *blob;
    (void)pthread_mutex_unlock(&load->lock);
}

static void upload_batch(struct cas_load *load, uint64_t *random)
{
    struct blob blobs[BATCH_MAX];
    struct cas_blob batch[BATCH_MAX];
    uint8_t *bytes[BATCH_MAX];
    size_t count = 1 + below(random, BATCH_MAX);
    for (size_t i = 0; i < count; i++) {
        bytes[i] = make_blob(take_seed(load), 1 + below(random, SMALL_MAX), &blobs[i]);
        batch[i] = (struct cas_blob){.digest = blobs[i].digest, .data = {bytes[i], blobs[i].size}};
    }
    cas_put(load->cas, NULL, batch, count);
    for (size_t i = 0; i < count; i++) {
        if (is_accepted(load, "put", &batch[i].err))
            note_other(load, &blobs[i]);
        free(bytes[i]);
    }
}

static void upload_one(struct cas_load *load, uint64_t *random)
{
    struct blob blob;
    size_t size = below(random, 4) == 0 ? STREAMED + below(random, STREAMED)
                                        : GATHERED + below(random, 2 * GATHERED);
    uint8_t *bytes = make_blob(take_seed(load), size, &blob);
    bool to_the_end = below(random, 4) != 0;
    if (stream_blob(load, &blob, bytes, to_the_end ? size : below(random, size)))
        note_other(load, &blob);
    free(bytes);
}

/* A blob that was uploaded, or one that is pushed. */
static struct blob pick(struct cas_load *load, uint64_t *random)
{
    (void)pthread_mutex_lock(&load->lock);
    struct blob blob = load->other_count > 0 && below(random, 3) > 0
                           ? load->others[below(random, load->other_count)]
                           : load->kept[below(random, KEPT)].blob;
    (void)pthread_mutex_unlock(&load->lock);
    return blob;
}

/* Reads it, and compares. */
static enum err_code get_blob(const struct blob *blob, struct cas *cas, bool *is_right)
{
    struct cas_blob read = {.digest = blob->digest};
    uint8_t *bytes = bytes_of(blob->seed, blob->size);
    uint8_t *buffer = malloc(blob->size + 1);
    if (buffer == NULL)
        abort();
    cas_get(cas, NULL, &read, 1, buffer);
    *is_right = read.err.code != ERR_OK ||
                (read.data.size == blob->size && memcmp(read.data.data, bytes, blob->size) == 0);
    free(buffer);
    free(bytes);
    return read.err.code;
}

static void use_one(struct cas_load *load, uint64_t *random)
{
    struct blob blob = pick(load, random);
    struct err err = {.msg = ""};
    bool is_right;
    err.code = get_blob(&blob, load->cas, &is_right);
    if (!is_right)
        note_fault(load, "get: wrong bytes", NULL);
    if (err.code != ERR_OK && err.code != ERR_NOT_FOUND && err.code != ERR_UNAVAILABLE)
        note_fault(load, "get", &err);
}

/* Of the others; nobody pushes them. */
static void remove_one(struct cas_load *load, uint64_t *random)
{
    struct err err;
    struct digest digest = {.size = 0};
    (void)pthread_mutex_lock(&load->lock);
    if (load->other_count > 0)
        digest = load->others[below(random, load->other_count)].digest;
    (void)pthread_mutex_unlock(&load->lock);
    if (digest.size != 0 && cas_delete(load->cas, &digest, &err) != 0 &&
        err.code != ERR_NOT_FOUND && err.code != ERR_UNAVAILABLE)
        note_fault(load, "delete", &err);
}

static void *upload_thread(void *argument)
{
    struct thread *thread = argument;
    struct cas_load *load = thread->load;
    for (unsigned i = 0; i < UPLOADS; i++) {
        size_t what = below(&thread->random, 10);
        if (what < 4)
            upload_batch(load, &thread->random);
        else if (what < 7)
            upload_one(load, &thread->random);
        else if (what < 9)
            use_one(load, &thread->random);
        else
            remove_one(load, &thread->random);
    }
    (void)atomic_fetch_sub(&load->uploading, 1);
    return NULL;
}

static void *capture_thread(void *argument)
{
    struct thread *thread = argument;
    while (!atomic_load(&thread->load->done)) {
        (void)power_cut_capture(thread->load->cut);
        (void)usleep(CAPTURE_US);
    }
    return NULL;
}

void cas_load_run(struct cas_load *load, struct cas *cas, bool captures)
{
    struct thread threads[PUSHERS + UPLOADERS];
    struct thread capturing = {.load = load};
    load->cas = cas;
    load->active = load->active == 0 ? KEPT_AT_FIRST : KEPT;
    atomic_store(&load->uploading, UPLOADERS);
    atomic_store(&load->done, false);
    if (captures && pthread_create(&capturing.id, NULL, capture_thread, &capturing) != 0)
        abort();
    for (size_t i = 0; i < PUSHERS + UPLOADERS; i++) {
        threads[i] = (struct thread){.load = load, .random = next_random(&load->random)};
        if (pthread_create(&threads[i].id, NULL, i < PUSHERS ? push_thread : upload_thread,
                           &threads[i]) != 0)
            abort();
    }
    for (size_t i = 0; i < PUSHERS + UPLOADERS; i++)
        (void)pthread_join(threads[i].id, NULL);
    atomic_store(&load->done, true);
    if (captures)
        (void)pthread_join(capturing.id, NULL);
}

/* --- after a cut --- */

static void verify_blob(const struct blob *blob, struct cas *cas, bool must_be_there,
                        struct cas_load_verdict *verdict)
{
    bool is_right;
    enum err_code code = get_blob(blob, cas, &is_right);
    verdict->required += must_be_there;
    verdict->lost += must_be_there && code == ERR_NOT_FOUND;
    verdict->wrong += !is_right;
    verdict->unclear += code != ERR_OK && code != ERR_NOT_FOUND;
}

void cas_load_verify(const struct cas_load *load, struct cas *cas, size_t at,
                     struct cas_load_verdict *verdict)
{
    struct cas_stats stats;
    *verdict = (struct cas_load_verdict){.required = 0};
    cas_stats(cas, &stats);
    uint64_t broken = stats.broken;
    for (size_t i = 0; i < KEPT; i++)
        verify_blob(&load->kept[i].blob, cas, is_required(&load->kept[i], at), verdict);
    for (size_t i = 0; i < load->other_count; i++)
        verify_blob(&load->others[i], cas, false, verdict);
    cas_stats(cas, &stats);
    verdict->broken = (unsigned)(stats.broken - broken);
}
