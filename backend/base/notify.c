/* SPDX-License-Identifier: Apache-2.0 */
/* Messages to the service manager, by libsystemd. */
#include "base/notify.h"

#include <inttypes.h>
#include <systemd/sd-daemon.h>
#include <time.h>

/* A manager that does not hear us acts by its time limits: there is nothing that we could do. */

void notify_ready(const char *status)
{
    (void)sd_notifyf(0, "READY=1\nSTATUS=%s", status);
}

/* The time tells the manager which of its own requests this answers: sd_notify(3). */
void notify_reloading(void)
{
    struct timespec now;
    (void)clock_gettime(CLOCK_MONOTONIC, &now);
    (void)sd_notifyf(0, "RELOADING=1\nMONOTONIC_USEC=%" PRId64 "\nSTATUS=reading its configuration",
                     (int64_t)now.tv_sec * 1000000 + now.tv_nsec / 1000);
}

void notify_stopping(void)
{
    (void)sd_notify(0, "STOPPING=1\nSTATUS=stopping");
}

void notify_watchdog(void)
{
    (void)sd_notify(0, "WATCHDOG=1");
}

int64_t notify_watchdog_interval(void)
{
    uint64_t microseconds = 0;
    if (sd_watchdog_enabled(0, &microseconds) <= 0)
        return 0;
    return microseconds >= 1000 ? (int64_t)(microseconds / 1000) : 1;
}
