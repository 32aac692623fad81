/* SPDX-License-Identifier: Apache-2.0 */
/* A configuration as YAML. */
#ifndef ASSETD_CONF_PRINT_H
#define ASSETD_CONF_PRINT_H

#include <stdio.h>

#include "conf/conf.h"

/*
 * Writes CONF, whose paths are whole ones, to FILE as a configuration file that conf_load reads
 * back the same, wherever it is read from. Keys that have their default are left out, but for those
 * that a reader would look for. Errors of FILE are the caller's to find.
 */
void conf_print(const struct conf *conf, FILE *file);

#endif
