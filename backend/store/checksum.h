/* SPDX-License-Identifier: Apache-2.0 */
/* The qualifier checksum.sri: what a pushed blob must be (W3C Subresource Integrity). */
#ifndef ASSETD_STORE_CHECKSUM_H
#define ASSETD_STORE_CHECKSUM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/digest.h"
#include "base/err.h"
#include "store/asset_index.h"

/* The hashes that are good, all of the strongest function that the qualifier names. */
enum { CHECKSUM_MAX = 16 };
struct checksum {
    enum digest_function function;
    uint8_t hashes[CHECKSUM_MAX][DIGEST_HASH_MAX];
    size_t count; /* 0: there is no checksum.sri */
};

/*
 * Reads the qualifier checksum.sri, if it is among QUALIFIERS. ERR_INVALID if it is malformed, or
 * names only functions that cannot be checked (others than sha256, sha384, sha512): a checksum is
 * never accepted unchecked.
 */
int checksum_parse(const struct qualifier *qualifiers, size_t count, struct checksum *checksum,
                   struct err *err);

/* Whether DIGEST, which must be of the checksum's function, has one of the good hashes. */
bool checksum_matches(const struct checksum *checksum, const struct digest *digest);

#endif
