/* SPDX-License-Identifier: Apache-2.0 */
/* The inside of the check of a CAS, for the files that make it up. */
#ifndef ASSETD_STORE_CAS_CHECK_PRIVATE_H
#define ASSETD_STORE_CAS_CHECK_PRIVATE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "store/cas_check.h"
#include "store/cas_private.h"

/* What is known of the segment at an index of the ring. */
struct seen {
    uint64_t number; /* 0: none was looked at, or it has gone */
    uint64_t end;    /* how far it was looked at */
    uint64_t sound;  /* records to which the table leads */
    uint64_t entries;
};

/* A check under way. */
struct check {
    struct store_check *told;
    struct cas_checked *checked;
    struct cas *cas;
    struct seen *seen; /* CAPACITY of them; heap */
    uint32_t capacity;
    uint64_t total; /* bytes to read */
    uint64_t done;
    /* Bytes of the segment at hand: cas_check_record.c. */
    uint8_t *window; /* CAS_CHECK_WINDOW of them; heap */
    uint64_t window_number;
    uint64_t window_start;
    size_t window_size;
};

static inline struct cas_origin cas_check_origin(const struct check *check, uint64_t number)
{
    struct cas_origin origin = {.segment = number};
    memcpy(origin.store, check->cas->store, sizeof(origin.store));
    return origin;
}

/* Tells that MORE bytes are done. There are more than expected where the log grows meanwhile. */
static inline void cas_check_progress(const struct check *check, uint64_t more)
{
    if (check->done + more <= check->total)
        check->told->progress(check->told->context, "bytes", check->done + more, check->total);
}

/* What is wrong with the content, or with the disk. All else ends the check. */
static inline bool cas_check_is_damage(int rc)
{
    return rc == -ERR_DATA_LOSS || rc == -ERR_IO;
}

/* --- cas_check_record.c --- */

enum { CAS_CHECK_WINDOW = 1 << 20 };

/*
 * Reads and verifies the record of KEY at OFFSET of the segment NUMBER, of which bytes up to LIMIT
 * may be read on the way; the record ends within that. DIGEST becomes what its header says; its
 * function is DIGEST_UNKNOWN if that is not known. Errors are those of cas_log_read; ERR_DATA_LOSS:
 * it is not what it should be. ERR_NO_MEMORY.
 */
int cas_check_record(struct check *check, uint64_t number, uint64_t offset, uint64_t limit,
                     const struct cas_key *key, struct digest *digest, struct err *err);

#endif
