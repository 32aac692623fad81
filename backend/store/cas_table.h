/* SPDX-License-Identifier: Apache-2.0 */
/* What a CAS knows of its blobs, in memory: by digest, and in the order of their last use. */
#ifndef ASSETD_STORE_CAS_TABLE_H
#define ASSETD_STORE_CAS_TABLE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/digest.h"
#include "base/digest_set.h"
#include "base/err.h"

/*
 * A blob takes its digest's place in the table before its file gets its name, and keeps it until
 * its file is gone, so that no two threads work on one name. Only what is THERE is seen.
 */
enum cas_state {
    CAS_COMING,  /* about to be published */
    CAS_THERE,   /* in the order of use */
    CAS_LEAVING, /* about to be unlinked */
    CAS_GONE,    /* no longer in the table, but still open somewhere */
};

struct cas_entry {
    struct cas_entry *chain; /* of its bucket */
    struct cas_entry *older; /* in the order of use, while THERE */
    struct cas_entry *newer; /* as well; while LEAVING, the next that leaves */
    int64_t room;            /* bytes on disk, as the quota counts */
    uint64_t used;           /* the use counter at its last use */
    uint64_t epoch;          /* the last sync that had begun when it was published */
    int64_t size;            /* of its digest */
    uint32_t pins;           /* who works with its file; it is not evicted meanwhile */
    enum digest_function function;
    enum cas_state state;
    bool suspect; /* its bytes must be verified before anybody sees it */
    bool stuck;   /* its file could not be unlinked */
    uint8_t hash[];
};

/* Zeroed, then cas_table_init. The user of the table locks. */
struct cas_table {
    struct cas_entry **buckets;
    size_t bucket_count; /* a power of two */
    size_t count;
    struct cas_entry *oldest;
    struct cas_entry *newest;
    struct digest_keys keys;
};

int cas_table_init(struct cas_table *table, struct err *err);

/* Frees all that is in it. */
void cas_table_fini(struct cas_table *table);

/* An entry of its own, COMING; NULL when memory is out. To be freed by free(3). */
struct cas_entry *cas_entry_new(const struct digest *digest);
void cas_entry_digest(const struct cas_entry *entry, struct digest *digest);

/* NULL if it is not there, in whatever state. */
struct cas_entry *cas_table_find(const struct cas_table *table, const struct digest *digest);

/* Adds ENTRY, whose digest must not be there, and owns it. */
void cas_table_add(struct cas_table *table, struct cas_entry *entry);

/* Takes ENTRY, which is not in the order of use, out; the caller owns it. */
void cas_table_remove(struct cas_table *table, struct cas_entry *entry);

/* Puts ENTRY into the order of use as the newest; USED is larger than that of all others. */
void cas_table_list(struct cas_table *table, struct cas_entry *entry, uint64_t used);
void cas_table_unlist(struct cas_table *table, struct cas_entry *entry);

/*
 * Puts ENTRY, which was taken out, back to where its last use has it. Meant for one of the oldest,
 * as the place is looked for from there.
 */
void cas_table_relist(struct cas_table *table, struct cas_entry *entry);

#endif
