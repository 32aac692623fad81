/* SPDX-License-Identifier: Apache-2.0 */
/* Digests over libcrypto's hash functions, which use the processor's instructions for them. */
#include "base/digest.h"

#include <assert.h>
#include <openssl/evp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const struct function {
    enum digest_function number;
    const char *name;
    size_t hash_size;
    const EVP_MD *(*algorithm)(void);
    const char *empty; /* the hash of no bytes */
} functions[] = {
    {DIGEST_SHA256, "sha256", 32, EVP_sha256,
     "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"},
    {DIGEST_SHA1, "sha1", 20, EVP_sha1, "da39a3ee5e6b4b0d3255bfef95601890afd80709"},
    {DIGEST_SHA384, "sha384", 48, EVP_sha384,
     "38b060a751ac96384cd9327eb1b1e36a21fdb71114be07434c0cc7bf63f6e1da274edebfe76f65fbd51ad2f14898"
     "b95b"},
    {DIGEST_SHA512, "sha512", 64, EVP_sha512,
     "cf83e1357eefb8bdf1542850d66d8007d620e4050b5715dc83f4a921d36ce9ce47d0d13c5d85f2b0ff8318d2877e"
     "ec2f63b931bd47417a81a538327af927da3e"},
};

enum { FUNCTIONS = sizeof(functions) / sizeof(functions[0]) };

static const struct function *find_function(enum digest_function number)
{
    for (size_t i = 0; i < FUNCTIONS; i++)
        if (functions[i].number == number)
            return &functions[i];
    return NULL;
}

size_t digest_hash_size(enum digest_function function)
{
    const struct function *found = find_function(function);
    return found != NULL ? found->hash_size : 0;
}

const char *digest_function_name(enum digest_function function)
{
    const struct function *found = find_function(function);
    return found != NULL ? found->name : "unknown";
}

enum digest_function digest_function_by_name(const char *name)
{
    for (size_t i = 0; i < FUNCTIONS; i++)
        if (strcmp(functions[i].name, name) == 0)
            return functions[i].number;
    return DIGEST_UNKNOWN;
}

enum digest_function digest_function_by_size(size_t size)
{
    for (size_t i = 0; i < FUNCTIONS; i++)
        if (functions[i].hash_size == size)
            return functions[i].number;
    return DIGEST_UNKNOWN;
}

static int hex_value(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    if (c >= 'a' && c <= 'f')
        return c - 'a' + 10;
    return -1;
}

int digest_parse(enum digest_function function, const char *hex, size_t length, int64_t size,
                 struct digest *digest, struct err *err)
{
    size_t hash_size = digest_hash_size(function);
    if (hash_size == 0)
        return err_set(err, ERR_INVALID, "digest function %d is not supported", (int)function);
    if (length != 2 * hash_size)
        return err_set(err, ERR_INVALID, "digest hash has %zu characters, %s has %zu", length,
                       digest_function_name(function), 2 * hash_size);
    if (size < 0)
        return err_set(err, ERR_INVALID, "digest size %lld is negative", (long long)size);
    memset(digest, 0, sizeof(*digest));
    digest->function = function;
    digest->size = size;
    for (size_t i = 0; i < hash_size; i++) {
        int high = hex_value(hex[2 * i]);
        int low = hex_value(hex[2 * i + 1]);
        if (high < 0 || low < 0)
            return err_set(err, ERR_INVALID,
                           "digest hash has a character that is not lower-case hexadecimal");
        digest->hash[i] = (uint8_t)(high << 4 | low);
    }
    return 0;
}

bool digest_equal(const struct digest *a, const struct digest *b)
{
    return a->size == b->size && a->function == b->function &&
           memcmp(a->hash, b->hash, sizeof(a->hash)) == 0;
}

bool digest_is_empty(const struct digest *digest)
{
    if (digest->size != 0)
        return false;
    const struct function *function = find_function(digest->function);
    char hex[2 * DIGEST_HASH_MAX + 1];
    return function != NULL && strcmp(digest_hex(digest, hex), function->empty) == 0;
}

char *digest_hex(const struct digest *digest, char text[2 * DIGEST_HASH_MAX + 1])
{
    static const char digits[] = "0123456789abcdef";
    size_t size = digest_hash_size(digest->function);
    for (size_t i = 0; i < size; i++) {
        text[2 * i] = digits[digest->hash[i] >> 4];
        text[2 * i + 1] = digits[digest->hash[i] & 0xf];
    }
    text[2 * size] = '\0';
    return text;
}

char *digest_text(const struct digest *digest, char text[DIGEST_TEXT_MAX])
{
    char hex[2 * DIGEST_HASH_MAX + 1];
    (void)snprintf(text, DIGEST_TEXT_MAX, "%s/%lld", digest_hex(digest, hex),
                   (long long)digest->size);
    return text;
}

struct hasher {
    EVP_MD_CTX *context;
    enum digest_function function;
    int64_t size;
};

struct hasher *hasher_new(enum digest_function number)
{
    const struct function *function = find_function(number);
    assert(function != NULL);
    struct hasher *hasher = malloc(sizeof(*hasher));
    if (hasher == NULL)
        return NULL;
    hasher->function = number;
    hasher->size = 0;
    hasher->context = EVP_MD_CTX_new();
    if (hasher->context == NULL ||
        EVP_DigestInit_ex(hasher->context, function->algorithm(), NULL) != 1) {
        hasher_free(hasher);
        return NULL;
    }
    return hasher;
}

void hasher_free(struct hasher *hasher)
{
    if (hasher == NULL)
        return;
    EVP_MD_CTX_free(hasher->context);
    free(hasher);
}

void hasher_update(struct hasher *hasher, const void *data, size_t size)
{
    int ok = EVP_DigestUpdate(hasher->context, data, size);
    assert(ok == 1);
    (void)ok;
    hasher->size += (int64_t)size;
}

void hasher_digest(struct hasher *hasher, struct digest *digest)
{
    memset(digest, 0, sizeof(*digest));
    digest->function = hasher->function;
    digest->size = hasher->size;
    int ok = EVP_DigestFinal_ex(hasher->context, digest->hash, NULL);
    assert(ok == 1);
    (void)ok;
}

int digest_compute(enum digest_function function, const void *data, size_t size,
                   struct digest *digest, struct err *err)
{
    struct hasher *hasher = hasher_new(function);
    if (hasher == NULL)
        return err_no_memory(err, "a hash");
    hasher_update(hasher, data, size);
    hasher_digest(hasher, digest);
    hasher_free(hasher);
    return 0;
}
