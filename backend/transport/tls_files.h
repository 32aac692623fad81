/* SPDX-License-Identifier: Apache-2.0 */
/* What the files of a listener's TLS hold, read and judged together. */
#ifndef ASSETD_TRANSPORT_TLS_FILES_H
#define ASSETD_TRANSPORT_TLS_FILES_H

#include <stdbool.h>
#include <sys/stat.h>

#include "base/digest.h"
#include "base/err.h"
#include "conf/conf.h"
#include "credential/members.h"
#include "credential/text.h"

/* Zeroed it holds nothing. */
struct tls_files {
    struct text chain; /* the server's certificate, and those that signed it */
    struct text key;
    struct text authorized; /* client-ca; until it is judged */
    struct digest digest;   /* of all that they held */
    /* Once it was judged, from when on these and the first two end with a NUL: */
    struct text leaf;       /* the first of the chain alone */
    struct members members; /* nobody where there is no client-ca */
    int64_t not_after;      /* of the server's certificate: seconds since 1970 */
};

/*
 * Reads the files that CONF names; one that is NULL is none. ERR says which cannot be read, and
 * why. FILES is to be given back by tls_files_fini, also after an error.
 */
int tls_files_read(const struct conf_tls *conf, struct tls_files *files, struct err *err);

/*
 * Whether TLS can be done with all that was read; an error says what is wrong with which file, but
 * may come from a lack of memory.
 */
int tls_files_judge(const struct conf_tls *conf, struct tls_files *files, struct err *err);

/* Wipes and frees what they hold. */
void tls_files_fini(struct tls_files *files);

/* Judges the files that CONF names, but for those that who calls may not read: another user may. */
int tls_files_check(const struct conf_tls *conf, struct err *err);

enum { TLS_FILES = 3 };

/* How the files looked, without what they hold. Zeroed it is that of none. */
struct tls_look {
    struct stat files[TLS_FILES]; /* zeroed where ERRORS is not 0, or CONF names none */
    int errors[TLS_FILES];
};

void tls_look_take(struct tls_look *look, const struct conf_tls *conf);

bool tls_look_is_same(const struct tls_look *one, const struct tls_look *other);

/* Whether a file has changed within the last AGE milliseconds. */
bool tls_look_is_fresh(const struct tls_look *look, int64_t age);

#endif
