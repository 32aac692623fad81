/* SPDX-License-Identifier: Apache-2.0 */
/* From the tree of a YAML file to structures, by tables of keys. */
#ifndef ASSETD_CONF_SCHEMA_H
#define ASSETD_CONF_SCHEMA_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"
#include "conf/conf.h"
#include "conf/fault.h"
#include "conf/yaml.h"

/* One key of a mapping. A name of NULL ends a table. */
struct schema_key {
    const char *name;
    bool is_required;
    size_t field; /* where the value goes, as offset within the mapping's structure */

    /*
     * Reads the value to FIELD, and leaves it alone where NODE is no such value, which it notes in
     * FAULTS. The schema_* below for common types, or one of the table's own.
     */
    void (*read)(const struct schema_key *key, const struct yaml_node *node, void *field,
                 struct faults *faults);

    /* For sizes, times and numbers, in bytes and milliseconds: */
    int64_t least;
    int64_t most;
    const char *unit; /* with which a bare number is shown */

    /* For mappings, the keys within. */
    const struct schema_key *keys;

    /* For texts, and the members of lists of names: what each must be. NULL, for lists: anything.
     */
    int (*check)(const char *text, struct err *err);
};

/* A word of an enumeration. A NULL ends a table. */
struct schema_word {
    const char *word;
    int value;
};

/*
 * Reads every key of NODE that is in the table KEYS into TARGET, and notes which are unknown and
 * which are required and not there.
 */
void schema_read(const struct schema_key *keys, const struct yaml_node *node, void *target,
                 struct faults *faults);

/* A text, which may be empty; NULL, after it is noted, for anything else. */
const char *schema_text(const struct yaml_node *node, struct faults *faults);

/* The members of a list, at FIRST; false, after it is noted, for anything else. */
bool schema_list(const struct yaml_node *node, const struct yaml_node **first,
                 struct faults *faults);

/* One of WORDS, in VALUE; false, after it is noted, for anything else. */
bool schema_word(const struct schema_word *words, const struct yaml_node *node, int *value,
                 struct faults *faults);

/* Readers, and the type of field each writes. */
void schema_boolean(const struct schema_key *key, const struct yaml_node *node, void *field,
                    struct faults *faults); /* bool */
void schema_size(const struct schema_key *key, const struct yaml_node *node, void *field,
                 struct faults *faults); /* int64_t, bytes */
void schema_time(const struct schema_key *key, const struct yaml_node *node, void *field,
                 struct faults *faults); /* int64_t, milliseconds */
void schema_number(const struct schema_key *key, const struct yaml_node *node, void *field,
                   struct faults *faults); /* unsigned */
void schema_checked_text(const struct schema_key *key, const struct yaml_node *node, void *field,
                         struct faults *faults); /* const char * */
void schema_names(const struct schema_key *key, const struct yaml_node *node, void *field,
                  struct faults *faults); /* struct conf_names */
void schema_mapping(const struct schema_key *key, const struct yaml_node *node, void *field,
                    struct faults *faults); /* the structure that the keys within are of */

#endif
