/* SPDX-License-Identifier: Apache-2.0 */
/* The time of day. */
#ifndef ASSETD_BASE_CLOCK_H
#define ASSETD_BASE_CLOCK_H

#include <stdint.h>

/* Milliseconds since 1970; it may be set back. Any thread. */
int64_t clock_now(void);

#endif
