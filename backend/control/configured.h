/* SPDX-License-Identifier: Apache-2.0 */
/* Instances as the server's configuration has them. */
#ifndef ASSETD_CONTROL_CONFIGURED_H
#define ASSETD_CONTROL_CONFIGURED_H

#include <stddef.h>

#include "conf/conf.h"

#define CONFIGURED_FILE ASSETD_SYSCONFDIR "/assetd/assetd.yaml"

/* Reads FILE. 0, or the exit status, after a complaint. CONF is given to conf_fini in any case. */
int configured_load(const char *file, struct conf *conf);

/*
 * Takes the words of the command line of COMMAND, which are the name of one instance, and reads
 * FILE. 0 with INSTANCE, which is of CONF; else the exit status, after a complaint. CONF is given
 * to conf_fini in any case.
 */
int configured_instance(const char *command, size_t words, char **argv, const char *file,
                        struct conf *conf, const struct conf_instance **instance);

#endif
