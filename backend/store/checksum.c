/* SPDX-License-Identifier: Apache-2.0 */
/* Parsing of Subresource Integrity metadata: "sha256-BASE64[?options] sha512-BASE64 ...". */
#include "store/checksum.h"

#include <openssl/evp.h>
#include <string.h>

static const char separators[] = " \t\n\f\r";

/* From the weakest to the strongest. */
static const enum digest_function ranking[] = {DIGEST_SHA256, DIGEST_SHA384, DIGEST_SHA512};
enum { RANKS = sizeof(ranking) / sizeof(ranking[0]) };

static int rank_of(const char *token, size_t length)
{
    for (int i = 0; i < RANKS; i++) {
        const char *name = digest_function_name(ranking[i]);
        if (length == strlen(name) && memcmp(token, name, length) == 0)
            return i;
    }
    return -1;
}

/* BASE64 as a hash of exactly SIZE bytes. */
static bool decode(const char *base64, size_t length, uint8_t hash[DIGEST_HASH_MAX], size_t size)
{
    uint8_t decoded[DIGEST_HASH_MAX + 3];
    if (length != (size + 2) / 3 * 4)
        return false;
    int got = EVP_DecodeBlock(decoded, (const unsigned char *)base64, (int)length);
    size_t padding = (3 - size % 3) % 3;
    for (size_t i = 0; i < padding; i++)
        if (base64[length - 1 - i] != '=')
            return false;
    if (got < 0 || (size_t)got != size + padding)
        return false;
    memset(hash, 0, DIGEST_HASH_MAX);
    memcpy(hash, decoded, size);
    return true;
}

static int add_token(const char *token, size_t length, struct checksum *checksum, int *rank,
                     struct err *err)
{
    const char *dash = memchr(token, '-', length);
    if (dash == NULL)
        return err_set(err, ERR_INVALID, "checksum.sri: \"%.*s\" is not ALGORITHM-BASE64",
                       (int)length, token);
    int found = rank_of(token, (size_t)(dash - token));
    if (found < 0 || found < *rank)
        return 0;
    if (found > *rank)
        checksum->count = 0;
    *rank = found;
    checksum->function = ranking[found];
    const char *base64 = dash + 1;
    size_t base64_length = length - (size_t)(base64 - token);
    const char *options = memchr(base64, '?', base64_length);
    if (options != NULL)
        base64_length = (size_t)(options - base64);
    if (checksum->count == CHECKSUM_MAX)
        return err_set(err, ERR_INVALID, "checksum.sri has more than %d hashes", CHECKSUM_MAX);
    if (!decode(base64, base64_length, checksum->hashes[checksum->count],
                digest_hash_size(checksum->function)))
        return err_set(err, ERR_INVALID, "checksum.sri: \"%.*s\" has no hash of %s in base64",
                       (int)length, token, digest_function_name(checksum->function));
    checksum->count++;
    return 0;
}

int checksum_parse(const struct qualifier *qualifiers, size_t count, struct checksum *checksum,
                   struct err *err)
{
    checksum->count = 0;
    const char *value = NULL;
    for (size_t i = 0; i < count; i++)
        if (strcmp(qualifiers[i].name, "checksum.sri") == 0)
            value = qualifiers[i].value;
    if (value == NULL)
        return 0;
    int rank = -1;
    for (value += strspn(value, separators); *value != '\0';) {
        size_t length = strcspn(value, separators);
        int rc = add_token(value, length, checksum, &rank, err);
        if (rc != 0)
            return rc;
        value += length;
        value += strspn(value, separators);
    }
    if (checksum->count == 0)
        return err_set(err, ERR_INVALID,
                       "checksum.sri names no hash that can be checked: use "
                       "sha256, sha384 or sha512");
    return 0;
}

bool checksum_matches(const struct checksum *checksum, const struct digest *digest)
{
    for (size_t i = 0; i < checksum->count; i++)
        if (memcmp(checksum->hashes[i], digest->hash, sizeof(digest->hash)) == 0)
            return true;
    return false;
}
