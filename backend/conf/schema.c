/* SPDX-License-Identifier: Apache-2.0 */
/* Reading of mappings by their tables, and of the common types of values. */
#include "conf/schema.h"

#include <assert.h>
#include <stdio.h>
#include <string.h>

#include "conf/spelling.h"
#include "conf/units.h"

enum { WORDS_MAX = 256 }; /* bytes of a list of words in a message */

/* Appends ", word" to a list of words. */
static void add_word(char words[WORDS_MAX], const char *word)
{
    size_t used = strlen(words);
    (void)snprintf(words + used, WORDS_MAX - used, "%s%s", used > 0 ? ", " : "", word);
}

static const char *kind_name(const struct yaml_node *node)
{
    static const char *const names[] = {
        [YAML_TEXT] = "a single value", [YAML_LIST] = "a list", [YAML_MAPPING] = "a mapping"};
    assert(node->kind != YAML_FAULTY);
    return names[node->kind];
}

/* Whether NODE is of a kind; if not, and it is not known to be faulty, EXPECTED is asked for. */
static bool is_kind(const struct yaml_node *node, enum yaml_kind kind, const char *expected,
                    struct faults *faults)
{
    if (node->kind == YAML_FAULTY)
        return false;
    if (yaml_is_null(node)) {
        fault_add(faults, &node->place, "has no value; give it %s, or remove the key", expected);
        return false;
    }
    if (node->kind == kind)
        return true;
    fault_add(faults, &node->place, "must be %s, not %s", expected, kind_name(node));
    return false;
}

static void report_unknown(const struct schema_key *keys, const struct yaml_node *value,
                           struct faults *faults)
{
    char allowed[WORDS_MAX] = "";
    struct spelling spelling = {.word = value->key};
    for (const struct schema_key *key = keys; key->name != NULL; key++) {
        add_word(allowed, key->name);
        spelling_try(&spelling, key->name);
    }
    if (spelling.guess != NULL)
        fault_add(faults, &value->key_place, "is no key here; did you mean %s? Allowed are %s",
                  spelling.guess, allowed);
    else
        fault_add(faults, &value->key_place, "is no key here; allowed are %s", allowed);
}

static const struct schema_key *find_key(const struct schema_key *keys, const char *name)
{
    for (; keys->name != NULL; keys++)
        if (strcmp(keys->name, name) == 0)
            return keys;
    return NULL;
}

void schema_read(const struct schema_key *keys, const struct yaml_node *node, void *target,
                 struct faults *faults)
{
    if (!is_kind(node, YAML_MAPPING, "a mapping (key: value)", faults))
        return;
    for (const struct yaml_node *value = node->first; value != NULL; value = value->next) {
        const struct schema_key *key = find_key(keys, value->key);
        if (key != NULL)
            key->read(key, value, (char *)target + key->field, faults);
        else
            report_unknown(keys, value, faults);
    }
    for (const struct schema_key *key = keys; key->name != NULL; key++)
        if (key->is_required && yaml_find(node, key->name) == NULL)
            fault_add(faults, &node->place, "has no %s, which it needs", key->name);
}

const char *schema_text(const struct yaml_node *node, struct faults *faults)
{
    return is_kind(node, YAML_TEXT, "a single value (\"\" for an empty one)", faults) ? node->text
                                                                                      : NULL;
}

bool schema_list(const struct yaml_node *node, const struct yaml_node **first,
                 struct faults *faults)
{
    if (!is_kind(node, YAML_LIST, "a list", faults))
        return false;
    *first = node->first;
    return true;
}

bool schema_word(const struct schema_word *words, const struct yaml_node *node, int *value,
                 struct faults *faults)
{
    const char *text = schema_text(node, faults);
    if (text == NULL)
        return false;
    char allowed[WORDS_MAX] = "";
    for (; words->word != NULL; words++) {
        if (strcmp(words->word, text) == 0) {
            *value = words->value;
            return true;
        }
        add_word(allowed, words->word);
    }
    fault_add(faults, &node->place, "\"%.80s\" must be one of %s", text, allowed);
    return false;
}

void schema_boolean(const struct schema_key *key, const struct yaml_node *node, void *field,
                    struct faults *faults)
{
    static const struct schema_word words[] = {{"true", true}, {"false", false}, {NULL, 0}};
    int value;
    (void)key;
    if (schema_word(words, node, &value, faults))
        *(bool *)field = value != 0;
}

/* Reads a value by PARSE and notes it if it is out of the key's bounds, which PRINT writes. */
static bool read_bounded(const struct schema_key *key, const struct yaml_node *node,
                         int (*parse)(const char *, const char *, int64_t *, struct err *),
                         char *(*print)(int64_t, char *), int64_t *value, struct faults *faults)
{
    struct err err;
    char least[UNITS_TEXT_MAX], most[UNITS_TEXT_MAX];
    const char *text = schema_text(node, faults);
    if (text == NULL)
        return false;
    if (parse(text, key->unit, value, &err) != 0) {
        fault_add(faults, &node->place, "%s", err.msg);
        return false;
    }
    if (*value >= key->least && *value <= key->most)
        return true;
    if (*value < key->least)
        fault_add(faults, &node->place, "\"%.80s\" is too small; the least is %s", text,
                  print(key->least, least));
    else
        fault_add(faults, &node->place, "\"%.80s\" is too large; the most is %s", text,
                  print(key->most, most));
    return false;
}

void schema_size(const struct schema_key *key, const struct yaml_node *node, void *field,
                 struct faults *faults)
{
    int64_t value;
    if (read_bounded(key, node, units_size, units_print_size, &value, faults))
        *(int64_t *)field = value;
}

void schema_time(const struct schema_key *key, const struct yaml_node *node, void *field,
                 struct faults *faults)
{
    int64_t value;
    if (read_bounded(key, node, units_time, units_print_time, &value, faults))
        *(int64_t *)field = value;
}

static int parse_number(const char *text, const char *unit, int64_t *number, struct err *err)
{
    (void)unit;
    return units_number(text, number, err);
}

static char *print_number(int64_t number, char *text)
{
    (void)snprintf(text, UNITS_TEXT_MAX, "%lld", (long long)number);
    return text;
}

void schema_number(const struct schema_key *key, const struct yaml_node *node, void *field,
                   struct faults *faults)
{
    int64_t value;
    assert(key->most <= UINT32_MAX);
    if (read_bounded(key, node, parse_number, print_number, &value, faults))
        *(unsigned *)field = (unsigned)value;
}

/* The member before NODE that has its text, if there is one. */
static const struct yaml_node *find_before(const struct yaml_node *first,
                                           const struct yaml_node *node)
{
    for (; first != node; first = first->next)
        if (first->kind == YAML_TEXT && strcmp(first->text, node->text) == 0)
            return first;
    return NULL;
}

void schema_names(const struct schema_key *key, const struct yaml_node *node, void *field,
                  struct faults *faults)
{
    struct err err;
    struct conf_names *names = field;
    const struct yaml_node *first;
    names->any = false;
    if (!schema_list(node, &first, faults))
        return;
    names->names = arena_calloc(faults->arena, node->count, sizeof(names->names[0]));
    if (names->names == NULL) {
        faults->no_memory = true;
        return;
    }
    for (const struct yaml_node *member = first; member != NULL; member = member->next) {
        const char *text = schema_text(member, faults);
        if (text == NULL)
            continue;
        const struct yaml_node *before = find_before(first, member);
        if (before != NULL)
            fault_add(faults, &member->place, "\"%.80s\" is listed twice, first in line %u", text,
                      before->place.line);
        else if (key->check != NULL && key->check(text, &err) != 0)
            fault_add(faults, &member->place, "%s", err.msg);
        else
            names->names[names->count++] = text;
    }
}

void schema_checked_text(const struct schema_key *key, const struct yaml_node *node, void *field,
                         struct faults *faults)
{
    struct err err;
    const char *text = schema_text(node, faults);
    if (text == NULL)
        return;
    if (key->check(text, &err) != 0)
        fault_add(faults, &node->place, "%s", err.msg);
    else
        *(const char **)field = text;
}

void schema_mapping(const struct schema_key *key, const struct yaml_node *node, void *field,
                    struct faults *faults)
{
    schema_read(key->keys, node, field, faults);
}
