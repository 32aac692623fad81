/* SPDX-License-Identifier: Apache-2.0 */
/* The inside of the log, for the files that make it up. */
#ifndef ASSETD_STORE_CAS_LOG_PRIVATE_H
#define ASSETD_STORE_CAS_LOG_PRIVATE_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "store/cas_log.h"

enum {
    LOG_FILE_SETS = 64,    /* of files kept open for reading; numbers spread over them */
    LOG_FILE_WAYS = 8,     /* in each set */
    LOG_IDLE_MAX = 8,      /* open segments that wait for an appender */
    LOG_QUEUE_MAX = 64,    /* full segments that wait for the thread that seals */
    LOG_SYNC_SINGLES = 32, /* with more segments than this the whole file system is synced */
};

/* Where a segment's records and contents end, except the one record of a segment of its own. */
#define LOG_SEGMENT_END_MAX ((int64_t)1 << 28)

/* A file of the log that is open; closed with the last reference. */
struct log_file {
    atomic_uint references;
    int fd;
    uint64_t number;
    uint64_t used; /* by its set's lock */
};

struct log_file_set {
    pthread_mutex_t lock;
    uint64_t uses;
    struct log_file *files[LOG_FILE_WAYS];
};

/* IDLE waits for an appender, FULL for its sealing, RETIRED for the decision whether it goes. */
enum open_state { OPEN_TAKEN, OPEN_IDLE, OPEN_FULL, OPEN_SEALING, OPEN_RETIRED };

/*
 * A segment that the writing process has open. STATE, ORDER and the list belong to the log's lock;
 * the rest to whom the state says. The file stays open until all of it is durable: where nobody has
 * a file open, the kernel may forget it, and a fault at writing it back with it.
 */
struct open_segment {
    struct open_segment *next;
    enum open_state state;
    uint64_t order; /* when it was given back: larger is later */
    struct cas_segment *segment;
    uint64_t number;
    struct log_file *file; /* to write; NULL: to be opened when it is sealed */
    uint8_t *entries;      /* of its contents, as they will stand in the file */
    size_t count;
    size_t capacity;
    bool has_entries; /* otherwise they are to be read from the file */
    bool is_own;      /* taken for one large record */
    bool is_uncut;    /* there may be something behind what is trusted */
    bool is_short;    /* the file was found to end before what was trusted */
};

/* Somebody syncs: one at a time for each file, as the kernel tells a fault but once. */
enum { TURN_DIRECTORY = 0 }; /* no segment has this number */
#define TURN_EVERYTHING UINT64_MAX

struct turn {
    struct turn *next;
    uint64_t number; /* of a segment, or one of the above */
};

struct cas_log {
    struct cas_log_options options;
    int64_t block; /* bytes that the file system gives at a time */
    struct log_file_set sets[LOG_FILE_SETS];

    pthread_mutex_t lock;
    struct open_segment *opens;
    uint64_t order;
    struct turn *turns;
    pthread_cond_t turn_over;
    pthread_cond_t seal_wanted;
    bool stopping;
    bool has_sealer;
    pthread_t sealer;
    _Atomic uint64_t failures;
    bool has_syncfs; /* that tells of faults */
};

static inline struct cas_origin log_origin(const struct cas_log *log, uint64_t number)
{
    struct cas_origin origin = {.segment = number};
    for (size_t i = 0; i < sizeof(origin.store); i++)
        origin.store[i] = log->options.store[i];
    return origin;
}

/* --- cas_log_file.c --- */

/* Opens by name; -1 with errno. Where files have run out, those kept for reading are closed. */
int log_file_open_fd(struct cas_log *log, uint64_t number, int flags);

/* Takes over FD, also on error. */
int log_file_new(uint64_t number, int fd, struct log_file **file, struct err *err);
struct log_file *log_file_ref(struct log_file *file);
void log_file_unref(struct log_file *file);

/* Whether the segment is there, and not about to go. */
bool log_file_is_staying(const struct cas_log *log, uint64_t number);

/*
 * A reference to the file for reading. ERR_NOT_FOUND: the segment is gone. ERR_DATA_LOSS: it is
 * there, and its file is not. ERR_IO.
 */
int log_file_get(struct cas_log *log, uint64_t number, struct log_file **file, struct err *err);

/* Does not keep it open any more. */
void log_file_forget(struct cas_log *log, uint64_t number);
void log_file_forget_all(struct cas_log *log);

/* --- cas_log.c --- */

/* The open segment NUMBER, or NULL. Lock held. */
struct open_segment *log_open_find(const struct cas_log *log, uint64_t number);

/* Takes it off the list. Lock held. */
void log_open_unlink(struct cas_log *log, struct open_segment *open);

/* It is to be sealed. Lock held. */
void log_open_fill(struct cas_log *log, struct open_segment *open);

/* Off the list. */
void log_open_free(struct open_segment *open);

/* Makes room for COUNT more entries. */
int log_open_reserve(struct open_segment *open, size_t count, struct err *err);

/* ftruncate, again after a signal. */
int log_truncate(int fd, uint64_t size);

/* --- cas_log_seal.c --- */

/* Seals the one that waits for that for longest; false: none does. Lock held; released meanwhile.
 */
bool log_seal_next(struct cas_log *log);

/* --- cas_log_sync.c --- */

/*
 * Makes what is trusted now durable, its name as well. ERR_UNAVAILABLE: it was closed at what was
 * durable, or could not be opened. One that is gone is nothing to do.
 */
int log_sync_segment(struct cas_log *log, uint64_t number, struct err *err);

/* The right to sync the file; waits for it. The shared header tells of it until the end. */
void log_turn_begin(struct cas_log *log, struct turn *turn, uint64_t number);
void log_turn_end(struct cas_log *log, struct turn *turn);

/* --- cas_log_renew.c --- */

/*
 * Writes what is trusted and not known to be durable again, in its place, so that a sync of it can
 * be believed. What cannot be read, verified or written is not trusted any more, which is logged.
 * *FILE becomes the file, open to write; NULL: there was nothing to do. Before anybody syncs.
 */
int log_renew(struct cas_log *log, struct cas_segment *segment, struct log_file **file,
              struct err *err);

#endif
