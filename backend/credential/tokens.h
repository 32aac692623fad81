/* SPDX-License-Identifier: Apache-2.0 */
/* tokens.map: tokens by which clients log in without a certificate. */
#ifndef ASSETD_CREDENTIAL_TOKENS_H
#define ASSETD_CREDENTIAL_TOKENS_H

#include <stddef.h>

#include "base/err.h"
#include "base/identity.h"
#include "credential/folder.h"
#include "credential/role.h"
#include "credential/text.h"

#define TOKENS_FILE "tokens.map"

enum { TOKEN_DIGITS = 64, TOKEN_HASH_DIGITS = 12, TOKEN_DATE_LENGTH = 10 };

struct token {
    char name[IDENTITY_MAX + 1];
    enum role role;
    char added[TOKEN_DATE_LENGTH + 1]; /* YYYY-MM-DD, UTC */
    char hash[TOKEN_HASH_DIGITS + 1];  /* the first digits of the SHA-256 of its text */
    char digits[TOKEN_DIGITS + 1];     /* the secret, in lower-case hex */
    size_t begin, end;                 /* its lines in the text */
};

struct tokens {
    struct text text;
    struct token *tokens; /* in the order in which they were added */
    size_t count;
    size_t room;
};

/*
 * Reads the file of FOLDER; one that is missing is like an empty one. ERR_INVALID: a line is not
 * as tokens_store writes them; the message names it. To be given back by tokens_fini, also after an
 * error.
 */
int tokens_load(struct tokens *tokens, const struct folder *folder, struct err *err);

/* Wipes them. */
void tokens_fini(struct tokens *tokens);

/* Makes a token, the last one from then on; DATE is today's. */
int tokens_add(struct tokens *tokens, const char *name, enum role role, const char *date,
               struct err *err);

/* Takes away all of the name WORD, and the one of the hash WORD. *COUNT is how many. */
int tokens_remove(struct tokens *tokens, const char *word, size_t *count, struct err *err);

/* Writes the file, with mode 0600. */
int tokens_store(const struct tokens *tokens, const struct folder *folder, struct err *err);

/* Makes the file, without tokens, if nothing has its name: nginx wants one. */
int tokens_ensure(const struct folder *folder, struct err *err);

#endif
