/* SPDX-License-Identifier: Apache-2.0 */
/* The inside of a CAS, for the files that make it up. */
#ifndef ASSETD_STORE_CAS_PRIVATE_H
#define ASSETD_STORE_CAS_PRIVATE_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <time.h>

#include "store/cas.h"
#include "store/cas_file.h"
#include "store/cas_table.h"
#include "store/directory.h"

#define CAS_BLOBS   "blobs"
#define CAS_UPLOADS "uploads"
#define CAS_STATE   "state"

/* The state file is written anew beside the old one. */
#define CAS_STATE_NEW CAS_STATE ".new"
enum { CAS_STATE_BLOCKS = 2 };

/* One lock guards all that changes. It is never held during a system call on the disk. */
struct cas {
    struct store_directory directory;
    int blobs_fd;
    int uploads_fd;
    int64_t quota;
    int64_t limit;    /* what is used of the quota: file systems take a little behind our back */
    int64_t block;    /* bytes that the file system gives out at a time */
    char boot_id[64]; /* empty if it cannot be known */

    pthread_mutex_t lock;
    pthread_cond_t changed; /* broadcast by cas_wake */
    unsigned waiting;       /* threads in cas_wait */
    struct cas_table table;
    uint64_t counter; /* of uses; strictly growing; nanoseconds since 1970 if the clock agrees */
    struct cas_hold *oldest_hold;
    struct cas_hold *newest_hold;

    int64_t used;        /* bytes on disk, uploads in flight included */
    int64_t fixed;       /* of these, what is no blob: directories and the store's own files */
    int64_t directories; /* of these, blobs/ and uploads/, which grow */
    int64_t others;      /* files and folders that were found in the store and are not its own */
    bool evicting;       /* one thread at a time */
    bool evictions_fail; /* that thread's: the last file could not be removed, which was logged */
    int64_t patience;    /* seconds that an upload waits while everything is in use */
    uint64_t evicted;
    uint64_t evicted_told; /* of these, how many the log has told of, and when */
    time_t told_at;        /* CLOCK_MONOTONIC */
    uint64_t broken;
    uint64_t uploads; /* names of uploads */

    struct cas_sync *first_sync; /* waiting */
    struct cas_sync **last_sync;
    pthread_cond_t sync_wanted;
    uint64_t epoch;        /* syncs begun */
    uint64_t synced;       /* a blob is durable if its epoch is less */
    uint64_t newest_epoch; /* of all blobs */
    uint64_t failures;     /* failed syncs */
    uint64_t failed_at;    /* the use counter at the last of them */

    uint64_t suspects;          /* blobs to verify */
    pthread_mutex_t state_lock; /* of the state file; taken before the other lock */
    bool state_outstanding;     /* the state file still makes the next start verify all */
    uint64_t recorded;          /* uses up to this one are in the files' times */
    atomic_bool stopping;
    pthread_cond_t keeper_wanted;
    bool has_sync_thread;
    bool has_keeper_thread;
    pthread_t sync_thread;
    pthread_t keeper_thread;
};

/* cas.c */

/* The next value of the use counter. Lock held. */
uint64_t cas_tick(struct cas *cas);

/* Waits for a change until DEADLINE (CLOCK_MONOTONIC; NULL: for ever); false once it has passed. */
bool cas_wait(struct cas *cas, const struct timespec *deadline);

/* Tells those in cas_wait. Lock held. */
void cas_wake(struct cas *cas);

/* Makes ENTRY, which is THERE, the newest. Lock held. */
void cas_renew(struct cas *cas, struct cas_entry *entry);

/*
 * Finds a blob, verifies it if it is suspect, renews and pins it. ERR_NOT_FOUND; ERR_IO if it
 * cannot be read now, so that nobody knows. The lock must not be held.
 */
int cas_pin(struct cas *cas, const struct digest *digest, struct cas_entry **entry,
            struct err *err);
void cas_unpin(struct cas *cas, struct cas_entry *entry);

/*
 * Verifies ENTRY, which is pinned, and is no longer suspect (0) or THERE (ERR_NOT_FOUND) after
 * that. ERR_IO: it stays a suspect. ERR_CANCELLED: the store is being closed.
 */
int cas_verify(struct cas *cas, struct cas_entry *entry, struct err *err);

/* Drops ENTRY, which is pinned, because of what ERR says. */
void cas_drop_broken(struct cas *cas, struct cas_entry *entry, const struct err *err);

/* cas_room.c */

/* Bytes that the quota counts for a blob of SIZE bytes while it is written; -1 if too many. */
int64_t cas_room_of(const struct cas *cas, int64_t size);

/*
 * Takes ROOM bytes of the quota, and evicts for them. ERR_IO: what should have been evicted cannot
 * be removed, and stays. The lock must not be held, as in all that follows but for those that say
 * so.
 */
int cas_room_take(struct cas *cas, int64_t room, struct err *err);
void cas_room_give(struct cas *cas, int64_t room);

/* Evicts ROOM bytes because the disk is full; false if that cannot be done. */
bool cas_room_relieve(struct cas *cas, int64_t room);

/* Evicts until the quota is kept; false if that is not enough. */
bool cas_room_shrink(struct cas *cas);

/* Counts the directories, which may have grown. */
void cas_room_measure(struct cas *cas);

/* Marks ENTRY, which is THERE, as leaving, and puts it before LIST. Lock held. */
void cas_leave(struct cas *cas, struct cas_entry *entry, struct cas_entry **list);

/* Unlinks and forgets a list of entries that are leaving. Lock held; released meanwhile. */
void cas_unlink(struct cas *cas, struct cas_entry *list);

/* Ends a pinned or unpinned entry that is GONE, if nobody has it open any more. Lock held. */
void cas_release(struct cas *cas, struct cas_entry *entry);

/* cas_sync.c */

/* Starts the thread that serves cas_sync. */
int cas_sync_start(struct cas *cas, struct err *err);
void cas_sync_stop(struct cas *cas);

/* cas_keeper.c */

/* Starts the thread that verifies suspects and records the order of use in the files' times. */
int cas_keeper_start(struct cas *cas, struct err *err);

/* Stops it, and records the order of use. */
void cas_keeper_stop(struct cas *cas);

/* cas_state.c. State lock held once there are threads. */

/* What the last one to use the store has left. */
enum cas_ending { CAS_ENDED_CLEAN, CAS_ENDED_KILLED, CAS_ENDED_POWER_CUT };

/* What the state file tells, by the boot id as well, which is read here. */
enum cas_ending cas_state_read(struct cas *cas);

/* Records that the store is in use, or was closed with all of it durable. */
int cas_state_write(struct cas *cas, bool clean, struct err *err);

/* Removes the file, durably: the next start trusts nothing before it has verified it. */
int cas_state_remove(struct cas *cas, struct err *err);

#endif
