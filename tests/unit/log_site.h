/* SPDX-License-Identifier: Apache-2.0 */
/* A log in a temporary folder, and records to put into it. */
#ifndef ASSETD_TESTS_LOG_SITE_H
#define ASSETD_TESTS_LOG_SITE_H

#include <fcntl.h>
#include <inttypes.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "scratch.h"
#include "store/cas_log.h"
#include "store/disk.h"

enum { SEGMENT_SIZE = CAS_SEGMENT_SIZE_MIN };

struct log_site {
    struct scratch scratch;
    int cas_fd;
    int log_fd;
    struct cas_shared shared;
    struct cas_log *log;
};

/* A record in the log. */
struct stored {
    struct digest digest;
    uint64_t number;
    uint64_t offset;
};

static const char site_store[] = "000102030405060708090a0b0c0d0e0f";

static inline void site_open(struct log_site *site)
{
    struct err err;
    bool is_new;
    struct cas_log_options options = {
        .segment_size = SEGMENT_SIZE, .path = site->scratch.path, .shared = &site->shared};
    for (uint8_t i = 0; i < 16; i++)
        options.store[i] = i;
    site->cas_fd = open(site->scratch.path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    assert_true(mkdirat(site->cas_fd, "log", 0750) == 0 || errno == EEXIST);
    site->log_fd = openat(site->cas_fd, "log", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    options.log_fd = site->log_fd;
    if (cas_shared_open(site->cas_fd, site_store, true, &site->shared, &is_new, &err) != 0 ||
        cas_log_new(&options, &site->log, &err) != 0)
        fail_msg("%s", err.msg);
}

static inline void site_begin(struct log_site *site)
{
    struct err err;
    if (cas_log_begin_writing(site->log, &err) != 0)
        fail_msg("%s", err.msg);
}

static inline void site_end(struct log_site *site)
{
    struct err err;
    if (cas_log_end_writing(site->log, &err) != 0)
        fail_msg("%s", err.msg);
}

static inline void site_close(struct log_site *site)
{
    struct err err;
    (void)cas_log_end_writing(site->log, &err);
    cas_log_free(site->log);
    cas_shared_close(&site->shared);
    (void)close(site->log_fd);
    (void)close(site->cas_fd);
}

static struct disk site_disk; /* what `disk` was */

static inline int site_setup(void **state)
{
    struct log_site *site = calloc(1, sizeof(*site));
    site_disk = disk;
    scratch_init(&site->scratch);
    site_open(site);
    site_begin(site);
    *state = site;
    return 0;
}

static inline int site_teardown(void **state)
{
    struct log_site *site = *state;
    struct err err;
    (void)cas_log_end_writing(site->log, &err); /* the thread uses `disk` */
    disk = site_disk;
    site_close(site);
    scratch_fini(&site->scratch);
    free(site);
    return 0;
}

/* The payload of SEED; to be freed. */
static inline uint8_t *payload_of(size_t size, uint64_t seed, struct digest *digest)
{
    uint8_t *payload = malloc(size + 8);
    uint64_t random = seed * 2 + 1;
    if (payload == NULL)
        abort();
    for (size_t i = 0; i < size; i += 8) {
        random = random * 6364136223846793005u + 1442695040888963407u;
        memcpy(payload + i, &random, 8);
    }
    struct err err;
    if (digest_compute(DIGEST_SHA256, payload, size, digest, &err) != 0)
        abort();
    return payload;
}

static inline int64_t record_size(size_t size)
{
    return cas_record_size(DIGEST_SHA256, (int64_t)size);
}

/* Appends the record of SEED, unpublished. */
static inline int append_record(struct cas_appender *appender, size_t size, uint64_t seed,
                                struct stored *stored, struct err *err)
{
    uint8_t header[CAS_RECORD_HEADER_MAX];
    uint8_t *payload = payload_of(size, seed, &stored->digest);
    size_t tail_size = (size_t)cas_record_tail_size(DIGEST_SHA256, (int64_t)size);
    uint8_t *tail = malloc(tail_size + 1);
    stored->number = appender->number;
    stored->offset = appender->offset;
    cas_record_put_header(&appender->origin, appender->offset, &stored->digest, header);
    cas_record_put_tail(&stored->digest, payload, tail);
    struct iovec parts[] = {
        {header, cas_record_header_size(DIGEST_SHA256)}, {payload, size}, {tail, tail_size}};
    int rc = cas_log_append(appender, parts, 3, err);
    free(tail);
    free(payload);
    return rc;
}

static inline int publish_one(struct cas_appender *appender, const struct stored *stored,
                              struct err *err)
{
    struct cas_content content = {.offset = stored->offset};
    cas_key_of(&stored->digest, &content.key);
    return cas_log_publish(appender, &content, 1, err);
}

/* Takes, appends, publishes and gives back one record. */
static inline int put_record(struct cas_log *log, size_t size, uint64_t seed, struct stored *stored,
                             struct err *err)
{
    struct cas_appender appender;
    bool is_new;
    int rc = cas_log_take(log, record_size(size), &appender, &is_new, err);
    if (rc != 0)
        return rc;
    rc = append_record(&appender, size, seed, stored, err);
    if (rc == 0)
        rc = publish_one(&appender, stored, err);
    (void)cas_log_give(&appender);
    return rc;
}

static inline struct stored put(struct log_site *site, size_t size, uint64_t seed)
{
    struct stored stored;
    struct err err;
    if (put_record(site->log, size, seed, &stored, &err) != 0)
        fail_msg("%s", err.msg);
    return stored;
}

/* Reads it; 0 only if it is what was stored. */
static inline int get_record(struct cas_log *log, const struct stored *stored)
{
    struct err err;
    size_t size = (size_t)record_size((size_t)stored->digest.size);
    uint8_t *record = malloc(size);
    struct cas_origin origin = {.segment = stored->number};
    struct digest digest;
    for (uint8_t i = 0; i < 16; i++)
        origin.store[i] = i;
    int rc = cas_log_read(log, stored->number, record, size, stored->offset, &err);
    if (rc == 0)
        rc = cas_record_get_header(&origin, stored->offset, record, size, &digest, &err);
    if (rc == 0 && !digest_equal(&digest, &stored->digest))
        rc = -ERR_DATA_LOSS;
    const uint8_t *payload = record + cas_record_header_size(DIGEST_SHA256);
    size_t payload_size = (size_t)stored->digest.size;
    if (rc == 0)
        rc = cas_record_verify(&digest, payload, payload_size, payload + payload_size, &err);
    free(record);
    return rc;
}

static inline struct cas_segment *segment_of(struct log_site *site, uint64_t number)
{
    struct cas_segment *segment = cas_segment_find(&site->shared, number);
    assert_non_null(segment);
    return segment;
}

static inline uint32_t state_of_segment(struct log_site *site, uint64_t number)
{
    return atomic_load(&segment_of(site, number)->state);
}

/* Another thread is to make CONDITION true, within a minute. */
#define WAIT_UNTIL(condition)                   \
    do {                                        \
        int waits = 0;                          \
        while (!(condition) && waits++ < 60000) \
            (void)usleep(1000);                 \
        assert_true(waits < 60000);             \
    } while (0)

/* Waits for the thread that seals. */
static inline void wait_sealed(struct log_site *site, uint64_t number)
{
    WAIT_UNTIL(state_of_segment(site, number) == CAS_SEALED);
}

/* The path of a segment's file below the folder. Returns PATH. */
static inline char *segment_path(uint64_t number, char path[64])
{
    (void)snprintf(path, 64, "log/%016" PRIx64, number);
    return path;
}

static inline struct stat segment_stat(struct log_site *site, uint64_t number)
{
    char path[64];
    char joined[PATH_MAX];
    struct stat st;
    if (stat(scratch_path(&site->scratch, segment_path(number, path), joined), &st) != 0)
        fail_msg("%s is missing", joined);
    return st;
}

static inline size_t count_segments(struct log_site *site, uint32_t state)
{
    uint32_t index = 0;
    size_t count = 0;
    struct cas_segment *segment;
    while ((segment = cas_segment_next(&site->shared, &index)) != NULL)
        count += atomic_load(&segment->state) == state;
    return count;
}

/* Whether the segment's contents are the COUNT records in STORED. */
static inline void check_contents(struct log_site *site, uint64_t number,
                                  const struct stored *stored, size_t count)
{
    struct cas_content *contents;
    size_t found;
    struct err err;
    if (cas_log_contents(site->log, number, &contents, &found, &err) != 0)
        fail_msg("%s", err.msg);
    assert_int_equal(found, count);
    for (size_t i = 0; i < count; i++) {
        struct cas_key key;
        cas_key_of(&stored[i].digest, &key);
        assert_true(cas_key_equal(&contents[i].key, &key));
        assert_int_equal(contents[i].offset, stored[i].offset);
    }
    free(contents);
}

#endif
