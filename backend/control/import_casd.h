/* SPDX-License-Identifier: Apache-2.0 */
/* An import of what buildbox-casd has stored: blobs first, then the assets that are whole. */
#ifndef ASSETD_CONTROL_IMPORT_CASD_H
#define ASSETD_CONTROL_IMPORT_CASD_H

#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"
#include "control/casd_source.h"
#include "control/screen.h"
#include "store/asset_index.h"
#include "store/cas.h"
#include "store/tree.h"

struct casd_import {
    struct casd_source source;
    struct cas *cas;
    struct asset_index *index;
    struct tree_cache *trees;
    int64_t expire_after; /* of the instance, milliseconds; 0: never */
    int64_t begun_at;
    struct screen screen;
    uint64_t told; /* lines about what is left out */
    struct casd_object_counts {
        uint64_t imported, imported_bytes;
        uint64_t there;
        uint64_t without_room, without_room_bytes;
        uint64_t broken;
        struct err room; /* why the first had no room */
    } objects;
    struct casd_asset_counts {
        uint64_t imported;
        uint64_t there;
        uint64_t expired;
        uint64_t incomplete;
        uint64_t broken;
    } assets;
};

/* Tells of something that is left out, and why; of the first ones only. */
void casd_import_tell(struct casd_import *import, const char *what, const char *reason);

/* Lists what there is of PART; what is no file of casd's is told, and added to *BROKEN. */
int casd_import_list(struct casd_import *import, enum casd_part part, uint64_t *broken,
                     struct casd_files *files, struct err *err);

/*
 * Imports all blobs, the one used last first, or all assets, the one used last at the end. Errors
 * are those that end the import; all else is counted.
 */
int casd_import_objects(struct casd_import *import, struct err *err);
int casd_import_assets(struct casd_import *import, struct err *err);

#endif
