/* SPDX-License-Identifier: Apache-2.0 */
/* YAML as a tree in which every value knows where it stands in the file. */
#ifndef ASSETD_CONF_YAML_H
#define ASSETD_CONF_YAML_H

#include <stdbool.h>
#include <stddef.h>

#include "base/arena.h"
#include "base/err.h"
#include "conf/fault.h"

enum yaml_kind {
    YAML_TEXT,
    YAML_LIST,
    YAML_MAPPING,
    YAML_FAULTY, /* of no use, and already reported: whoever meets it says nothing */
};

/* In an arena, with all that it points to. Read only once read. */
struct yaml_node {
    enum yaml_kind kind;
    struct fault_place place;
    /* YAML_TEXT: */
    const char *text; /* UTF-8 without control characters */
    bool is_plain;    /* not in quotes */
    /* YAML_LIST and YAML_MAPPING: */
    struct yaml_node *first;
    size_t count;
    /* In a list or a mapping: */
    struct yaml_node *next;
    /* In a mapping: */
    const char *key;
    struct fault_place key_place;
};

/*
 * Reads a whole file of at most 256 KiB into the arena; a pipe will do. ERR_EXHAUSTED if it is
 * longer, the code of errno if it cannot be read.
 */
int yaml_read_file(const char *path, struct arena *arena, const char **text, size_t *size,
                   struct err *err);

/*
 * The tree of SIZE bytes of TEXT: one document, UTF-8, at most 8 levels deep. All that is wrong
 * with it is noted in FAULTS: bad syntax, keys given twice, and what a configuration has no use
 * for (anchors, aliases, tags, control characters). NULL if there is no tree to go on with.
 */
struct yaml_node *yaml_read(const char *text, size_t size, struct arena *arena,
                            struct faults *faults);

/* Whether TEXT can stand in a file: UTF-8, without line breaks and other control characters. */
bool yaml_can_hold(const char *text);

/* The value of KEY; NULL if there is none, or if NODE is NULL or no mapping. */
const struct yaml_node *yaml_find(const struct yaml_node *node, const char *key);

/* The member of a list at INDEX, which counts from 0; NULL as above. */
const struct yaml_node *yaml_at(const struct yaml_node *node, size_t index);

/* Whether a text is YAML's null: nothing, ~ or null, without quotes. */
bool yaml_is_null(const struct yaml_node *node);

#endif
