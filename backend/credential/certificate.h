/* SPDX-License-Identifier: Apache-2.0 */
/* What a certificate says of itself. */
#ifndef ASSETD_CREDENTIAL_CERTIFICATE_H
#define ASSETD_CREDENTIAL_CERTIFICATE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"
#include "credential/text.h"

struct certificate {
    char sha1[2 * 20 + 1];   /* lower-case hex, as nginx's $ssl_client_fingerprint */
    char sha256[2 * 32 + 1]; /* lower-case hex */
    int64_t not_before;      /* seconds since 1970 */
    int64_t not_after;
    uint64_t subject; /* equal subjects have equal ones */
    bool has_key_id;  /* tells it apart from others of its subject: an authorityKeyIdentifier */
    bool is_own_issuer;
    bool can_sign;   /* others' certificates: CA:TRUE, or of a time before there was that */
    char names[256]; /* hosts and addresses it is for, with commas, else its subject's CN */
};

/*
 * Reads the first certificate in PEM form from SIZE bytes at PEM. ERR_INVALID: they hold none that
 * can be read; ERR_NO_MEMORY, ERR_INTERNAL: it may be a good one.
 */
int certificate_read(const char *pem, size_t size, struct certificate *certificate,
                     struct err *err);

/* The same, and adds it to TEXT in the usual PEM form. */
int certificate_copy(const char *pem, size_t size, struct text *text, struct err *err);

/* Whether the private key that is KEY, in PEM form, is that of the first certificate in PEM. */
bool certificate_fits(const struct text *pem, const struct text *key);

/* Seconds since 1970. */
int64_t certificate_now(void);

#endif
