/* SPDX-License-Identifier: Apache-2.0 */
/* The oldest error of OpenSSL's queue is the cause; what follows is who passed it on. */
#include "credential/openssl.h"

#include <limits.h>

#include <openssl/bio.h>
#include <openssl/crypto.h>
#include <openssl/err.h>
#include <openssl/pem.h>

int openssl_begin(struct err *err)
{
    if (OPENSSL_init_crypto(OPENSSL_INIT_NO_LOAD_CONFIG, NULL) != 1)
        return openssl_fault(err, ERR_INTERNAL, "start OpenSSL");
    ERR_clear_error();
    return 0;
}

int openssl_fault(struct err *err, enum err_code code, const char *what)
{
    unsigned long fault = ERR_get_error();
    const char *reason = fault != 0 ? ERR_reason_error_string(fault) : NULL;
    /* A lack of memory may be behind another error, or be that an object could not begin. */
    if (fault == 0)
        code = ERR_NO_MEMORY; /* which the queue lacks as well */
    for (unsigned long next = fault; next != 0; next = ERR_get_error())
        if (ERR_GET_REASON(next) == ERR_R_MALLOC_FAILURE || ERR_GET_REASON(next) == ERR_R_INIT_FAIL)
            code = ERR_NO_MEMORY;
    return err_set(err, code, "%s: OpenSSL says: %s", what,
                   reason != NULL ? reason : "it gives no reason");
}

static BIO *bio_of(const char *bytes, size_t size)
{
    return size <= INT_MAX ? BIO_new_mem_buf(bytes, (int)size) : NULL;
}

/* What is locked by a passphrase is not read. */
static int no_passphrase(char *bytes, int size, int writes, void *context)
{
    (void)bytes;
    (void)size;
    (void)writes;
    (void)context;
    return -1;
}

X509 *openssl_certificate(const char *pem, size_t size, struct err *err)
{
    if (openssl_begin(err) != 0)
        return NULL;
    BIO *bio = bio_of(pem, size);
    X509 *x509 = bio != NULL ? PEM_read_bio_X509(bio, NULL, no_passphrase, NULL) : NULL;
    if (x509 == NULL)
        (void)openssl_fault(err, ERR_INVALID, "this certificate cannot be read");
    BIO_free(bio);
    return x509;
}

EVP_PKEY *openssl_key(const char *pem, size_t size, struct err *err)
{
    if (openssl_begin(err) != 0)
        return NULL;
    BIO *bio = bio_of(pem, size);
    EVP_PKEY *pair = bio != NULL ? PEM_read_bio_PrivateKey(bio, NULL, no_passphrase, NULL) : NULL;
    if (pair == NULL)
        (void)openssl_fault(err, ERR_INVALID, "this key cannot be read");
    BIO_free(bio);
    return pair;
}
