/* SPDX-License-Identifier: Apache-2.0 */
/* Messages of the Remote Execution API and ByteStream, put together byte by byte. */
#include "bodies.h"

#include <assert.h>
#include <inttypes.h>
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
    STATUS_CODE = 1,
};

enum {
    HEAD_MAX = 16, /* bytes of a field's head, or of a number */
    HEX = 64,
    DIGEST_MAX = 2 + HEX + HEAD_MAX,
    NAME_ROOM = 160,
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

static void set_empty_message(struct body *body)
{
    uint8_t *made = blobs_memory(1, EXCHANGE_PREFIX);
    set_message(body, made, made + EXCHANGE_PREFIX);
    body->least = EXCHANGE_PREFIX;
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

/* --- what other servers answer --- */

/* The last field NUMBER of a message, as it is that one which counts. */
static bool find_field(struct span message, unsigned number, struct wire_field *found)
{
    struct wire_reader reader = {.message = message};
    struct wire_field field;
    bool is_there = false;
    while (wire_next(&reader, &field)) {
        if (field.number == number) {
            *found = field;
            is_there = true;
        }
    }
    return is_there;
}

/* Nothing without such a field. */
static struct span find_bytes(struct span message, unsigned number)
{
    struct wire_field field;
    if (!find_field(message, number, &field) || field.type != WIRE_BYTES)
        return (struct span){message.data, 0};
    return field.bytes;
}

static struct span find_hash(struct span message, unsigned digest)
{
    return find_bytes(find_bytes(message, digest), DIGEST_HASH);
}

/* Some leave a status out where it is good, or have it say so. */
static bool is_ok(struct span message, unsigned status)
{
    struct wire_field code;
    return !find_field(find_bytes(message, status), STATUS_CODE, &code) ||
           (code.type == WIRE_VARINT && code.value == 0);
}

static bool is_right_asset(struct span right, struct span got)
{
    return is_ok(got, ASSET_STATUS) &&
           span_equal(find_hash(got, ASSET_BLOB), find_hash(right, ASSET_BLOB));
}

/* Of a batch's right answer, whose responses are all of a size. */
static struct span right_response(struct span right, size_t index)
{
    const size_t size = right.size / EXCHANGE_BATCH;
    return find_bytes((struct span){right.data + index * size, size}, RESPONSES);
}

/*
 * Which response of the right answer has the blob of GOT, and the same field DATA; looked for from
 * GUESS on. EXCHANGE_BATCH: none.
 */
static size_t find_response(struct span right, struct span got, unsigned data, size_t guess)
{
    const struct span hash = find_hash(got, RESPONSE_DIGEST);
    for (size_t i = 0; i < EXCHANGE_BATCH; i++) {
        size_t index = (guess + i) % EXCHANGE_BATCH;
        struct span response = right_response(right, index);
        if (span_equal(hash, find_hash(response, RESPONSE_DIGEST)))
            return span_equal(find_bytes(got, data), find_bytes(response, data)) ? index
                                                                                 : EXCHANGE_BATCH;
    }
    return EXCHANGE_BATCH;
}

/* Each blob has one response, in any order. DATA: the field of its bytes; 0: there is none. */
static bool is_right_batch(struct span right, struct span got, unsigned data, unsigned status)
{
    struct wire_reader reader = {.message = got};
    struct wire_field response;
    bool is_found[EXCHANGE_BATCH] = {false};
    size_t count = 0;
    while (wire_next(&reader, &response)) {
        if (response.number != RESPONSES || response.type != WIRE_BYTES)
            continue;
        size_t index = find_response(right, response.bytes, data, count);
        if (index == EXCHANGE_BATCH || is_found[index] || !is_ok(response.bytes, status))
            return false;
        is_found[index] = true;
        count++;
    }
    return !reader.malformed && count == EXCHANGE_BATCH;
}

static bool is_right_update(struct span right, struct span got)
{
    return is_right_batch(right, got, 0, UPDATE_STATUS);
}

static bool is_right_read(struct span right, struct span got)
{
    return is_right_batch(right, got, READ_DATA, READ_STATUS);
}

/* --- the store --- */

void bodies_store_init(struct bodies_store *store, uint64_t base, uint64_t small)
{
    *store = (struct bodies_store){.base = base, .small = small};
    store->digests = blobs_memory(base, sizeof(store->digests[0]));
}

void bodies_store_fini(struct bodies_store *store)
{
    free(store->digests);
}

static void digest_of(enum blobs_series series, uint64_t number, size_t size, uint8_t *bytes,
                      struct digest *digest)
{
    blobs_fill(series, number, bytes, size);
    blobs_digest(bytes, size, digest);
}

static const struct digest *base_digest(const struct bodies_store *store, uint64_t number)
{
    uint8_t bytes[EXCHANGE_BLOB];
    struct digest *digest = &store->digests[number % store->base];
    if (digest->size == 0)
        digest_of(BLOBS_BASE, number % store->base, sizeof(bytes), bytes, digest);
    return digest;
}

/* --- batches --- */

static void make_find_request(struct body *body, const struct bodies_store *store, uint64_t *random)
{
    uint8_t bytes[EXCHANGE_SMALL];
    struct digest small;
    uint8_t *made = blobs_memory(1, EXCHANGE_PREFIX + EXCHANGE_BATCH * (HEAD_MAX + DIGEST_MAX));
    uint8_t *end = made + EXCHANGE_PREFIX;
    for (unsigned i = 0; i < EXCHANGE_BATCH; i++) {
        uint64_t number = next_random(random) % (store->base + store->small);
        if (number < store->base) {
            end = put_digest(end, FIND_DIGESTS, base_digest(store, number));
        } else {
            digest_of(BLOBS_SMALL, number - store->base, sizeof(bytes), bytes, &small);
            end = put_digest(end, FIND_DIGESTS, &small);
        }
    }
    set_message(body, made, end);
}

void bodies_make_find(struct bodies *bodies, size_t count, const struct bodies_store *store,
                      uint64_t seed)
{
    begin(bodies, EXCHANGE_FIND, count, 1);
    bodies->is_right = span_equal;
    for (size_t i = 0; i < count; i++)
        make_find_request(&bodies->requests[i], store, &seed);
    set_empty_message(&bodies->answers[0]);
}

/* Of blobs FIRST to FIRST + EXCHANGE_BATCH - 1 of a series. */
static void make_update(struct body *request, struct body *answer, enum blobs_series series,
                        uint64_t first)
{
    enum { ROOM = EXCHANGE_BATCH * (4 * HEAD_MAX + DIGEST_MAX + EXCHANGE_BLOB) };
    uint8_t *asked = blobs_memory(1, EXCHANGE_PREFIX + ROOM);
    uint8_t *told = blobs_memory(1, EXCHANGE_PREFIX + EXCHANGE_UPDATE_ANSWER);
    uint8_t *asked_end = asked + EXCHANGE_PREFIX;
    uint8_t *told_end = told + EXCHANGE_PREFIX;
    for (unsigned i = 0; i < EXCHANGE_BATCH; i++) {
        uint8_t bytes[EXCHANGE_BLOB];
        struct digest digest;
        digest_of(series, first + i, sizeof(bytes), bytes, &digest);
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
    bodies->is_right = is_right_update;
    for (size_t i = 0; i < count; i++)
        make_update(&bodies->requests[i], &bodies->answers[i], BLOBS_NEW,
                    first + i * EXCHANGE_BATCH);
}

void bodies_make_fill(struct bodies *bodies, const struct bodies_store *store)
{
    size_t count = (store->base + EXCHANGE_BATCH - 1) / EXCHANGE_BATCH;
    begin(bodies, EXCHANGE_UPDATE, count, count);
    bodies->is_right = is_right_update;
    for (size_t i = 0; i < count; i++) {
        uint64_t first = i * EXCHANGE_BATCH;
        uint64_t last = store->base - EXCHANGE_BATCH;
        make_update(&bodies->requests[i], &bodies->answers[i], BLOBS_BASE,
                    first < last ? first : last);
    }
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
    bodies->is_right = is_right_read;
    for (size_t i = 0; i < count; i++)
        make_read(&bodies->requests[i], &bodies->answers[i], numbers + i * EXCHANGE_BATCH);
    free(numbers);
}

/* --- streams --- */

static size_t count_pieces(const struct blobs_large *large)
{
    return (large->size + EXCHANGE_PIECE - 1) / EXCHANGE_PIECE;
}

static size_t piece_size(const struct blobs_large *large, size_t number)
{
    size_t left = large->size - number * EXCHANGE_PIECE;
    return left < EXCHANGE_PIECE ? left : EXCHANGE_PIECE;
}

/* The runs that piece NUMBER of a large blob has: a part of the body and, in the last, the tail. */
static void add_piece(struct body *body, const struct blobs_large *large, size_t number,
                      const uint8_t *tail)
{
    bool is_last = number + 1 == count_pieces(large);
    size_t size = piece_size(large, number) - (is_last ? BLOBS_TAIL : 0);
    add_run(body, large->body + number * EXCHANGE_PIECE, size);
    if (is_last)
        add_run(body, tail, BLOBS_TAIL);
}

/* Room for the runs, and for all that is not the large blob's body. Returns where its tail goes. */
static uint8_t *begin_stream(struct body *body, size_t pieces)
{
    *body = (struct body){.runs = blobs_memory(2 * pieces + 1, sizeof(struct span)),
                          .made = blobs_memory(1, BLOBS_TAIL + pieces * PIECE_HEAD_MAX)};
    return body->made;
}

static void make_fetch_request(struct body *request, const struct digest *digest)
{
    char text[DIGEST_TEXT_MAX];
    char name[NAME_ROOM];
    uint8_t *made = blobs_memory(1, EXCHANGE_PREFIX + HEAD_MAX + NAME_ROOM);
    int length = snprintf(name, sizeof(name), "blobs/%s", digest_text(digest, text));
    uint8_t *end = put_bytes(made + EXCHANGE_PREFIX, RESOURCE_NAME, name, (size_t)length);
    set_message(request, made, end);
}

static void make_fetch(struct bodies *bodies, size_t index, uint64_t number)
{
    const struct blobs_large *large = &bodies->large;
    struct body *answer = &bodies->answers[index];
    size_t pieces = count_pieces(large);
    struct digest digest;
    uint8_t *tail = begin_stream(answer, pieces);
    uint8_t *at = tail + BLOBS_TAIL;
    blobs_large_tail(large, number, tail, &digest);
    for (size_t i = 0; i < pieces; i++) {
        size_t size = piece_size(large, i);
        uint8_t *head = at;
        at = put_prefix(at, wire_bytes_size(size));
        at = wire_put_head(at, STREAM_DATA, size);
        if (large->body != NULL) {
            add_run(answer, head, (size_t)(at - head));
            add_piece(answer, large, i, tail);
        } else {
            answer->size += (size_t)(at - head) + size;
        }
    }
    answer->least = large->size;
    make_fetch_request(&bodies->requests[index], &digest);
}

void bodies_make_fetch(struct bodies *bodies, size_t count, uint64_t first, size_t size,
                       bool has_bytes)
{
    begin(bodies, EXCHANGE_FETCH, count, count);
    blobs_large_init(&bodies->large, size, has_bytes);
    for (size_t i = 0; i < count; i++)
        make_fetch(bodies, i, first + i);
}

static void make_store(struct bodies *bodies, size_t index, uint64_t number)
{
    const struct blobs_large *large = &bodies->large;
    struct body *request = &bodies->requests[index];
    size_t pieces = count_pieces(large);
    struct digest digest;
    char text[DIGEST_TEXT_MAX];
    char name[NAME_ROOM];
    uint8_t *tail = begin_stream(request, pieces);
    uint8_t *at = tail + BLOBS_TAIL;
    blobs_large_tail(large, number, tail, &digest);
    int length =
        snprintf(name, sizeof(name), "uploads/00000000-0000-4000-8000-%012" PRIx64 "/blobs/%s",
                 number & 0xffffffffffffU, digest_text(&digest, text));
    for (size_t i = 0; i < pieces; i++) {
        size_t size = piece_size(large, i);
        uint8_t *head = at;
        at += EXCHANGE_PREFIX;
        if (i == 0)
            at = put_bytes(at, RESOURCE_NAME, name, (size_t)length);
        at = put_number(at, WRITE_OFFSET, i * EXCHANGE_PIECE);
        if (i + 1 == pieces)
            at = put_number(at, FINISH_WRITE, 1);
        at = wire_put_head(at, STREAM_DATA, size);
        (void)put_prefix(head, (size_t)(at - head) - EXCHANGE_PREFIX + size);
        add_run(request, head, (size_t)(at - head));
        add_piece(request, large, i, tail);
    }
}

void bodies_make_store(struct bodies *bodies, size_t count, uint64_t first, size_t size)
{
    begin(bodies, EXCHANGE_STORE, count, 1);
    bodies->is_right = span_equal;
    blobs_large_init(&bodies->large, size, true);
    for (size_t i = 0; i < count; i++)
        make_store(bodies, i, first + i);
    uint8_t *made = blobs_memory(1, EXCHANGE_PREFIX + HEAD_MAX);
    const uint8_t *end = put_number(made + EXCHANGE_PREFIX, COMMITTED_SIZE, size);
    set_message(&bodies->answers[0], made, end);
}

/* --- assets --- */

/* PREFIX: EXCHANGE_URI or EXCHANGE_MISS_URI. */
static uint8_t *put_uri(uint8_t *out, unsigned field, const char *prefix, uint64_t number)
{
    char uri[NAME_ROOM];
    int length = snprintf(uri, sizeof(uri), "%s%0*" PRIx64, prefix, EXCHANGE_NUMBER, number);
    return put_bytes(out, field, uri, (size_t)length);
}

static void make_push_asset(struct body *request, const struct bodies_store *store, uint64_t number,
                            size_t references)
{
    uint8_t *made = blobs_memory(1, EXCHANGE_PREFIX + HEAD_MAX + NAME_ROOM +
                                        (1 + references) * (HEAD_MAX + DIGEST_MAX));
    uint8_t *end = put_uri(made + EXCHANGE_PREFIX, PUSH_URIS, EXCHANGE_URI, number);
    end = put_digest(end, PUSH_BLOB, base_digest(store, number));
    for (size_t reference = 1; reference <= references; reference++)
        end = put_digest(end, PUSH_REFERENCES_BLOBS, base_digest(store, number + reference));
    set_message(request, made, end);
}

void bodies_make_push_assets(struct bodies *bodies, const struct bodies_store *store,
                             const struct bodies_assets *assets, size_t references)
{
    begin(bodies, EXCHANGE_PUSH_ASSET, assets->count, 1);
    for (size_t i = 0; i < assets->count; i++)
        make_push_asset(&bodies->requests[i], store, assets->first + i, references);
    set_empty_message(&bodies->answers[0]);
}

static void make_lookup(struct body *request, const char *prefix, uint64_t number)
{
    uint8_t *made = blobs_memory(1, EXCHANGE_PREFIX + HEAD_MAX + NAME_ROOM);
    set_message(request, made, put_uri(made + EXCHANGE_PREFIX, FETCH_URIS, prefix, number));
}

static void make_fetch_asset(struct bodies *bodies, size_t index, const struct bodies_store *store,
                             uint64_t number)
{
    struct body *answer = &bodies->answers[index];
    uint8_t *made = blobs_memory(1, EXCHANGE_PREFIX + EXCHANGE_FETCH_ASSET_ANSWER);
    uint8_t *end = wire_put_head(made + EXCHANGE_PREFIX, ASSET_STATUS, 0);
    end = put_uri(end, ASSET_URI, EXCHANGE_URI, number);
    end = put_digest(end, ASSET_BLOB, base_digest(store, number));
    end = put_number(end, ASSET_FUNCTION, DIGEST_SHA256);
    set_message(answer, made, end);
    assert(answer->size == EXCHANGE_PREFIX + EXCHANGE_FETCH_ASSET_ANSWER);
    make_lookup(&bodies->requests[index], EXCHANGE_URI, number);
}

void bodies_make_fetch_assets(struct bodies *bodies, size_t count, const struct bodies_store *store,
                              const struct bodies_assets *assets, uint64_t seed)
{
    if (seed == 0 && count > assets->count)
        count = assets->count;
    begin(bodies, EXCHANGE_FETCH_ASSET, count, count);
    bodies->is_right = is_right_asset;
    for (size_t i = 0; i < count; i++) {
        uint64_t index = seed != 0 ? next_random(&seed) % assets->count : i;
        make_fetch_asset(bodies, i, store, assets->first + index);
    }
}

void bodies_make_miss_assets(struct bodies *bodies, size_t count, uint64_t first)
{
    begin(bodies, EXCHANGE_FETCH_ASSET, count, 1);
    for (size_t i = 0; i < count; i++) {
        struct body *request = &bodies->requests[i];
        make_lookup(request, EXCHANGE_MISS_URI, first + i);
        assert(request->size == EXCHANGE_PREFIX + EXCHANGE_MISS_REQUEST);
    }
}
