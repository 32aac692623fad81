/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the service manager is told: sd_notify(3). Without one (NOTIFY_SOCKET is not set) nothing
 * happens. Any thread.
 */
#ifndef ASSETD_BASE_NOTIFY_H
#define ASSETD_BASE_NOTIFY_H

#include <stdint.h>

/* The service is up, or has taken its new configuration; STATUS is shown by `systemctl status`. */
void notify_ready(const char *status);

/* The configuration is being read again, until notify_ready. */
void notify_reloading(void);

/* The service is ending. */
void notify_stopping(void);

/* It is alive. To be told at least once in each notify_watchdog_interval. */
void notify_watchdog(void);

/*
 * Milliseconds after which a service that has not said notify_watchdog is ended by its manager
 * (WATCHDOG_USEC of this process, sd_watchdog_enabled(3)); 0: it is not watched.
 */
int64_t notify_watchdog_interval(void);

#endif
