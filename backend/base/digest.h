/* SPDX-License-Identifier: Apache-2.0 */
/* Digests: what content is called. Parsing, printing, comparing and computing them. */
#ifndef ASSETD_BASE_DIGEST_H
#define ASSETD_BASE_DIGEST_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"

/* The numbers of build.bazel.remote.execution.v2.DigestFunction.Value. */
enum digest_function {
    DIGEST_UNKNOWN = 0,
    DIGEST_SHA256 = 1,
    DIGEST_SHA1 = 2,
    DIGEST_SHA384 = 5,
    DIGEST_SHA512 = 6,
};

enum {
    DIGEST_HASH_MAX = 64,                           /* bytes of the longest hash */
    DIGEST_TEXT_MAX = 2 * DIGEST_HASH_MAX + 1 + 20, /* "HASH/SIZE" with its NUL */
};

/* Content is named by function, hash and size together: another size is another digest. */
struct digest {
    int64_t size; /* bytes, never negative */
    enum digest_function function;
    uint8_t hash[DIGEST_HASH_MAX]; /* zero behind the function's length */
};

/* Bytes of a hash of FUNCTION; 0 if the function is not one of the enumeration. */
size_t digest_hash_size(enum digest_function function);

/* "sha256" and so on, as the configuration and resource names have it. */
const char *digest_function_name(enum digest_function function);

/* The function of that name in lower case, or DIGEST_UNKNOWN. */
enum digest_function digest_function_by_name(const char *name);

/*
 * The function whose hashes have SIZE bytes, or DIGEST_UNKNOWN. REAPI (Digest, digest_function):
 * where a request names none, the server tells it by the length of the hash.
 */
enum digest_function digest_function_by_size(size_t size);

/*
 * Takes a hash of LENGTH lower-case hexadecimal characters, exactly as many as FUNCTION has, and a
 * size. ERR_INVALID, with the reason, for anything else.
 */
int digest_parse(enum digest_function function, const char *hex, size_t length, int64_t size,
                 struct digest *digest, struct err *err);

bool digest_equal(const struct digest *a, const struct digest *b);

/* Whether this is the blob of no bytes, which every store has. */
bool digest_is_empty(const struct digest *digest);

/* Writes the hash in hexadecimal with a NUL: 2 * digest_hash_size + 1 bytes. Returns TEXT. */
char *digest_hex(const struct digest *digest, char text[2 * DIGEST_HASH_MAX + 1]);

/* Writes "HASH/SIZE". Returns TEXT. */
char *digest_text(const struct digest *digest, char text[DIGEST_TEXT_MAX]);

/* A hash under way. One thread at a time. */
struct hasher;

/* NULL when memory is out. */
struct hasher *hasher_new(enum digest_function function);
void hasher_free(struct hasher *hasher);
void hasher_update(struct hasher *hasher, const void *data, size_t size);

/* The digest of all that was handed in; the hasher can only be freed afterwards. */
void hasher_digest(struct hasher *hasher, struct digest *digest);

/* The digest of SIZE bytes. */
int digest_compute(enum digest_function function, const void *data, size_t size,
                   struct digest *digest, struct err *err);

#endif
