/* SPDX-License-Identifier: Apache-2.0 */
/* Reading certificates, by OpenSSL. */
#include "credential/certificate.h"

#include <arpa/inet.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include <openssl/bio.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/x509.h>
#include <openssl/x509v3.h>

#include "credential/openssl.h"

int64_t certificate_now(void)
{
    return (int64_t)time(NULL);
}

static bool fingerprint(const X509 *x509, const EVP_MD *function, char *hex, size_t size)
{
    uint8_t hash[EVP_MAX_MD_SIZE];
    unsigned length = 0;
    if (X509_digest(x509, function, hash, &length) != 1 || 2 * length + 1 != size)
        return false;
    for (unsigned i = 0; i < length; i++)
        (void)snprintf(hex + 2 * i, 3, "%02x", hash[i]);
    return true;
}

static bool seconds(const ASN1_TIME *time, int64_t *at)
{
    struct tm tm;
    if (time == NULL || ASN1_TIME_to_tm(time, &tm) != 1)
        return false;
    *at = (int64_t)timegm(&tm);
    return true;
}

/* Letters that do nothing to a terminal and separate nothing; others become a question mark. */
static void add_name(char names[256], const uint8_t *name, size_t length)
{
    size_t used = strlen(names);
    if (used + 1 + length >= 256)
        return;
    if (used != 0)
        names[used++] = ',';
    for (size_t i = 0; i < length; i++)
        names[used++] = (char)(name[i] > ' ' && name[i] < 0x7f && name[i] != ',' ? name[i] : '?');
    names[used] = '\0';
}

static void add_host(char names[256], const GENERAL_NAME *name)
{
    char address[INET6_ADDRSTRLEN];
    int type;
    const ASN1_STRING *value = GENERAL_NAME_get0_value(name, &type);
    if (type == GEN_DNS) {
        add_name(names, ASN1_STRING_get0_data(value), (size_t)ASN1_STRING_length(value));
    } else if (type == GEN_IPADD) {
        int size = ASN1_STRING_length(value);
        if ((size == 4 || size == 16) &&
            inet_ntop(size == 4 ? AF_INET : AF_INET6, ASN1_STRING_get0_data(value), address,
                      sizeof(address)) != NULL)
            add_name(names, (const uint8_t *)address, strlen(address));
    }
}

static void add_common_name(char names[256], const X509 *x509)
{
    const X509_NAME *subject = X509_get_subject_name(x509);
    int at = X509_NAME_get_index_by_NID(subject, NID_commonName, -1);
    uint8_t *name = NULL;
    if (at < 0)
        return;
    int size =
        ASN1_STRING_to_UTF8(&name, X509_NAME_ENTRY_get_data(X509_NAME_get_entry(subject, at)));
    if (size > 0)
        add_name(names, name, (size_t)size);
    OPENSSL_free(name);
}

static void read_names(const X509 *x509, char names[256])
{
    GENERAL_NAMES *hosts = X509_get_ext_d2i(x509, NID_subject_alt_name, NULL, NULL);
    names[0] = '\0';
    for (int i = 0; i < sk_GENERAL_NAME_num(hosts); i++)
        add_host(names, sk_GENERAL_NAME_value(hosts, i));
    GENERAL_NAMES_free(hosts);
    if (names[0] == '\0')
        add_common_name(names, x509);
}

int certificate_read(const char *pem, size_t size, struct certificate *certificate, struct err *err)
{
    X509 *x509 = openssl_certificate(pem, size, err);
    int rc = 0;
    if (x509 == NULL)
        return -(int)err->code;
    if (!fingerprint(x509, EVP_sha1(), certificate->sha1, sizeof(certificate->sha1)) ||
        !fingerprint(x509, EVP_sha256(), certificate->sha256, sizeof(certificate->sha256)))
        rc = openssl_fault(err, ERR_INTERNAL, "hash a certificate");
    else if (!seconds(X509_get0_notBefore(x509), &certificate->not_before) ||
             !seconds(X509_get0_notAfter(x509), &certificate->not_after))
        rc = err_set(err, ERR_INVALID, "this certificate cannot be read: its dates are none");
    certificate->subject = X509_subject_name_hash(x509);
    certificate->has_key_id = X509_get0_authority_key_id(x509) != NULL;
    certificate->can_sign = X509_check_ca(x509) > 0;
    certificate->is_own_issuer =
        X509_NAME_cmp(X509_get_subject_name(x509), X509_get_issuer_name(x509)) == 0;
    read_names(x509, certificate->names);
    X509_free(x509);
    return rc;
}

int certificate_copy(const char *pem, size_t size, struct text *text, struct err *err)
{
    X509 *x509 = openssl_certificate(pem, size, err);
    BIO *bio = x509 != NULL ? BIO_new(BIO_s_mem()) : NULL;
    char *bytes = NULL;
    int rc = x509 != NULL ? 0 : -(int)err->code;
    if (x509 != NULL && (bio == NULL || PEM_write_bio_X509(bio, x509) != 1))
        rc = openssl_fault(err, ERR_INTERNAL, "this certificate cannot be copied");
    if (rc == 0) {
        long length = BIO_get_mem_data(bio, &bytes);
        text_add(text, bytes, (size_t)length);
    }
    BIO_free(bio);
    X509_free(x509);
    return rc;
}

bool certificate_fits(const struct text *pem, const struct text *key)
{
    struct err err;
    X509 *x509 = openssl_certificate(pem->bytes, pem->size, &err);
    EVP_PKEY *pair = x509 != NULL ? openssl_key(key->bytes, key->size, &err) : NULL;
    bool fits = pair != NULL && X509_check_private_key(x509, pair) == 1;
    (void)openssl_fault(&err, ERR_INVALID, "");
    EVP_PKEY_free(pair);
    X509_free(x509);
    return fits;
}
