/* SPDX-License-Identifier: Apache-2.0 */
/* All external CAS of a process: one queue with one poller serves them. */
#include "remote/remotes.h"

#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "conf/carry.h"
#include "remote/cas_credentials.h"
#include "rpc/queue.h"

/* A CAS that is open, also if no instance has it any more: calls may be using it. */
struct opened {
    struct opened *next;
    struct remote_cas *cas;
};

struct remotes {
    struct remotes *former; /* those that it has followed */
    const struct conf *conf;
    struct rpc_queue *queue; /* NULL: none is needed yet */
    struct opened *opened;   /* newest first; those of the former ones are at its end */
    size_t count;
    struct remote_cas *cas[]; /* by instance; NULL: it has none */
};

/* --- what stays --- */

/* The CAS of ONE in FORMER, if it is the same there; else NULL. */
static struct remote_cas *find_kept(const struct remotes *former, const struct conf_instance *one)
{
    for (size_t i = 0; former != NULL && i < former->count; i++) {
        const struct conf_instance *before = &former->conf->instances[i];
        if (strcmp(before->name, one->name) == 0)
            return before->cas != NULL && conf_cas_is_same(before->cas, one->cas) ? former->cas[i]
                                                                                  : NULL;
    }
    return NULL;
}

/* --- opening and closing --- */

/* One poller is enough: what runs on it is short. */
static int open_one(struct remotes *remotes, const struct conf_instance *one,
                    struct remote_cas **cas, struct err *err)
{
    struct opened *opened = calloc(1, sizeof(*opened));
    if (opened == NULL)
        return err_no_memory(err, "an external CAS");
    int rc = remotes->queue == NULL ? rpc_queue_new_for_calls(&remotes->queue, err) : 0;
    if (rc == 0)
        rc = remote_cas_open(one->cas, one->name, remotes->queue, &opened->cas, err);
    if (rc != 0) {
        free(opened);
        return err_wrap(err, "instance \"%s\": cas", one->name);
    }
    opened->next = remotes->opened;
    remotes->opened = opened;
    *cas = opened->cas;
    return 0;
}

/* Closes what REMOTES has opened itself. */
static void close_own(struct remotes *remotes)
{
    const struct remotes *former = remotes->former;
    const struct opened *end = former != NULL ? former->opened : NULL;
    while (remotes->opened != end) {
        struct opened *next = remotes->opened->next;
        remote_cas_close(remotes->opened->cas);
        free(remotes->opened);
        remotes->opened = next;
    }
    if (former == NULL || former->queue == NULL)
        rpc_queue_free(remotes->queue);
    free(remotes);
}

static int make(struct remotes *former, const struct conf *conf, struct remotes **out,
                struct err *err)
{
    struct remotes *remotes =
        calloc(1, sizeof(*remotes) + conf->instance_count * sizeof(remotes->cas[0]));
    if (remotes == NULL)
        return err_no_memory(err, "the external CAS");
    remotes->former = former;
    remotes->conf = conf;
    remotes->queue = former != NULL ? former->queue : NULL;
    remotes->opened = former != NULL ? former->opened : NULL;
    int rc = 0;
    for (; rc == 0 && remotes->count < conf->instance_count; remotes->count++) {
        const struct conf_instance *one = &conf->instances[remotes->count];
        struct remote_cas **cas = &remotes->cas[remotes->count];
        if (one->cas != NULL && (*cas = find_kept(former, one)) == NULL)
            rc = open_one(remotes, one, cas, err);
    }
    if (rc != 0) {
        close_own(remotes);
        return rc;
    }
    *out = remotes;
    return 0;
}

int remotes_check(const struct conf *conf, struct err *err)
{
    for (size_t i = 0; i < conf->instance_count; i++) {
        const struct conf_instance *one = &conf->instances[i];
        if (one->cas != NULL && cas_credentials_check(one->cas, CAS_SYSTEM_CA, err) != 0)
            return err_wrap(err, "instance \"%s\": cas", one->name);
    }
    return 0;
}

int remotes_open(const struct conf *conf, struct remotes **remotes, struct err *err)
{
    return make(NULL, conf, remotes, err);
}

int remotes_follow(struct remotes *running, const struct conf *conf, struct remotes **next,
                   struct err *err)
{
    return make(running, conf, next, err);
}

void remotes_unfollow(struct remotes *next)
{
    close_own(next);
}

void remotes_close(struct remotes *remotes)
{
    while (remotes != NULL) {
        struct remotes *former = remotes->former;
        close_own(remotes);
        remotes = former;
    }
}

struct remote_cas *remotes_at(const struct remotes *remotes, size_t index)
{
    return index < remotes->count ? remotes->cas[index] : NULL;
}
