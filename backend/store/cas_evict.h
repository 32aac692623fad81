/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One eviction: choosing the segment that goes, its second chance, and its end. Used by the thread
 * of a space alone.
 */
#ifndef ASSETD_STORE_CAS_EVICT_H
#define ASSETD_STORE_CAS_EVICT_H

#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"
#include "store/cas_space_private.h"

struct cas_survey {
    uint32_t segments;
    int64_t evictable; /* bytes of those that no hold relies on */
};

void cas_evict_survey(const struct cas_space *space, struct cas_survey *survey);

enum cas_eviction {
    CAS_EVICTION_NONE,   /* there is nothing that may go now */
    CAS_EVICTION_DONE,   /* one went */
    CAS_EVICTION_SPARED, /* one was to go and stays: much of it was used, or it was just now */
    CAS_EVICTION_LATER,  /* the one that is to go is being sealed, which ends soon */
    CAS_EVICTION_FAULT,  /* the disk fails: one was to go and stays */
};

/* What became of one segment. */
struct cas_evicted {
    int64_t bytes; /* that it took */
    int64_t blobs; /* that went with it */
};

/*
 * Evicts the segment that was used longest ago, if it takes at most LARGEST bytes. SECOND_CHANCE:
 * what was used in it is carried, or it is spared. Does not give its bytes back.
 */
enum cas_eviction cas_evict_oldest(struct cas_space *space, int64_t largest, bool second_chance,
                                   struct cas_evicted *evicted, struct err *err);

/*
 * Evacuates the next segment at or behind *INDEX in which something is broken: all that is intact
 * is carried. *INDEX becomes the index behind it. NONE: there is no such one; SPARED: it is in use,
 * and goes later; FAULT: it stays, as some of it could not be read or carried at present.
 */
enum cas_eviction cas_evict_broken(struct cas_space *space, uint32_t *index,
                                   struct cas_evicted *evicted, struct err *err);

#endif
