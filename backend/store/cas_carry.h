/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Carrying records of a segment that is to go to the end of the log, so that their blobs stay.
 * Used by the thread of a space alone.
 */
#ifndef ASSETD_STORE_CAS_CARRY_H
#define ASSETD_STORE_CAS_CARRY_H

#include <stddef.h>
#include <stdint.h>

#include "base/err.h"
#include "store/cas_record.h"
#include "store/cas_space_private.h"

/* What is known of a record of the segment. */
enum cas_mark {
    CAS_MARK_LIVE = 1,        /* the digest table has it at this place */
    CAS_MARK_USED = 2,        /* it was used since it was written or carried */
    CAS_MARK_WANTED = 4,      /* to be carried */
    CAS_MARK_LEFT = 8,        /* its blob is elsewhere now, or gone: nothing here is relied upon */
    CAS_MARK_UNREADABLE = 16, /* the disk could not read it */
};

/* A segment without appenders, and its records. */
struct cas_carry {
    uint64_t number;
    const struct cas_content *contents;
    uint8_t *marks; /* of each record */
    size_t count;
};

/*
 * Carries the records that are WANTED, each verified by its checksums, and marks them as LEFT once
 * the digest table has them at their new, durable places. Those that are broken leave the store,
 * which is logged; those that cannot be read are marked so and stay. An error ends it; what was
 * marked as LEFT has been carried. ERR_EXHAUSTED: no room for all; ERR_CANCELLED: the space is
 * being closed; ERR_IO, ERR_UNAVAILABLE: the disk fails at the copies.
 */
int cas_carry(struct cas_space *space, struct cas_carry *carry, struct err *err);

#endif
