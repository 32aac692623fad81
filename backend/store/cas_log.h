/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The log: files of cas/log, one for each segment, named by its number in 16 hexadecimal digits.
 * Each open segment has at most one appender at a time, so bytes are written in the order of their
 * offsets, and everything up to `trusted` is whole. Segments that are open and have no appender
 * wait for the next.
 *
 * Durable is what a completed fdatasync covers, once the name of the file is durable as well. An
 * fdatasync that fails is never tried again: the segment is closed at what was durable, and what is
 * behind that is not trusted any more.
 */
#ifndef ASSETD_STORE_CAS_LOG_H
#define ASSETD_STORE_CAS_LOG_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

#include "base/err.h"
#include "store/cas_record.h"
#include "store/cas_shared.h"

struct cas_log;

enum { CAS_LOG_NAME = 17 }; /* bytes of a segment's name with its NUL */

/* The name of a segment's file. Returns NAME. */
char *cas_log_name(uint64_t number, char name[CAS_LOG_NAME]);

/* False: no segment is named like that. The number may be one that no segment can have. */
bool cas_log_parse_name(const char *name, uint64_t *number);

struct cas_log_options {
    struct cas_shared *shared; /* borrowed */
    int log_fd;                /* the directory; borrowed */
    uint8_t store[16];         /* the store's id */
    int64_t segment_size;      /* bytes; a segment is sealed when it has reached them */
    const char *path;          /* of the store, for the log lines; borrowed */
};

enum {
    CAS_SEGMENT_SIZE_MIN = 64 << 10,
    CAS_SEGMENT_SIZE_MAX = 256 << 20,
    CAS_SEGMENT_RECORDS_MAX = 1 << 16, /* then it is sealed, however small */
};

/* 1/256 of the quota within these bounds. */
int64_t cas_log_segment_size(int64_t quota);

int cas_log_new(const struct cas_log_options *options, struct cas_log **log, struct err *err);
void cas_log_free(struct cas_log *log); /* no appenders; the writer has ended it before */

/* --- reading; any process, any thread --- */

/*
 * Reads SIZE bytes at OFFSET of the segment NUMBER. ERR_NOT_FOUND: the segment is gone, or was cut
 * while it was read. ERR_DATA_LOSS: the file is missing or ends too soon, though the segment is
 * there. ERR_IO; ERR_UNAVAILABLE: file descriptors have run out. Keeps files open, a bounded number
 * of them. What is read is to be verified: a segment may go at any time.
 */
int cas_log_read(struct cas_log *log, uint64_t number, void *buffer, size_t size, uint64_t offset,
                 struct err *err);

/*
 * The contents of a segment, in the order of its records: from its table if it is sealed and has a
 * good one, by reading the headers of its records otherwise. Of a sealed segment of which nothing
 * is trusted, as one is that was found on disk, it takes all that the file holds. The caller frees
 * *CONTENTS. ERR_NOT_FOUND as above; ERR_DATA_LOSS: cannot be read to `trusted`; what stands before
 * the fault is in *CONTENTS all the same, as it is with ERR_IO. ERR_NO_MEMORY.
 */
int cas_log_contents(struct cas_log *log, uint64_t number, struct cas_content **contents,
                     size_t *count, struct err *err);

/* --- writing; the writing process, any thread --- */

/*
 * Starts the thread that seals, and takes up the segments that a killed writer has left open or
 * LEAVING: they are cut to what is trusted and will be sealed. Removes every file of the log that
 * has no segment: all that is to stay must have been adopted before. Frees segments of which
 * nothing was ever trusted.
 */
int cas_log_begin_writing(struct cas_log *log, struct err *err);

/*
 * Seals all that is open, durably, and stops the thread. There are no appenders. On error some of
 * it is not durable or not trusted any more, and the thread has stopped all the same.
 */
int cas_log_end_writing(struct cas_log *log, struct err *err);

/*
 * Bytes that a new segment takes besides its records and their entries in its contents, blocks that
 * are begun and those of the file system's own map included.
 */
int64_t cas_log_overhead(const struct cas_log *log);

/* Of records of BYTES in sum, what a segment grows by: with their entries in the contents. */
int64_t cas_log_growth(int64_t bytes, size_t records);

struct open_segment;

/* The right to append to one segment. One thread at a time. */
struct cas_appender {
    struct cas_log *log;
    struct open_segment *open; /* the log's own */
    struct cas_segment *segment;
    uint64_t number;
    int fd;
    uint64_t offset; /* where the next byte goes; from `trusted` on */
    struct cas_origin origin;
};

/*
 * Takes an open segment with room for SIZE bytes of records, the one given back last if it can
 * choose, or begins one. More than a quarter of a segment gets its own, which is sealed when it is
 * given back, so such a size should be one record. Who takes has room for cas_log_growth and for
 * cas_log_overhead; the latter was not needed unless *IS_NEW. ERR_EXHAUSTED, ERR_IO.
 */
int cas_log_take(struct cas_log *log, int64_t size, struct cas_appender *appender, bool *is_new,
                 struct err *err);

/*
 * Writes behind what was appended. Changes PARTS. On error nothing of them counts: the same can be
 * tried again, or the appender be given back. ERR_UNAVAILABLE: the segment was closed meanwhile, as
 * the disk failed.
 */
int cas_log_append(struct cas_appender *appender, struct iovec *parts, int count, struct err *err);

/*
 * Publishes all that was appended: COUNT records with CONTENTS. They may be put into the digest
 * table after this. The appender stays taken. ERR_UNAVAILABLE as above; ERR_NO_MEMORY.
 */
int cas_log_publish(struct cas_appender *appender, const struct cas_content *contents, size_t count,
                    struct err *err);

/*
 * Gives the segment back; what was appended and not published is cut off. A segment that is full,
 * or where that fails, is not appended to any more. Seals one itself where very many wait for that:
 * who writes faster than the disk does waits here. False: it could not be cut off, and still takes
 * room on disk.
 */
bool cas_log_give(struct cas_appender *appender);

/*
 * Makes what is trusted now durable in COUNT segments (that are gone: nothing to do). Sets
 * `durable`. ERR_UNAVAILABLE: at least one could not be; those with a failed sync were closed at
 * what had been durable, which was logged. What is not trusted any more because a sync failed
 * earlier is nothing to do either: who relies on something compares cas_log_failures as well. Any
 * thread; blocks on the disk.
 */
int cas_log_sync(struct cas_log *log, const uint64_t *numbers, size_t count, struct err *err);

/*
 * Grows when a sync has failed, whoever asked for it: before `trusted` goes back to what was
 * durable, and once more behind that, so that it tells also whom it found in between. If it is
 * after cas_log_sync what it was before something was found to be trusted, that is durable.
 */
uint64_t cas_log_failures(const struct cas_log *log);

/*
 * Removes the file of a segment that is no longer to be found (its state is LEAVING or FREE, kept
 * so by the caller, and cas_log_retire was true): its blocks are given back first, also where it is
 * still open. ERR_IO: they were not, it is as it was.
 */
int cas_log_remove(struct cas_log *log, uint64_t number, struct err *err);

/* Frees the place in the ring of a segment that was removed; no sync is concluding on it then. */
void cas_log_free_segment(struct cas_log *log, struct cas_segment *segment);

/*
 * Whether the segment is free of appenders, and will have none any more: until cas_log_keep or
 * cas_log_remove nobody takes it. One that is being sealed is not, but soon will be.
 */
bool cas_log_retire(struct cas_log *log, uint64_t number);

/* Whether it can not be retired only because it is being sealed. */
bool cas_log_is_sealing(struct cas_log *log, uint64_t number);

/*
 * A retired segment stays after all: if it is open, it is handed to the thread that seals. Without
 * this it is sealed when the writing ends.
 */
void cas_log_keep(struct cas_log *log, uint64_t number);

#endif
