/* SPDX-License-Identifier: Apache-2.0 */
/* How OpenSSL is used here: without the machine's openssl.cnf, and with errors that say what. */
#ifndef ASSETD_CREDENTIAL_OPENSSL_H
#define ASSETD_CREDENTIAL_OPENSSL_H

#include <openssl/types.h>
#include <stddef.h>

#include "base/err.h"

/*
 * Must be called before anything of OpenSSL: no openssl.cnf is read, and no former error is taken
 * for one of what follows.
 */
int openssl_begin(struct err *err);

/*
 * Sets the error of what failed last in OpenSSL: "WHAT: reason". CODE is what it means here, or
 * ERR_NO_MEMORY where that was it.
 */
int openssl_fault(struct err *err, enum err_code code, const char *what);

/*
 * The first certificate, or private key, in PEM form in SIZE bytes, for the caller to free. NULL:
 * ERR_INVALID, there is none that can be read, or ERR_NO_MEMORY. Nobody is asked for a passphrase.
 */
X509 *openssl_certificate(const char *pem, size_t size, struct err *err);
EVP_PKEY *openssl_key(const char *pem, size_t size, struct err *err);

#endif
