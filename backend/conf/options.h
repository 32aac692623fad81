/* SPDX-License-Identifier: Apache-2.0 */
/* The options of the command line: which there are, and what was given of them. */
#ifndef ASSETD_CONF_OPTIONS_H
#define ASSETD_CONF_OPTIONS_H

#include <stddef.h>

#include "base/err.h"

/* What was given: the value of each option ("" for one that takes none), NULL if it was not. */
struct arguments {
    const char *port;
    const char *server_key;
    const char *server_cert;
    const char *client_certs;
    const char *enable_push;
    const char *quota;
    const char *index_only;
    const char *log_level;
    const char *bind;
    const char *config;
    const char *check;
    const char *print_config;
    const char *help;
    const char *version;
    const char *repo;
};

/* What an option goes with. */
enum option_group { OPTION_SERVER, OPTION_FILE, OPTION_ANY };

/*
 * Sorts the command line into ARGUMENTS, which is zeroed and gets pointers into ARGV. An option
 * given again replaces what was given before. ERR_INVALID is the only error.
 */
int options_take(int argc, char **argv, struct arguments *arguments, struct err *err);

/* The name of the first option of GROUP that was given; NULL: none was. */
const char *options_find_given(const struct arguments *arguments, enum option_group group);

/* The name of the program without its directory. */
const char *options_program(const char *program);

#endif
