/* SPDX-License-Identifier: Apache-2.0 */
/* The walk through directories, whether they are remembered or have to be read. */
#include "store/tree.h"

#include <assert.h>
#include <stdlib.h>

#include "store/tree_private.h"

/* Missing digests of one check that are told apart. */
enum { ABSENT_MAX = 1 << 16 };

/* Digests that are looked up at once. */
enum { BATCH = 64 };

/* Directories of one check that are remembered each by itself as well; of more, none is. */
enum { ASKED_MAX = 64 };

/* The root of what is asked for itself. */
#define NO_ROOT SIZE_MAX

/* A directory that is asked for, with all below it. */
struct asked {
    struct tree_key key;
    bool is_known;            /* it is remembered to be whole, and not looked into */
    uint64_t needs;           /* others, as bits: some of it was found below those first */
    struct cas_spread spread; /* of what was found below it first, and of itself */
};

struct walk {
    struct tree_cache *cache;
    struct cas_hold *hold;
    bool nowait;
    size_t looked_up;
    bool is_over;                  /* without waiting: enough is known, or too much to look up */
    bool unknown;                  /* something would have to be read, or cannot be */
    struct digest_set directories; /* found; those in front have been looked into */
    size_t *roots; /* of directories: the one below which it was found first, or itself */
    size_t root_capacity;
    struct cas_spread spread; /* of what is in none of the following */
    size_t asked_count;
    struct asked asked[ASKED_MAX]; /* the first of the directories */
    struct digest_set absent;
    struct tree_missing *missing;
};

static void walk_fini(struct walk *walk)
{
    digest_set_fini(&walk->directories);
    digest_set_fini(&walk->absent);
    free(walk->roots);
    cas_spread_fini(&walk->spread);
    for (size_t i = 0; i < walk->asked_count; i++)
        cas_spread_fini(&walk->asked[i].spread);
}

static int note_missing(struct walk *walk, const struct digest *digest, size_t root,
                        struct err *err)
{
    bool added = true;
    if (walk->absent.count < ABSENT_MAX && digest_set_add(&walk->absent, digest, &added, err) != 0)
        return -(int)err->code;
    if (!added)
        return 0;
    walk->is_over = walk->nowait;
    if (root != NO_ROOT)
        tree_cache_set_missing(walk->cache, &walk->directories.digests[root], digest);
    if (walk->missing->count < TREE_MISSING_MAX)
        walk->missing->digests[walk->missing->count] = *digest;
    walk->missing->count++;
    return 0;
}

/* A directory that was found before is now found below ROOT. */
static void note_shared(struct walk *walk, const struct digest *digest, size_t root)
{
    if (root >= walk->asked_count)
        return;
    size_t first = walk->roots[digest_set_index(&walk->directories, digest)];
    if (first != root)
        walk->asked[root].needs |= (uint64_t)1 << first;
}

static int note_directory(struct walk *walk, const struct digest *digest, size_t root,
                          struct err *err)
{
    struct digest_set *set = &walk->directories;
    bool added;
    if (digest_is_empty(digest))
        return 0;
    if (digest_set_add(set, digest, &added, err) != 0)
        return -(int)err->code;
    if (!added) {
        note_shared(walk, digest, root);
        return 0;
    }
    if (set->count > TREE_DIRECTORIES_MAX)
        return err_set(err, ERR_INVALID, "a tree has more than %d directories",
                       TREE_DIRECTORIES_MAX);
    if (walk->root_capacity < set->capacity) {
        size_t *roots = realloc(walk->roots, set->capacity * sizeof(*roots));
        if (roots == NULL)
            return err_no_memory(err, "the check of a tree");
        walk->roots = roots;
        walk->root_capacity = set->capacity;
    }
    walk->roots[set->count - 1] = root != NO_ROOT ? root : set->count - 1;
    return 0;
}

/* Looks up to BATCH digests up; directories that are there are to be looked into. */
static int look_up(struct walk *walk, const struct digest *digests, size_t count,
                   bool are_directories, size_t root, struct err *err)
{
    enum cas_presence presence[BATCH];
    assert(count <= BATCH);
    struct cas *cas = walk->cache->cas;
    walk->looked_up += count;
    if (walk->nowait && walk->looked_up > TREE_NOWAIT_MAX) {
        walk->unknown = true;
        walk->is_over = true;
        return 0;
    }
    /* Once it is known that the answer is not known, only what is missing is of interest. */
    if (walk->nowait || walk->unknown)
        cas_find_nowait(cas, walk->hold, digests, count, presence);
    else
        cas_find_verified(cas, walk->hold, digests, count, presence);
    int rc = 0;
    for (size_t i = 0; i < count && rc == 0; i++) {
        if (presence[i] == CAS_UNVERIFIED)
            walk->unknown = true;
        else if (presence[i] == CAS_ABSENT)
            rc = note_missing(walk, &digests[i], root, err);
        else if (are_directories)
            rc = note_directory(walk, &digests[i], root, err);
    }
    return rc;
}

static int look_up_list(struct walk *walk, const struct tree_list *list, struct err *err)
{
    int rc = 0;
    for (size_t done = 0; done < list->count && rc == 0 && !walk->is_over; done += BATCH) {
        size_t take = list->count - done < BATCH ? list->count - done : BATCH;
        rc = look_up(walk, list->digests + done, take, list->are_directories, NO_ROOT, err);
    }
    return rc;
}

static int look_up_children(struct walk *walk, const struct tree_directory *directory, size_t root,
                            struct err *err)
{
    struct digest batch[BATCH];
    size_t count = directory->directory_count + directory->file_count;
    int rc = 0;
    for (size_t i = 0; i < count && rc == 0 && !walk->is_over;) {
        bool are_directories = i < directory->directory_count;
        size_t end = are_directories ? directory->directory_count : count;
        size_t filled = 0;
        while (filled < BATCH && i < end)
            tree_directory_child(directory, i++, &batch[filled++]);
        rc = look_up(walk, batch, filled, are_directories, root, err);
    }
    return rc;
}

/* Reads a directory and remembers it. OUT is pinned; NULL if it turned out to be missing. */
static int read_directory(struct walk *walk, const struct digest *digest, size_t root,
                          struct tree_directory **out, struct err *err)
{
    char text[DIGEST_TEXT_MAX];
    *out = NULL;
    if (digest->size > TREE_DIRECTORY_SIZE_MAX)
        return err_set(err, ERR_INVALID, "directory %s is larger than %d bytes",
                       digest_text(digest, text), TREE_DIRECTORY_SIZE_MAX);
    struct cas_blob blob = {.digest = *digest};
    uint8_t *buffer = malloc((size_t)digest->size);
    if (buffer == NULL)
        return err_no_memory(err, "a directory");
    int rc;
    cas_get(walk->cache->cas, walk->hold, &blob, 1, buffer);
    if (blob.err.code == ERR_NOT_FOUND) {
        rc = note_missing(walk, digest, root, err);
    } else if (blob.err.code != ERR_OK) {
        *err = blob.err;
        rc = err_wrap(err, "directory %s", digest_text(digest, text));
    } else {
        rc = tree_directory_parse(digest, blob.data, out, err);
    }
    free(buffer);
    if (rc == 0 && *out != NULL)
        tree_directories_add(&walk->cache->directories, *out);
    return rc;
}

static int look_into(struct walk *walk, size_t index, struct err *err)
{
    /* The set moves when it grows. */
    struct digest digest = walk->directories.digests[index];
    size_t root = walk->roots[index];
    int rc = 0;
    if (root < walk->asked_count) {
        walk->hold->spread = &walk->asked[root].spread;
        /* It was looked up as one of many. */
        if (root == index)
            rc = look_up(walk, &digest, 1, false, root, err);
        if (rc != 0 || walk->is_over)
            return rc;
    }
    struct tree_directory *directory = tree_directories_get(&walk->cache->directories, &digest);
    if (directory == NULL && walk->nowait) {
        walk->unknown = true;
        return 0;
    }
    if (directory == NULL)
        rc = read_directory(walk, &digest, root, &directory, err);
    if (directory == NULL)
        return rc;
    if (rc == 0 && root == index)
        tree_cache_set_missing(walk->cache, &digest, NULL);
    if (rc == 0)
        rc = look_up_children(walk, directory, root, err);
    tree_directories_unpin(&walk->cache->directories, directory);
    return rc;
}

/* Of trees that were not whole: whether what was missing still is. */
static int look_at_known_missing(struct walk *walk, struct err *err)
{
    int rc = 0;
    for (size_t i = 0; i < walk->directories.count && rc == 0 && !walk->is_over; i++) {
        struct digest missing;
        enum cas_presence presence;
        if (!tree_cache_missing(walk->cache, &walk->directories.digests[i], &missing))
            continue;
        cas_find_nowait(walk->cache->cas, walk->hold, &missing, 1, &presence);
        if (presence == CAS_ABSENT)
            rc = note_missing(walk, &missing, i, err);
    }
    return rc;
}

/* --- what is remembered to be whole --- */

/* Of the directories that are asked for, which are remembered to be whole by themselves. */
static int look_at_known_whole(struct walk *walk, struct err *err)
{
    if (walk->directories.count > ASKED_MAX)
        return 0;
    for (size_t i = 0; i < walk->directories.count; i++) {
        struct asked *asked = &walk->asked[walk->asked_count++];
        const struct tree_list list = {&walk->directories.digests[i], 1, true};
        int rc = tree_keys_make(&walk->cache->whole.keys, &list, 1, &asked->key, err);
        if (rc != 0)
            return rc;
        asked->is_known = tree_whole_renew(&walk->cache->whole, walk->cache->cas, walk->hold,
                                           &asked->key, &asked->spread);
    }
    return 0;
}

static bool is_known_whole(const struct walk *walk, size_t index)
{
    return index < walk->asked_count && walk->asked[index].is_known;
}

/* Makes NEEDS name all that is needed by what is needed. */
static void close_needs(struct walk *walk)
{
    for (size_t via = 0; via < walk->asked_count; via++)
        for (size_t i = 0; i < walk->asked_count; i++)
            if ((walk->asked[i].needs >> via & 1) != 0)
                walk->asked[i].needs |= walk->asked[via].needs;
}

/* All of it was found: remembers that under KEY, and each directory that was asked for. */
static void remember(struct walk *walk, const struct tree_key *key)
{
    const struct cas_spread *spreads[ASKED_MAX + 1];
    close_needs(walk);
    for (size_t i = 0; i < walk->asked_count; i++) {
        size_t count = 0;
        for (size_t k = 0; k < walk->asked_count; k++)
            if (k == i || (walk->asked[i].needs >> k & 1) != 0)
                spreads[count++] = &walk->asked[k].spread;
        if (!walk->asked[i].is_known)
            tree_whole_add(&walk->cache->whole, &walk->asked[i].key, spreads, count);
    }
    for (size_t i = 0; i < walk->asked_count; i++)
        spreads[i] = &walk->asked[i].spread;
    spreads[walk->asked_count] = &walk->spread;
    tree_whole_add(&walk->cache->whole, key, spreads, walk->asked_count + 1);
}

static int conclude(const struct walk *walk, struct err *err)
{
    char text[DIGEST_TEXT_MAX];
    if (walk->missing->count != 0)
        return err_set(err, ERR_PRECONDITION, "%zu blobs are missing, the first is %s",
                       walk->missing->count, digest_text(&walk->missing->digests[0], text));
    if (walk->unknown)
        return err_set(err, ERR_UNAVAILABLE,
                       walk->nowait ? "not all of the tree is remembered"
                                    : "content cannot be read right now");
    return 0;
}

static int walk_all(struct walk *walk, const struct tree_list *lists, size_t list_count,
                    struct err *err)
{
    int rc = 0;
    for (size_t i = 0; rc == 0 && i < list_count; i++)
        rc = look_up_list(walk, &lists[i], err);
    if (rc == 0 && walk->nowait)
        rc = look_at_known_missing(walk, err);
    if (rc == 0 && !walk->is_over)
        rc = look_at_known_whole(walk, err);
    /* Without waiting one missing digest is answer enough; else all of them are wanted. */
    for (size_t i = 0; rc == 0 && i < walk->directories.count && !walk->is_over; i++)
        if (!is_known_whole(walk, i))
            rc = look_into(walk, i, err);
    return rc == 0 ? conclude(walk, err) : rc;
}

/* Whether lists were found whole that had no label then; under AS they have one from now on. */
static bool is_known_by_content(struct tree_cache *cache, struct cas_hold *hold,
                                const struct tree_key *key, const struct tree_key *as)
{
    struct cas_spread spread;
    if (as == NULL)
        return tree_whole_renew(&cache->whole, cache->cas, hold, key, NULL);
    if (!tree_whole_renew(&cache->whole, cache->cas, hold, key, &spread))
        return false;
    const struct cas_spread *const spreads[] = {&spread};
    tree_whole_add(&cache->whole, as, spreads, 1);
    cas_spread_fini(&spread);
    return true;
}

static int check(struct tree_cache *cache, struct cas_hold *hold, bool nowait,
                 const struct tree_list *lists, size_t list_count, const struct tree_label *label,
                 struct tree_missing *missing, struct err *err)
{
    struct tree_key key;
    struct tree_key labelled;
    const struct tree_key *as = label != NULL ? &labelled : NULL;
    assert(hold != NULL);
    missing->count = 0;
    if (as != NULL) {
        tree_keys_label(&cache->whole.keys, label, &labelled);
        if (tree_whole_renew(&cache->whole, cache->cas, hold, as, NULL))
            return 0;
    }
    int rc = tree_keys_make(&cache->whole.keys, lists, list_count, &key, err);
    if (rc != 0 || is_known_by_content(cache, hold, &key, as))
        return rc;
    struct walk walk = {.cache = cache, .hold = hold, .nowait = nowait, .missing = missing};
    struct cas_spread *outer = hold->spread;
    hold->spread = &walk.spread;
    rc = walk_all(&walk, lists, list_count, err);
    hold->spread = outer;
    if (rc == 0)
        remember(&walk, as != NULL ? as : &key);
    walk_fini(&walk);
    return rc;
}

int tree_check(struct tree_cache *cache, struct cas_hold *hold, const struct tree_list *lists,
               size_t list_count, const struct tree_label *label, struct tree_missing *missing,
               struct err *err)
{
    return check(cache, hold, false, lists, list_count, label, missing, err);
}

int tree_check_remembered(struct tree_cache *cache, struct cas_hold *hold,
                          const struct tree_list *lists, size_t list_count,
                          const struct tree_label *label, struct tree_missing *missing,
                          struct err *err)
{
    return check(cache, hold, true, lists, list_count, label, missing, err);
}
