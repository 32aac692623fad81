/* SPDX-License-Identifier: Apache-2.0 */
/* The inside of a CAS, for the files that make it up. */
#ifndef ASSETD_STORE_CAS_PRIVATE_H
#define ASSETD_STORE_CAS_PRIVATE_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "store/cas.h"
#include "store/cas_log.h"
#include "store/cas_shared.h"
#include "store/cas_space.h"
#include "store/digest_table.h"
#include "store/directory.h"

struct cas {
    struct store_directory directory;
    struct cas_options options;
    uint8_t store[16]; /* the id in the format file, as bytes */
    int log_fd;
    int table_fd;
    struct cas_shared shared;
    struct digest_table *table;
    struct cas_log *log;
    struct cas_space *space; /* of a process that may write; used only while it writes */
    atomic_bool writing;
    atomic_bool closing;
    _Atomic uint64_t stuck; /* a segment that was LEAVING for too long: nobody waits for it again */

    pthread_mutex_t holds_lock;
    struct cas_hold *oldest_hold;
    struct cas_hold *newest_hold;

    /* cas_commit.c: */
    pthread_mutex_t sync_lock;
    pthread_cond_t sync_wanted;
    struct cas_sync *first_sync; /* waiting */
    struct cas_sync **last_sync;
    bool has_sync_thread;
    pthread_t sync_thread;

    /* cas_open.c, cas_recover.c and cas_rebuild.c: */
    bool has_lock;   /* on the store; the turn thread's while there is one */
    bool to_rebuild; /* cas_rebuild has to be called; likewise */
    pthread_mutex_t turn_lock;
    pthread_cond_t turn_changed;
    bool has_turn_thread; /* waits for the turn to write, looks after and makes anew the tables */
    pthread_t turn_thread;
};

/*
 * What `rebuilding` in the shared header says. EMPTYING: segments and table are being thrown away,
 * nobody else may open the store. FILLING: what is in the table holds, but it is not all.
 */
enum cas_rebuilding { CAS_REBUILT, CAS_FILLING, CAS_EMPTYING };

/* --- cas.c --- */

/*
 * One blob, found: a copy of its place, which was trusted a moment ago. Any process.
 */
struct cas_found {
    struct cas_key key;
    uint64_t place; /* with flags */
};

/* Flags left aside. */
static inline bool cas_place_is_same(uint64_t a, uint64_t b)
{
    return ((a ^ b) & ~(uint64_t)CAS_PLACE_FLAGS) == 0;
}

/*
 * Finds and renews, without waiting. CAS_UNVERIFIED also where it is being decided whether the
 * segment goes: ask again soon. FOUND is set unless it is CAS_ABSENT, and may then be suspect;
 * FOUND->place is 0 if it is only not known yet whether there is such a blob.
 */
enum cas_presence cas_look_up(struct cas *cas, struct cas_hold *hold, const struct digest *digest,
                              struct cas_found *found);

/* The same for COUNT digests, as one use. */
void cas_look_up_all(struct cas *cas, struct cas_hold *hold, const struct digest *const *digests,
                     size_t count, enum cas_presence *presence, struct cas_found *found);

/*
 * The same for one, but waits where it is being decided: a second at most, as who decides may have
 * been killed, and once for a segment. 0: it is there, and may be suspect. ERR_NOT_FOUND;
 * ERR_UNAVAILABLE: it is not known at present whether it is there.
 */
int cas_locate(struct cas *cas, struct cas_hold *hold, const struct digest *digest,
               struct cas_found *found, struct err *err);

/* Notes under HOLD, which may be NULL, what was just stored up to END of a segment. */
void cas_hold_note(struct cas_hold *hold, const struct cas_segment *segment, uint64_t number,
                   uint32_t version, uint64_t end);

/* The blob at PLACE is not there any more, but its segment stays: what is remembered of it is over.
 */
void cas_left_segment(struct cas *cas, uint64_t place);

/* Sets or clears CAS_PLACE_SUSPECT of a blob that is still at its place. Whether that was news. */
bool cas_set_suspect(struct cas *cas, const struct cas_found *found, bool suspect);

int cas_miss(struct err *err, const struct digest *digest);

/*
 * Sets the place of a blob that is still where it was found; 0: takes it out. False: it is
 * elsewhere, or gone. What is remembered of its segment is over.
 */
bool cas_replace(struct cas *cas, const struct cas_found *found, uint64_t place);

/* Takes out a blob that was found broken, whatever ERR says, which is logged. */
void cas_drop_broken(struct cas *cas, const struct digest *digest, const struct cas_found *found,
                     const struct err *err);

/* --- cas_read.c --- */

/*
 * Reads all of a suspect. 0: it is sound, and suspect no more. ERR_NOT_FOUND: it was broken, and is
 * gone now. ERR_IO: it stays what it is.
 */
int cas_verify(struct cas *cas, const struct digest *digest, struct err *err);

/*
 * Whether what was found is another blob, which is the same to the table, as that knows half of a
 * hash. False as well where the record cannot be read.
 */
bool cas_is_other(struct cas *cas, const struct digest *digest, const struct cas_found *found);

/* --- cas_put.c --- */

enum {
    CAS_PUT_BATCH = 64, /* blobs that are put together */
    CAS_UPLOAD_PARTS = 2 * CAS_PUT_BATCH + 1,
};

/* Room in the log for some records, of the quota and of a segment. */
struct cas_upload {
    struct cas *cas;
    struct cas_appender appender;
    int64_t left;     /* bytes of the records that were not appended yet */
    int64_t growth;   /* taken of the quota */
    uint32_t version; /* of the segment when it was taken */
    bool is_relieved; /* room was made once on a full disk */
};

/* Takes room for RECORDS of BYTES in sum, in the writing process. ERR_EXHAUSTED, ERR_IO. */
int cas_upload_begin(struct cas *cas, int64_t bytes, size_t records, struct cas_upload *upload,
                     struct err *err);

/* Appends up to CAS_UPLOAD_PARTS. If the disk is full, room is made once. ERR_EXHAUSTED, ERR_IO,
 * ERR_UNAVAILABLE */
int cas_upload_append(struct cas_upload *upload, const struct iovec *parts, int count,
                      struct err *err);

/*
 * Publishes COUNT blobs, all that was appended, and enters them into the digest table, except where
 * another upload was faster; sets the err of each. REPLACES: one is there that is suspect, or it is
 * not known: they are made durable first. After an
 * error none was published.
 */
int cas_upload_publish(struct cas_upload *upload, struct cas_hold *hold,
                       struct cas_blob *const *blobs, const struct cas_content *contents,
                       size_t count, bool replaces, struct err *err);

/* Gives back the segment, and the room as well if nothing was published. */
void cas_upload_end(struct cas_upload *upload, bool published);

/*
 * cas_put of up to CAS_PUT_BATCH blobs that are known to be what their digests say, in the writing
 * process.
 */
void cas_put_verified(struct cas *cas, struct cas_hold *hold, struct cas_blob *const *blobs,
                      size_t count);

/* --- cas_commit.c: the thread that serves cas_sync --- */

int cas_commit_start(struct cas *cas, struct err *err);
void cas_commit_stop(struct cas *cas);

/* --- cas_open.c --- */

/* Waits; false as soon as the store is being closed. */
bool cas_pause(struct cas *cas, int64_t milliseconds);

/* --- cas_recover.c --- */

/*
 * Opens shared, table and log beside the process that has the lock on the store, or without one if
 * it was left in order. ERR_UNAVAILABLE: it is not set up yet, or was not left in order.
 */
int cas_recover_beside(struct cas *cas, struct err *err);

/*
 * What the start has to do, with the lock on the store held: makes what is missing, decides by the
 * boot id whether the tables are to be trusted, else makes them empty and takes up the segments
 * that are on disk; *REBUILD: the tables have to be filled by cas_rebuild. Opens shared, table and
 * log; where they are open already, as in a process that takes over the writing, they stay so.
 */
int cas_recover(struct cas *cas, bool *rebuild, struct err *err);

/* --- cas_rebuild.c --- */

/*
 * Fills the tables from the segments, newest first, with the lock on the store held. Waits and
 * tries again when the disk fails or has no room; returns early, with ERR_CANCELLED, when CLOSING.
 */
int cas_rebuild(struct cas *cas, struct err *err);

#endif
