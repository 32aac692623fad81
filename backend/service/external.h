/* SPDX-License-Identifier: Apache-2.0 */
/* What calls ask of the external CAS of an index-only instance: whether all of an asset is there.
 */
#ifndef ASSETD_SERVICE_EXTERNAL_H
#define ASSETD_SERVICE_EXTERNAL_H

#include <stdatomic.h>
#include <stdbool.h>

#include "base/err.h"
#include "remote/remote_cas.h"
#include "service/call.h"
#include "service/services.h"
#include "store/instance.h"

/* The external CAS of INSTANCE, which is one of SERVICES; NULL: it has none. */
struct remote_cas *external_cas(const struct services *services, const struct instance *instance);

/* Whether CODE is that the CAS cannot be asked, for which there is `on-unavailable`. */
bool external_is_unavailable(enum err_code code);

/*
 * The checks of one unary call, one after the other. Embedded, in the memory of the call. It has
 * one thread at a time, which a check hands on.
 */
struct external {
    struct remote_cas *cas;
    struct call *call;
    void (*resume)(struct call *call);
    struct tree_list lists[INSTANCE_LISTS];
    bool is_watched; /* the call: a cancellation is told */
    /* What the last check has found, as remote_check's DONE has it: */
    struct err verdict; /* ERR_OK: all is there */
    const struct tree_missing *missing;
    _Atomic(struct external_check *) check; /* the last one, which a cancellation ends */
};

/* EXTERNAL is zeroed. RESUME: see external_check. */
void external_init(struct external *external, struct call *call, struct remote_cas *cas,
                   void (*resume)(struct call *call));

/* Whether the CAS was found to have all of ASSET a short while ago. Asks nobody. */
bool external_trusts(struct external *external, enum asset_kind kind, const struct asset *asset);

/*
 * Asks the CAS whether it has all of ASSET, which must stay as it is meanwhile. True: this is
 * known already, see the verdict. False: RESUME goes on with the call, once it is known, on
 * another thread, perhaps before this returns; the caller may not touch the call any more. However
 * many checks of a row are known at once, none of them is deeper in the stack than the first.
 */
bool external_check(struct external *external, enum asset_kind kind, const struct asset *asset,
                    bool is_fresh);

/* From `cancelled`: the check under way ends with ERR_CANCELLED, and so does the next. */
void external_cancel(struct external *external);

#endif
