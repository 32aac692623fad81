/* SPDX-License-Identifier: Apache-2.0 */
/* Key pairs: a private key, and a certificate that it signs itself. */
#ifndef ASSETD_CREDENTIAL_PAIR_H
#define ASSETD_CREDENTIAL_PAIR_H

#include <stddef.h>

#include "base/err.h"
#include "credential/text.h"

enum { PAIR_DAYS = 3650, PAIR_DAYS_MAX = 36500 };

enum pair_use { PAIR_SERVER, PAIR_CLIENT };

/*
 * Makes a pair on P-256, in PEM form, valid from an hour ago for DAYS days: added to KEY and
 * CERTIFICATE. NAMES: what a server is called, host names and IP addresses that pair_check_host
 * took; the one name of a client. COUNT is at least 1. Nothing that the machine's openssl.cnf says
 * goes into it.
 */
int pair_make(enum pair_use use, const char *const *names, size_t count, int days, struct text *key,
              struct text *certificate, struct err *err);

/*
 * Whether clients can ask for a server by this name: an IP address, a host name, or *.DOMAIN for
 * all hosts of a domain. ERR_INVALID, with the reason.
 */
int pair_check_host(const char *host, struct err *err);

#endif
