/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Names of blobs in ByteStream calls (REAPI, ContentAddressableStorage):
 *
 *   read   [INSTANCE/]blobs/[FUNCTION/]HASH/SIZE
 *   write  [INSTANCE/]uploads/UUID/blobs/[FUNCTION/]HASH/SIZE[/ANYTHING]
 *
 * They are taken apart in two steps, because the instance is looked up before the rest is looked
 * at.
 */
#ifndef ASSETD_SERVICE_RESOURCE_NAME_H
#define ASSETD_SERVICE_RESOURCE_NAME_H

#include <stdbool.h>

#include "base/arena.h"
#include "base/digest.h"
#include "base/err.h"
#include "base/span.h"
#include "store/instance.h"

/* Bytes of a resource name; what comes behind the size can be long. */
enum { RESOURCE_NAME_MAX = 8192 };

enum resource_use { RESOURCE_READ, RESOURCE_WRITE };

struct resource_name {
    enum resource_use use;
    const char *instance; /* "" if the name has none */
    bool is_compressed;   /* `compressed-blobs` in place of `blobs` */
    char *blob;           /* what follows `blobs/`, not looked at yet */
};

/*
 * Finds the instance in a name. The strings are made in ARENA. ERR_INVALID, with the reason:
 * empty, too long, not UTF-8, with a NUL, or not of the form above as far as it was read.
 */
int resource_name_split(enum resource_use use, struct span text, struct arena *arena,
                        struct resource_name *name, struct err *err);

/*
 * The digest in a name. The function is told by the length of the hash unless it is named.
 * ERR_INVALID: malformed, compressed (which is not served), or of a function that INSTANCE does
 * not serve. Cuts NAME into pieces: once only.
 */
int resource_name_digest(struct resource_name *name, const struct instance *instance,
                         struct digest *digest, struct err *err);

#endif
