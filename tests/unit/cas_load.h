/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A mixed load on a CAS whose files are recorded for power cuts, and what of it has to be there
 * after a cut at any moment.
 *
 * Some blobs are pushed again and again, which keeps them in use, by several threads; others upload
 * what is never used again, so that the store evicts all the time. A pushed blob has to be there
 * after a cut if its push was acknowledged before, and it was seen in the store later without
 * having been missing in between: so what an eviction took is told apart from what a cut did.
 */
#ifndef ASSETD_TESTS_CAS_LOAD_H
#define ASSETD_TESTS_CAS_LOAD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "power_cut.h"
#include "store/cas.h"

struct cas_load;

struct cas_load *cas_load_new(uint64_t seed);
void cas_load_free(struct cas_load *load);

/* Of the events from now on, what happened is noted by those of CUT. */
void cas_load_record(struct cas_load *load, struct power_cut *cut);

/*
 * The load, in threads of its own, until it has ended. CAPTURES: what is mapped is looked at all
 * the time.
 */
void cas_load_run(struct cas_load *load, struct cas *cas, bool captures);

/* Looks whether what was pushed is there. Returns how many events there were before. */
size_t cas_load_look(struct cas_load *load, struct cas *cas);

/* What went wrong while there was no cut; NULL: nothing. */
const char *cas_load_fault(const struct cas_load *load);

/* How many pushes were acknowledged, and after how many events the one at INDEX was. */
size_t cas_load_pushes(const struct cas_load *load);
size_t cas_load_push_event(const struct cas_load *load, size_t index);

/*
 * A cut after AT events is what the next recording begins with: forgets all but what has to be
 * there then.
 */
void cas_load_cut(struct cas_load *load, size_t at);

struct cas_load_verdict {
    unsigned required; /* blobs that have to be there */
    unsigned lost;     /* of them */
    unsigned wrong;    /* blobs with other bytes than their own */
    unsigned unclear;  /* blobs of which the store does not know whether it has them */
    unsigned broken;   /* records that the store found damaged */
};

/* Reads all blobs of a store that is what a cut after AT events has left. */
void cas_load_verify(const struct cas_load *load, struct cas *cas, size_t at,
                     struct cas_load_verdict *verdict);

#endif
