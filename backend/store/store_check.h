/* SPDX-License-Identifier: Apache-2.0 */
/* A check of what is stored: whom it tells what it finds wrong, and how far it is. */
#ifndef ASSETD_STORE_STORE_CHECK_H
#define ASSETD_STORE_STORE_CHECK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* One thing that is wrong. The texts are borrowed until the call returns. */
struct store_fault {
    const char *what;    /* "blob", "segment" or "asset" */
    const char *subject; /* which one: a digest, a number, a URI; any text without NUL */
    uint64_t segment;    /* where in the log it is; 0: it is not in the log */
    uint64_t offset;
    const char *reason;
    const char *answer; /* what was done; NULL: nothing, as nothing was to be repaired */
};

/* Set by the caller, but for the counts, which begin at 0. */
struct store_check {
    bool repairs; /* drops what is broken */
    void (*tell)(void *context, const struct store_fault *fault);
    /* How much of TOTAL is done. WHAT: what they are, such as "assets"; "bytes" are bytes. */
    void (*progress)(void *context, const char *what, uint64_t done, uint64_t total);
    void *context;
    uint64_t faults;
    uint64_t dropped; /* of the faults: those that the next check does not find any more */
};

/* Tells and counts a fault. */
static inline void store_check_tell(struct store_check *check, const struct store_fault *fault,
                                    bool is_dropped)
{
    check->faults++;
    check->dropped += is_dropped;
    check->tell(check->context, fault);
}

#endif
