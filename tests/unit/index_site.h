/* SPDX-License-Identifier: Apache-2.0 */
/* An asset index in a temporary folder, with a clock that is set, for the tests of it. */
#ifndef ASSETD_TESTS_INDEX_SITE_H
#define ASSETD_TESTS_INDEX_SITE_H

#include <semaphore.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/arena.h"
#include "base/digest.h"
#include "base/err.h"
#include "scratch.h"
#include "store/asset_index.h"

enum { MINUTE = 60 * 1000, HOUR = 60 * MINUTE };
enum { MIB = 1 << 20 };

/* The clock of all indexes, milliseconds since 1970: it stands still unless it is set. */
extern atomic_int_fast64_t site_clock;
int64_t site_now(void);

/* What every test has: an empty folder, and the index that was opened in it last. */
struct site {
    struct scratch scratch;
    struct asset_index *index;
    struct arena arena;
    struct err err;
};

int site_set_up(void **state);
int site_tear_down(void **state);

int site_try_open(struct site *site, int64_t quota, int64_t expire_after);
void site_open(struct site *site, int64_t quota, int64_t expire_after);
void site_close(struct site *site);
struct asset_index_stats site_stats(struct site *site);

/* Of the newest file of assets. */
uint64_t site_file_number(struct site *site);
int64_t site_file_size(struct site *site);

/* Asset NUMBER has a content of that size, and is pushed and fetched now. */
struct digest site_digest(uint64_t number);
struct asset site_asset(uint64_t number);
struct asset_key site_key(const char *uri);

/* A key whose URI is "urn:test:NUMBER", in TEXT. */
struct asset_key site_numbered_key(char text[64], uint64_t number);

/* A write that can be waited for. */
struct pending {
    struct asset_write write;
    sem_t done;
    enum err_code code; /* of the answer */
    sem_t *block;       /* the writer waits for it before it goes on */
};

void site_begin_write(struct site *site, struct pending *pending, const struct asset_key *keys,
                      size_t key_count, const struct asset *asset);
void site_begin_keeping_write(struct site *site, struct pending *pending,
                              const struct asset_key *keys, size_t key_count,
                              const struct asset *asset);
enum err_code site_end_write(struct pending *pending);

/* One after the other. */
enum err_code site_write(struct site *site, const struct asset_key *keys, size_t key_count,
                         const struct asset *asset);
void site_put(struct site *site, const struct asset_key *key, const struct asset *asset);
void site_put_number(struct site *site, uint64_t number);

/* Writes the numbers from FIRST up to END, many at a time. */
void site_fill(struct site *site, uint64_t first, uint64_t end);

/* The same, of assets that expire then. */
void site_fill_until(struct site *site, uint64_t first, uint64_t end, int64_t expires_at);

int site_get(struct site *site, const struct asset_key *key, struct asset *asset);
bool site_has(struct site *site, const struct asset_key *key);
bool site_has_number(struct site *site, uint64_t number);
void site_touch(struct site *site, uint64_t number);

/* Holds the writer thread within the answer to a first write; what is queued now is one group. */
struct blocker {
    struct pending pending;
    sem_t go_on;
    char text[64];
    struct asset_key key;
    struct asset asset;
};

void site_block(struct site *site, struct blocker *blocker);
void site_unblock(struct blocker *blocker);

#endif
