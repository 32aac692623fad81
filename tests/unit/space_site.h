/* SPDX-License-Identifier: Apache-2.0 */
/* A log with its table and its space in a temporary folder, and made-up blobs to put into it. */
#ifndef ASSETD_TESTS_SPACE_SITE_H
#define ASSETD_TESTS_SPACE_SITE_H

#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <time.h>

#include <cmocka.h>

#include "scratch.h"
#include "store/cas_space_private.h"
#include "store/disk.h"

enum { KB = 1000, MB = 1000 * 1000, KIB = 1024, MIB = 1024 * 1024 };

/* Milliseconds: long enough for an eviction, short enough to be waited for. */
enum { SHORT_PATIENCE = 300, LONG_PATIENCE = 600 * 1000, WAIT_MAX = 60 * 1000 };

static const char store_id[] = "000102030405060708090a0b0c0d0e0f";

struct site {
    struct scratch scratch;
    int cas_fd, log_fd, table_fd;
    struct cas_shared shared;
    struct digest_table *table;
    struct cas_log *log;
    struct cas_space *space;
};

/* --- a store's parts in a temporary folder --- */

static inline int open_folder(const struct site *site, const char *name)
{
    char path[PATH_MAX];
    (void)mkdir(scratch_path(&site->scratch, name, path), 0750);
    int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    assert_true(fd >= 0);
    return fd;
}

static inline int new_space(struct site *site, int64_t quota, int64_t others, struct err *err)
{
    const struct cas_space_options options = {.shared = &site->shared,
                                              .table = site->table,
                                              .log = site->log,
                                              .cas_fd = site->cas_fd,
                                              .log_fd = site->log_fd,
                                              .table_fd = site->table_fd,
                                              .quota = quota,
                                              .others = others,
                                              .path = site->scratch.path};
    return cas_space_new(&options, &site->space, err);
}

static inline void open_log(struct site *site, int64_t quota)
{
    struct err err;
    struct cas_log_options options = {.shared = &site->shared,
                                      .log_fd = site->log_fd,
                                      .segment_size = cas_log_segment_size(quota),
                                      .path = site->scratch.path};
    memcpy(options.store, site->shared.header->store, sizeof(options.store));
    if (cas_log_new(&options, &site->log, &err) != 0 || cas_log_begin_writing(site->log, &err) != 0)
        fail_msg("%s", err.msg);
}

/* All but the thread that evicts. */
static inline void site_open(struct site *site, int64_t quota)
{
    struct err err;
    bool is_new;
    site->cas_fd = open_folder(site, "cas");
    site->log_fd = open_folder(site, "cas/log");
    site->table_fd = open_folder(site, "cas/table");
    if (cas_shared_open(site->cas_fd, store_id, true, &site->shared, &is_new, &err) != 0 ||
        cas_shared_join(&site->shared, &err) != 0 ||
        (is_new && digest_table_reset(&site->shared, site->table_fd, 1000, &err) != 0) ||
        digest_table_open(&site->shared, site->table_fd, &site->table, &err) != 0)
        fail_msg("%s", err.msg);
    open_log(site, quota);
    if (new_space(site, quota, 0, &err) != 0)
        fail_msg("%s", err.msg);
    atomic_store(&site->space->patience, LONG_PATIENCE);
}

static inline void site_start(struct site *site, int64_t quota)
{
    struct err err;
    site_open(site, quota);
    if (cas_space_start(site->space, &err) != 0)
        fail_msg("%s", err.msg);
}

static inline void site_close(struct site *site)
{
    struct err err;
    if (site->log == NULL)
        return;
    cas_space_free(site->space);
    (void)cas_log_end_writing(site->log, &err);
    cas_log_free(site->log);
    site->log = NULL;
    digest_table_close(site->table);
    cas_shared_close(&site->shared);
    (void)close(site->cas_fd);
    (void)close(site->log_fd);
    (void)close(site->table_fd);
}

static struct disk real_disk;

static inline int setup(void **state)
{
    struct site *site = calloc(1, sizeof(*site));
    scratch_init(&site->scratch);
    real_disk = disk;
    *state = site;
    return 0;
}

static inline int teardown(void **state)
{
    struct site *site = *state;
    site_close(site);
    disk = real_disk;
    scratch_fini(&site->scratch);
    free(site);
    return 0;
}

static inline void pause_briefly(void)
{
    const struct timespec time = {.tv_nsec = 1000 * 1000};
    (void)nanosleep(&time, NULL);
}

/* As du(1) counts. */
static int64_t du_bytes;

static inline int add_to_du(const char *path, const struct stat *st, int type, struct FTW *position)
{
    (void)path;
    (void)type;
    (void)position;
    du_bytes += (int64_t)st->st_blocks * 512;
    return 0;
}

static inline int64_t du(const struct site *site)
{
    char path[PATH_MAX];
    du_bytes = 0;
    (void)nftw(scratch_path(&site->scratch, "cas", path), add_to_du, 32, FTW_PHYS);
    return du_bytes;
}

/* Until the thread that evicts has nothing to do: a walk counts what comes and goes meanwhile. */
static inline int64_t du_at_rest(const struct site *site)
{
    int64_t before;
    int64_t bytes = -1;
    do {
        before = bytes;
        bytes = du(site);
    } while (bytes != before);
    return bytes;
}

/* --- blobs, the digests of which are made up --- */

static inline uint64_t mix(uint64_t value)
{
    value = (value + 0x9e3779b97f4a7c15u) * 0xbf58476d1ce4e5b9u;
    value = (value ^ value >> 27) * 0x94d049bb133111ebu;
    return value ^ value >> 31;
}

static inline struct digest digest_of(uint64_t seed, size_t size)
{
    struct digest digest = {.size = (int64_t)size, .function = DIGEST_SHA256};
    for (size_t i = 0; i < 4; i++) {
        uint64_t part = mix(seed * 4 + i);
        memcpy(digest.hash + 8 * i, &part, 8);
    }
    return digest;
}

static inline struct cas_key key_of(uint64_t seed, size_t size)
{
    struct digest digest = digest_of(seed, size);
    struct cas_key key;
    cas_key_of(&digest, &key);
    return key;
}

static inline void fill(uint8_t *payload, uint64_t seed, size_t size)
{
    for (size_t i = 0; i < size; i++)
        payload[i] = (uint8_t)(mix(seed + i / 4096) >> i % 57);
}

/* Appends and publishes it, where there is room. */
static inline int append_blob(struct site *site, uint64_t seed, size_t size,
                              struct cas_appender *appender, struct err *err)
{
    struct digest digest = digest_of(seed, size);
    size_t record_size = (size_t)cas_record_size(DIGEST_SHA256, digest.size);
    size_t header_size = cas_record_header_size(DIGEST_SHA256);
    struct cas_content content = {.offset = appender->offset};
    uint8_t *record = malloc(record_size);
    assert_non_null(record);
    cas_record_put_header(&appender->origin, appender->offset, &digest, record);
    fill(record + header_size, seed, size);
    cas_record_put_tail(&digest, record + header_size, record + header_size + size);
    cas_key_of(&digest, &content.key);
    struct iovec part = {.iov_base = record, .iov_len = record_size};
    int rc = cas_log_append(appender, &part, 1, err);
    if (rc == 0)
        rc = cas_log_publish(appender, &content, 1, err);
    free(record);
    if (rc != 0)
        return rc;
    (void)cas_segment_use(&site->shared, appender->number, cas_shared_tick(&site->shared));
    uint64_t there;
    return digest_table_add(site->table, &content.key, cas_place(appender->number, content.offset),
                            &there, err);
}

static inline enum err_code put_blob(struct site *site, uint64_t seed, size_t size)
{
    struct cas_appender appender;
    struct err err;
    bool is_new;
    int64_t bytes = cas_record_size(DIGEST_SHA256, (int64_t)size);
    int64_t growth = cas_log_growth(bytes, 1);
    int64_t overhead = cas_log_overhead(site->log);
    if (cas_space_take(site->space, growth + overhead, &err) != 0)
        return err.code;
    if (cas_log_take(site->log, bytes, &appender, &is_new, &err) != 0) {
        cas_space_give(site->space, growth + overhead);
        return err.code;
    }
    if (is_new)
        cas_space_charge(site->space, appender.segment, overhead);
    else
        cas_space_give(site->space, overhead);
    int rc = append_blob(site, seed, size, &appender, &err);
    if (rc == 0)
        cas_space_charge(site->space, appender.segment, growth);
    (void)cas_log_give(&appender);
    if (rc != 0)
        cas_space_give(site->space, growth);
    return rc == 0 ? ERR_OK : err.code;
}

static inline void must_put(struct site *site, uint64_t seed, size_t size)
{
    assert_int_equal(put_blob(site, seed, size), ERR_OK);
}

/* Where it is, flags included; 0: it is not there. */
static inline uint64_t place_of(struct site *site, uint64_t seed, size_t size)
{
    struct cas_key key = key_of(seed, size);
    digest_table_enter(site->table);
    const _Atomic uint64_t *entry = digest_table_find(site->table, &key);
    uint64_t place = entry != NULL ? atomic_load(entry) : 0;
    digest_table_leave(site->table);
    bool is_there =
        cas_place_is_trusted(&site->shared, place, cas_record_size(DIGEST_SHA256, (int64_t)size));
    return is_there ? place : 0;
}

static inline bool is_there(struct site *site, uint64_t seed, size_t size)
{
    return place_of(site, seed, size) != 0;
}

/* Finds and renews it, as a store does. */
static inline bool use_blob(struct site *site, uint64_t seed, size_t size)
{
    struct cas_key key = key_of(seed, size);
    uint64_t place = place_of(site, seed, size);
    if (place == 0 || cas_segment_use(&site->shared, cas_place_number(place),
                                      cas_shared_tick(&site->shared)) != CAS_USE_DONE)
        return false;
    digest_table_enter(site->table);
    _Atomic uint64_t *entry = digest_table_find(site->table, &key);
    if (entry != NULL)
        (void)atomic_compare_exchange_strong(entry, &place, place | CAS_PLACE_USED);
    digest_table_leave(site->table);
    return entry != NULL;
}

/* Reads it and compares its bytes; ERR_NOT_FOUND if it is not there, or goes meanwhile. */
static inline enum err_code read_blob(struct site *site, uint64_t seed, size_t size)
{
    uint64_t place = place_of(site, seed, size);
    size_t record_size = (size_t)cas_record_size(DIGEST_SHA256, (int64_t)size);
    size_t header_size = cas_record_header_size(DIGEST_SHA256);
    struct cas_origin origin = {.segment = cas_place_number(place)};
    struct digest expected = digest_of(seed, size);
    struct digest digest;
    struct err err;
    if (place == 0)
        return ERR_NOT_FOUND;
    uint8_t *record = malloc(2 * record_size);
    assert_non_null(record);
    memcpy(origin.store, site->shared.header->store, sizeof(origin.store));
    fill(record + record_size, seed, size);
    const uint8_t *payload = record + header_size;
    int rc =
        cas_log_read(site->log, origin.segment, record, record_size, cas_place_offset(place), &err);
    if (rc == 0)
        rc = cas_record_get_header(&origin, cas_place_offset(place), record, record_size, &digest,
                                   &err);
    if (rc == 0)
        rc = cas_record_verify(&digest, payload, size, payload + size, &err);
    if (rc == 0) {
        assert_true(digest_equal(&digest, &expected));
        assert_memory_equal(payload, record + record_size, size);
    }
    free(record);
    return rc == 0 ? ERR_OK : err.code;
}

static inline uint64_t evicted(const struct site *site)
{
    return atomic_load(&site->shared.header->evicted);
}

/* Puts blobs from FIRST on until COUNT more have been evicted. Returns the next seed. */
static inline uint64_t put_until_evicted(struct site *site, uint64_t first, size_t size,
                                         uint64_t count)
{
    uint64_t before = evicted(site);
    while (evicted(site) < before + count)
        must_put(site, first++, size);
    return first;
}

static inline uint64_t segment_of(struct site *site, uint64_t seed, size_t size)
{
    return cas_place_number(place_of(site, seed, size));
}

static inline void wait_until_gone(const struct site *site, uint64_t number)
{
    for (int i = 0; cas_segment_find(&site->shared, number) != NULL; i++) {
        assert_true(i < WAIT_MAX);
        pause_briefly();
    }
}

/* Small blobs that fill a segment of a quota of 5 MB, with their number in front of the first. */
enum { QUOTA = 5 * MB, SMALL = 6000 };

/* Blobs of the first segment: from seed 0 to what this returns, of which there are some. */
static inline uint64_t put_one_segment(struct site *site)
{
    uint64_t count = 1;
    must_put(site, 0, SMALL);
    for (;; count++) {
        must_put(site, count, SMALL);
        if (segment_of(site, count, SMALL) != segment_of(site, 0, SMALL))
            return count;
    }
}

#endif
