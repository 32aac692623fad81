/* SPDX-License-Identifier: Apache-2.0 */
/* Digests over libcrypto's hash functions, which use the processor's instructions for them. */
#include "base/digest.h"

#include <assert.h>
#include <openssl/evp.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const struct function {
    enum digest_function number;
    const char *name;
    size_t hash_size;
    const char *algorithm; /* libcrypto's name */
    const char *empty;     /* the hash of no bytes */
} functions[] = {
    {DIGEST_SHA256, "sha256", 32, "SHA2-256",
     "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"},
    {DIGEST_SHA1, "sha1", 20, "SHA1", "da39a3ee5e6b4b0d3255bfef95601890afd80709"},
    {DIGEST_SHA384, "sha384", 48, "SHA2-384",
     "38b060a751ac96384cd9327eb1b1e36a21fdb71114be07434c0cc7bf63f6e1da274edebfe76f65fbd51ad2f14898"
     "b95b"},
    {DIGEST_SHA512, "sha512", 64, "SHA2-512",
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

/* The value of a lower-case hexadecimal digit, and HEX_DIGIT; 0 for all other characters. */
enum { HEX_DIGIT = 16 };
/* clang-format off */
static const uint8_t hex_digits[256] = {
    ['0'] = 16, 17, 18, 19, 20, 21, 22, 23, 24, 25,
    ['a'] = 26, 27, 28, 29, 30, 31,
};
/* clang-format on */

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
    unsigned all = HEX_DIGIT;
    for (size_t i = 0; i < hash_size; i++) {
        unsigned high = hex_digits[(uint8_t)hex[2 * i]];
        unsigned low = hex_digits[(uint8_t)hex[2 * i + 1]];
        all &= high & low;
        digest->hash[i] = (uint8_t)(high << 4 | (low & 0xf));
    }
    if (all != HEX_DIGIT)
        return err_set(err, ERR_INVALID,
                       "digest hash has a character that is not lower-case hexadecimal");
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

/*
 * What libcrypto has looked up by name; it would do so for each hash, which costs a third of the
 * hash of 1 KiB. Kept until the process ends. NULL when memory is out.
 */
static const EVP_MD *find_algorithm(const struct function *function)
{
    static _Atomic(EVP_MD *) fetched[FUNCTIONS];
    _Atomic(EVP_MD *) *known = &fetched[function - functions];
    EVP_MD *algorithm = atomic_load_explicit(known, memory_order_acquire);
    if (algorithm != NULL)
        return algorithm;
    EVP_MD *mine = EVP_MD_fetch(NULL, function->algorithm, NULL);
    if (mine == NULL || atomic_compare_exchange_strong(known, &algorithm, mine))
        return mine;
    EVP_MD_free(mine); /* another thread was faster */
    return algorithm;
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
    const EVP_MD *algorithm = find_algorithm(function);
    hasher->context = EVP_MD_CTX_new();
    if (algorithm == NULL || hasher->context == NULL ||
        EVP_DigestInit_ex(hasher->context, algorithm, NULL) != 1) {
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

int digest_compute(enum digest_function number, const void *data, size_t size,
                   struct digest *digest, struct err *err)
{
    const struct function *function = find_function(number);
    assert(function != NULL);
    memset(digest, 0, sizeof(*digest));
    digest->function = number;
    digest->size = (int64_t)size;
    const EVP_MD *algorithm = find_algorithm(function);
    if (algorithm == NULL || EVP_Digest(data, size, digest->hash, NULL, algorithm, NULL) != 1)
        return err_no_memory(err, "a hash");
    return 0;
}
