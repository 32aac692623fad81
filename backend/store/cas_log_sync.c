/* SPDX-License-Identifier: Apache-2.0 */
/* Making the log durable, and what follows where that fails. */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "store/cas_log_private.h"
#include "store/disk.h"

/* --- turns --- */

/* Lock held. */
static bool is_busy(const struct cas_log *log, uint64_t number)
{
    const struct turn *turn = log->turns;
    while (turn != NULL && turn->number != number && turn->number != TURN_EVERYTHING &&
           number != TURN_EVERYTHING)
        turn = turn->next;
    return turn != NULL;
}

/*
 * The kernel tells of a fault once for each open file: of two that sync the same one at a time, the
 * other would take it for success. So one waits until the other has drawn its conclusions.
 */
void log_turn_begin(struct cas_log *log, struct turn *turn, uint64_t number)
{
    (void)pthread_mutex_lock(&log->lock);
    while (is_busy(log, number))
        (void)pthread_cond_wait(&log->turn_over, &log->lock);
    turn->number = number;
    turn->next = log->turns;
    log->turns = turn;
    (void)pthread_mutex_unlock(&log->lock);
    (void)atomic_fetch_add(&log->options.shared->header->syncing, 1);
}

void log_turn_end(struct cas_log *log, struct turn *turn)
{
    (void)atomic_fetch_sub(&log->options.shared->header->syncing, 1);
    (void)pthread_mutex_lock(&log->lock);
    struct turn **link = &log->turns;
    while (*link != turn)
        link = &(*link)->next;
    *link = turn->next;
    (void)pthread_cond_broadcast(&log->turn_over);
    (void)pthread_mutex_unlock(&log->lock);
}

/* --- what follows a failure --- */

/* What is behind what is trusted now is of no use; that it stays there does no harm. */
static void cut(struct cas_log *log, const struct cas_segment *segment, uint64_t number)
{
    int fd = log_file_open_fd(log, number, O_WRONLY);
    if (fd < 0)
        return;
    (void)log_truncate(fd, atomic_load(&segment->trusted));
    (void)disk.close(fd);
}

/* Whether another may have its place in the ring. With the log's lock it does not go meanwhile. */
static bool is_gone(const struct cas_segment *segment, uint64_t number)
{
    return atomic_load(&segment->state) == CAS_FREE || atomic_load(&segment->number) != number;
}

/* Closes the segment at what is durable. Returns how many bytes are not trusted any more. */
static uint64_t close_failed(struct cas_log *log, struct cas_segment *segment, uint64_t number)
{
    struct open_segment *idle = NULL;
    uint32_t open_state = CAS_OPEN;
    (void)pthread_mutex_lock(&log->lock);
    if (is_gone(segment, number)) {
        (void)pthread_mutex_unlock(&log->lock);
        return 0;
    }
    /* Of one that is closed and of which nothing is trusted, all that is whole would be taken up:
     * a header that is trusted tells that it is known. */
    if (atomic_load(&segment->durable) < CAS_SEGMENT_HEADER)
        atomic_store(&segment->durable, CAS_SEGMENT_HEADER);
    uint64_t durable = atomic_load(&segment->durable);
    uint64_t lost = atomic_load(&segment->trusted) - durable;
    (void)atomic_fetch_add(&log->failures, 1);
    /* Before and behind it, for who lives on if this process is killed in between. */
    (void)atomic_fetch_add(&segment->version, 1);
    atomic_store(&segment->trusted, durable);
    (void)atomic_fetch_add(&segment->version, 1);
    (void)atomic_fetch_add(&log->failures, 1);
    /* Not if it is about to go. */
    (void)atomic_compare_exchange_strong(&segment->state, &open_state, CAS_SEALED);
    struct open_segment *open = log_open_find(log, number);
    if (open != NULL && open->state == OPEN_IDLE) {
        log_open_unlink(log, open);
        idle = open;
    }
    (void)pthread_mutex_unlock(&log->lock);
    log_open_free(idle);
    cut(log, segment, number);
    return lost;
}

static void log_failed(const struct cas_log *log, const char *what, uint64_t lost,
                       const char *reason)
{
    log_error("cas-sync-failed", log_str("path", log->options.path), log_str("segment", what),
              log_num("lost-bytes", (int64_t)lost), log_str("reason", reason));
}

/*
 * Closes all segments that are not durable: which of them the failure was about is not known.
 * NAMES: only those whose names are not durable.
 */
static void close_all_failed(struct cas_log *log, bool names, const char *reason)
{
    uint32_t index = 0;
    uint64_t lost = 0;
    struct cas_segment *segment;
    while ((segment = cas_segment_next(log->options.shared, &index)) != NULL) {
        uint64_t durable = atomic_load(&segment->durable);
        if (durable < atomic_load(&segment->trusted) && (!names || durable == 0))
            lost += close_failed(log, segment, atomic_load(&segment->number));
    }
    log_failed(log, names ? "all new ones" : "all", lost, reason);
}

/* --- one segment --- */

/* What is trusted in NUMBER and not durable ends here; 0: nothing is to be done. */
static uint64_t wanted(struct cas_log *log, uint64_t number, struct cas_segment **segment,
                       bool *is_named)
{
    uint64_t end = 0;
    /* A failure takes `trusted` back with the lock held: who misses it here sees its count. */
    (void)pthread_mutex_lock(&log->lock);
    *segment = cas_segment_find(log->options.shared, number);
    if (*segment != NULL) {
        uint64_t trusted = atomic_load(&(*segment)->trusted);
        uint64_t durable = atomic_load(&(*segment)->durable);
        if (durable < trusted)
            end = trusted;
        *is_named = durable != 0;
    }
    (void)pthread_mutex_unlock(&log->lock);
    return end;
}

static void raise_durable(struct cas_log *log, struct cas_segment *segment, uint64_t number,
                          uint64_t end)
{
    (void)pthread_mutex_lock(&log->lock);
    if (!is_gone(segment, number) && atomic_load(&segment->trusted) >= end &&
        atomic_load(&segment->durable) < end)
        atomic_store(&segment->durable, end);
    (void)pthread_mutex_unlock(&log->lock);
}

/* The file that is open to write, or else one to read. */
static int get_file(struct cas_log *log, uint64_t number, struct log_file **file, struct err *err)
{
    (void)pthread_mutex_lock(&log->lock);
    struct open_segment *open = log_open_find(log, number);
    *file = open != NULL && open->file != NULL ? log_file_ref(open->file) : NULL;
    (void)pthread_mutex_unlock(&log->lock);
    return *file != NULL ? 0 : log_file_get(log, number, file, err);
}

static int say_failed(struct err *err, const char *what, const char *reason)
{
    return err_set(err, ERR_UNAVAILABLE, "%s could not be made durable: %s", what, reason);
}

static int sync_names(struct cas_log *log, struct err *err)
{
    struct turn turn;
    int rc = 0;
    log_turn_begin(log, &turn, TURN_DIRECTORY);
    if (disk.fsync(log->options.log_fd) != 0) {
        const char *reason = strerror(errno);
        close_all_failed(log, true, reason);
        rc = say_failed(err, "the log's directory", reason);
    }
    log_turn_end(log, &turn);
    return rc;
}

/* With the turn of it. */
static int sync_data(struct cas_log *log, uint64_t number, struct err *err)
{
    struct cas_segment *segment;
    struct log_file *file;
    bool is_named;
    uint64_t end = wanted(log, number, &segment, &is_named);
    if (end == 0)
        return 0;
    int rc = get_file(log, number, &file, err);
    if (rc == -ERR_NOT_FOUND)
        return 0;
    if (rc != 0) {
        (void)err_wrap(err, "segment %016" PRIx64 " cannot be synced", number);
        err->code = ERR_UNAVAILABLE;
        return -ERR_UNAVAILABLE;
    }
    if (disk.fdatasync(file->fd) == 0) {
        raise_durable(log, segment, number, end);
    } else {
        const char *reason = strerror(errno);
        char name[CAS_LOG_NAME];
        uint64_t lost = close_failed(log, segment, number);
        log_failed(log, cas_log_name(number, name), lost, reason);
        rc = say_failed(err, "what was stored", reason);
    }
    log_file_unref(file);
    return rc;
}

/* *NAMES_DONE: all names are durable; the names come first, as `durable` says both. */
static int sync_one(struct cas_log *log, uint64_t number, bool *names_done, struct err *err)
{
    struct cas_segment *segment;
    struct turn turn;
    bool is_named = true;
    if (wanted(log, number, &segment, &is_named) == 0)
        return 0;
    if (!is_named && !*names_done && sync_names(log, err) != 0)
        return -(int)err->code;
    *names_done = *names_done || !is_named;
    log_turn_begin(log, &turn, number);
    int rc = sync_data(log, number, err);
    log_turn_end(log, &turn);
    return rc;
}

int log_sync_segment(struct cas_log *log, uint64_t number, struct err *err)
{
    bool names_done = false;
    return sync_one(log, number, &names_done, err);
}

/* --- many segments --- */

/* ENDS: room for COUNT. */
static int sync_everything(struct cas_log *log, const uint64_t *numbers, size_t count,
                           uint64_t *ends, struct err *err)
{
    struct cas_segment *segment;
    struct turn turn;
    bool is_named;
    int rc = 0;
    log_turn_begin(log, &turn, TURN_EVERYTHING);
    for (size_t i = 0; i < count; i++)
        ends[i] = wanted(log, numbers[i], &segment, &is_named);
    if (disk.syncfs(log->options.log_fd) == 0) {
        for (size_t i = 0; i < count; i++) {
            segment = cas_segment_find(log->options.shared, numbers[i]);
            if (segment != NULL && ends[i] != 0)
                raise_durable(log, segment, numbers[i], ends[i]);
        }
    } else {
        const char *reason = strerror(errno);
        close_all_failed(log, false, reason);
        rc = say_failed(err, "what was stored", reason);
    }
    log_turn_end(log, &turn);
    return rc;
}

int cas_log_sync(struct cas_log *log, const uint64_t *numbers, size_t count, struct err *err)
{
    size_t many = 0;
    for (size_t i = 0; i < count; i++) {
        struct cas_segment *segment;
        bool is_named;
        many += wanted(log, numbers[i], &segment, &is_named) != 0;
    }
    if (many > LOG_SYNC_SINGLES && log->has_syncfs) {
        uint64_t *ends = calloc(count, sizeof(*ends));
        if (ends != NULL) {
            int rc = sync_everything(log, numbers, count, ends, err);
            free(ends);
            return rc;
        }
    }
    bool names_done = false;
    int rc = 0;
    for (size_t i = 0; many > 0 && i < count; i++) {
        struct err one;
        if (sync_one(log, numbers[i], &names_done, &one) != 0 && rc == 0) {
            *err = one;
            rc = -(int)one.code;
        }
    }
    return rc;
}
