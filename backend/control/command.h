/* SPDX-License-Identifier: Apache-2.0 */
/* What assetctl's commands have in common: their tables, options, and what they say on stderr. */
#ifndef ASSETD_CONTROL_COMMAND_H
#define ASSETD_CONTROL_COMMAND_H

#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>

#include "base/err.h"

/* Exit status of a wrong command line; 0 and 1 are the C library's. */
enum { EXIT_USAGE = 2 };

struct command {
    const char *name;
    const char *arguments;
    const char *help;
    int (*run)(int argc, char **argv); /* with what stands behind the name; the exit status */
};

struct command_table {
    const char *name; /* of the program, or the program and the group */
    const struct command *commands;
    size_t count;
    const char *more;    /* follows the list in the usage text */
    bool helps_with_all; /* --help anywhere prints this table: its commands have none */
};

/* Calls the command that the first argument names; --help is one of every table. */
int command_run(const struct command_table *table, int argc, char **argv);

void command_print_usage(const struct command_table *table, FILE *file);

/* Whether --help is among the arguments. */
bool command_wants_help(int argc, char **argv);

/* An option of a command: with a value, `--days 30` or `--days=30`, or without. */
struct command_option {
    const char *name;   /* "--days" */
    const char **value; /* NULL: it takes none */
    bool *is_set;       /* NULL: it takes a value */
    bool is_folder;     /* slashes at the value's end are taken away */
};

/*
 * Sorts ARGV into options, which may stand anywhere, and words, which are moved to the front: their
 * number goes to *WORDS. Behind `--` all are words. Returns 0, or EXIT_USAGE if it has complained.
 */
int command_options(const char *command, const struct command_option *options, size_t count,
                    int argc, char **argv, size_t *words);

/* Say something on stderr, as `assetctl: ...`. command_refuse returns EXIT_USAGE, command_fail
 * EXIT_FAILURE; ADVICE, what to do about the error, may be NULL. */
void command_note(const char *format, ...) __attribute__((format(printf, 1, 2)));
int command_refuse(const char *format, ...) __attribute__((format(printf, 1, 2)));
int command_fail(const struct err *err, const char *advice);

/* The exit status of a command that has printed what it should on stdout, if that could be done. */
int command_end(int status);

#endif
