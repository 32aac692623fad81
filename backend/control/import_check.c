/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Checks in a CAS of the instance's own, on threads, as they block on the disk; or in an external
 * one, which is asked by calls.
 */
#include "control/import_check.h"

#include <stdlib.h>

#include "remote/remotes.h"
#include "store/cas.h"
#include "store/cas_check.h"

/* Bytes of memory for what is known of trees. */
enum { TREES_LIMIT = 64 << 20 };

struct import_checks {
    /* One of the instance's own: */
    struct cas *cas;
    struct tree_cache *trees;
    struct pool *pool;
    /* An external one: */
    struct conf conf; /* has this instance alone */
    struct conf_instance instance;
    struct remotes *remotes;
    struct remote_cas *remote; /* NULL: it is its own */
};

/* --- opening --- */

static int open_own(const struct conf_instance *instance, const struct store_check *told,
                    struct import_checks *checks, struct err *err)
{
    const struct cas_options options = {.path = instance->storage, .quota = instance->quota};
    int rc = cas_open(&options, &checks->cas, err);
    if (rc == 0)
        rc = cas_check_wait(checks->cas, told, err);
    if (rc == 0)
        rc = tree_cache_new(checks->cas, TREES_LIMIT, &checks->trees, err);
    return rc == 0 ? pool_new("check", IMPORT_CHECKS, &checks->pool, err) : rc;
}

static int open_external(const struct conf *conf, const struct conf_instance *instance,
                         struct import_checks *checks, struct err *err)
{
    checks->instance = *instance;
    checks->conf = *conf;
    checks->conf.instances = &checks->instance;
    checks->conf.instance_count = 1;
    int rc = remotes_open(&checks->conf, &checks->remotes, err);
    if (rc == 0)
        checks->remote = remotes_at(checks->remotes, 0);
    return rc;
}

int import_checks_open(const struct conf *conf, const struct conf_instance *instance,
                       const struct store_check *told, struct import_checks **out, struct err *err)
{
    if (instance->index_only && instance->cas == NULL)
        return err_set(err, ERR_PRECONDITION,
                       "instance \"%s\" has no CAS to check against: it is index-only, without "
                       "cas: import without --check",
                       instance->name);
    struct import_checks *checks = calloc(1, sizeof(*checks));
    if (checks == NULL)
        return err_no_memory(err, "the checks");
    int rc = instance->index_only ? open_external(conf, instance, checks, err)
                                  : open_own(instance, told, checks, err);
    if (rc != 0) {
        import_checks_close(checks);
        return rc;
    }
    *out = checks;
    return 0;
}

void import_checks_close(struct import_checks *checks)
{
    if (checks == NULL)
        return;
    if (checks->pool != NULL)
        pool_free(checks->pool);
    if (checks->trees != NULL)
        tree_cache_free(checks->trees);
    cas_close(checks->cas);
    remotes_close(checks->remotes);
    free(checks);
}

/* --- checks --- */

static void run_own(struct job *job)
{
    struct import_check *check =
        (struct import_check *)((char *)job - offsetof(struct import_check, job));
    struct import_checks *checks = check->checks;
    struct cas_hold hold;
    struct err err;
    cas_hold_begin(checks->cas, &hold);
    int rc =
        tree_check(checks->trees, &hold, check->lists, INSTANCE_LISTS, NULL, &check->missing, &err);
    cas_hold_end(&hold);
    check->done(check, rc == 0 ? NULL : &err);
}

static void on_answered(struct remote_check *answered, const struct err *err)
{
    struct import_check *check =
        (struct import_check *)((char *)answered - offsetof(struct import_check, remote));
    check->missing = answered->missing;
    check->done(check, err);
}

void import_check_start(struct import_checks *checks, struct import_check *check,
                        enum asset_kind kind, const struct asset *asset)
{
    instance_lists(kind, asset, check->lists);
    check->missing.count = 0;
    check->checks = checks;
    if (checks->remote == NULL) {
        check->job = (struct job){.run = run_own};
        pool_submit(checks->pool, &check->job);
        return;
    }
    check->remote = (struct remote_check){.cas = checks->remote,
                                          .lists = check->lists,
                                          .list_count = INSTANCE_LISTS,
                                          .done = on_answered};
    remote_check_start(&check->remote);
}
