/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the parts of reading a configuration share: conf.c has the file as a whole, conf_listener.c,
 * conf_tls.c, conf_instance.c and conf_cas.c the mappings of these names.
 */
#ifndef ASSETD_CONF_CONF_PRIVATE_H
#define ASSETD_CONF_CONF_PRIVATE_H

#include <stdbool.h>
#include <stddef.h>

#include "base/arena.h"
#include "base/err.h"
#include "conf/conf.h"
#include "conf/fault.h"
#include "conf/schema.h"
#include "conf/yaml.h"

/* Readers of a struct schema_key, and what each writes. */
void conf_read_listeners(const struct schema_key *key, const struct yaml_node *node, void *target,
                         struct faults *faults); /* the listeners of a struct conf */
void conf_read_instances(const struct schema_key *key, const struct yaml_node *node, void *target,
                         struct faults *faults); /* its instances */
void conf_read_tls(const struct schema_key *key, const struct yaml_node *node, void *field,
                   struct faults *faults); /* const struct conf_tls * */
void conf_read_cas(
    const struct schema_key *key, const struct yaml_node *node, void *field,
    struct faults *faults); /* const struct conf_cas *; instance_name is NULL by default */

/* The members of a list that must have one, and room for as many structures of SIZE bytes. */
void *conf_read_members(const struct yaml_node *node, size_t size, const struct yaml_node **first,
                        struct faults *faults);

/* Sets what the keys that are there mean for those that are not. */
void conf_tls_set_defaults(struct conf_tls *tls);

/* A schema_checked_text that leaves NULL where the text is faulty, whatever the default. */
void conf_read_name(const struct schema_key *key, const struct yaml_node *node, void *field,
                    struct faults *faults);

/* REAPI's rules for instance names, as schema_key.check. */
int conf_check_instance_name(const char *name, struct err *err);

/* Whether PATH is a whole one, such as EXAMPLE. */
int conf_check_path(const char *path, const char *example, struct err *err);

/*
 * Copy what a structure points to into ARENA, for as long as the configuration lives; what is NULL
 * stays NULL. False when memory is out.
 */
bool conf_keep_text(const char **text, struct arena *arena);
bool conf_keep_names(struct conf_names *names, struct arena *arena);
bool conf_keep_tls(const struct conf_tls **tls, struct arena *arena);
bool conf_keep_listener(struct conf_listener *listener, struct arena *arena);
bool conf_keep_instance(struct conf_instance *instance, struct arena *arena);

/* The same; without a name of its own it gets INSTANCE_NAME, which is kept already. */
bool conf_keep_cas(const struct conf_cas **cas, const char *instance_name, struct arena *arena);

#endif
