/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a process left that was killed while it synced. The kernel may have told that one of a
 * fault, and tells nobody again: the next sync would pass for a success. So what is not known to be
 * durable is read, verified, and written again in its place; it is dirty then, and a sync of it
 * says the truth.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdlib.h>

#include "base/log.h"
#include "store/cas_log_private.h"
#include "store/disk.h"

enum {
    WINDOW = 1 << 20, /* bytes that are read and written at a time */
    WINDOW_SUMS = WINDOW / CAS_CHUNK * CAS_SUM,
};

struct renewal {
    struct cas_origin origin;
    int fd;
    uint64_t limit; /* where the records end */
    uint8_t *window;
};

static int write_back(const struct renewal *renewal, const void *bytes, size_t size,
                      uint64_t offset, struct err *err)
{
    struct iovec part = {.iov_base = (void *)bytes, .iov_len = size};
    return disk_write(renewal->fd, &part, 1, (off_t)offset, err);
}

/* Bytes of the whole records at the beginning of the window, which has SIZE bytes from OFFSET on.
 */
static size_t measure_whole(const struct renewal *renewal, uint64_t offset, size_t size)
{
    size_t done = 0;
    while (done < size) {
        const uint8_t *at = renewal->window + done;
        struct digest digest;
        struct err ignored;
        if (cas_record_get_header(&renewal->origin, offset + done, at, size - done, &digest,
                                  &ignored) != 0)
            break;
        uint64_t record = (uint64_t)cas_record_size(digest.function, digest.size);
        if (record > size - done)
            break;
        const uint8_t *payload = at + cas_record_header_size(digest.function);
        if (digest.size != 0 && cas_record_verify(&digest, payload, (size_t)digest.size,
                                                  payload + digest.size, &ignored) != 0)
            break;
        done += (size_t)record;
    }
    return done;
}

/* The payload at PAYLOAD, piece by piece. */
static int renew_payload(const struct renewal *renewal, const struct digest *digest,
                         uint64_t payload, struct err *err)
{
    uint8_t sums[WINDOW_SUMS];
    uint64_t size = (uint64_t)digest->size;
    for (uint64_t done = 0; done < size; done += WINDOW) {
        size_t take = size - done < WINDOW ? (size_t)(size - done) : WINDOW;
        size_t chunks = (take + CAS_CHUNK - 1) / CAS_CHUNK;
        if (disk_read(renewal->fd, sums, chunks * CAS_SUM,
                      (off_t)(payload + size + done / CAS_CHUNK * CAS_SUM), err) != 0 ||
            disk_read(renewal->fd, renewal->window, take, (off_t)(payload + done), err) != 0 ||
            cas_record_verify(digest, renewal->window, take, sums, err) != 0 ||
            write_back(renewal, renewal->window, take, payload + done, err) != 0)
            return -(int)err->code;
    }
    return 0;
}

/* The record at OFFSET, which does not fit into the window; that has its beginning, SIZE bytes. */
static int renew_large(const struct renewal *renewal, uint64_t offset, size_t *size,
                       struct err *err)
{
    struct digest digest;
    int rc = cas_record_get_header(&renewal->origin, offset, renewal->window, *size, &digest, err);
    if (rc != 0)
        return rc;
    size_t header = cas_record_header_size(digest.function);
    uint64_t record = (uint64_t)cas_record_size(digest.function, digest.size);
    if (record <= *size || record > renewal->limit - offset)
        return err_set(err, ERR_DATA_LOSS, "the record at %" PRIu64 " is broken", offset);
    rc = write_back(renewal, renewal->window, header, offset, err);
    if (rc == 0)
        rc = renew_payload(renewal, &digest, offset + header, err);
    /* Its checksums were found to be right. */
    for (uint64_t at = offset + header + (uint64_t)digest.size; rc == 0 && at < offset + record;) {
        uint64_t rest = offset + record - at;
        size_t take = rest < WINDOW ? (size_t)rest : WINDOW;
        rc = disk_read(renewal->fd, renewal->window, take, (off_t)at, err);
        if (rc == 0)
            rc = write_back(renewal, renewal->window, take, at, err);
        at += take;
    }
    *size = (size_t)record;
    return rc;
}

/* From *END on; *END becomes where that what was renewed ends. */
static int renew_records(const struct renewal *renewal, uint64_t *end, struct err *err)
{
    int rc = 0;
    while (rc == 0 && *end < renewal->limit) {
        uint64_t rest = renewal->limit - *end;
        size_t size = rest < WINDOW ? (size_t)rest : WINDOW;
        rc = disk_read(renewal->fd, renewal->window, size, (off_t)*end, err);
        size_t whole = rc == 0 ? measure_whole(renewal, *end, size) : 0;
        if (whole > 0) {
            rc = write_back(renewal, renewal->window, whole, *end, err);
        } else if (rc == 0) {
            whole = size;
            rc = renew_large(renewal, *end, &whole, err);
        }
        if (rc == 0)
            *end += whole;
    }
    return rc;
}

/* The segment ends at END now, for REASON. What is behind that is of no use. */
static void give_up(struct cas_log *log, struct cas_segment *segment, uint64_t number, int fd,
                    uint64_t end, const char *reason)
{
    char name[CAS_LOG_NAME];
    (void)pthread_mutex_lock(&log->lock);
    uint64_t lost = atomic_load(&segment->trusted) - end;
    (void)atomic_fetch_add(&log->failures, 1);
    (void)atomic_fetch_add(&segment->version, 1);
    atomic_store(&segment->trusted, end);
    (void)atomic_fetch_add(&segment->version, 1);
    (void)atomic_fetch_add(&log->failures, 1);
    (void)pthread_mutex_unlock(&log->lock);
    (void)log_truncate(fd, end);
    log_error("cas-sync-failed", log_str("path", log->options.path),
              log_str("segment", cas_log_name(number, name)), log_num("lost-bytes", (int64_t)lost),
              log_str("reason", reason),
              log_str("when", "a process was killed while it made this durable"));
}

static void renew(struct cas_log *log, struct cas_segment *segment, const struct renewal *renewal)
{
    struct err err;
    uint8_t header[CAS_SEGMENT_HEADER];
    uint64_t durable = atomic_load(&segment->durable);
    uint64_t end = durable > CAS_SEGMENT_HEADER ? durable : CAS_SEGMENT_HEADER;
    int rc = 0;
    if (durable <= CAS_SEGMENT_HEADER) {
        cas_segment_put_header(&renewal->origin, atomic_load(&segment->sequence), header);
        rc = write_back(renewal, header, sizeof(header), 0, &err);
    }
    if (rc == 0)
        rc = renew_records(renewal, &end, &err);
    if (rc != 0)
        give_up(log, segment, renewal->origin.segment, renewal->fd, end, err.msg);
}

int log_renew(struct cas_log *log, struct cas_segment *segment, struct log_file **file,
              struct err *err)
{
    uint64_t number = atomic_load(&segment->number);
    struct renewal renewal = {.origin = log_origin(log, number),
                              .limit = atomic_load(&segment->trusted)};
    *file = NULL;
    if (atomic_load(&segment->durable) >= renewal.limit || renewal.limit <= CAS_SEGMENT_HEADER)
        return 0;
    renewal.fd = log_file_open_fd(log, number, O_RDWR);
    if (renewal.fd < 0 && errno == ENOENT)
        return 0;
    if (renewal.fd < 0)
        return disk_fault(err, errno, "open segment %016" PRIx64, number);
    if (log_file_new(number, renewal.fd, file, err) != 0)
        return -(int)err->code;
    renewal.window = malloc(WINDOW);
    if (renewal.window == NULL) {
        log_file_unref(*file);
        *file = NULL;
        return err_no_memory(err, "reading a segment");
    }
    renew(log, segment, &renewal);
    free(renewal.window);
    return 0;
}
