/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The content-addressable store. What is stored under a digest has that hash and size; the least
 * recently used goes first when the quota is full; the empty blob is always there.
 *
 * Blobs are looked up by size, function and the first 128 bits of the hash. So one that is not
 * there is called present if it has these in common with one that is: such a digest is made up, or
 * took some 2^64 hashes to find. To read or to remove it is ERR_NOT_FOUND, as the record has all of
 * the hash; to store it stores nothing, and is no error.
 */
#ifndef ASSETD_STORE_CAS_H
#define ASSETD_STORE_CAS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/digest.h"
#include "base/err.h"
#include "base/span.h"

struct cas;

struct cas_options {
    const char *path; /* the storage directory; the CAS is in PATH/cas */
    int64_t quota;    /* bytes on disk of all of PATH/cas, never exceeded; the writer's counts */
    bool may_write;   /* this process is to be the one that writes, when it is its turn */
    bool keeps_all;   /* nothing is evicted: what finds no room is refused */
    /*
     * Whether it is, beside that no other process writes; NULL: always. Asked by a thread of the
     * store as long as it is open and does not write. What goes with the store has to be written by
     * the same process.
     */
    bool (*is_turn)(void *context);
    void *context;
};

/*
 * Opens or makes the store. One process writes to it; if another one does already, or MAY_WRITE is
 * false, this one reads beside it, and takes over the writing when the other ends if it may.
 * ERR_PRECONDITION: the format is not this program's. ERR_INVALID: not even an empty store fits
 * into the quota. After a power cut the store is open before it knows all that it holds.
 */
int cas_open(const struct cas_options *options, struct cas **cas, struct err *err);

/* Everything that was begun must have ended. */
void cas_close(struct cas *cas);

/*
 * Whether this process writes. ERR_UNAVAILABLE names the process that does; all functions here that
 * write give the same. Any thread.
 */
int cas_is_writing(struct cas *cas, struct err *err);

/*
 * The segments of the log in which all of something was found, so that it can be seen later at the
 * price of a look at each of them that all of it is still there. Zeroed to begin; one thread at a
 * time.
 */
struct cas_spread {
    struct cas_spread_segment {
        uint64_t number;
        uint32_t version;
    } * segments; /* heap */
    size_t count;
    size_t capacity;
    bool is_over; /* memory ran out, or something went meanwhile: it is of no use */
};

void cas_spread_fini(struct cas_spread *spread);

/*
 * A hold keeps what is found or stored through it from being evicted until it ends: it spans the
 * time from a check to the answer that relies on it. Embedded by its user; short-lived; one thread
 * at a time.
 */
enum { CAS_HOLD_UNSYNCED = 14 };
struct cas_hold {
    struct cas *cas;
    uint64_t since;    /* the use counter when it began */
    uint64_t failures; /* of syncs, when it began */
    struct cas_hold *previous, *next;
    struct cas_spread *spread;            /* if not NULL: where what is found is noted */
    unsigned unsynced_count;              /* more than fit: all segments are */
    uint64_t unsynced[CAS_HOLD_UNSYNCED]; /* segments with something that is not yet durable */
};

void cas_hold_begin(struct cas *cas, struct cas_hold *hold);
void cas_hold_end(struct cas_hold *hold);

/*
 * Whether all that SPREAD stands for is still there; its life is renewed then, under HOLD. Does not
 * block. Any thread.
 */
bool cas_spread_renew(struct cas *cas, struct cas_hold *hold, const struct cas_spread *spread);

/* What is known of a blob. */
enum cas_presence { CAS_ABSENT, CAS_PRESENT, CAS_UNVERIFIED };

/*
 * Sets PRESENCE[i] for each of COUNT digests, and renews the life of those that are there. HOLD may
 * be NULL. CAS_UNVERIFIED: the disk could not read it, or it was not found but may be there, as
 * what the store holds is still being found out after a power cut. Does not block. Any thread.
 */
void cas_find_nowait(struct cas *cas, struct cas_hold *hold, const struct digest *digests,
                     size_t count, enum cas_presence *presence);

/* The same, reading what could not be read before: CAS_UNVERIFIED is not known at present. */
void cas_find_verified(struct cas *cas, struct cas_hold *hold, const struct digest *digests,
                       size_t count, enum cas_presence *presence);

/*
 * The same for those to whom what is not known at present is as good as missing, as it is to who
 * would upload it: that replaces it.
 */
void cas_find(struct cas *cas, struct cas_hold *hold, const struct digest *digests, size_t count,
              bool *present);

/* One blob of a batch, and what became of it. */
struct cas_blob {
    struct digest digest;
    struct span data; /* to store: the caller's; read: as long as the buffer */
    struct err err;   /* ERR_OK: stored, or read */
};

/*
 * Stores COUNT blobs, each by itself: hash and size are verified (ERR_INVALID). One that is there
 * already is renewed. ERR_EXHAUSTED: no room. Nothing is durable yet. Blocks on the disk.
 */
void cas_put(struct cas *cas, struct cas_hold *hold, struct cas_blob *blobs, size_t count);

/*
 * Reads COUNT blobs whole, one behind the other, into BUFFER, which must hold the sum of the
 * sizes of their digests; sets data and err of each. ERR_NOT_FOUND: not there, or found broken, and
 * gone now. ERR_IO: the disk cannot read it at present, and it is not found before it can.
 * ERR_UNAVAILABLE: it is not known yet whether it is there. Blocks on the disk.
 */
void cas_get(struct cas *cas, struct cas_hold *hold, struct cas_blob *blobs, size_t count,
             uint8_t *buffer);

/*
 * Removes a blob, held or not; who reads it can go on. ERR_NOT_FOUND if it is not there. After a
 * power cut it may be back.
 */
int cas_delete(struct cas *cas, const struct digest *digest, struct err *err);

/* A blob being read. It may be evicted meanwhile. One thread at a time. */
struct cas_reader;

/* ERR_NOT_FOUND if it is not there; ERR_UNAVAILABLE as above. Renews its life. */
int cas_reader_open(struct cas *cas, const struct digest *digest, struct cas_reader **reader,
                    struct err *err);

/*
 * Reads SIZE bytes at OFFSET, both within the blob; checksums are verified first. ERR_NOT_FOUND:
 * the blob was evicted, or its bytes are broken, and it is gone now. ERR_IO as above. Blocks on the
 * disk.
 */
int cas_reader_read(struct cas_reader *reader, int64_t offset, uint8_t *buffer, size_t size,
                    struct err *err);
void cas_reader_close(struct cas_reader *reader);

/* A blob being written; nobody sees it before it is committed. One thread at a time. */
struct cas_writer;

/*
 * Begins a blob of known digest, and takes the room for it. ERR_EXHAUSTED if it cannot fit, before
 * anything is evicted; or if nothing could be evicted for some seconds, because all is in use.
 * ERR_IO: the disk fails, even at removing what should be evicted. A blob that is there already
 * takes no room, and what is appended is verified all the same.
 */
int cas_writer_open(struct cas *cas, const struct digest *digest, struct cas_writer **writer,
                    struct err *err);

/* Appends. ERR_INVALID if it grows past the digest's size. Blocks on the disk. */
int cas_writer_append(struct cas_writer *writer, const void *data, size_t size, struct err *err);

/*
 * Verifies size and hash (ERR_INVALID) and publishes the blob. ERR_UNAVAILABLE: the disk failed, or
 * what was there already has been removed meanwhile. The writer is gone either way.
 */
int cas_writer_commit(struct cas_writer *writer, struct err *err);

/* Leaves nothing behind. */
void cas_writer_abort(struct cas_writer *writer);

/*
 * Makes durable what was found or stored through HOLD. REQUEST belongs to the caller and must live
 * until DONE, which is called once, on a thread of the store or before this returns, and must not
 * block. ERR_UNAVAILABLE: the disk failed since the hold began; what was not known to be durable is
 * not trusted any more. One fsync of a segment serves all that wait for it. Any thread.
 */
struct cas_sync {
    struct cas_hold *hold;
    void (*done)(struct cas_sync *sync, const struct err *err);
    struct cas_sync *next; /* the store's own */
};

void cas_sync(struct cas *cas, struct cas_sync *sync);

struct cas_stats {
    uint64_t blobs;
    uint64_t bytes;   /* on disk, as the quota counts, uploads in flight included */
    uint64_t evicted; /* blobs, since the store was made */
    uint64_t broken;  /* blobs, since the store was made: found damaged and dropped */
};

void cas_stats(struct cas *cas, struct cas_stats *stats);

#endif
