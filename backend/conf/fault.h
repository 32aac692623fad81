/* SPDX-License-Identifier: Apache-2.0 */
/* Faults and warnings of a configuration file: collected, then printed in the file's order. */
#ifndef ASSETD_CONF_FAULT_H
#define ASSETD_CONF_FAULT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>

#include "base/arena.h"

/* Where in the file something stands. Lines and columns count from 1. */
struct fault_place {
    unsigned line;
    unsigned column;  /* characters, not bytes */
    const char *path; /* such as listeners[0].access; "(file)" for the whole */
};

struct fault;

/* One thread at a time. */
struct faults {
    struct arena *arena; /* borrowed; holds the texts */
    struct fault *last;
    size_t errors;
    size_t warnings;
    bool no_memory; /* memory ran out somewhere: what was collected is not all */
};

void faults_init(struct faults *faults, struct arena *arena);

/* Notes what is wrong at PLACE. Texts longer than about 1000 bytes are cut. */
void fault_add(struct faults *faults, const struct fault_place *place, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

/* Notes what works, but is hardly meant. */
void fault_warn(struct faults *faults, const struct fault_place *place, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

/*
 * Prints one line for each as conf_load tells, by line and column; to stderr with log_priority.
 * FILE is its name.
 */
void faults_print(struct faults *faults, const char *file, FILE *out);

/* The same as lines of the log: events `conf-fault` and `conf-warning`. */
void faults_log(struct faults *faults, const char *file);

#endif
