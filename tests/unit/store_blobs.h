/* SPDX-License-Identifier: Apache-2.0 */
/* A CAS in a temporary folder, and blobs to put into it. */
#ifndef ASSETD_TESTS_STORE_BLOBS_H
#define ASSETD_TESTS_STORE_BLOBS_H

#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include <cmocka.h>

#include "scratch.h"
#include "store/cas_private.h"

enum { KIB = 1024, MIB = 1024 * 1024 };

struct store {
    struct scratch scratch;
    struct cas *cas;
};

static inline void store_open(struct store *store, int64_t quota)
{
    struct err err;
    const struct cas_options options = {
        .path = store->scratch.path, .quota = quota, .may_write = true};
    if (cas_open(&options, &store->cas, &err) != 0)
        fail_msg("%s", err.msg);
}

static inline void store_close(struct store *store)
{
    cas_close(store->cas);
    store->cas = NULL;
}

static inline void store_reopen(struct store *store, int64_t quota)
{
    store_close(store);
    store_open(store, quota);
}

static inline int store_setup(void **state)
{
    struct store *store = calloc(1, sizeof(*store));
    scratch_init(&store->scratch);
    *state = store;
    return 0;
}

static inline int store_teardown(void **state)
{
    struct store *store = *state;
    store_close(store);
    scratch_fini(&store->scratch);
    free(store);
    return 0;
}

/* A blob of SIZE bytes that SEED tells from others; to be freed. */
static inline uint8_t *make_blob(size_t size, uint64_t seed, struct digest *digest)
{
    uint8_t *data = calloc(1, size + 8);
    uint64_t random = seed * 2 + 1;
    if (data == NULL)
        abort();
    for (size_t i = 0; i < size; i += 8) {
        random = random * 6364136223846793005u + 1442695040888963407u;
        memcpy(data + i, &random, 8);
    }
    struct err err;
    if (digest_compute(DIGEST_SHA256, data, size, digest, &err) != 0)
        abort();
    return data;
}

static inline enum err_code put_bytes(struct cas *cas, struct cas_hold *hold,
                                      const struct digest *digest, const void *data, size_t size)
{
    struct cas_blob blob = {.digest = *digest, .data = {data, size}};
    cas_put(cas, hold, &blob, 1);
    return blob.err.code;
}

/* Puts the blob of SEED, and gives its digest. */
static inline enum err_code put_blob(struct cas *cas, struct cas_hold *hold, size_t size,
                                     uint64_t seed, struct digest *digest)
{
    uint8_t *data = make_blob(size, seed, digest);
    enum err_code code = put_bytes(cas, hold, digest, data, size);
    free(data);
    return code;
}

/* Reads the blob of SEED and compares its bytes. */
static inline enum err_code get_blob(struct cas *cas, size_t size, uint64_t seed)
{
    struct cas_blob blob;
    uint8_t *data = make_blob(size, seed, &blob.digest);
    uint8_t *buffer = malloc(size + 1);
    cas_get(cas, NULL, &blob, 1, buffer);
    if (blob.err.code == ERR_OK) {
        assert_int_equal(blob.data.size, size);
        assert_memory_equal(blob.data.data, data, size);
    }
    free(buffer);
    free(data);
    return blob.err.code;
}

static inline bool is_there(struct cas *cas, const struct digest *digest)
{
    bool present;
    cas_find(cas, NULL, digest, 1, &present);
    return present;
}

static inline enum cas_presence presence_of(struct cas *cas, const struct digest *digest)
{
    enum cas_presence presence;
    cas_find_nowait(cas, NULL, digest, 1, &presence);
    return presence;
}

static inline enum cas_presence verified_presence_of(struct cas *cas, const struct digest *digest)
{
    enum cas_presence presence;
    cas_find_verified(cas, NULL, digest, 1, &presence);
    return presence;
}

static inline struct cas_segment *segment_of(struct cas *cas, const struct digest *digest)
{
    struct cas_found found;
    assert_int_not_equal(cas_look_up(cas, NULL, digest, &found), CAS_ABSENT);
    return cas_segment_find(&cas->shared, cas_place_number(found.place));
}

/* Where the payload of a blob begins, in which file below the temporary folder. */
static inline off_t blob_place(struct store *store, const struct digest *digest,
                               char path[PATH_MAX])
{
    struct cas_found found;
    if (cas_look_up(store->cas, NULL, digest, &found) == CAS_ABSENT)
        fail_msg("the blob is not there");
    (void)snprintf(path, PATH_MAX, "cas/log/%016llx",
                   (unsigned long long)cas_place_number(found.place));
    return (off_t)(cas_place_offset(found.place) + cas_record_header_size(digest->function));
}

/* Turns over one byte of the file of a blob, at OFFSET from where its payload begins. */
static inline void blob_flip(struct store *store, const struct digest *digest, off_t offset)
{
    char path[PATH_MAX];
    off_t begin = blob_place(store, digest, path);
    scratch_flip(&store->scratch, path, begin + offset);
}

/* Bytes of all files of the log. */
static inline off_t log_bytes(const struct store *store)
{
    off_t bytes = 0;
    uint32_t index = 0;
    const struct cas_segment *segment;
    while ((segment = cas_segment_next(&store->cas->shared, &index)) != NULL) {
        char name[64];
        char path[PATH_MAX];
        struct stat st;
        (void)snprintf(name, sizeof(name), "cas/log/%016llx",
                       (unsigned long long)atomic_load(&segment->number));
        assert_int_equal(stat(scratch_path(&store->scratch, name, path), &st), 0);
        bytes += st.st_size;
    }
    return bytes;
}

static inline struct cas_stats stats_of(struct cas *cas)
{
    struct cas_stats stats;
    cas_stats(cas, &stats);
    return stats;
}

#endif
