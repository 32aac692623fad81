/* SPDX-License-Identifier: Apache-2.0 */
/* The PEM blocks of a text, with what is written above them. */
#ifndef ASSETD_CREDENTIAL_AUTHORIZED_LINES_H
#define ASSETD_CREDENTIAL_AUTHORIZED_LINES_H

#include <stdbool.h>
#include <stddef.h>

#include "base/identity.h"
#include "credential/role.h"

/* A text that is read block by block. */
struct lines {
    const char *text; /* the caller's */
    size_t size;
    size_t at;
    unsigned number; /* of the last line that was read, from 1 */
};

/* A line `# client: NAME` or `# client: NAME ROLE` holds for the next block, as `# placeholder`. */
struct block {
    size_t begin, end; /* with the line that names it, and with its last line's end */
    size_t pem;
    unsigned line;       /* of -----BEGIN */
    bool is_certificate; /* by its first line; else it is a key, say */
    bool is_placeholder;
    char name[IDENTITY_MAX + 1]; /* empty: nobody named it */
    enum role role;
    const char *name_fault; /* what is wrong with the line that names it, else NULL */
    const char *fault;      /* what is wrong with the block, else NULL */
};

void lines_begin(struct lines *lines, const char *text, size_t size);

/* Reads up to the end of the next block. False: there is none. */
bool lines_block(struct lines *lines, struct block *block);

#endif
