/* SPDX-License-Identifier: Apache-2.0 */
/* authorized.crt, the certificates that may log in, and clients.map, which is made from it. */
#ifndef ASSETD_CREDENTIAL_AUTHORIZED_H
#define ASSETD_CREDENTIAL_AUTHORIZED_H

#include <stdbool.h>
#include <stddef.h>

#include "base/err.h"
#include "base/identity.h"
#include "credential/certificate.h"
#include "credential/folder.h"
#include "credential/role.h"
#include "credential/text.h"

#define AUTHORIZED_FILE "authorized.crt"
#define AUTHORIZED_MAP  "clients.map"

enum client_state {
    CLIENT_REGISTERED,
    CLIENT_PLACEHOLDER, /* stands in where nobody is registered: nginx wants one certificate */
    CLIENT_LEFT_OUT,    /* not in the map, and why says it */
};

/* One PEM block of the file. */
struct client {
    enum client_state state;
    char why[160]; /* for people, as a note about LINE */
    unsigned line; /* on which it begins, from 1 */
    char name[IDENTITY_MAX + 1];
    enum role role;
    bool has_certificate; /* it could be read */
    bool is_broken;       /* it should be one, and cannot be read: nginx refuses the whole file */
    struct certificate certificate;
    size_t begin, end; /* the block in the text, with the line above that names it */
    size_t pem;        /* where the block itself begins */
};

struct authorized {
    struct text text;
    struct client *clients; /* in the file's order */
    size_t count;
    bool is_changed;
    bool is_stored; /* what was changed is in the file, whatever became of the map */
};

/*
 * Reads the file of FOLDER; one that is missing is like an empty one. What is wrong in it leaves
 * clients out of the map, and is told by them. To be given back by authorized_fini, also after an
 * error.
 */
int authorized_load(struct authorized *authorized, const struct folder *folder, struct err *err);

/* The same of a text, which becomes AUTHORIZED's. */
int authorized_parse(struct authorized *authorized, struct text *text, struct err *err);

void authorized_fini(struct authorized *authorized);

/* The client, registered or not, that has the certificate of this SHA-256; NULL if none has. */
const struct client *authorized_find(const struct authorized *authorized, const char *sha256);

/*
 * Adds a certificate, SIZE bytes at PEM, under NAME. ERR_PRECONDITION: it is there already;
 * ERR_INVALID: it cannot be read.
 */
int authorized_add(struct authorized *authorized, const char *name, enum role role, const char *pem,
                   size_t size, struct err *err);

/*
 * Takes away every certificate of the name WORD, or of the fingerprint that WORD is (SHA-1 or
 * SHA-256, in hex, with colons or without), with the copies of it under other names. *COUNT is how
 * many; none is no error.
 */
int authorized_remove(struct authorized *authorized, const char *word, size_t *count,
                      struct err *err);

/*
 * Writes what was changed, with a placeholder if no certificate is left, and then the map: what a
 * power cut leaves between the two is in one of them alone, and nginx lets in who is in both. After
 * an error is_stored tells whether the first of them was replaced.
 */
int authorized_store(struct authorized *authorized, const struct folder *folder, struct err *err);

/* Adds what clients.map should be to MAP. */
void authorized_map(const struct authorized *authorized, struct text *map);

/* Whether MAP, a clients.map, has CLIENT with its name and role. */
bool authorized_maps(const struct text *map, const struct client *client);

#endif
