/* SPDX-License-Identifier: Apache-2.0 */
/*
 * An external CAS, such as Buildbarn, that has the content of an index-only instance: whether all
 * that an asset names is there (REAPI, FindMissingBlobs; Directory), and what the CAS can do.
 */
#ifndef ASSETD_REMOTE_REMOTE_CAS_H
#define ASSETD_REMOTE_REMOTE_CAS_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"
#include "base/span.h"
#include "conf/conf.h"
#include "rpc/queue.h"
#include "store/tree.h"

/* One CAS, and what was found there. Any thread. */
struct remote_cas;

/*
 * CONF and QUEUE are borrowed until the close; LABEL, the name of the instance, too. No connection
 * is waited for. What the CAS can do is asked at once, so that the log tells: `cas-paired` with the
 * first answer, whenever that is, and before that `cas-unreachable` if the first try has none.
 * ERR_PRECONDITION: a file that CONF names cannot be used.
 */
int remote_cas_open(const struct conf_cas *conf, const char *label, struct rpc_queue *queue,
                    struct remote_cas **cas, struct err *err);

/*
 * Ends what is under way, and closes. Nobody waits for a check any more; threads that started or
 * cancelled one may still be about to return. NULL is fine. Not on a poller of QUEUE.
 */
void remote_cas_close(struct remote_cas *cas);

/* --- checks --- */

/*
 * Whether all of LISTS was found whole by a check that began within the last `trust`, and, if
 * the CAS was lost and has come back meanwhile, perhaps with less, since it was lost. Does not
 * block, asks nobody; counted as remembered if so.
 */
bool remote_cas_trusts(struct remote_cas *cas, const struct tree_list *lists, size_t list_count);

/*
 * A check that all of LISTS is there: each distinct directory is looked into once, and all digests
 * are asked for by FindMissingBlobs, which renews their life in the CAS. Embedded; the caller keeps
 * it and what it points to until DONE.
 */
struct remote_check {
    struct remote_cas *cas;        /* set by the caller, as all down to DONE */
    const struct tree_list *lists; /* all digests of one function */
    size_t list_count;
    bool is_fresh; /* only what the CAS says from now on counts; else a check of the same lists that
                      is under way may be shared, of which what is missing is asked for anew */
    const atomic_bool *is_cancelled; /* set before remote_check_cancel; NULL: never cancelled */
    /*
     * Called once, on any thread, with no lock held, perhaps before remote_check_start returns; it
     * must not block. ERR is NULL: all is there. ERR_PRECONDITION: some is not, see MISSING.
     * ERR_INVALID: a directory is no Directory message, or too large; its digest is in the message;
     * or there are too many. ERR_UNAVAILABLE or ERR_AWAY: nothing is known to be missing, but the
     * CAS cannot be asked. ERR_CANCELLED, ERR_NO_MEMORY.
     */
    void (*done)(struct remote_check *check, const struct err *err);
    struct tree_missing missing; /* answer */
    /* remote_cas's own, zeroed to begin; after DONE it may be started again as it is: */
    struct remote_check *next;
    struct remote_check *previous;
    struct remote_flight *flight; /* what it waits for */
    bool is_late;                 /* it came when FLIGHT was under way already */
};

void remote_check_start(struct remote_check *check);

/*
 * Ends the wait: DONE is called with ERR_CANCELLED unless it has been, or is being called. May come
 * at any time from before remote_check_start to after DONE, as long as CHECK is there; what the
 * check has asked goes on, for others; where there are none, for a little while.
 */
void remote_check_cancel(struct remote_check *check);

/* --- what the CAS can do --- */

/* Embedded; the caller keeps it until DONE. */
struct remote_capabilities {
    struct remote_cas *cas; /* set by the caller, as DONE */
    /*
     * Called once, on any thread, perhaps before the start returns; must not block. MESSAGE: the
     * bytes of a ServerCapabilities, at most a minute old, or as old as the last one if the CAS
     * cannot be asked; they live until DONE returns. NULL data: the CAS does not tell. ERR, if not
     * NULL: ERR_UNAVAILABLE or ERR_AWAY, the CAS has never told; ERR_CANCELLED, it is being
     * closed.
     */
    void (*done)(struct remote_capabilities *capabilities, struct span message,
                 const struct err *err);
    struct remote_capabilities *next; /* remote_cas's own */
};

void remote_capabilities_start(struct remote_capabilities *capabilities);

/* --- figures --- */

struct remote_cas_stats {
    uint64_t remembered; /* checks since the opening that were answered from memory */
    uint64_t whole;      /* found whole by asking; a check that is shared counts once */
    uint64_t missing;    /* found not to be, or no tree */
    uint64_t failed;     /* that could not be made */
    uint64_t calls;      /* to the CAS */
    uint64_t is_up;      /* 1: calls are let through, 0: it does not answer */
};

void remote_cas_stats(struct remote_cas *cas, struct remote_cas_stats *stats);

#endif
