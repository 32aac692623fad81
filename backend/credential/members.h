/* SPDX-License-Identifier: Apache-2.0 */
/* Who may log in, found by the certificate that the TLS library read from the network. */
#ifndef ASSETD_CREDENTIAL_MEMBERS_H
#define ASSETD_CREDENTIAL_MEMBERS_H

#include <stddef.h>
#include <stdint.h>

#include "base/err.h"
#include "base/identity.h"
#include "credential/role.h"
#include "credential/text.h"

/* A client whose certificate stands in the file. */
struct member {
    char name[IDENTITY_MAX + 1];
    enum role role;
    int64_t not_after; /* seconds since 1970 */
    const char *pem;   /* the usual form: 64 letters a line, LF at each line's end */
    size_t size;
};

/* Read only once it is made: any thread. Zeroed it has nobody. */
struct members {
    struct text roots; /* certificates of the file, theirs and those that let nobody in; a NUL */
    struct member *members; /* ordered by their PEM */
    size_t count;
    unsigned left_out; /* blocks of the file that let nobody in, copies of others not counted */
    char note[320];    /* the first of these, as FILE:LINE: why */
};

/*
 * Makes members of what an authorized.crt holds, in the form that assetctl keeps it, which is taken
 * over and gone afterwards; FILE is its name for messages. A text without any block, of blanks and
 * comments alone, has nobody. ERR_INVALID: a certificate in it cannot be read, or it holds no
 * certificate but something else. To be given back by members_fini, also after an error.
 */
int members_parse(struct members *members, const char *file, struct text *text, struct err *err);

void members_fini(struct members *members);

/* The one whose certificate is the SIZE bytes at PEM, in the usual form; NULL: none. */
const struct member *members_find(const struct members *members, const char *pem, size_t size);

#endif
