/* SPDX-License-Identifier: Apache-2.0 */
/* Whether a server can do TLS with a pair, found out before it must. */
#ifndef ASSETD_CREDENTIAL_PAIR_CHECK_H
#define ASSETD_CREDENTIAL_PAIR_CHECK_H

#include "base/err.h"
#include "credential/certificate.h"
#include "credential/text.h"

/*
 * Has OpenSSL read the machine's openssl.cnf, whose rules for TLS then hold for this process, as
 * for other servers. Before anything else of OpenSSL, once; a file that is broken is passed over.
 */
void pair_check_begin(void);

/*
 * CHAIN is the server's certificate in PEM form, with those that signed it behind it. LEAF tells
 * what the first says. ERR_INVALID: one cannot be read, or the first is too weak to be used.
 */
int pair_check_chain(const struct text *chain, struct certificate *leaf, struct err *err);

/*
 * ERR_INVALID: KEY, in PEM form, cannot be read; ERR_PRECONDITION: it is not that of CHAIN, which
 * may be NULL: unknown.
 */
int pair_check_key(const struct text *chain, const struct text *key, struct err *err);

#endif
