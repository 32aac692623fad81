/* SPDX-License-Identifier: Apache-2.0 */
/* What the checks of a configuration share: check.c begins them all, the others have some. */
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

/*
 * The file PATH, which is KEY of NODE; NULL is faulty already. One that is missing is a fault
 * whoever looks. One that cannot be read is warned of: it may still be readable to the user that
 * the server runs as, and the server refuses to start if it is not.
 */
void check_file(const struct check *check, const struct yaml_node *node, const char *key,
                const char *path);

/* What the TLS of LISTENER, which NODE was read to, needs of the other keys and of the disk. */
void check_tls(const struct check *check, const struct conf_listener *listener,
               const struct yaml_node *node);

/* The external CAS of the instance INDEX, if it has one. */
void check_cas(const struct check *check, size_t index);

#endif
