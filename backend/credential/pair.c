/* SPDX-License-Identifier: Apache-2.0 */
/* Making keys and certificates, by OpenSSL. */
#include "credential/pair.h"

#include <arpa/inet.h>
#include <stdbool.h>
#include <string.h>
#include <strings.h>

#include <openssl/bio.h>
#include <openssl/bn.h>
#include <openssl/ec.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/x509.h>
#include <openssl/x509v3.h>

#include "credential/openssl.h"

enum {
    SERIAL_BITS = 128,
    CLOCKS_DIFFER = 60 * 60, /* seconds */
    COMMON_NAME_MAX = 64,    /* RFC 5280, ub-common-name */
    HOST_MAX = 253,          /* bytes */
    LABEL_MAX = 63,          /* bytes */
    ADDRESS_MAX = 16         /* bytes */
};

/* --- hosts --- */

/* The bytes of an IP address, and how many; 0 if it is none. */
static int address_of(const char *host, uint8_t bytes[ADDRESS_MAX])
{
    if (inet_pton(AF_INET, host, bytes) == 1)
        return 4;
    return inet_pton(AF_INET6, host, bytes) == 1 ? 16 : 0;
}

static const char *fault_of_label(const char *label, size_t length)
{
    static const char letters[] =
        "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_";
    if (length == 0)
        return "a part between the dots is empty";
    if (length > LABEL_MAX)
        return "a part between the dots has more than 63 letters";
    if (strspn(label, letters) < length)
        return "a host name has the letters a-z 0-9 - _ . alone, without https:// and port";
    if (label[0] == '-' || label[length - 1] == '-')
        return "no part between the dots begins or ends with a dash";
    return NULL;
}

static const char *fault_of_host(const char *host)
{
    bool is_wildcard = strncmp(host, "*.", 2) == 0;
    const char *label = is_wildcard ? host + 2 : host;
    size_t labels = 0, length;
    if (host[0] == '\0')
        return "it is empty";
    if (strlen(host) > HOST_MAX)
        return "a host name has 253 letters at most";
    for (;; label += length + 1) {
        length = strcspn(label, ".");
        const char *fault = fault_of_label(label, length);
        if (fault != NULL)
            return fault;
        labels++;
        if (label[length] == '\0')
            break;
    }
    if (strspn(label, "0123456789") == length)
        return "it is neither a host name, whose last part is no number, nor an IP address";
    if (is_wildcard && labels < 2)
        return "clients take no * for a whole top-level domain";
    return NULL;
}

int pair_check_host(const char *host, struct err *err)
{
    uint8_t address[ADDRESS_MAX];
    const char *fault = address_of(host, address) != 0 ? NULL : fault_of_host(host);
    if (fault == NULL)
        return 0;
    if (strchr(host, ':') != NULL && strchr(host, '/') == NULL)
        fault = "give the host name or the IP address alone, without port and brackets";
    return err_set(err, ERR_INVALID, "%s: %s", host, fault);
}

/* --- extensions --- */

static bool add_extension(X509 *x509, int nid, const char *value)
{
    X509V3_CTX context;
    X509V3_set_ctx_nodb(&context);
    X509V3_set_ctx(&context, x509, x509, NULL, NULL, 0);
    X509_EXTENSION *extension = X509V3_EXT_nconf_nid(NULL, &context, nid, value);
    bool is_added = extension != NULL && X509_add_ext(x509, extension, -1) == 1;
    X509_EXTENSION_free(extension);
    return is_added;
}

static GENERAL_NAME *general_name(const char *host)
{
    uint8_t address[ADDRESS_MAX];
    int size = address_of(host, address);
    GENERAL_NAME *name = GENERAL_NAME_new();
    ASN1_STRING *value = ASN1_STRING_type_new(size != 0 ? V_ASN1_OCTET_STRING : V_ASN1_IA5STRING);
    if (name == NULL || value == NULL ||
        ASN1_STRING_set(value, size != 0 ? (const void *)address : host, size != 0 ? size : -1) !=
            1) {
        GENERAL_NAME_free(name);
        ASN1_STRING_free(value);
        return NULL;
    }
    GENERAL_NAME_set0_value(name, size != 0 ? GEN_IPADD : GEN_DNS, value);
    return name;
}

static bool is_repeated(const char *const *hosts, size_t at)
{
    for (size_t i = 0; i < at; i++)
        if (strcasecmp(hosts[i], hosts[at]) == 0)
            return true;
    return false;
}

/* Built from its parts: in OpenSSL's own notation a host could say more than its name. */
static bool add_hosts(X509 *x509, const char *const *hosts, size_t count)
{
    GENERAL_NAMES *names = GENERAL_NAMES_new();
    bool is_added = names != NULL;
    for (size_t i = 0; i < count && is_added; i++) {
        if (is_repeated(hosts, i))
            continue;
        GENERAL_NAME *name = general_name(hosts[i]);
        is_added = name != NULL && sk_GENERAL_NAME_push(names, name) > 0;
        if (!is_added)
            GENERAL_NAME_free(name);
    }
    if (is_added)
        is_added = X509_add1_ext_i2d(x509, NID_subject_alt_name, names, 0, X509V3_ADD_DEFAULT) == 1;
    GENERAL_NAMES_free(names);
    return is_added;
}

/*
 * The identifiers of the key tell certificates of one name apart: looking for who signed one, which
 * is itself, OpenSSL would else come upon another of that name, and refuse it.
 */
static bool add_extensions(X509 *x509, enum pair_use use, const char *const *names, size_t count)
{
    return add_extension(x509, NID_basic_constraints, "critical,CA:FALSE") &&
           add_extension(x509, NID_key_usage, "critical,digitalSignature") &&
           add_extension(x509, NID_ext_key_usage,
                         use == PAIR_SERVER ? "serverAuth" : "clientAuth") &&
           add_extension(x509, NID_subject_key_identifier, "hash") &&
           add_extension(x509, NID_authority_key_identifier, "keyid:always") &&
           (use == PAIR_CLIENT || add_hosts(x509, names, count));
}

/* --- the certificate --- */

static bool set_serial(X509 *x509)
{
    BIGNUM *number = BN_new();
    bool is_set =
        number != NULL && BN_rand(number, SERIAL_BITS, BN_RAND_TOP_ANY, BN_RAND_BOTTOM_ANY) == 1 &&
        !BN_is_zero(number) && BN_to_ASN1_INTEGER(number, X509_get_serialNumber(x509)) != NULL;
    BN_free(number);
    return is_set;
}

static bool set_names(X509 *x509, const char *name)
{
    /* What is asked for is in the other names; this one is for people, and bounded. */
    const char *shown = strlen(name) <= COMMON_NAME_MAX ? name : "assetd";
    X509_NAME *subject = X509_get_subject_name(x509);
    return X509_NAME_add_entry_by_NID(subject, NID_commonName, MBSTRING_UTF8,
                                      (const unsigned char *)shown, -1, -1, 0) == 1 &&
           X509_set_issuer_name(x509, subject) == 1;
}

static bool set_times(X509 *x509, int days)
{
    return X509_time_adj_ex(X509_getm_notBefore(x509), 0, -CLOCKS_DIFFER, NULL) != NULL &&
           X509_time_adj_ex(X509_getm_notAfter(x509), days, 0, NULL) != NULL;
}

static X509 *sign(EVP_PKEY *pair, enum pair_use use, const char *const *names, size_t count,
                  int days)
{
    X509 *x509 = X509_new();
    if (x509 != NULL && X509_set_version(x509, X509_VERSION_3) == 1 && set_serial(x509) &&
        set_names(x509, names[0]) && set_times(x509, days) && X509_set_pubkey(x509, pair) == 1 &&
        add_extensions(x509, use, names, count) && X509_sign(x509, pair, EVP_sha256()) != 0)
        return x509;
    X509_free(x509);
    return NULL;
}

static bool add_bio(BIO *bio, struct text *text)
{
    char *bytes = NULL;
    long length = BIO_get_mem_data(bio, &bytes);
    text_add(text, bytes, (size_t)length);
    return !text->failed;
}

static bool write_pair(EVP_PKEY *pair, X509 *x509, struct text *key, struct text *certificate)
{
    /* Memory that is wiped when it is freed; and the form of key that all clients' libraries read.
     */
    BIO *key_bio = BIO_new(BIO_s_secmem()), *bio = BIO_new(BIO_s_mem());
    bool is_written =
        key_bio != NULL && bio != NULL &&
        PEM_write_bio_PKCS8PrivateKey(key_bio, pair, NULL, NULL, 0, NULL, NULL) == 1 &&
        PEM_write_bio_X509(bio, x509) == 1 && add_bio(key_bio, key) && add_bio(bio, certificate);
    BIO_free(key_bio);
    BIO_free(bio);
    return is_written;
}

int pair_make(enum pair_use use, const char *const *names, size_t count, int days, struct text *key,
              struct text *certificate, struct err *err)
{
    int rc = openssl_begin(err);
    if (rc != 0)
        return rc;
    EVP_PKEY *pair = EVP_EC_gen("P-256");
    X509 *x509 = pair != NULL ? sign(pair, use, names, count, days) : NULL;
    if (x509 == NULL || !write_pair(pair, x509, key, certificate))
        rc = key->failed || certificate->failed
                 ? err_no_memory(err, "a key pair")
                 : openssl_fault(err, ERR_INTERNAL, "make a key pair");
    X509_free(x509);
    EVP_PKEY_free(pair);
    return rc;
}
