/* SPDX-License-Identifier: Apache-2.0 */
/* What the checks of a configuration share: check.c begins them all, check_cas.c has some. */
#ifndef ASSETD_CONF_CHECK_PRIVATE_H
#define ASSETD_CONF_CHECK_PRIVATE_H

#include <stdbool.h>
#include <stddef.h>

#include "conf/conf.h"
#include "conf/fault.h"
#include "conf/yaml.h"

struct check {
    const struct conf *conf;
    const struct yaml_node *listeners;
    const struct yaml_node *instances;
    struct faults *faults;
    bool all_names_known; /* no instance's name is faulty */
    bool is_sound;        /* nothing was faulty before any external CAS was looked at */
};

/* Where KEY of NODE stands, or NODE itself if it has none. */
const struct fault_place *check_place_of(const struct yaml_node *node, const char *key);

/* The instance of that NAME; NULL if there is none. */
const struct conf_instance *check_find_instance(const struct conf *conf, const char *name);

/* The external CAS of the instance INDEX, if it has one. */
void check_cas(const struct check *check, size_t index);

#endif
