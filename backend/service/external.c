/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Checks by the external CAS, each of which ends on any thread, perhaps before the function that
 * began it. Two pass by a check, then: who began it, and its end. The second to come goes on with
 * the call, and the first touches nothing any more. So a call whose checks end at once goes on in
 * a loop where it began them, and one that waits goes on where the last of them ended.
 *
 * A cancellation meets the newest check. If that has not begun, it sees when it begins that the
 * call is cancelled; if it has ended, so does the next one.
 */
#include "service/external.h"

struct external_check {
    struct remote_check remote; /* first, so that one is found from the other */
    struct external *external;
    atomic_bool is_passed; /* by one of the two */
};

struct remote_cas *external_cas(const struct services *services, const struct instance *instance)
{
    if (instance->cas != NULL || services->remotes == NULL)
        return NULL;
    return remotes_at(services->remotes, (size_t)(instance->conf - services->conf->instances));
}

bool external_is_unavailable(enum err_code code)
{
    return code == ERR_UNAVAILABLE || code == ERR_AWAY;
}

void external_init(struct external *external, struct call *call, struct remote_cas *cas,
                   void (*resume)(struct call *call))
{
    external->cas = cas;
    external->call = call;
    external->resume = resume;
}

bool external_trusts(struct external *external, enum asset_kind kind, const struct asset *asset)
{
    instance_lists(kind, asset, external->lists);
    return remote_cas_trusts(external->cas, external->lists, INSTANCE_LISTS);
}

/* Whether this is the second of the two that pass. */
static bool pass(struct external_check *check)
{
    return atomic_exchange(&check->is_passed, true);
}

static void on_checked(struct remote_check *remote, const struct err *err)
{
    struct external_check *check = (struct external_check *)remote;
    struct external *external = check->external;
    external->missing = &remote->missing;
    external->verdict.code = ERR_OK;
    if (err != NULL)
        external->verdict = *err;
    if (pass(check))
        external->resume(external->call);
}

bool external_check(struct external *external, enum asset_kind kind, const struct asset *asset,
                    bool is_fresh)
{
    /* One for each, as a cancellation may look at the last one while the next is made. */
    struct external_check *check = arena_calloc(external->call->arena, 1, sizeof(*check));
    if (check == NULL) {
        (void)err_no_memory(&external->verdict, "a check");
        return true;
    }
    instance_lists(kind, asset, external->lists);
    check->external = external;
    check->remote.cas = external->cas;
    check->remote.lists = external->lists;
    check->remote.list_count = INSTANCE_LISTS;
    check->remote.is_fresh = is_fresh;
    check->remote.is_cancelled = &external->call->is_cancelled;
    check->remote.done = on_checked;
    if (!external->is_watched)
        call_watch(external->call);
    external->is_watched = true;
    atomic_store(&external->check, check);
    remote_check_start(&check->remote);
    return pass(check);
}

void external_cancel(struct external *external)
{
    struct external_check *check = atomic_load(&external->check);
    if (check != NULL)
        remote_check_cancel(&check->remote);
}
