/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A check of a CAS, alone or beside the process that writes to it: every record of the log and
 * every entry of the digest table is looked at, and no use is counted.
 *
 * An entry is a fault if it is trusted and does not lead to a record with its digest, whose
 * checksums and hash are right. A damaged record that no entry leads to is none: it is counted, and
 * goes with its segment. Nor is a segment that is marked to be evacuated. What is stored,
 * moved or evicted meanwhile may be passed over.
 */
#ifndef ASSETD_STORE_CAS_CHECK_H
#define ASSETD_STORE_CAS_CHECK_H

#include <stdbool.h>
#include <stdint.h>

#include "base/digest.h"
#include "base/err.h"
#include "store/cas.h"
#include "store/store_check.h"

struct cas_checked {
    uint64_t segments;
    uint64_t marked;      /* of these, to be evacuated, as something in them was found broken */
    uint64_t records;     /* that are sound */
    uint64_t bytes;       /* of these records */
    uint64_t entries;     /* of the digest table that are trusted */
    uint64_t dead_broken; /* records that are damaged, and that no entry leads to */
};

/*
 * Checks CAS, which was opened with may_write = false. If its tables are being made anew after a
 * power cut, waits for that first. Takes broken entries out, and marks damaged segments to be
 * evacuated, if CHECK repairs; what the disk cannot read at present stays. One thread.
 *
 * ERR_UNAVAILABLE: the process that was making the tables anew has ended before, or this one has
 * too few file descriptors. ERR_IO, ERR_DATA_LOSS: the table itself cannot be read. ERR_NO_MEMORY.
 */
int cas_check(struct cas *cas, struct store_check *check, struct cas_checked *checked,
              struct err *err);

/*
 * Waits until it is known what CAS holds, which was opened with may_write = false: its tables may
 * be made anew after a power cut. TOLD: whom the progress is told. ERR_UNAVAILABLE as above. One
 * thread.
 */
int cas_check_wait(struct cas *cas, const struct store_check *told, struct err *err);

/* Whether a blob is there, which is no use of it. Any thread. */
bool cas_check_has(struct cas *cas, const struct digest *digest);

#endif
