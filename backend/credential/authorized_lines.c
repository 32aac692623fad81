/* SPDX-License-Identifier: Apache-2.0 */
/* Lines end with LF or CRLF. Whatever is neither of a block nor a mark above one is a comment. */
#include "credential/authorized_lines.h"

#include <string.h>

static const char mark_client[] = "# client:";
static const char mark_placeholder[] = "# placeholder";
static const char mark_begin[] = "-----BEGIN ";
static const char mark_end[] = "-----END ";

/* Without the blanks and the carriage return at its end. */
struct line {
    const char *text;
    size_t length;
    size_t begin; /* in the whole text */
};

void lines_begin(struct lines *lines, const char *text, size_t size)
{
    *lines = (struct lines){.text = text, .size = size};
}

static bool is_blank(char letter)
{
    return letter == ' ' || letter == '\t' || letter == '\r';
}

static bool next_line(struct lines *lines, struct line *line)
{
    if (lines->at >= lines->size)
        return false;
    const char *text = lines->text + lines->at;
    const char *newline = memchr(text, '\n', lines->size - lines->at);
    size_t length = newline != NULL ? (size_t)(newline - text) : lines->size - lines->at;
    *line = (struct line){.text = text, .length = length, .begin = lines->at};
    while (line->length != 0 && is_blank(text[line->length - 1]))
        line->length--;
    lines->at += length + (newline != NULL);
    lines->number++;
    return true;
}

static bool begins(const struct line *line, const char *mark)
{
    size_t length = strlen(mark);
    return line->length >= length && memcmp(line->text, mark, length) == 0;
}

static bool is_text(const struct line *line, const char *text)
{
    return line->length == strlen(text) && begins(line, text);
}

/* `# client: NAME` and perhaps a role. */
static void read_mark(const struct line *line, struct block *block)
{
    const char *name = line->text + sizeof(mark_client) - 1, *end = line->text + line->length;
    const char *name_end;
    block->name_fault = NULL;
    block->name[0] = '\0';
    block->role = ROLE_WRITE;
    while (name < end && is_blank(*name))
        name++;
    for (name_end = name; name_end < end && !is_blank(*name_end);)
        name_end++;
    const char *role = name_end;
    while (role < end && is_blank(*role))
        role++;
    if (!identity_is_valid(name, (size_t)(name_end - name)))
        block->name_fault = "the name above it is not " IDENTITY_RULE;
    else if (role < end && !role_parse(role, (size_t)(end - role), &block->role))
        block->name_fault = "behind the name above it stands something other than read or write";
    if (block->name_fault == NULL)
        memcpy(block->name, name, (size_t)(name_end - name));
    block->name[block->name_fault == NULL ? name_end - name : 0] = '\0';
}

/* Goes to the line that ends the block. */
static void read_block(struct lines *lines, const struct line *first, struct block *block)
{
    struct line line;
    block->pem = first->begin;
    block->line = lines->number;
    block->is_certificate = is_text(first, "-----BEGIN CERTIFICATE-----");
    block->fault =
        block->is_certificate ? NULL : "it does not begin with -----BEGIN CERTIFICATE----- alone";
    for (size_t at = lines->at; next_line(lines, &line); at = lines->at) {
        if (begins(&line, mark_begin) || begins(&line, mark_client) ||
            begins(&line, mark_placeholder)) {
            /* Those are of the next one, which is looked at by itself. */
            lines->at = at;
            lines->number--;
            block->fault = "it has no line -----END CERTIFICATE-----";
            break;
        }
        if (begins(&line, mark_end)) {
            if (block->fault == NULL && !is_text(&line, "-----END CERTIFICATE-----"))
                block->fault = "it does not end with -----END CERTIFICATE----- alone";
            block->end = lines->at;
            return;
        }
    }
    if (block->fault == NULL)
        block->fault = "it has no line -----END CERTIFICATE-----";
    block->end = lines->at;
}

bool lines_block(struct lines *lines, struct block *block)
{
    struct line line;
    bool is_marked = false;
    *block = (struct block){.role = ROLE_WRITE};
    while (next_line(lines, &line)) {
        if (begins(&line, mark_client)) {
            read_mark(&line, block);
            block->is_placeholder = false;
        } else if (begins(&line, mark_placeholder)) {
            block->is_placeholder = true;
        } else if (begins(&line, mark_begin)) {
            if (!is_marked)
                block->begin = line.begin;
            read_block(lines, &line, block);
            return true;
        } else {
            continue;
        }
        block->begin = line.begin;
        is_marked = true;
    }
    return false;
}
