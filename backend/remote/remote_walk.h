/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The walk of one check: directories are read level by level unless they are remembered, and all
 * that is found is asked for by FindMissingBlobs.
 *
 * Calls to the CAS: for each level whose directories are not remembered one BatchReadBlobs, or
 * several at once where it has more than one may hold, and a ByteStream.Read for each that is
 * larger than that; and one FindMissingBlobs for all digests, or several where there are more than
 * CAS_FIND_MAX.
 */
#ifndef ASSETD_REMOTE_REMOTE_WALK_H
#define ASSETD_REMOTE_REMOTE_WALK_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>

#include "base/digest_set.h"
#include "base/err.h"
#include "remote/cas_calls.h"
#include "remote/remote_gate.h"
#include "store/tree.h"
#include "store/tree_directory.h"

/* Calls of one walk that are under way at the same time, of each kind. */
enum { REMOTE_WALK_FINDS_MAX = 4, REMOTE_WALK_READS_MAX = 4 };

/* Directories that one BatchReadBlobs asks for: requests stay below 1 MiB. */
enum { REMOTE_WALK_BATCH_COUNT_MAX = 4096 };

/*
 * Directories that each walk may know of, and those beyond that all walks of one CAS may know of at
 * the same time: a hundred bytes of memory each. A small push can name a tree of very many.
 */
enum { REMOTE_WALK_FEW = 1 << 14, REMOTE_WALK_MANY = 1 << 20 };

/*
 * Levels of a tree that are read, one after the other. A path has 4096 bytes at most (PATH_MAX), a
 * level of it two or more; what is deeper is made to hold up others.
 */
enum { REMOTE_WALK_LEVELS_MAX = 4096 };

/* Turns that a walk has to come to its end once nobody waits for it. */
enum { REMOTE_WALK_UNWANTED_TURNS = 64 };

/* What all walks through one CAS share. */
struct remote_source {
    struct cas_connections *connections;
    struct tree_directories directories;
    struct remote_gate large; /* for directories larger than a batch: one is in memory at a time */
    atomic_size_t many;       /* directories beyond REMOTE_WALK_FEW of each */
};

/* One call, of either kind. */
struct remote_walk_call {
    struct remote_walk *walk;
    struct remote_walk_call *next;
    bool is_read;
    struct err err; /* how it ended */
};

/* Embedded. Whoever has the turn runs it, from any thread; only then it is touched. */
struct remote_walk {
    /*
     * Set by the user after the init: an answer has come, and the caller has the turn:
     * remote_walk_run must be called by it, now or later. On a poller, no lock is held.
     */
    void (*wake)(struct remote_walk *walk);
    /*
     * Set by the user at any time: nobody waits for it any more. What is nearly done is done; else
     * it ends with ERR_CANCELLED.
     */
    atomic_bool is_unwanted;
    /* The answer once it is over; ERR_OK, or the errors of remote_check. */
    struct err err;
    struct tree_missing missing;
    /* Its own: */
    struct remote_source *source;
    struct tree_list *lists; /* a copy */
    size_t list_count;
    size_t list;                   /* the first list and its first digest that are not noted */
    size_t listed;                 /* yet */
    struct digest_set directories; /* found */
    size_t many;                   /* of them, counted by the source */
    unsigned unwanted_turns;
    unsigned levels;                  /* that were read */
    size_t next;                      /* the first of them that has not been looked up */
    struct tree_directory *at;        /* what is looked into; pinned */
    size_t child;                     /* the first of its children that is not noted yet */
    struct remote_walk_find *find;    /* is being filled */
    int64_t batch_max;                /* bytes of one, as it was in the beginning */
    struct remote_walk_read *batch;   /* is being filled */
    struct remote_walk_read *large;   /* of one large directory, from the gate on */
    struct remote_walk_read *read;    /* that have come and are to be looked into, in order */
    struct remote_walk_read *read_by; /* the last of them */
    struct digest_set absent;
    struct remote_gate_wait wait;
    bool is_in_gate;
    size_t under_way; /* calls, and the wait before the gate */
    size_t finds_under_way;
    size_t reads_under_way;
    pthread_mutex_t lock; /* of the following */
    bool is_running;      /* somebody has the turn */
    bool is_admitted;     /* by the gate */
    struct remote_walk_call *back;
    struct remote_walk_call **back_end;
};

/* The caller has the turn. SOURCE is borrowed, LISTS are copied; without memory the walk fails. */
void remote_walk_init(struct remote_walk *walk, struct remote_source *source,
                      const struct tree_list *lists, size_t list_count);

/*
 * Goes on as far as it can without an answer, by who has the turn, and gives that back. True: the
 * walk is over, and nobody else touches it any more. False: it may be gone already, and WAKE is
 * called, or was. Afterwards somebody must look at the gate.
 */
bool remote_walk_run(struct remote_walk *walk);

/*
 * The walk of WAIT, which the gate has let in. The caller has the turn and must run it; NULL: who
 * runs it goes on with it.
 */
struct remote_walk *remote_walk_admit(struct remote_gate_wait *wait);

/* Of one that is over. Afterwards somebody must look at the gate. */
void remote_walk_fini(struct remote_walk *walk);

#endif
