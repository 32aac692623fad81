/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Packing and unpacking, all little-endian.
 *
 * name:   version u8, kind u8, function u8, uri text, count u32, (name text, value text)...
 * text:   length u32, bytes
 * row:    checksum u64, record u64, used u64, fetched_at i64, expires_at i64
 * record: version u8, zero u8[7], checksum u64 of all behind it, name size u32, name,
 *         pushed_at i64, expires_at i64, content digest, blobs, directories
 * array:  count u32, digests
 * digest: function u8, size i64, hash
 */
#include "store/asset_record.h"

#include <assert.h>
#include <endian.h>
#include <stdlib.h>
#include <string.h>

enum {
    RECORD_HEADER_SIZE = 16,                  /* up to and with the checksum */
    NAME_FIXED_SIZE = 3 + 4 + 4,              /* version to function, length of the URI, count */
    DIGEST_FIXED_SIZE = 1 + 8,                /* before the hash */
    DIGEST_SIZE_MIN = DIGEST_FIXED_SIZE + 20, /* of the shortest hash */
    RECORD_FIXED_SIZE = RECORD_HEADER_SIZE + 4 + 8 + 8 + 4 + 4, /* all but name and digests */
    QUALIFIERS_ON_STACK = 16,
};

/* --- numbers --- */

static uint8_t *put_u32(uint8_t *out, size_t value)
{
    assert(value <= UINT32_MAX);
    for (int i = 0; i < 4; i++)
        *out++ = (uint8_t)(value >> (8 * i));
    return out;
}

static uint8_t *put_u64(uint8_t *out, uint64_t value)
{
    value = htole64(value);
    memcpy(out, &value, sizeof(value));
    return out + sizeof(value);
}

static uint64_t get_u64(const uint8_t *bytes)
{
    uint64_t value;
    memcpy(&value, bytes, sizeof(value));
    return le64toh(value);
}

#define CHECKSUM_ODD 0x9e3779b97f4a7c15u

static uint64_t checksum_step(uint64_t sum, uint64_t word)
{
    sum = (sum ^ word) * CHECKSUM_ODD;
    return sum ^ sum >> 32;
}

/*
 * Finds damage, not forgery. Every step is a bijection of the sum so far, so that a change within
 * one word of eight bytes never goes unseen.
 */
static uint64_t checksum(const uint8_t *bytes, size_t size)
{
    uint8_t last[8] = {0};
    uint64_t sum = size * CHECKSUM_ODD;
    for (; size >= sizeof(last); bytes += sizeof(last), size -= sizeof(last))
        sum = checksum_step(sum, get_u64(bytes));
    if (size == 0)
        return sum;
    memcpy(last, bytes, size);
    return checksum_step(sum, get_u64(last));
}

/* --- names --- */

size_t asset_name_size(const struct asset_key *key)
{
    size_t size = NAME_FIXED_SIZE + strlen(key->uri);
    for (size_t i = 0; i < key->qualifier_count; i++)
        size += 4 + strlen(key->qualifiers[i].name) + 4 + strlen(key->qualifiers[i].value);
    return size;
}

static uint8_t *put_text(uint8_t *out, const char *text)
{
    size_t size = strlen(text);
    out = put_u32(out, size);
    memcpy(out, text, size);
    return out + size;
}

static int compare_qualifiers(const void *a, const void *b)
{
    const struct qualifier *left = *(const struct qualifier *const *)a;
    const struct qualifier *right = *(const struct qualifier *const *)b;
    return strcmp(left->name, right->name);
}

static void pack_name(struct asset_name *name, const struct asset_key *key,
                      const struct qualifier **sorted)
{
    for (size_t i = 0; i < key->qualifier_count; i++)
        sorted[i] = &key->qualifiers[i];
    if (key->qualifier_count > 1)
        qsort(sorted, key->qualifier_count, sizeof(*sorted), compare_qualifiers);
    uint8_t *out = name->bytes;
    *out++ = ASSET_FORMAT;
    *out++ = (uint8_t)key->kind;
    *out++ = (uint8_t)key->function;
    out = put_text(out, key->uri);
    out = put_u32(out, key->qualifier_count);
    for (size_t i = 0; i < key->qualifier_count; i++) {
        out = put_text(out, sorted[i]->name);
        out = put_text(out, sorted[i]->value);
    }
    assert(out == name->bytes + name->size);
}

int asset_name_init(struct asset_name *name, const struct asset_key *key, struct err *err)
{
    const struct qualifier *few[QUALIFIERS_ON_STACK];
    const struct qualifier **sorted = few;
    name->size = asset_name_size(key);
    name->bytes = name->size <= sizeof(name->room) ? name->room : malloc(name->size);
    if (key->qualifier_count > QUALIFIERS_ON_STACK)
        sorted = malloc(key->qualifier_count * sizeof(*sorted));
    int rc = 0;
    struct digest digest;
    if (name->bytes == NULL || sorted == NULL) {
        rc = err_no_memory(err, "the name of an asset");
    } else {
        pack_name(name, key, sorted);
        rc = digest_compute(DIGEST_SHA256, name->bytes, name->size, &digest, err);
    }
    if (rc == 0)
        memcpy(name->hash, digest.hash, sizeof(name->hash));
    else
        asset_name_fini(name);
    if (sorted != few)
        free(sorted);
    return rc;
}

void asset_name_fini(struct asset_name *name)
{
    if (name->bytes != name->room)
        free(name->bytes);
    name->bytes = NULL;
}

/* --- rows --- */

void asset_row_pack(const struct asset_row *row, uint8_t out[ASSET_ROW_SIZE])
{
    uint8_t *next = put_u64(out + 8, row->record);
    next = put_u64(next, row->used);
    next = put_u64(next, (uint64_t)row->fetched_at);
    (void)put_u64(next, (uint64_t)row->expires_at);
    (void)put_u64(out, checksum(out + 8, ASSET_ROW_SIZE - 8));
}

bool asset_row_unpack(struct span bytes, struct asset_row *row)
{
    if (bytes.size != ASSET_ROW_SIZE ||
        get_u64(bytes.data) != checksum(bytes.data + 8, ASSET_ROW_SIZE - 8))
        return false;
    row->record = get_u64(bytes.data + 8);
    row->used = get_u64(bytes.data + 16);
    row->fetched_at = (int64_t)get_u64(bytes.data + 24);
    row->expires_at = (int64_t)get_u64(bytes.data + 32);
    return true;
}

/* --- records --- */

static size_t digest_packed_size(const struct digest *digest)
{
    return DIGEST_FIXED_SIZE + digest_hash_size(digest->function);
}

size_t asset_record_size(size_t name_size, const struct asset *asset)
{
    size_t size = RECORD_FIXED_SIZE + name_size + digest_packed_size(&asset->content);
    for (size_t i = 0; i < asset->blob_count; i++)
        size += digest_packed_size(&asset->blobs[i]);
    for (size_t i = 0; i < asset->directory_count; i++)
        size += digest_packed_size(&asset->directories[i]);
    return size;
}

static uint8_t *put_digest(uint8_t *out, const struct digest *digest)
{
    size_t hash_size = digest_hash_size(digest->function);
    assert(hash_size != 0);
    *out++ = (uint8_t)digest->function;
    out = put_u64(out, (uint64_t)digest->size);
    memcpy(out, digest->hash, hash_size);
    return out + hash_size;
}

static uint8_t *put_digests(uint8_t *out, const struct digest *digests, size_t count)
{
    out = put_u32(out, count);
    for (size_t i = 0; i < count; i++)
        out = put_digest(out, &digests[i]);
    return out;
}

void asset_record_pack(const struct asset_name *name, const struct asset *asset, uint8_t *out)
{
    uint8_t *start = out;
    memset(out, 0, RECORD_HEADER_SIZE);
    out[0] = ASSET_FORMAT;
    out = put_u32(out + RECORD_HEADER_SIZE, name->size);
    memcpy(out, name->bytes, name->size);
    out = put_u64(out + name->size, (uint64_t)asset->pushed_at);
    out = put_u64(out, (uint64_t)asset->expires_at);
    out = put_digest(out, &asset->content);
    out = put_digests(out, asset->blobs, asset->blob_count);
    out = put_digests(out, asset->directories, asset->directory_count);
    size_t size = (size_t)(out - start);
    assert(size == asset_record_size(name->size, asset));
    (void)put_u64(start + 8, checksum(start + RECORD_HEADER_SIZE, size - RECORD_HEADER_SIZE));
}

/*
 * What is left to read. The checksum has been verified, but no length is believed for that: each
 * step takes from what is there, or fails.
 */
struct input {
    const uint8_t *next;
    size_t left;
    bool no_memory;
};

static const uint8_t *take(struct input *input, size_t size)
{
    if (input->left < size)
        return NULL;
    const uint8_t *taken = input->next;
    input->next += size;
    input->left -= size;
    return taken;
}

static bool take_u8(struct input *input, uint8_t *value)
{
    const uint8_t *bytes = take(input, 1);
    if (bytes == NULL)
        return false;
    *value = *bytes;
    return true;
}

static bool take_u32(struct input *input, size_t *value)
{
    const uint8_t *bytes = take(input, 4);
    if (bytes == NULL)
        return false;
    *value =
        (size_t)bytes[0] | (size_t)bytes[1] << 8 | (size_t)bytes[2] << 16 | (size_t)bytes[3] << 24;
    return true;
}

static bool take_i64(struct input *input, int64_t *value)
{
    const uint8_t *bytes = take(input, 8);
    if (bytes == NULL)
        return false;
    *value = (int64_t)get_u64(bytes);
    return true;
}

static bool take_text(struct input *input, struct arena *arena, const char **text)
{
    size_t size;
    const uint8_t *bytes = take_u32(input, &size) ? take(input, size) : NULL;
    if (bytes == NULL)
        return false;
    *text = arena_copy(arena, bytes, size);
    input->no_memory |= *text == NULL;
    return *text != NULL;
}

static bool take_digest(struct input *input, struct digest *digest)
{
    uint8_t function;
    if (!take_u8(input, &function))
        return false;
    memset(digest, 0, sizeof(*digest));
    digest->function = (enum digest_function)function;
    size_t hash_size = digest_hash_size(digest->function);
    if (hash_size == 0 || !take_i64(input, &digest->size) || digest->size < 0)
        return false;
    const uint8_t *hash = take(input, hash_size);
    if (hash == NULL)
        return false;
    memcpy(digest->hash, hash, hash_size);
    return true;
}

static bool take_digests(struct input *input, struct arena *arena, const struct digest **digests,
                         size_t *count)
{
    if (!take_u32(input, count) || *count > input->left / DIGEST_SIZE_MIN)
        return false;
    struct digest *array = arena_calloc(arena, *count, sizeof(*array));
    *digests = array;
    input->no_memory |= array == NULL;
    if (array == NULL)
        return false;
    for (size_t i = 0; i < *count; i++)
        if (!take_digest(input, &array[i]))
            return false;
    return true;
}

static bool take_key(struct input *input, struct arena *arena, struct asset_key *key)
{
    uint8_t version;
    uint8_t kind;
    uint8_t function;
    if (!take_u8(input, &version) || version != ASSET_FORMAT || !take_u8(input, &kind) ||
        kind > ASSET_DIRECTORY || !take_u8(input, &function) ||
        !take_text(input, arena, &key->uri) || !take_u32(input, &key->qualifier_count) ||
        key->qualifier_count > input->left / 8)
        return false;
    key->kind = (enum asset_kind)kind;
    key->function = (enum digest_function)function;
    struct qualifier *qualifiers =
        arena_calloc(arena, key->qualifier_count, sizeof(*key->qualifiers));
    key->qualifiers = qualifiers;
    input->no_memory |= qualifiers == NULL;
    if (qualifiers == NULL)
        return false;
    for (size_t i = 0; i < key->qualifier_count; i++)
        if (!take_text(input, arena, &qualifiers[i].name) ||
            !take_text(input, arena, &qualifiers[i].value))
            return false;
    return input->left == 0;
}

static bool take_asset(struct input *input, struct arena *arena, struct asset *asset)
{
    memset(asset, 0, sizeof(*asset));
    return take_i64(input, &asset->pushed_at) && take_i64(input, &asset->expires_at) &&
           take_digest(input, &asset->content) &&
           take_digests(input, arena, &asset->blobs, &asset->blob_count) &&
           take_digests(input, arena, &asset->directories, &asset->directory_count) &&
           input->left == 0;
}

/* The name's bytes, with INPUT behind them; NULL if the record is damaged. */
static const uint8_t *open_record(struct span record, struct input *input, size_t *name_size)
{
    *input = (struct input){.next = record.data, .left = record.size};
    const uint8_t *header = take(input, RECORD_HEADER_SIZE);
    if (header == NULL || header[0] != ASSET_FORMAT ||
        get_u64(header + 8) != checksum(input->next, input->left) || !take_u32(input, name_size))
        return NULL;
    return take(input, *name_size);
}

static bool is_of(const struct asset_name *name, const uint8_t *packed_name, size_t size)
{
    return size == name->size && memcmp(packed_name, name->bytes, size) == 0;
}

int asset_record_unpack(struct span record, const struct asset_name *name, struct arena *arena,
                        struct asset_key *key, struct asset *asset, struct err *err)
{
    struct input input;
    size_t name_size = 0;
    const uint8_t *packed_name = open_record(record, &input, &name_size);
    if (packed_name == NULL)
        return err_set(err, ERR_DATA_LOSS, "a record of %zu bytes is damaged", record.size);
    if (name != NULL && !is_of(name, packed_name, name_size))
        return err_set(err, ERR_NOT_FOUND, "the record is that of another asset");
    struct input name_input = {.next = packed_name, .left = name_size};
    if ((key == NULL || take_key(&name_input, arena, key)) && take_asset(&input, arena, asset))
        return 0;
    if (name_input.no_memory || input.no_memory)
        return err_no_memory(err, "an asset");
    return err_set(err, ERR_DATA_LOSS, "a record of %zu bytes is malformed", record.size);
}

bool asset_record_pushed_at(struct span record, const struct asset_name *name, int64_t *pushed_at)
{
    struct input input;
    size_t name_size = 0;
    const uint8_t *packed_name = open_record(record, &input, &name_size);
    return packed_name != NULL && is_of(name, packed_name, name_size) &&
           take_i64(&input, pushed_at);
}
