/* SPDX-License-Identifier: Apache-2.0 */
/* Tells the service manager that the server is alive, as long as its pollers are. */
#ifndef ASSETD_TRANSPORT_WATCHDOG_H
#define ASSETD_TRANSPORT_WATCHDOG_H

#include <stdint.h>

#include "base/err.h"
#include "rpc/queue.h"

struct watchdog;

/*
 * The longest beat (milliseconds) of the pollers with which a service that is watched each INTERVAL
 * milliseconds is told of in time; 0 for an INTERVAL of 0.
 */
int64_t watchdog_beat(int64_t interval);

/*
 * From now on says notify_watchdog several times in each INTERVAL, which is not 0, on a thread of
 * its own: neither slow disks nor a reload hold it up. It is silent while a poller of QUEUE, whose
 * beat is watchdog_beat of INTERVAL, is stuck.
 */
int watchdog_start(struct rpc_queue *queue, int64_t interval, struct watchdog **watchdog,
                   struct err *err);
void watchdog_stop(struct watchdog *watchdog);

#endif
