/* SPDX-License-Identifier: Apache-2.0 */
/* An external CAS from inside: what the files of remote_cas.h share. */
#ifndef ASSETD_REMOTE_REMOTE_PRIVATE_H
#define ASSETD_REMOTE_REMOTE_PRIVATE_H

#include <pthread.h>
#include <stdatomic.h>

#include "remote/remote_cas.h"
#include "remote/remote_trust.h"
#include "remote/remote_walk.h"
#include "store/tree_key.h"

/* Checks that are made at the same time. */
enum { REMOTE_CHECKS_MAX = 32 };

/* Buckets of the table of checks; a power of two. */
enum { REMOTE_BUCKETS = 256 };

/* Milliseconds for which what the CAS can do is remembered. */
enum { REMOTE_CAPABILITIES_AGE = 60000 };

/* A message that is handed to several. */
struct remote_message;

struct remote_cas {
    const struct conf_cas *conf; /* borrowed, as the next */
    const char *label;
    struct tree_keys keys;
    struct remote_trust trust;
    struct remote_source source;
    _Atomic uint64_t remembered, whole, missing, failed;
    pthread_mutex_t lock; /* of all that follows; held for short */
    bool is_closing;
    unsigned inside;     /* threads of users that have begun something, and have not returned */
    pthread_cond_t left; /* the last of them */
    /* Checks: */
    struct remote_flight *flights[REMOTE_BUCKETS]; /* those that may be shared, by their key */
    struct remote_flight *first;                   /* those that have not begun, in order */
    struct remote_flight *last;
    unsigned begun; /* those that are made */
    /* What the CAS can do: */
    struct cas_capabilities call; /* if is_asking */
    bool is_asking;
    int64_t asked_at;              /* by clock_steady; the last time */
    struct remote_message *answer; /* NULL: none yet */
    int64_t answered_at;           /* by clock_steady, when it was asked for */
    struct remote_capabilities *waiting;
    struct remote_capabilities **waiting_end;
    bool is_paired;      /* an answer came, and that was told */
    bool is_unreachable; /* none came, and that was told */
};

/* A thread of a user returns, which `inside` counts. Its last use of CAS. */
void remote_cas_leave(struct remote_cas *cas);

/* --- remote_capabilities.c --- */

/* Asks what the CAS can do if that was never answered, and not asked for lately. */
void remote_capabilities_ask_first(struct remote_cas *cas);

/* No call is under way. */
void remote_capabilities_fini(struct remote_cas *cas);

/* --- remote_check.c --- */

/* Ends those that have not begun; none begins any more. */
void remote_checks_cancel(struct remote_cas *cas);

#endif
