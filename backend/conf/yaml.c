/* SPDX-License-Identifier: Apache-2.0 */
/* From libyaml's events to a tree. */
#include "conf/yaml.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>
#include <yaml.h>

#include "base/utf8.h"

enum {
    FILE_MAX = 256 * 1024,
    LEVELS_MAX = 8,    /* a configuration has four */
    KEY_SHOWN_MAX = 64 /* bytes of a key in a path */
};

struct reader {
    yaml_parser_t parser;
    yaml_event_t event; /* the one at hand; zeroed if there is none */
    const char *text;
    size_t size;
    unsigned levels; /* lists and mappings around */
    bool is_broken;  /* there is no going on, which is reported */
    struct arena *arena;
    struct faults *faults;
};

int yaml_read_file(const char *path, struct arena *arena, const char **text, size_t *size,
                   struct err *err)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return err_errno(err, errno, "open %s", path);
    int rc = 0;
    size_t used = 0;
    char *buffer = arena_alloc(arena, FILE_MAX + 1);
    if (buffer == NULL) {
        rc = err_no_memory(err, "the configuration");
        goto out;
    }
    while (used <= FILE_MAX) {
        ssize_t got = read(fd, buffer + used, FILE_MAX + 1 - used);
        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0) {
            rc = err_errno(err, errno, "read %s", path);
            goto out;
        }
        if (got == 0)
            break;
        used += (size_t)got;
    }
    if (used > FILE_MAX) {
        rc = err_set(err, ERR_EXHAUSTED, "read %s: longer than %d bytes, so no configuration", path,
                     FILE_MAX);
        goto out;
    }
    *text = buffer;
    *size = used;
out:
    (void)close(fd);
    return rc;
}

static struct fault_place place_at(const yaml_mark_t *mark, const char *path)
{
    return (struct fault_place){
        .line = (unsigned)mark->line + 1, .column = (unsigned)mark->column + 1, .path = path};
}

/* Where the byte at OFFSET stands. Bytes that continue a character are not counted. */
static struct fault_place place_of_byte(const struct reader *reader, size_t offset,
                                        const char *path)
{
    struct fault_place place = {.line = 1, .column = 1, .path = path};
    for (size_t i = 0; i < offset && i < reader->size; i++) {
        if (reader->text[i] == '\n') {
            place.line++;
            place.column = 1;
        } else if (((unsigned char)reader->text[i] & 0xc0) != 0x80) {
            place.column++;
        }
    }
    return place;
}

/* Whether LINE, which counts from 0, is indented with a tab. */
static bool indents_with_tab(const struct reader *reader, size_t line)
{
    size_t i = 0;
    for (; i < reader->size && line > 0; i++)
        if (reader->text[i] == '\n')
            line--;
    while (i < reader->size && reader->text[i] == ' ')
        i++;
    return i < reader->size && reader->text[i] == '\t';
}

static void report_syntax(struct reader *reader)
{
    static const char path[] = "(syntax)";
    const yaml_parser_t *parser = &reader->parser;
    struct fault_place place = place_at(&parser->problem_mark, path);
    switch (parser->error) {
    case YAML_MEMORY_ERROR:
        reader->faults->no_memory = true;
        return;
    case YAML_READER_ERROR:
        place = place_of_byte(reader, parser->problem_offset, path);
        fault_add(reader->faults, &place, "%s: 0x%x; the file must be UTF-8 text", parser->problem,
                  (unsigned)parser->problem_value);
        return;
    default:
        break;
    }
    if (indents_with_tab(reader, parser->problem_mark.line))
        fault_add(reader->faults, &place, "%s; the line begins with a tab: indent with blanks",
                  parser->problem);
    else if (parser->context != NULL)
        fault_add(reader->faults, &place, "%s, %s that begins in line %u", parser->problem,
                  parser->context, (unsigned)parser->context_mark.line + 1);
    else
        fault_add(reader->faults, &place, "%s", parser->problem);
}

/* Goes on to the next event; false when the syntax is broken, which is then reported. */
static bool next_event(struct reader *reader)
{
    yaml_event_delete(&reader->event);
    if (yaml_parser_parse(&reader->parser, &reader->event) != 1) {
        memset(&reader->event, 0, sizeof(reader->event));
        reader->is_broken = true;
        report_syntax(reader);
        return false;
    }
    return true;
}

static bool has_control_character(const char *text, size_t size)
{
    for (size_t i = 0; i < size; i++)
        if ((unsigned char)text[i] < ' ' || text[i] == 0x7f)
            return true;
    return false;
}

bool yaml_can_hold(const char *text)
{
    size_t size = strlen(text);
    return utf8_is_text((const uint8_t *)text, size) && !has_control_character(text, size);
}

/* The path of a mapping's value. The key may be anything, and is made fit to be shown. */
static const char *path_of_key(struct reader *reader, const char *path, const char *key,
                               size_t size)
{
    char shown[KEY_SHOWN_MAX + 1];
    if (size > KEY_SHOWN_MAX) {
        size = KEY_SHOWN_MAX;
        while (size > 0 && ((unsigned char)key[size] & 0xc0) == 0x80)
            size--;
    }
    for (size_t i = 0; i < size; i++)
        shown[i] = has_control_character(&key[i], 1) ? '?' : key[i];
    shown[size] = '\0';
    if (*path == '\0')
        return arena_strdup(reader->arena, size > 0 ? shown : "\"\"");
    return arena_printf(reader->arena, "%s.%s", path, shown);
}

static void refuse_anchor_and_tag(struct reader *reader, const struct fault_place *place,
                                  const yaml_char_t *anchor, const yaml_char_t *tag)
{
    if (anchor != NULL)
        fault_add(reader->faults, place, "anchors are not supported; remove &%.64s",
                  (const char *)anchor);
    if (tag != NULL)
        fault_add(reader->faults, place, "tags are not supported; remove %.64s", (const char *)tag);
}

static bool read_text(struct reader *reader, struct yaml_node *node)
{
    const char *text = (const char *)reader->event.data.scalar.value;
    size_t size = reader->event.data.scalar.length;
    refuse_anchor_and_tag(reader, &node->place, reader->event.data.scalar.anchor,
                          reader->event.data.scalar.tag);
    node->kind = YAML_TEXT;
    node->is_plain = reader->event.data.scalar.style == YAML_PLAIN_SCALAR_STYLE;
    if (has_control_character(text, size)) {
        fault_add(reader->faults, &node->place,
                  "has a line break or another control character; write it on one line");
        node->kind = YAML_FAULTY;
    }
    node->text = arena_copy(reader->arena, text, size);
    return node->text != NULL;
}

static struct yaml_node *read_node(struct reader *reader, const char *path);

static bool read_list(struct reader *reader, struct yaml_node *node, const char *path)
{
    struct yaml_node **last = &node->first;
    refuse_anchor_and_tag(reader, &node->place, reader->event.data.sequence_start.anchor,
                          reader->event.data.sequence_start.tag);
    node->kind = YAML_LIST;
    while (next_event(reader)) {
        if (reader->event.type == YAML_SEQUENCE_END_EVENT)
            return true;
        const char *member_path = arena_printf(reader->arena, "%s[%zu]", path, node->count);
        struct yaml_node *member = member_path != NULL ? read_node(reader, member_path) : NULL;
        if (member == NULL)
            return false;
        *last = member;
        last = &member->next;
        node->count++;
    }
    return false;
}

/* Takes the event of a key. The text is a copy; NULL, if memory lasts, for a key that is none. */
static bool read_key(struct reader *reader, const char *path, struct fault_place *place,
                     const char **key)
{
    *key = NULL;
    if (reader->event.type == YAML_SCALAR_EVENT) {
        const char *text = (const char *)reader->event.data.scalar.value;
        size_t size = reader->event.data.scalar.length;
        *place = place_at(&reader->event.start_mark, path_of_key(reader, path, text, size));
        refuse_anchor_and_tag(reader, place, reader->event.data.scalar.anchor,
                              reader->event.data.scalar.tag);
        *key = place->path != NULL ? arena_copy(reader->arena, text, size) : NULL;
        if (*key == NULL)
            return false;
        if (!has_control_character(text, size))
            return true;
        *key = NULL;
    } else {
        *place = place_at(&reader->event.start_mark, *path != '\0' ? path : "(file)");
        if (read_node(reader, path) == NULL)
            return false;
    }
    fault_add(reader->faults, place, "a key must be one word");
    return true;
}

static bool read_mapping(struct reader *reader, struct yaml_node *node, const char *path)
{
    struct yaml_node **last = &node->first;
    refuse_anchor_and_tag(reader, &node->place, reader->event.data.mapping_start.anchor,
                          reader->event.data.mapping_start.tag);
    node->kind = YAML_MAPPING;
    while (next_event(reader)) {
        if (reader->event.type == YAML_MAPPING_END_EVENT)
            return true;
        const char *key;
        struct fault_place place;
        if (!read_key(reader, path, &place, &key) || !next_event(reader))
            return false;
        struct yaml_node *value = read_node(reader, place.path);
        if (value == NULL)
            return false;
        if (key == NULL)
            continue;
        const struct yaml_node *before = yaml_find(node, key);
        if (before != NULL) {
            fault_add(reader->faults, &place, "is given twice, first in line %u; keep one of them",
                      before->key_place.line);
            continue;
        }
        value->key = key;
        value->key_place = place;
        *last = value;
        last = &value->next;
        node->count++;
    }
    return false;
}

/*
 * Takes the event at hand and what belongs to it. PATH is empty for the whole file. NULL when the
 * reader is broken, or memory is out.
 */
static struct yaml_node *read_node(struct reader *reader, const char *path)
{
    struct yaml_node *node = arena_calloc(reader->arena, 1, sizeof(*node));
    if (node == NULL)
        return NULL;
    node->kind = YAML_FAULTY;
    node->place = place_at(&reader->event.start_mark, *path != '\0' ? path : "(file)");
    bool ok = true;
    switch (reader->event.type) {
    case YAML_SCALAR_EVENT:
        return read_text(reader, node) ? node : NULL;
    case YAML_ALIAS_EVENT:
        fault_add(reader->faults, &node->place,
                  "aliases are not supported; write the value itself instead of *%.64s",
                  (const char *)reader->event.data.alias.anchor);
        return node;
    case YAML_SEQUENCE_START_EVENT:
    case YAML_MAPPING_START_EVENT:
        if (reader->levels == LEVELS_MAX) {
            fault_add(reader->faults, &node->place, "is nested more than %d levels deep",
                      LEVELS_MAX);
            reader->is_broken = true;
            return NULL;
        }
        reader->levels++;
        ok = reader->event.type == YAML_SEQUENCE_START_EVENT ? read_list(reader, node, path)
                                                             : read_mapping(reader, node, path);
        reader->levels--;
        return ok ? node : NULL;
    default:
        assert(false); /* libyaml gives no other event where a value begins */
        return NULL;
    }
}

/* The tree of the first document, with the event behind it at hand; NULL as for yaml_read. */
static struct yaml_node *read_document(struct reader *reader)
{
    struct fault_place start = {.line = 1, .column = 1, .path = "(file)"};
    if (!next_event(reader) || !next_event(reader))
        return NULL;
    if (reader->event.type == YAML_STREAM_END_EVENT) {
        fault_add(reader->faults, &start,
                  "is empty; see config/minimal.yaml for one to start with");
        reader->is_broken = true;
        return NULL;
    }
    if (!next_event(reader))
        return NULL;
    struct yaml_node *root = read_node(reader, "");
    if (root == NULL || !next_event(reader) || !next_event(reader))
        return NULL;
    if (reader->event.type != YAML_STREAM_END_EVENT) {
        struct fault_place second = place_at(&reader->event.start_mark, "(file)");
        fault_add(reader->faults, &second,
                  "a second document begins; a configuration is one, remove the --- line");
    }
    return root;
}

struct yaml_node *yaml_read(const char *text, size_t size, struct arena *arena,
                            struct faults *faults)
{
    struct reader reader = {.text = text, .size = size, .arena = arena, .faults = faults};
    if (yaml_parser_initialize(&reader.parser) != 1) {
        faults->no_memory = true;
        return NULL;
    }
    yaml_parser_set_input_string(&reader.parser, (const unsigned char *)text, size);
    yaml_parser_set_encoding(&reader.parser, YAML_UTF8_ENCODING);
    struct yaml_node *root = read_document(&reader);
    if (root == NULL && !reader.is_broken)
        faults->no_memory = true;
    yaml_event_delete(&reader.event);
    yaml_parser_delete(&reader.parser);
    return root;
}

const struct yaml_node *yaml_find(const struct yaml_node *node, const char *key)
{
    if (node == NULL || node->kind != YAML_MAPPING)
        return NULL;
    for (const struct yaml_node *value = node->first; value != NULL; value = value->next)
        if (strcmp(value->key, key) == 0)
            return value;
    return NULL;
}

const struct yaml_node *yaml_at(const struct yaml_node *node, size_t index)
{
    if (node == NULL || node->kind != YAML_LIST)
        return NULL;
    const struct yaml_node *member = node->first;
    for (; member != NULL && index > 0; index--)
        member = member->next;
    return member;
}

bool yaml_is_null(const struct yaml_node *node)
{
    static const char *const nulls[] = {"", "~", "null", "Null", "NULL"};
    if (node->kind != YAML_TEXT || !node->is_plain)
        return false;
    for (size_t i = 0; i < sizeof(nulls) / sizeof(nulls[0]); i++)
        if (strcmp(node->text, nulls[i]) == 0)
            return true;
    return false;
}
