/* SPDX-License-Identifier: Apache-2.0 */
/* Blobs from the numbers of a generator that their own number begins. */
#include "blobs.h"

#include <openssl/evp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void give_up(void)
{
    (void)fputs("out of memory\n", stderr);
    exit(EXIT_FAILURE);
}

void *blobs_memory(size_t count, size_t size)
{
    void *memory = calloc(count > 0 ? count : 1, size > 0 ? size : 1);
    if (memory == NULL)
        give_up();
    return memory;
}

void blobs_fill(enum blobs_series series, uint64_t number, uint8_t *out, size_t size)
{
    uint64_t head[2] = {number, (uint64_t)series};
    uint64_t random = (number * 16 + (uint64_t)series) * 0x9e3779b97f4a7c15U + 1;
    memcpy(out, head, sizeof(head));
    for (size_t at = sizeof(head); at < size; at += sizeof(random)) {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        memcpy(out + at, &random, size - at < sizeof(random) ? size - at : sizeof(random));
    }
}

void blobs_digest(const uint8_t *bytes, size_t size, struct digest *digest)
{
    struct err err;
    if (digest_compute(DIGEST_SHA256, bytes, size, digest, &err) != 0)
        give_up();
}

void blobs_large_init(struct blobs_large *large, size_t size)
{
    EVP_MD_CTX *context = EVP_MD_CTX_new();
    *large = (struct blobs_large){.body = malloc(size), .size = size, .hashed = context};
    if (large->body == NULL || context == NULL ||
        EVP_DigestInit_ex(context, EVP_sha256(), NULL) != 1)
        give_up();
    blobs_fill(BLOBS_STREAM, 0, large->body, size - BLOBS_TAIL);
    if (EVP_DigestUpdate(context, large->body, size - BLOBS_TAIL) != 1)
        give_up();
}

void blobs_large_fini(struct blobs_large *large)
{
    EVP_MD_CTX_free(large->hashed);
    free(large->body);
}

void blobs_large_tail(const struct blobs_large *large, uint64_t number, uint8_t tail[BLOBS_TAIL],
                      struct digest *digest)
{
    EVP_MD_CTX *context = EVP_MD_CTX_new();
    *digest = (struct digest){.size = (int64_t)large->size, .function = DIGEST_SHA256};
    blobs_fill(BLOBS_STREAM, number, tail, BLOBS_TAIL);
    if (context == NULL || EVP_MD_CTX_copy_ex(context, large->hashed) != 1 ||
        EVP_DigestUpdate(context, tail, BLOBS_TAIL) != 1 ||
        EVP_DigestFinal_ex(context, digest->hash, NULL) != 1)
        give_up();
    EVP_MD_CTX_free(context);
}
