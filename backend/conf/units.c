/* SPDX-License-Identifier: Apache-2.0 */
/* Numbers with units. */
#include "conf/units.h"

#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

struct unit {
    const char *name; /* NULL ends a table */
    int64_t factor;
};

static const struct unit size_units[] = {
    {"TiB", INT64_C(1) << 40},
    {"GiB", INT64_C(1) << 30},
    {"MiB", INT64_C(1) << 20},
    {"KiB", INT64_C(1) << 10},
    {"B", 1},
    {"TB", INT64_C(1000000000000)},
    {"GB", INT64_C(1000000000)},
    {"MB", INT64_C(1000000)},
    {"kB", INT64_C(1000)},
    {NULL, 0},
};

static const struct unit time_units[] = {
    {"d", INT64_C(86400000)},
    {"h", INT64_C(3600000)},
    {"m", INT64_C(60000)},
    {"s", INT64_C(1000)},
    {NULL, 0},
};

/* Takes the digits that TEXT begins with; false if they are too large a number. */
static bool take_digits(const char **text, int64_t *number)
{
    int64_t result = 0;
    for (; **text >= '0' && **text <= '9'; (*text)++)
        if (__builtin_mul_overflow(result, 10, &result) ||
            __builtin_add_overflow(result, **text - '0', &result))
            return false;
    *number = result;
    return true;
}

static int too_large(const char *text, struct err *err)
{
    return err_set(err, ERR_INVALID, "\"%.80s\" is too large a number", text);
}

static int read_units(const struct unit *units, const char *kind, const char *all, const char *text,
                      const char *unit, int64_t *value, struct err *err)
{
    int64_t number;
    const char *rest = text;
    if (!take_digits(&rest, &number))
        return too_large(text, err);
    if (rest != text && *rest == '\0')
        return err_set(err, ERR_INVALID, "has no unit; write %.80s%s, not %.80s", text, unit, text);
    for (; rest != text && units->name != NULL; units++) {
        if (strcmp(units->name, rest) != 0)
            continue;
        if (__builtin_mul_overflow(number, units->factor, value))
            return too_large(text, err);
        return 0;
    }
    return err_set(err, ERR_INVALID,
                   "\"%.80s\" is no %s; write a whole number and its unit (%s), such as 5%s", text,
                   kind, all, unit);
}

int units_size(const char *text, const char *unit, int64_t *bytes, struct err *err)
{
    /* Whoever writes as many digits as this was counting bytes. */
    if (strspn(text, "0123456789") >= 6)
        unit = "B";
    return read_units(size_units, "size", "B, KiB, MiB, GiB, TiB, kB, MB, GB or TB", text, unit,
                      bytes, err);
}

int units_time(const char *text, const char *unit, int64_t *milliseconds, struct err *err)
{
    return read_units(time_units, "time", "s, m, h or d", text, unit, milliseconds, err);
}

int units_number(const char *text, int64_t *number, struct err *err)
{
    const char *rest = text;
    if (!take_digits(&rest, number))
        return too_large(text, err);
    if (rest == text || *rest != '\0')
        return err_set(err, ERR_INVALID, "\"%.80s\" is no whole number", text);
    return 0;
}

int units_bytes(const char *text, int64_t *bytes, struct err *err)
{
    bool is_bare = text[strspn(text, "0123456789")] == '\0';
    return is_bare ? units_number(text, bytes, err) : units_size(text, "GiB", bytes, err);
}

static char *print_units(const struct unit *units, int64_t value, char text[UNITS_TEXT_MAX])
{
    static const struct unit milliseconds = {"ms", 1};
    const struct unit *best = NULL;
    for (; units->name != NULL; units++)
        if (value % units->factor == 0 && (best == NULL || units->factor > best->factor))
            best = units;
    if (best == NULL)
        best = &milliseconds;
    (void)snprintf(text, UNITS_TEXT_MAX, "%" PRId64 "%s", value / best->factor, best->name);
    return text;
}

char *units_print_size(int64_t bytes, char text[UNITS_TEXT_MAX])
{
    return print_units(size_units, bytes, text);
}

char *units_print_time(int64_t milliseconds, char text[UNITS_TEXT_MAX])
{
    if (milliseconds == 0)
        return strcpy(text, "0s");
    return print_units(time_units, milliseconds, text);
}
