/* SPDX-License-Identifier: Apache-2.0 */
/* Sizes and times as people write them: a whole number and a unit. */
#ifndef ASSETD_CONF_UNITS_H
#define ASSETD_CONF_UNITS_H

#include <stddef.h>
#include <stdint.h>

#include "base/err.h"

/* Room for any size or time that units_print_* writes, with its NUL. */
enum { UNITS_TEXT_MAX = 32 };

/*
 * A size in B, KiB, MiB, GiB, TiB, kB, MB, GB or TB, in bytes. ERR_INVALID, with how to write it,
 * for anything else; a bare number is shown with UNIT, one of these.
 */
int units_size(const char *text, const char *unit, int64_t *bytes, struct err *err);

/* A time in s, m, h or d, in milliseconds; else as units_size. */
int units_time(const char *text, const char *unit, int64_t *milliseconds, struct err *err);

/* The same, but that digits alone are taken as well, and mean bytes: for command lines. */
int units_bytes(const char *text, int64_t *bytes, struct err *err);

/* A whole number, digits only. ERR_INVALID for anything else. */
int units_number(const char *text, int64_t *number, struct err *err);

/* In the largest unit that leaves no rest. Returns TEXT. */
char *units_print_size(int64_t bytes, char text[UNITS_TEXT_MAX]);
char *units_print_time(int64_t milliseconds, char text[UNITS_TEXT_MAX]);

#endif
