/* SPDX-License-Identifier: Apache-2.0 */
/* A list of faults, and its sorting. */
#include "conf/fault.h"

#include <stdarg.h>
#include <stdlib.h>

#include "base/log.h"

struct fault {
    struct fault *previous;
    size_t number; /* in the order of finding, which decides between faults of one place */
    struct fault_place place;
    bool is_warning;
    const char *reason;
};

void faults_init(struct faults *faults, struct arena *arena)
{
    *faults = (struct faults){.arena = arena};
}

static void add(struct faults *faults, const struct fault_place *place, bool is_warning,
                const char *format, va_list args) __attribute__((format(printf, 4, 0)));

static void add(struct faults *faults, const struct fault_place *place, bool is_warning,
                const char *format, va_list args)
{
    char reason[1024];
    (void)vsnprintf(reason, sizeof(reason), format, args);
    struct fault *fault = arena_alloc(faults->arena, sizeof(*fault));
    const char *copy = arena_strdup(faults->arena, reason);
    if (fault == NULL || copy == NULL) {
        faults->no_memory = true;
        return;
    }
    *fault = (struct fault){.previous = faults->last,
                            .number = faults->errors + faults->warnings,
                            .place = *place,
                            .is_warning = is_warning,
                            .reason = copy};
    faults->last = fault;
    if (is_warning)
        faults->warnings++;
    else
        faults->errors++;
}

void fault_add(struct faults *faults, const struct fault_place *place, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    add(faults, place, false, format, args);
    va_end(args);
}

void fault_warn(struct faults *faults, const struct fault_place *place, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    add(faults, place, true, format, args);
    va_end(args);
}

static int compare_places(const void *a, const void *b)
{
    const struct fault *one = *(const struct fault *const *)a;
    const struct fault *other = *(const struct fault *const *)b;
    if (one->place.line != other->place.line)
        return one->place.line < other->place.line ? -1 : 1;
    if (one->place.column != other->place.column)
        return one->place.column < other->place.column ? -1 : 1;
    return one->number < other->number ? -1 : 1;
}

/* All of them by their places, COUNT; NULL when memory is out. */
static const struct fault **sort(struct faults *faults, size_t *count)
{
    *count = faults->errors + faults->warnings;
    const struct fault **sorted = arena_calloc(faults->arena, *count, sizeof(const struct fault *));
    if (sorted == NULL) {
        faults->no_memory = true;
        return NULL;
    }
    size_t i = *count;
    for (const struct fault *fault = faults->last; fault != NULL; fault = fault->previous)
        sorted[--i] = fault;
    qsort(sorted, *count, sizeof(sorted[0]), compare_places);
    return sorted;
}

void faults_print(struct faults *faults, const char *file, FILE *out)
{
    size_t count;
    const struct fault **sorted = sort(faults, &count);
    for (size_t i = 0; sorted != NULL && i < count; i++) {
        const struct fault *fault = sorted[i];
        enum log_level level = fault->is_warning ? LOG_LEVEL_WARNING : LOG_LEVEL_ERROR;
        (void)fprintf(out, "%s%s:%u:%u: %s: %s%s\n", out == stderr ? log_priority(level) : "", file,
                      fault->place.line, fault->place.column, fault->place.path,
                      fault->is_warning ? "warning: " : "", fault->reason);
    }
    (void)fflush(out);
}

void faults_log(struct faults *faults, const char *file)
{
    size_t count;
    const struct fault **sorted = sort(faults, &count);
    for (size_t i = 0; sorted != NULL && i < count; i++) {
        const struct fault_place *place = &sorted[i]->place;
        const char *at = arena_printf(faults->arena, "%s:%u:%u", file, place->line, place->column);
        if (at == NULL)
            at = file;
        if (sorted[i]->is_warning)
            log_warning("conf-warning", log_str("at", at), log_str("key", place->path),
                        log_str("reason", sorted[i]->reason));
        else
            log_error("conf-fault", log_str("at", at), log_str("key", place->path),
                      log_str("reason", sorted[i]->reason));
    }
}
