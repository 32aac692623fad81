/* SPDX-License-Identifier: Apache-2.0 */
/* What an external CAS wants of who calls it: TLS and a bearer token, as they stand in files. */
#ifndef ASSETD_REMOTE_CAS_CREDENTIALS_H
#define ASSETD_REMOTE_CAS_CREDENTIALS_H

#include <grpc/grpc_security.h>
#include <stdbool.h>
#include <stddef.h>
#include <sys/stat.h>

#include "base/err.h"
#include "conf/conf.h"

/* The authorities that the system trusts: Debian's package ca-certificates. */
#define CAS_SYSTEM_CA "/etc/ssl/certs/ca-certificates.crt"

/*
 * Makes the credentials of a channel to the address of CONF: plain, or TLS with what its files hold
 * now. SYSTEM_CA is the file that is taken where CONF names no `ca`. That key and certificate
 * belong together is seen in the handshake alone. ERR_PRECONDITION: a file cannot be read, or is
 * not what it must be.
 */
int cas_credentials_make(const struct conf_cas *conf, const char *system_ca,
                         grpc_channel_credentials **credentials, struct err *err);

/*
 * Reads all the files that CONF names, as those who open it do, but for those that who calls may
 * not read: another user may. ERR_PRECONDITION: one of them is not what it must be.
 */
int cas_credentials_check(const struct conf_cas *conf, const char *system_ca, struct err *err);

/* A bearer token. Embedded; its user's lock guards it. */
struct cas_token {
    const char *file;    /* NULL: there is none */
    char *authorization; /* "Bearer TOKEN" */
    struct stat seen;    /* FILE as it was when it was read last; zeroed if it was not there */
};

/* FILE is borrowed; it may be NULL. ERR_PRECONDITION: it holds no token. */
int cas_token_init(struct cas_token *token, const char *file, struct err *err);
void cas_token_fini(struct cas_token *token);

/*
 * The value of the metadata `authorization`, until the next of these calls; NULL if there is no
 * file. It is read again if it has changed. While it holds no token the last one is used, which
 * is told in the log once; LABEL is the instance.
 */
const char *cas_token_authorization(struct cas_token *token, const char *label);

/* Puts stars in the place of the token wherever it stands in TEXT, which may go to anyone. */
void cas_token_hide(const struct cas_token *token, char *text);

#endif
