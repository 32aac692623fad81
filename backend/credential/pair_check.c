/* SPDX-License-Identifier: Apache-2.0 */
/* The steps of a TLS server's start, taken with OpenSSL itself, which says why it refuses one. */
#include "credential/pair_check.h"

#include <string.h>

#include <openssl/ssl.h>

#include "credential/authorized_lines.h"
#include "credential/openssl.h"

void pair_check_begin(void)
{
    (void)OPENSSL_init_ssl(OPENSSL_INIT_LOAD_CONFIG, NULL);
}

static bool has(const struct text *text, const char *words)
{
    return text->size != 0 && memmem(text->bytes, text->size, words, strlen(words)) != NULL;
}

/* Those of the text, each of which must be whole; blocks of other kinds are nobody's business. */
static int read_chain(const struct text *chain, struct certificate *leaf, struct err *err)
{
    struct lines lines;
    struct block block;
    unsigned count = 0;
    lines_begin(&lines, chain->bytes, chain->size);
    while (lines_block(&lines, &block)) {
        struct certificate signer;
        if (!block.is_certificate)
            continue;
        int rc = block.fault != NULL
                     ? err_set(err, ERR_INVALID, "%s", block.fault)
                     : certificate_read(chain->bytes + block.pem, block.end - block.pem,
                                        count == 0 ? leaf : &signer, err);
        if (rc != 0)
            return err_wrap(err, "line %u", block.line);
        count++;
    }
    if (count != 0)
        return 0;
    return has(chain, "PRIVATE KEY-----")
               ? err_set(err, ERR_INVALID,
                         "it holds a private key, and no certificate; key and certificate may be "
                         "the wrong way round")
               : err_set(err, ERR_INVALID,
                         "it holds no certificate in PEM form (-----BEGIN CERTIFICATE-----)");
}

/* A context that has taken the first certificate; NULL, with ERR set, if it does not. */
static SSL_CTX *context_of(const struct text *chain, struct err *err)
{
    X509 *x509 = openssl_certificate(chain->bytes, chain->size, err);
    if (x509 == NULL)
        return NULL;
    SSL_CTX *context = SSL_CTX_new(TLS_server_method());
    if (context == NULL || SSL_CTX_use_certificate(context, x509) != 1) {
        (void)openssl_fault(err, ERR_INVALID, "this certificate cannot be used");
        SSL_CTX_free(context);
        context = NULL;
    }
    X509_free(x509);
    return context;
}

int pair_check_chain(const struct text *chain, struct certificate *leaf, struct err *err)
{
    int rc = read_chain(chain, leaf, err);
    if (rc != 0)
        return rc;
    SSL_CTX *context = context_of(chain, err);
    SSL_CTX_free(context);
    return context != NULL ? 0 : -(int)err->code;
}

static EVP_PKEY *read_key(const struct text *key, struct err *err)
{
    if (has(key, "ENCRYPTED PRIVATE KEY") || has(key, "4,ENCRYPTED")) {
        (void)err_set(err, ERR_INVALID,
                      "the key is encrypted, and nobody is asked for its passphrase; take the "
                      "passphrase off, by `openssl pkey -in FILE -out FILE`");
        return NULL;
    }
    if (!has(key, "PRIVATE KEY-----")) {
        (void)err_set(err, ERR_INVALID,
                      "it holds no private key in PEM form (-----BEGIN PRIVATE KEY-----)");
        return NULL;
    }
    return openssl_key(key->bytes, key->size, err);
}

int pair_check_key(const struct text *chain, const struct text *key, struct err *err)
{
    EVP_PKEY *pair = read_key(key, err);
    if (pair == NULL)
        return -(int)err->code;
    SSL_CTX *context = chain != NULL ? context_of(chain, err) : NULL;
    int rc = chain == NULL || context != NULL ? 0 : -(int)err->code;
    /* The first forgets a certificate that does not fit, which the second then misses. */
    if (rc == 0 &&
        (SSL_CTX_use_PrivateKey(context, pair) != 1 || SSL_CTX_check_private_key(context) != 1))
        rc = openssl_fault(err, ERR_PRECONDITION, "this is not the key of the certificate");
    SSL_CTX_free(context);
    EVP_PKEY_free(pair);
    return rc;
}
