/* SPDX-License-Identifier: Apache-2.0 */
/* The log: one logfmt line per event on stderr. */
#ifndef ASSETD_BASE_LOG_H
#define ASSETD_BASE_LOG_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum log_level { LOG_LEVEL_ERROR, LOG_LEVEL_WARNING, LOG_LEVEL_INFO, LOG_LEVEL_TRACE };

/* One key=value pair of a line. The text is borrowed until the call returns. */
struct log_field {
    const char *key; /* NULL ends a list */
    const char *text;
    int64_t number; /* if text is NULL */
};

static inline struct log_field log_str(const char *key, const char *text)
{
    return (struct log_field){.key = key, .text = text != NULL ? text : ""};
}

static inline struct log_field log_num(const char *key, int64_t number)
{
    return (struct log_field){.key = key, .number = number};
}

/* Lines above LEVEL are dropped. Any thread, at any time. The level at start is info. */
void log_set_level(enum log_level level);

/* Whether a line of LEVEL would be written: guards work that is done only for the log. */
bool log_enabled(enum log_level level);

/*
 * Writes one line: time (unless journald adds its own), level, event, fields. Values that need it
 * are quoted and escaped, so that no client can forge a line. FIELDS ends with a NULL key. Any
 * thread; lines are written whole.
 */
void log_write(enum log_level level, const char *event, const struct log_field *fields);

/* "error", "warning", "info", "trace". */
const char *log_level_name(enum log_level level);

/*
 * What goes in front of a line for people that is printed to stderr beside the log: its priority
 * where the journal has stderr, which takes it off, and nothing elsewhere.
 */
const char *log_priority(enum log_level level);

#define LOG_AT(level, event, ...)                                                            \
    do {                                                                                     \
        if (log_enabled(level))                                                              \
            log_write(level, event, (const struct log_field[]){__VA_ARGS__, {.key = NULL}}); \
    } while (0)

/* log_info("listening", log_str("address", a), log_num("port", p)); at least one field. */
#define log_error(event, ...)   LOG_AT(LOG_LEVEL_ERROR, event, __VA_ARGS__)
#define log_warning(event, ...) LOG_AT(LOG_LEVEL_WARNING, event, __VA_ARGS__)
#define log_info(event, ...)    LOG_AT(LOG_LEVEL_INFO, event, __VA_ARGS__)
#define log_trace(event, ...)   LOG_AT(LOG_LEVEL_TRACE, event, __VA_ARGS__)

#endif
