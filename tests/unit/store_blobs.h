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
#include "store/cas.h"

enum { KIB = 1024, MIB = 1024 * 1024 };

struct store {
    struct scratch scratch;
    struct cas *cas;
};

static inline void store_open(struct store *store, int64_t quota)
{
    struct err err;
    const struct cas_options options = {.path = store->scratch.path, .quota = quota};
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
    uint8_t *data = malloc(size + 8);
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

/* The path of a blob's file, below the temporary folder. Returns PATH. */
static inline char *blob_path(const struct digest *digest, char path[PATH_MAX])
{
    char hex[2 * DIGEST_HASH_MAX + 1];
    (void)snprintf(path, PATH_MAX, "cas/blobs/%s-%s-%lld", digest_function_name(digest->function),
                   digest_hex(digest, hex), (long long)digest->size);
    return path;
}

/* What the state file says. Returns TEXT. */
static inline char *state_of(const struct scratch *scratch, char text[128])
{
    char path[PATH_MAX];
    FILE *file = fopen(scratch_path(scratch, "cas/state", path), "r");
    assert_non_null(file);
    assert_non_null(fgets(text, 128, file));
    (void)fclose(file);
    return text;
}

static inline struct cas_stats stats_of(struct cas *cas)
{
    struct cas_stats stats;
    cas_stats(cas, &stats);
    return stats;
}

#endif
