/* SPDX-License-Identifier: Apache-2.0 */
/* The file is edited as text, so that whatever else an operator wrote into it stays. */
#include "credential/authorized.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "credential/authorized_lines.h"
#include "credential/pair.h"

enum { MODE = 0644 };

/* "cert-" and so many digits name a certificate that nobody named. */
enum { OWN_NAME_DIGITS = 16 };

/* --- reading --- */

static void leave_out(struct client *client, const char *why)
{
    client->state = CLIENT_LEFT_OUT;
    (void)snprintf(client->why, sizeof(client->why), "%s", why);
}

static void check_copies(struct authorized *authorized, struct client *client)
{
    for (const struct client *other = authorized->clients; other < client; other++) {
        if (!other->has_certificate || other->state != CLIENT_REGISTERED ||
            strcmp(other->certificate.sha256, client->certificate.sha256) != 0)
            continue;
        leave_out(client, "");
        (void)snprintf(client->why, sizeof(client->why),
                       "the same certificate is above, on line %u, as %s", other->line,
                       other->name);
        return;
    }
}

/* Makes of a block what it is to the map. */
static int judge(struct authorized *authorized, struct client *client, const struct block *block,
                 struct err *err)
{
    client->line = block->line;
    client->begin = block->begin;
    client->end = block->end;
    client->pem = block->pem;
    client->role = block->role;
    int rc = certificate_read(authorized->text.bytes + block->pem, block->end - block->pem,
                              &client->certificate, err);
    if (rc != 0 && rc != -ERR_INVALID)
        return rc; /* it may be a good one */
    client->is_broken = block->is_certificate && rc != 0;
    if (block->fault != NULL) {
        leave_out(client, block->fault);
        return 0;
    }
    if (rc != 0) {
        leave_out(client, "");
        (void)snprintf(client->why, sizeof(client->why), "%.159s", err->msg);
        return 0;
    }
    client->has_certificate = true;
    if (block->is_placeholder)
        client->state = CLIENT_PLACEHOLDER;
    else if (block->name_fault != NULL)
        leave_out(client, block->name_fault);
    else if (block->name[0] != '\0')
        (void)snprintf(client->name, sizeof(client->name), "%s", block->name);
    else
        (void)snprintf(client->name, sizeof(client->name), "cert-%.*s", OWN_NAME_DIGITS,
                       client->certificate.sha1);
    if (client->state == CLIENT_REGISTERED)
        check_copies(authorized, client);
    return 0;
}

static int parse(struct authorized *authorized, struct err *err)
{
    struct lines lines;
    struct block block;
    free(authorized->clients);
    authorized->clients = NULL;
    authorized->count = 0;
    lines_begin(&lines, authorized->text.bytes, authorized->text.size);
    while (lines_block(&lines, &block)) {
        /* Doubled each time that it is full, at powers of two. */
        if ((authorized->count & (authorized->count - 1)) == 0) {
            size_t room = authorized->count != 0 ? 2 * authorized->count : 1;
            struct client *clients = reallocarray(authorized->clients, room, sizeof(*clients));
            if (clients == NULL)
                return err_no_memory(err, AUTHORIZED_FILE);
            authorized->clients = clients;
        }
        struct client *client = &authorized->clients[authorized->count];
        *client = (struct client){.state = CLIENT_REGISTERED};
        int rc = judge(authorized, client, &block, err);
        if (rc != 0)
            return rc;
        authorized->count++;
    }
    return 0;
}

int authorized_parse(struct authorized *authorized, struct text *text, struct err *err)
{
    *authorized = (struct authorized){.text = *text};
    *text = (struct text){.bytes = NULL};
    return parse(authorized, err);
}

int authorized_load(struct authorized *authorized, const struct folder *folder, struct err *err)
{
    struct text text = {.bytes = NULL};
    *authorized = (struct authorized){.count = 0};
    int rc = folder_read(folder, AUTHORIZED_FILE, &text, err);
    if (rc == 0 || rc == -ERR_NOT_FOUND)
        return authorized_parse(authorized, &text, err);
    text_fini(&text);
    return rc;
}

void authorized_fini(struct authorized *authorized)
{
    text_fini(&authorized->text);
    free(authorized->clients);
    *authorized = (struct authorized){.count = 0};
}

const struct client *authorized_find(const struct authorized *authorized, const char *sha256)
{
    for (const struct client *client = authorized->clients;
         client < authorized->clients + authorized->count; client++)
        if (client->has_certificate && strcmp(client->certificate.sha256, sha256) == 0)
            return client;
    return NULL;
}

/* --- changing --- */

static void end_line(struct text *text)
{
    if (text->size != 0 && text->bytes[text->size - 1] != '\n')
        text_add(text, "\n", 1);
}

int authorized_add(struct authorized *authorized, const char *name, enum role role, const char *pem,
                   size_t size, struct err *err)
{
    struct text *text = &authorized->text;
    struct certificate certificate;
    int rc = certificate_read(pem, size, &certificate, err);
    if (rc != 0)
        return rc;
    const struct client *known = authorized_find(authorized, certificate.sha256);
    if (known != NULL)
        return err_set(err, ERR_PRECONDITION,
                       "this certificate is in " AUTHORIZED_FILE " already, on line %u%s%s",
                       known->line, known->name[0] != '\0' ? " as " : "", known->name);
    end_line(text);
    text_print(text, "%s# client: %s%s\n", text->size != 0 ? "\n" : "", name,
               role == ROLE_READ ? " read" : "");
    if ((rc = certificate_copy(pem, size, text, err)) != 0)
        return rc;
    if (text->failed)
        return err_no_memory(err, AUTHORIZED_FILE);
    authorized->is_changed = true;
    return parse(authorized, err);
}

/* Hex digits in lower case, without colons; empty if WORD is anything else. */
static void normalise(const char *word, char hex[2 * 32 + 1])
{
    size_t length = 0;
    for (; *word != '\0' && length < 2 * 32; word++) {
        char letter = *word;
        if (letter >= 'A' && letter <= 'F')
            letter = (char)(letter - 'A' + 'a');
        if (letter == ':')
            continue;
        if (strchr("0123456789abcdef", letter) == NULL)
            break;
        hex[length++] = letter;
    }
    hex[*word == '\0' ? length : 0] = '\0';
}

static bool has_fingerprint(const struct client *client, const char *hex)
{
    return client->has_certificate && (strcmp(client->certificate.sha256, hex) == 0 ||
                                       strcmp(client->certificate.sha1, hex) == 0);
}

static bool is_meant(const struct authorized *authorized, const struct client *client,
                     const char *word, const char *hex)
{
    if (client->state == CLIENT_PLACEHOLDER || !client->has_certificate)
        return false;
    if ((word[0] != '\0' && strcmp(client->name, word) == 0) || has_fingerprint(client, hex))
        return true;
    /* A copy, which would come into force by what is taken away. */
    for (size_t i = 0; i < authorized->count; i++) {
        const struct client *other = &authorized->clients[i];
        if (other->state == CLIENT_REGISTERED && strcmp(other->name, word) == 0 &&
            has_fingerprint(client, other->certificate.sha256))
            return true;
    }
    return false;
}

int authorized_remove(struct authorized *authorized, const char *word, size_t *count,
                      struct err *err)
{
    struct text *text = &authorized->text;
    char hex[2 * 32 + 1];
    normalise(word, hex);
    *count = 0;
    for (size_t i = authorized->count; i-- > 0;) {
        const struct client *client = &authorized->clients[i];
        if (!is_meant(authorized, client, word, hex))
            continue;
        /* With the empty line that was put above it. */
        size_t begin = client->begin;
        if (begin >= 2 && text->bytes[begin - 1] == '\n' && text->bytes[begin - 2] == '\n')
            begin--;
        text_cut(text, begin, client->end);
        authorized->is_changed = true;
        ++*count;
    }
    return *count != 0 ? parse(authorized, err) : 0;
}

/* --- writing --- */

static void add_to_map(const struct client *client, struct text *map)
{
    text_print(map, "%s \"%s:%s\";\n", client->certificate.sha1, role_name(client->role),
               client->name);
}

void authorized_map(const struct authorized *authorized, struct text *map)
{
    text_print(map, "# Written by assetctl from " AUTHORIZED_FILE
                    ": edit that, then run `assetctl cert update`.\n");
    for (size_t i = 0; i < authorized->count; i++)
        if (authorized->clients[i].state == CLIENT_REGISTERED)
            add_to_map(&authorized->clients[i], map);
}

bool authorized_maps(const struct text *map, const struct client *client)
{
    /* It is never the first line, which is a comment. */
    struct text line = {.bytes = NULL};
    text_add(&line, "\n", 1);
    add_to_map(client, &line);
    bool is_there = !line.failed && map->size != 0 &&
                    memmem(map->bytes, map->size, line.bytes, line.size) != NULL;
    text_fini(&line);
    return is_there;
}

/* nginx does not start on a list without certificates. */
static int add_placeholder(struct authorized *authorized, struct err *err)
{
    static const char *const name = "placeholder";
    struct text *text = &authorized->text;
    struct text key = {.bytes = NULL};
    end_line(text);
    text_print(text, "# placeholder: nginx wants one certificate at least; the key of this one is "
                     "gone.\n");
    int rc = pair_make(PAIR_CLIENT, &name, 1, PAIR_DAYS, &key, text, err);
    text_fini(&key);
    if (rc == 0 && text->failed)
        rc = err_no_memory(err, AUTHORIZED_FILE);
    authorized->is_changed = true;
    return rc == 0 ? parse(authorized, err) : rc;
}

static bool has_any(const struct authorized *authorized)
{
    for (size_t i = 0; i < authorized->count; i++)
        if (authorized->clients[i].has_certificate)
            return true;
    return false;
}

/* Both are on the disk before the first of them is in its place. */
static int store(struct authorized *authorized, const struct folder *folder, const struct text *map,
                 struct err *err)
{
    int rc = 0;
    if (authorized->is_changed)
        rc = folder_stage(folder, AUTHORIZED_FILE, &authorized->text, MODE, err);
    if (rc != 0)
        return rc;
    rc = folder_stage(folder, AUTHORIZED_MAP, map, MODE, err);
    if (rc != 0 && authorized->is_changed)
        folder_unstage(folder, AUTHORIZED_FILE);
    if (rc != 0)
        return rc;
    if (authorized->is_changed && (rc = folder_publish(folder, AUTHORIZED_FILE, err)) != 0) {
        folder_unstage(folder, AUTHORIZED_MAP);
        return rc;
    }
    authorized->is_stored = true;
    rc = folder_publish(folder, AUTHORIZED_MAP, err);
    if (rc != 0 && authorized->is_changed)
        (void)err_wrap(err, AUTHORIZED_FILE " was changed, but " AUTHORIZED_MAP
                                            " was not, which `assetctl cert update` does");
    return rc;
}

int authorized_store(struct authorized *authorized, const struct folder *folder, struct err *err)
{
    struct text map = {.bytes = NULL};
    int rc = has_any(authorized) ? 0 : add_placeholder(authorized, err);
    if (rc != 0)
        return rc;
    authorized_map(authorized, &map);
    rc = store(authorized, folder, &map, err);
    text_fini(&map);
    return rc;
}
