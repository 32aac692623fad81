/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What all processes that have a CAS open share, in cas/shared, which each maps: the segments that
 * there are, the counter of uses, and for each process the oldest use that it still relies on.
 *
 * One process writes: it holds the lock on the store. The others only set what tells of use, and
 * take out blobs that they found broken. Everything that more than one process touches is atomic.
 */
#ifndef ASSETD_STORE_CAS_SHARED_H
#define ASSETD_STORE_CAS_SHARED_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/digest_set.h"
#include "base/err.h"

enum {
    CAS_SHARDS = 64,             /* of the digest table */
    CAS_PROCESSES = 64,          /* at the same time */
    CAS_SEGMENT_INDEX_BITS = 18, /* of a number: its place among the segments */
    CAS_SEGMENTS_MAX = 1 << CAS_SEGMENT_INDEX_BITS,
    CAS_SEGMENT_NUMBER_BITS = 38,
};

/*
 * OPEN: may grow, as far as TRUSTED. SEALED: does not grow. LEAVING: it is being decided whether it
 * goes, and its file is removed then, or becomes what it was. FREE: there is no segment.
 */
enum cas_segment_state { CAS_FREE, CAS_OPEN, CAS_SEALED, CAS_LEAVING };

enum {
    CAS_SEGMENT_TREE_USED = 1, /* a remembered tree was used, which says it of no single blob */
    CAS_SEGMENT_BROKEN = 2,    /* something in it was found broken: to be evacuated next */
};

/* One segment; it is at index NUMBER modulo CAS_SEGMENTS_MAX. Numbers are never reused. */
struct cas_segment {
    _Atomic uint64_t number; /* of the segment there or, if FREE, the last that was; never 0 */
    _Atomic uint32_t state;
    _Atomic uint32_t version; /* grows when a blob leaves a segment that stays */
    _Atomic uint64_t trusted; /* records that end up to this offset may be read */
    _Atomic uint64_t durable; /* those that end up to this one survive a power cut */
    _Atomic uint64_t last_use;
    _Atomic uint64_t charged; /* bytes on disk, as the quota counts; the writer's */
    _Atomic uint32_t flags;
    _Atomic uint32_t records;  /* written to it, whether they are still there or not */
    _Atomic uint64_t sequence; /* the order in which segments were begun */
};

_Static_assert(sizeof(struct cas_segment) == 64, "one line of the processor's cache");

/* Where a record is: number (38 bits), offset in units of 16 bytes (24), flags (2). 0: nowhere. */

enum { CAS_PLACE_USED = 1, CAS_PLACE_SUSPECT = 2, CAS_PLACE_FLAGS = 3 };

static inline uint64_t cas_place(uint64_t number, uint64_t offset)
{
    return number << 26 | offset / 16 << 2;
}
static inline uint64_t cas_place_number(uint64_t place)
{
    return place >> 26;
}
static inline uint64_t cas_place_offset(uint64_t place)
{
    return (place >> 2 & 0xffffff) * 16;
}

/*
 * The first page of the file. What is written all the time has lines of the processor's cache of
 * its own, apart from what is only read.
 */
struct cas_shared_header {
    uint8_t magic[16];      /* with the version */
    uint8_t store[16];      /* the id in the format file */
    char boot_id[40];       /* of the boot in which the tables were last known to be good */
    _Atomic uint32_t clean; /* closed by its writer with all of it durable */
    _Atomic uint32_t
        rebuilding;            /* the tables are being made anew: what is not found may be there */
    _Atomic uint32_t capacity; /* segments for which the file has blocks */
    _Atomic uint32_t syncing; /* syncs of the log under way: a kill may leave some, failed or not */
    struct digest_keys keys;  /* of the digest table */
    /* For each shard its generation (high 32 bits; even 0) and how many pages it has, or 0: none.
     */
    _Alignas(64) _Atomic uint64_t shards[CAS_SHARDS];
    _Alignas(64) _Atomic uint64_t counter;  /* of uses */
    _Alignas(64) _Atomic uint64_t sequence; /* of segments */
    _Atomic uint64_t bytes;                 /* on disk, as the quota counts; the writer tells it */
    _Atomic uint64_t blobs;   /* entries put into the digest table less those known to be gone */
    _Atomic uint64_t evicted; /* blobs, since the store was made */
    _Atomic uint64_t broken;  /* blobs, since the store was made */
    _Atomic uint32_t slots_used[CAS_SHARDS]; /* of the digest table, dead or not; the writer's */
    _Alignas(64) struct cas_process {
        _Atomic uint32_t pid; /* 0: free. Byte 1 + index of the file is locked by it. */
        _Atomic uint32_t unused;
        _Atomic uint64_t oldest_hold; /* use counter; 0: it holds nothing */
    } processes[CAS_PROCESSES];
};

_Static_assert(sizeof(struct cas_shared_header) <= 4096, "it is the first page");

/* Embedded by its user, who does not move it. */
struct cas_shared {
    struct cas_shared_header *header;
    struct cas_segment *segments; /* CAS_SEGMENTS_MAX of them, of which CAPACITY have blocks */
    int fd;
    int process;                 /* index of this one; -1 before cas_shared_join */
    pthread_mutex_t begins_lock; /* one segment at a time is begun or adopted */
};

/*
 * Opens the file in the directory CAS_FD. STORE_ID: the store's, in hexadecimal.
 *
 * MAY_MAKE: the caller holds the lock of the store's directory. Then a file that is not there, or
 * is of another store, or is not what it has to be, is made; *IS_NEW: it was, and nothing is known
 * of segments. Otherwise that is ERR_NOT_FOUND: who holds the lock has not made it yet.
 */
int cas_shared_open(int cas_fd, const char *store_id, bool may_make, struct cas_shared *shared,
                    bool *is_new, struct err *err);
void cas_shared_close(struct cas_shared *shared);

/* Blocks of the file in bytes, as the quota counts. */
int64_t cas_shared_bytes(const struct cas_shared *shared);

/* Makes what is in the file now durable. */
int cas_shared_sync(struct cas_shared *shared, struct err *err);

/*
 * After a power cut, with the lock on the store held: what is known of segments may be newer than
 * the capacity, which grows to take that in. ERR_EXHAUSTED, ERR_IO.
 */
int cas_shared_widen(struct cas_shared *shared, struct err *err);

/* --- processes and holds --- */

/* Takes a place among the processes. ERR_EXHAUSTED: CAS_PROCESSES have it open. */
int cas_shared_join(struct cas_shared *shared, struct err *err);

/* The oldest use that this process relies on; 0: none. */
void cas_shared_set_oldest_hold(struct cas_shared *shared, uint64_t use);

/*
 * The oldest use that any living process relies on; UINT64_MAX: none. Forgets dead processes. A
 * segment whose last use was read before this, and is older, is relied on by nobody.
 */
uint64_t cas_shared_oldest_hold(struct cas_shared *shared);

/* The pid of the process with that hold, which is *USE; 0: there is none, or it is this one. */
uint32_t cas_shared_oldest_holder(struct cas_shared *shared, uint64_t *use);

/* --- uses --- */

/* The next value of the use counter; never 0. */
static inline uint64_t cas_shared_tick(struct cas_shared *shared)
{
    return atomic_fetch_add(&shared->header->counter, 1) + 1;
}

enum cas_use { CAS_USE_GONE, CAS_USE_DONE, CAS_USE_UNDECIDED };

/*
 * Renews the segment NUMBER with USE, a value of the counter. DONE: it was there, and does not go
 * before a hold that began before USE has ended. UNDECIDED: it is LEAVING, ask again. Any process.
 */
enum cas_use cas_segment_use(struct cas_shared *shared, uint64_t number, uint64_t use);

/* The segment of NUMBER, or NULL if it is not there (it may go at any time). LEAVING is there. */
struct cas_segment *cas_segment_find(const struct cas_shared *shared, uint64_t number);

/*
 * Whether a record of RECORD_SIZE bytes at PLACE is in a segment that is there, and trusted. One
 * that is LEAVING is there: cas_segment_use tells. The place itself is not read again: a blob that
 * is carried forward meanwhile has another, so false is a miss only if a second look finds the
 * same.
 */
bool cas_place_is_trusted(const struct cas_shared *shared, uint64_t place, int64_t record_size);

/* --- the writer's --- */

/*
 * Takes a number for a new segment, which is OPEN, empty, and used just now. ERR_EXHAUSTED: no
 * index is free, or the disk is full where the file would have to grow; it grows by a page. Any
 * thread.
 */
int cas_segment_begin(struct cas_shared *shared, struct cas_segment **segment, struct err *err);

/*
 * Puts a segment there that was found on disk under NUMBER, SEALED, with nothing trusted yet and
 * never used. ERR_PRECONDITION: another segment is there, or a newer one was: it is a leftover.
 * ERR_INVALID: no number of a segment. ERR_EXHAUSTED as above.
 */
int cas_segment_adopt(struct cas_shared *shared, uint64_t number, struct cas_segment **segment,
                      struct err *err);

/* The segment is gone; its number stays with the index, so that the next one is another. */
void cas_segment_free(struct cas_segment *segment);

/*
 * Segments that are there, one by one: the first at or behind INDEX, which becomes the index behind
 * it; NULL behind the last.
 */
struct cas_segment *cas_segment_next(const struct cas_shared *shared, uint32_t *index);

#endif
