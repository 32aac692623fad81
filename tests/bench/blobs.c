/* SPDX-License-Identifier: Apache-2.0 */
/* Blobs from the numbers of a generator that their own number begins. */
#include "blobs.h"

#include <openssl/evp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { PART = 64 << 10 }; /* bytes of a large blob's body that are made at once */

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

static uint64_t begin_random(enum blobs_series series, uint64_t number)
{
    return (number * 16 + (uint64_t)series) * 0x9e3779b97f4a7c15U + 1;
}

static void fill_random(uint64_t *state, uint8_t *out, size_t size)
{
    uint64_t random = *state;
    for (size_t at = 0; at < size; at += sizeof(random)) {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        memcpy(out + at, &random, size - at < sizeof(random) ? size - at : sizeof(random));
    }
    *state = random;
}

void blobs_fill(enum blobs_series series, uint64_t number, uint8_t *out, size_t size)
{
    uint64_t head[2] = {number, (uint64_t)series};
    uint64_t random = begin_random(series, number);
    memcpy(out, head, sizeof(head));
    fill_random(&random, out + sizeof(head), size - sizeof(head));
}

void blobs_digest(const uint8_t *bytes, size_t size, struct digest *digest)
{
    struct err err;
    if (digest_compute(DIGEST_SHA256, bytes, size, digest, &err) != 0)
        give_up();
}

void blobs_large_init(struct blobs_large *large, size_t size, bool keeps)
{
    size_t body_size = size - BLOBS_TAIL;
    uint64_t random = begin_random(BLOBS_STREAM, 0);
    EVP_MD_CTX *context = EVP_MD_CTX_new();
    *large = (struct blobs_large){.size = size, .hashed = context};
    uint8_t *bytes = malloc(keeps ? body_size : PART);
    if (bytes == NULL || context == NULL || EVP_DigestInit_ex(context, EVP_sha256(), NULL) != 1)
        give_up();
    for (size_t at = 0; at < body_size; at += PART) {
        uint8_t *part = keeps ? bytes + at : bytes;
        size_t part_size = body_size - at < PART ? body_size - at : PART;
        fill_random(&random, part, part_size);
        if (EVP_DigestUpdate(context, part, part_size) != 1)
            give_up();
    }
    if (keeps)
        large->body = bytes;
    else
        free(bytes);
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
