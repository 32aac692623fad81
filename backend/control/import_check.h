/* SPDX-License-Identifier: Apache-2.0 */
/* Checks that what an asset names is there: in the CAS of an instance, or in an external one. */
#ifndef ASSETD_CONTROL_IMPORT_CHECK_H
#define ASSETD_CONTROL_IMPORT_CHECK_H

#include "base/err.h"
#include "base/pool.h"
#include "conf/conf.h"
#include "remote/remote_cas.h"
#include "store/asset_index.h"
#include "store/instance.h"
#include "store/store_check.h"
#include "store/tree.h"

/* How many run at the same time; more wait. */
enum { IMPORT_CHECKS = 16 };

/* The CAS of an instance. */
struct import_checks;

/*
 * Opens the CAS of INSTANCE, which is of CONF; both are borrowed. Of its own one the tables may
 * have to be made anew after a power cut, which is waited for and told to TOLD. ERR_PRECONDITION:
 * there is no CAS to ask.
 */
int import_checks_open(const struct conf *conf, const struct conf_instance *instance,
                       const struct store_check *told, struct import_checks **checks,
                       struct err *err);

/* Every check must have ended. NULL is fine. */
void import_checks_close(struct import_checks *checks);

/* A check. Embedded; the caller keeps it and what it points to until DONE. */
struct import_check {
    struct tree_list lists[INSTANCE_LISTS]; /* set by import_check_start */
    struct tree_missing missing;
    /*
     * Called once, on any thread; must not block. ERR is NULL: all is there. ERR_PRECONDITION: not
     * all is, see MISSING; ERR_INVALID: nor can it be, as a directory is none. Anything else: the
     * CAS cannot be asked.
     */
    void (*done)(struct import_check *check, const struct err *err);
    struct import_checks *checks; /* its own, as what follows */
    struct job job;
    struct remote_check remote;
};

void import_check_start(struct import_checks *checks, struct import_check *check,
                        enum asset_kind kind, const struct asset *asset);

#endif
