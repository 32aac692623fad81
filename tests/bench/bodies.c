/* SPDX-License-Identifier: Apache-2.0 */
/* Messages of the Remote Execution API and ByteStream, put together byte by byte. */
#include "bodies.h"

#include <assert.h>
#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/wire.h"
#include "exchange.h"

/* Fields of the messages. */
enum {
    DIGEST_HASH = 1,
    DIGEST_SIZE = 2,
    FIND_DIGESTS = 2,
    UPDATE_REQUESTS = 2,
    UPDATE_DIGEST = 1,
    UPDATE_DATA = 2,
    READ_DIGESTS = 2,
    RESPONSES = 1,
    RESPONSE_DIGEST = 1,
    UPDATE_STATUS = 2,
    READ_DATA = 2,
    READ_STATUS = 3,
    RESOURCE_NAME = 1,
    WRITE_OFFSET = 2,
    FINISH_WRITE = 3,
    STREAM_DATA = 10,
    COMMITTED_SIZE = 1,
    PUSH_URIS = 2,
    PUSH_BLOB = 5,
    PUSH_REFERENCES_BLOBS = 6,
    FETCH_URIS = 4,
    ASSET_STATUS = 1,
    ASSET_URI = 2,
    ASSET_BLOB = 5,
    ASSET_FUNCTION = 6,
};

enum {
    HEAD_MAX = 16, /* bytes of a field's head, or of a number */
    HEX = 64,
    DIGEST_MAX = 2 + HEX + HEAD_MAX,
    NAME_ROOM = 160,
    PIECES = EXCHANGE_STREAM / EXCHANGE_PIECE,
    PIECE_HEAD_MAX = EXCHANGE_PREFIX + NAME_ROOM + 4 * HEAD_MAX,
};

static uint8_t *put_number(uint8_t *out, unsigned field, uint64_t value)
{
    *out = (uint8_t)(field << 3);
    return out + 1 + wire_put_varint(out + 1, value);
}

static uint8_t *put_bytes(uint8_t *out, unsigned field, const void *bytes, size_t size)
{
    out = wire_put_head(out, field, size);
    memcpy(out, bytes, size);
    return out + size;
}

/* What gRPC has before a message: not compressed, and its size. */
static uint8_t *put_prefix(uint8_t *out, size_t size)
{
    const uint8_t prefix[EXCHANGE_PREFIX] = {0, (uint8_t)(size >> 24), (uint8_t)(size >> 16),
                                             (uint8_t)(size >> 8), (uint8_t)size};
    memcpy(out, prefix, sizeof(prefix));
    return out + sizeof(prefix);
}

/* Writes a Digest; returns its size. */
static size_t make_digest(uint8_t out[DIGEST_MAX], const struct digest *digest)
{
    char hex[2 * DIGEST_HASH_MAX + 1];
    uint8_t *end = put_bytes(out, DIGEST_HASH, digest_hex(digest, hex), HEX);
    end = put_number(end, DIGEST_SIZE, (uint64_t)digest->size);
    return (size_t)(end - out);
}

static uint8_t *put_digest(uint8_t *out, unsigned field, const struct digest *digest)
{
    uint8_t message[DIGEST_MAX];
    size_t size = make_digest(message, digest);
    return put_bytes(out, field, message, size);
}

static void add_run(struct body *body, const uint8_t *bytes, size_t size)
{
    body->runs[body->count++] = (struct span){bytes, size};
    body->size += size;
}

/* A body of one message, which stands behind the room for the prefix in MADE, up to END. */
static void set_message(struct body *body, uint8_t *made, const uint8_t *end)
{
    size_t size = (size_t)(end - made);
    (void)put_prefix(made, size - EXCHANGE_PREFIX);
    *body = (struct body){.runs = blobs_memory(1, sizeof(struct span)), .made = made};
    add_run(body, made, size);
}

static void begin(struct bodies *bodies, const char *path, size_t count, size_t answer_count)
{
    *bodies = (struct bodies){.path = path, .count = count, .answer_count = answer_count};
    bodies->requests = blobs_memory(count, sizeof(bodies->requests[0]));
    bodies->answers = blobs_memory(answer_count, sizeof(bodies->answers[0]));
}

static void free_body(struct body *body)
{
    free(body->runs);
    free(body->made);
}

void bodies_fini(struct bodies *bodies)
{
    for (size_t i = 0; i < bodies->count; i++)
        free_body(&bodies->requests[i]);
    for (size_t i = 0; i < bodies->answer_count; i++)
        free_body(&bodies->answers[i]);
    free(bodies->requests);
    free(bodies->answers);
    if (bodies->large.body != NULL)
        blobs_large_fini(&bodies->large);
}

static uint64_t next_random(uint64_t *state)
{
    *state += 0x9e3779b97f4a7c15U;
    uint64_t mixed = *state;
    mixed = (mixed ^ mixed >> 30) * 0xbf58476d1ce4e5b9U;
    mixed = (mixed ^ mixed >> 27) * 0x94d049bb133111ebU;
    return mixed ^ mixed >> 31;
}

/* --- batches --- */

static void digest_of(enum blobs_series series, uint64_t number, size_t size, uint8_t *bytes,
                      struct digest *digest)
{
    blobs_fill(series, number, bytes, size);
    blobs_digest(bytes, size, digest);
}

static void make_find_request(struct body *body, const struct bodies_store *store, uint64_t *random)
{
    uint8_t bytes[EXCHANGE_BLOB];
    struct digest digest;
    uint8_t *made = blobs_memory(1, EXCHANGE_PREFIX + EXCHANGE_BATCH * (HEAD_MAX + DIGEST_MAX));
    uint8_t *end = made + EXCHANGE_PREFIX;
    for (unsigned i = 0; i < EXCHANGE_BATCH; i++) {
        uint64_t number = next_random(random) % (store->base + store->small);
        if (number < store->base)
            digest_of(BLOBS_BASE, number, EXCHANGE_BLOB, bytes, &digest);
        else
            digest_of(BLOBS_SMALL, number - store->base, EXCHANGE_SMALL, bytes, &digest);
        end = put_digest(end, FIND_DIGESTS, &digest);
    }
    set_message(body, made, end);
}

void bodies_make_find(struct bodies *bodies, size_t count, const struct bodies_store *store,
                      uint64_t seed)
{
    begin(bodies, EXCHANGE_FIND, count, 1);
    for (size_t i = 0; i < count; i++)
        make_find_request(&bodies->requests[i], store, &seed);
    uint8_t *made = blobs_memory(1, EXCHANGE_PREFIX);
    set_message(&bodies->answers[0], made, made + EXCHANGE_PREFIX);
}

static void make_update(struct body *request, struct body *answer, uint64_t first)
{
    enum { ROOM = EXCHANGE_BATCH * (4 * HEAD_MAX + DIGEST_MAX + EXCHANGE_BLOB) };
    uint8_t *asked = blobs_memory(1, EXCHANGE_PREFIX + ROOM);
    uint8_t *told = blobs_memory(1, EXCHANGE_PREFIX + EXCHANGE_UPDATE_ANSWER);
    uint8_t *asked_end = asked + EXCHANGE_PREFIX;
    uint8_t *told_end = told + EXCHANGE_PREFIX;
    for (unsigned i = 0; i < EXCHANGE_BATCH; i++) {
        uint8_t bytes[EXCHANGE_BLOB];
        struct digest digest;
        digest_of(BLOBS_NEW, first + i, sizeof(bytes), bytes, &digest);
        size_t digest_size = wire_bytes_size(EXCHANGE_DIGEST);
        asked_end =
            wire_put_head(asked_end, UPDATE_REQUESTS, digest_size + wire_bytes_size(EXCHANGE_BLOB));
        asked_end = put_digest(asked_end, UPDATE_DIGEST, &digest);
        asked_end = put_bytes(asked_end, UPDATE_DATA, bytes, sizeof(bytes));
        told_end = wire_put_head(told_end, RESPONSES, digest_size + wire_bytes_size(0));
        told_end = put_digest(told_end, RESPONSE_DIGEST, &digest);
        told_end = wire_put_head(told_end, UPDATE_STATUS, 0);
    }
    set_message(request, asked, asked_end);
    set_message(answer, told, told_end);
    assert(answer->size == EXCHANGE_PREFIX + EXCHANGE_UPDATE_ANSWER);
}

void bodies_make_update(struct bodies *bodies, size_t count, uint64_t first)
{
    begin(bodies, EXCHANGE_UPDATE, count, count);
    for (size_t i = 0; i < count; i++)
        make_update(&bodies->requests[i], &bodies->answers[i], first + i * EXCHANGE_BATCH);
}

static void make_read(struct body *request, struct body *answer, const uint64_t *numbers)
{
    uint8_t *asked = blobs_memory(1, EXCHANGE_PREFIX + EXCHANGE_BATCH * (HEAD_MAX + DIGEST_MAX));
    uint8_t *told = blobs_memory(1, EXCHANGE_PREFIX + EXCHANGE_READ_ANSWER);
    uint8_t *asked_end = asked + EXCHANGE_PREFIX;
    uint8_t *told_end = told + EXCHANGE_PREFIX;
    for (unsigned i = 0; i < EXCHANGE_BATCH; i++) {
        uint8_t bytes[EXCHANGE_BLOB];
        struct digest digest;
        digest_of(BLOBS_BASE, numbers[i], sizeof(bytes), bytes, &digest);
        asked_end = put_digest(asked_end, READ_DIGESTS, &digest);
        told_end = wire_put_head(told_end, RESPONSES,
                                 wire_bytes_size(EXCHANGE_DIGEST) + wire_bytes_size(EXCHANGE_BLOB) +
                                     wire_bytes_size(0));
        told_end = put_digest(told_end, RESPONSE_DIGEST, &digest);
        told_end = put_bytes(told_end, READ_DATA, bytes, sizeof(bytes));
        told_end = wire_put_head(told_end, READ_STATUS, 0);
    }
    set_message(request, asked, asked_end);
    set_message(answer, told, told_end);
    assert(answer->size == EXCHANGE_PREFIX + EXCHANGE_READ_ANSWER);
}

void bodies_make_read(struct bodies *bodies, const struct bodies_store *store, uint64_t seed)
{
    size_t count = store->base / EXCHANGE_BATCH;
    size_t blobs = count * EXCHANGE_BATCH;
    uint64_t *numbers = blobs_memory(blobs, sizeof(numbers[0]));
    for (size_t i = 0; i < blobs; i++)
        numbers[i] = i;
    for (size_t i = blobs - 1; seed != 0 && i > 0; i--) {
        size_t other = next_random(&seed) % (i + 1);
        uint64_t number = numbers[i];
        numbers[i] = numbers[other];
        numbers[other] = number;
    }
    begin(bodies, EXCHANGE_READ, count, count);
    for (size_t i = 0; i < count; i++)
        make_read(&bodies->requests[i], &bodies->answers[i], numbers + i * EXCHANGE_BATCH);
    free(numbers);
}

/* --- streams --- */

/* The runs that piece NUMBER of a large blob has: a part of the body and, in the last, the tail. */
static void add_piece(struct body *body, const struct blobs_large *large, size_t number,
                      const uint8_t *tail)
{
    bool is_last = number + 1 == PIECES;
    size_t size = EXCHANGE_PIECE - (is_last ? BLOBS_TAIL : 0);
    add_run(body, large->body + number * EXCHANGE_PIECE, size);
    if (is_last)
        add_run(body, tail, BLOBS_TAIL);
}

/* Room for the runs, and for all that is not the large blob's body. Returns where its tail goes. */
static uint8_t *begin_stream(struct body *body)
{
    *body = (struct body){.runs = blobs_memory(2 * PIECES + 1, sizeof(struct span)),
                          .made = blobs_memory(1, BLOBS_TAIL + PIECES * PIECE_HEAD_MAX)};
    return body->made;
}

static void make_fetch(struct bodies *bodies, size_t index, uint64_t number)
{
    struct body *answer = &bodies->answers[index];
    struct digest digest;
    char text[DIGEST_TEXT_MAX];
    char name[NAME_ROOM];
    uint8_t *tail = begin_stream(answer);
    uint8_t *at = tail + BLOBS_TAIL;
    blobs_large_tail(&bodies->large, number, tail, &digest);
    for (size_t i = 0; i < PIECES; i++) {
        uint8_t *head = at;
        at = put_prefix(at, EXCHANGE_FETCH_MESSAGE);
        at = wire_put_head(at, STREAM_DATA, EXCHANGE_PIECE);
        add_run(answer, head, (size_t)(at - head));
        add_piece(answer, &bodies->large, i, tail);
    }
    assert(answer->size == PIECES * (EXCHANGE_PREFIX + EXCHANGE_FETCH_MESSAGE));
    uint8_t *made = blobs_memory(1, EXCHANGE_PREFIX + HEAD_MAX + NAME_ROOM);
    int length = snprintf(name, sizeof(name), "blobs/%s", digest_text(&digest, text));
    uint8_t *end = put_bytes(made + EXCHANGE_PREFIX, RESOURCE_NAME, name, (size_t)length);
    set_message(&bodies->requests[index], made, end);
}

void bodies_make_fetch(struct bodies *bodies, size_t count, uint64_t first)
{
    begin(bodies, EXCHANGE_FETCH, count, count);
    blobs_large_init(&bodies->large, EXCHANGE_STREAM);
    for (size_t i = 0; i < count; i++)
        make_fetch(bodies, i, first + i);
}

static void make_store(struct bodies *bodies, size_t index, uint64_t number)
{
    struct body *request = &bodies->requests[index];
    struct digest digest;
    char text[DIGEST_TEXT_MAX];
    char name[NAME_ROOM];
    uint8_t *tail = begin_stream(request);
    uint8_t *at = tail + BLOBS_TAIL;
    blobs_large_tail(&bodies->large, number, tail, &digest);
    int length =
        snprintf(name, sizeof(name), "uploads/00000000-0000-4000-8000-%012" PRIx64 "/blobs/%s",
                 number & 0xffffffffffffU, digest_text(&digest, text));
    for (size_t i = 0; i < PIECES; i++) {
        uint8_t *head = at;
        at += EXCHANGE_PREFIX;
        if (i == 0)
            at = put_bytes(at, RESOURCE_NAME, name, (size_t)length);
        at = put_number(at, WRITE_OFFSET, i * EXCHANGE_PIECE);
        if (i + 1 == PIECES)
            at = put_number(at, FINISH_WRITE, 1);
        at = wire_put_head(at, STREAM_DATA, EXCHANGE_PIECE);
        (void)put_prefix(head, (size_t)(at - head) - EXCHANGE_PREFIX + EXCHANGE_PIECE);
        add_run(request, head, (size_t)(at - head));
        add_piece(request, &bodies->large, i, tail);
    }
}

void bodies_make_store(struct bodies *bodies, size_t count, uint64_t first)
{
    begin(bodies, EXCHANGE_STORE, count, 1);
    blobs_large_init(&bodies->large, EXCHANGE_STREAM);
    for (size_t i = 0; i < count; i++)
        make_store(bodies, i, first + i);
    uint8_t *made = blobs_memory(1, EXCHANGE_PREFIX + HEAD_MAX);
    const uint8_t *end = put_number(made + EXCHANGE_PREFIX, COMMITTED_SIZE, EXCHANGE_STREAM);
    set_message(&bodies->answers[0], made, end);
    assert(bodies->answers[0].size == EXCHANGE_PREFIX + EXCHANGE_STORE_ANSWER);
}

/* --- assets --- */

static uint8_t *put_base(uint8_t *out, unsigned field, const struct bodies_store *store,
                         uint64_t number)
{
    uint8_t bytes[EXCHANGE_BLOB];
    struct digest digest;
    digest_of(BLOBS_BASE, number % store->base, sizeof(bytes), bytes, &digest);
    return put_digest(out, field, &digest);
}

/* As BuildStream has it for an artifact. */
static uint8_t *put_uri(uint8_t *out, unsigned field, size_t number)
{
    char uri[NAME_ROOM];
    int length = snprintf(uri, sizeof(uri),
                          "urn:fdc:buildstream.build:2020:artifact:bench/element/%064zx", number);
    return put_bytes(out, field, uri, (size_t)length);
}

void bodies_make_push_assets(struct bodies *bodies, const struct bodies_store *store,
                             size_t references)
{
    begin(bodies, EXCHANGE_PUSH_ASSET, EXCHANGE_ASSETS, 1);
    for (size_t i = 0; i < EXCHANGE_ASSETS; i++) {
        uint8_t *made = blobs_memory(1, EXCHANGE_PREFIX + HEAD_MAX + NAME_ROOM +
                                            (1 + references) * (HEAD_MAX + DIGEST_MAX));
        uint8_t *end = put_uri(made + EXCHANGE_PREFIX, PUSH_URIS, i);
        end = put_base(end, PUSH_BLOB, store, i);
        for (size_t reference = 1; reference <= references; reference++)
            end = put_base(end, PUSH_REFERENCES_BLOBS, store, i + reference);
        set_message(&bodies->requests[i], made, end);
    }
    uint8_t *made = blobs_memory(1, EXCHANGE_PREFIX);
    set_message(&bodies->answers[0], made, made + EXCHANGE_PREFIX);
}

void bodies_make_fetch_assets(struct bodies *bodies, const struct bodies_store *store)
{
    begin(bodies, EXCHANGE_FETCH_ASSET, EXCHANGE_ASSETS, EXCHANGE_ASSETS);
    for (size_t i = 0; i < EXCHANGE_ASSETS; i++) {
        uint8_t *asked = blobs_memory(1, EXCHANGE_PREFIX + HEAD_MAX + NAME_ROOM);
        uint8_t *told =
            blobs_memory(1, EXCHANGE_PREFIX + 4 * HEAD_MAX + NAME_ROOM + HEAD_MAX + DIGEST_MAX);
        set_message(&bodies->requests[i], asked, put_uri(asked + EXCHANGE_PREFIX, FETCH_URIS, i));
        uint8_t *end = wire_put_head(told + EXCHANGE_PREFIX, ASSET_STATUS, 0);
        end = put_uri(end, ASSET_URI, i);
        end = put_base(end, ASSET_BLOB, store, i);
        end = put_number(end, ASSET_FUNCTION, DIGEST_SHA256);
        set_message(&bodies->answers[i], told, end);
    }
}
