/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The usual form of a certificate is one text alone: comparing it is comparing the certificate, and
 * costs a call a few comparisons of texts that soon differ.
 */
#include "credential/members.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "credential/authorized.h"

static const char no_room[] = "the certificates of clients";

/* --- making --- */

static int compare_bytes(const char *one, size_t one_size, const char *other, size_t other_size)
{
    int order = memcmp(one, other, one_size < other_size ? one_size : other_size);
    return order != 0 ? order : (one_size > other_size) - (one_size < other_size);
}

static int compare(const void *one, const void *other)
{
    const struct member *a = one, *b = other;
    return compare_bytes(a->pem, a->size, b->pem, b->size);
}

/* A copy lets in who is let in already: nobody needs to hear of it. */
static bool is_copy(const struct authorized *authorized, const struct client *client)
{
    return client->has_certificate &&
           authorized_find(authorized, client->certificate.sha256) != client;
}

static int add_root(struct members *members, const struct authorized *authorized,
                    const struct client *client, struct err *err)
{
    int rc = certificate_copy(authorized->text.bytes + client->pem, client->end - client->pem,
                              &members->roots, err);
    return rc == 0 && members->roots.failed ? err_no_memory(err, no_room) : rc;
}

/* The texts may move while they grow: until all are there a member's PEM is known by its size. */
static int add_member(struct members *members, const struct authorized *authorized,
                      const struct client *client, struct err *err)
{
    size_t begin = members->roots.size;
    int rc = add_root(members, authorized, client, err);
    if (rc != 0)
        return rc;
    struct member *member = &members->members[members->count++];
    *member = (struct member){.role = client->role,
                              .not_after = client->certificate.not_after,
                              .size = members->roots.size - begin};
    (void)snprintf(member->name, sizeof(member->name), "%s", client->name);
    return 0;
}

static int add_other(struct members *members, const struct authorized *authorized,
                     const struct client *client, const char *file, struct err *err)
{
    if (client->is_broken)
        return err_set(err, ERR_INVALID, "%s:%u: %s", file, client->line, client->why);
    if (client->state == CLIENT_LEFT_OUT && members->left_out++ == 0)
        (void)snprintf(members->note, sizeof(members->note), "%.128s:%u: %s", file, client->line,
                       client->why);
    return client->has_certificate ? add_root(members, authorized, client, err) : 0;
}

/* Whether a line stands there that is neither blank nor a comment. */
static bool has_other_text(const struct text *text)
{
    const char *end = text->bytes + text->size;
    for (const char *line = text->bytes; line < end;) {
        while (line < end && strchr(" \t\r\n", *line) != NULL && *line != '\0')
            line++;
        if (line == end)
            break;
        if (*line != '#')
            return true;
        line = memchr(line, '\n', (size_t)(end - line));
        if (line == NULL)
            break;
    }
    return false;
}

/* Members first, so that their texts are at the beginning of the roots, in their order. */
static int take(struct members *members, const struct authorized *authorized, const char *file,
                struct err *err)
{
    const struct client *clients = authorized->clients;
    int rc = 0;
    for (size_t i = 0; i < authorized->count && rc == 0; i++)
        if (clients[i].state == CLIENT_REGISTERED)
            rc = add_member(members, authorized, &clients[i], err);
    for (size_t i = 0; i < authorized->count && rc == 0; i++)
        if (clients[i].state != CLIENT_REGISTERED && !is_copy(authorized, &clients[i]))
            rc = add_other(members, authorized, &clients[i], file, err);
    if (rc != 0)
        return rc;
    /* A list that lets nobody in is one; what is no list may be a file by mistake. */
    if (members->left_out != 0 && members->roots.size == 0)
        return err_set(err, ERR_INVALID, "%s", members->note);
    if (authorized->count == 0 && has_other_text(&authorized->text))
        return err_set(err, ERR_INVALID,
                       "%s holds no certificate in PEM form (-----BEGIN CERTIFICATE-----)", file);
    return 0;
}

/* The texts stay where they are from now on. */
static int point(struct members *members, struct err *err)
{
    text_add(&members->roots, "", 1);
    if (members->roots.failed)
        return err_no_memory(err, no_room);
    const char *pem = members->roots.bytes;
    for (size_t i = 0; i < members->count; pem += members->members[i++].size)
        members->members[i].pem = pem;
    if (members->count != 0)
        qsort(members->members, members->count, sizeof(members->members[0]), compare);
    return 0;
}

int members_parse(struct members *members, const char *file, struct text *text, struct err *err)
{
    struct authorized authorized;
    *members = (struct members){.count = 0};
    int rc = authorized_parse(&authorized, text, err);
    if (rc == 0 && authorized.count != 0) {
        members->members = calloc(authorized.count, sizeof(members->members[0]));
        if (members->members == NULL)
            rc = err_no_memory(err, no_room);
    }
    if (rc == 0)
        rc = take(members, &authorized, file, err);
    if (rc == 0)
        rc = point(members, err);
    authorized_fini(&authorized);
    return rc;
}

void members_fini(struct members *members)
{
    text_fini(&members->roots);
    free(members->members);
    *members = (struct members){.count = 0};
}

/* --- finding --- */

const struct member *members_find(const struct members *members, const char *pem, size_t size)
{
    const struct member wanted = {.pem = pem, .size = size};
    return members->count != 0 ? bsearch(&wanted, members->members, members->count,
                                         sizeof(members->members[0]), compare)
                               : NULL;
}
