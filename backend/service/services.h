/* SPDX-License-Identifier: Apache-2.0 */
/* What all services share: the instances they serve, and the table of their methods. */
#ifndef ASSETD_SERVICE_SERVICES_H
#define ASSETD_SERVICE_SERVICES_H

#include <stddef.h>

#include "base/pool.h"
#include "conf/conf.h"
#include "remote/remotes.h"
#include "service/call.h"
#include "store/instance.h"

struct health;

/* What serves by one configuration; a reload makes another. Read only; any thread. */
struct services {
    const struct conf *conf;
    struct instances *instances;
    struct remotes *remotes; /* the external CAS of those that have one; NULL: none has */
    struct pool *workers;
    struct health *health;
};

/* Every RPC that is served, and who may call it. */
extern const struct method methods[];
extern const size_t method_count;

#endif
