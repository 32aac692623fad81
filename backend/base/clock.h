/* SPDX-License-Identifier: Apache-2.0 */
/* The time of day, and a clock that only goes forward. */
#ifndef ASSETD_BASE_CLOCK_H
#define ASSETD_BASE_CLOCK_H

#include <stdint.h>

/* Milliseconds since 1970; it may be set back. Any thread. */
int64_t clock_now(void);

/* Milliseconds of the clock that nobody sets, CLOCK_MONOTONIC. Any thread. */
int64_t clock_steady(void);

#endif
