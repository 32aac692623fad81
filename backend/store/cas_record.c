/* SPDX-License-Identifier: Apache-2.0 */
/* Writing, reading and verifying what the files of the log are made of. */
#include "store/cas_record.h"

#include <assert.h>
#include <inttypes.h>
#include <string.h>

#include "base/crc32c.h"

/* The structures below stand in the files as they stand in memory. */
_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "the files are little-endian");

enum { SEGMENT_VERSION = 1 };

static const uint8_t segment_magic[8] = {'a', 's', 's', 'e', 't', 'd', 'S', 'G'};
static const uint8_t contents_magic[8] = {'a', 's', 's', 'e', 't', 'd', 'T', 'C'};
static const uint8_t record_magic[4] = {'a', 'R', 'e', 'c'};

struct segment_header {
    uint8_t magic[8];
    uint32_t version;
    uint32_t zero;
    uint8_t store[16];
    uint64_t number;
    uint64_t sequence;
    uint8_t zeros[12];
    uint32_t sum; /* of all before it */
};

struct record_header {
    uint8_t magic[4];
    uint8_t function;
    uint8_t hash_size;
    uint16_t zero;
    uint64_t size;
    uint32_t sum; /* of where it is, the header with 0 in this place, and the hash behind it */
    uint32_t zero_too;
};

struct contents_entry {
    uint8_t hash[CAS_KEY_HASH];
    uint64_t size_function;
    uint64_t offset;
};

struct contents_end {
    uint8_t magic[8];
    uint8_t store[16];
    uint64_t number;
    uint64_t count;
    uint32_t entries_sum;
    uint8_t zeros[16];
    uint32_t sum; /* of all before it */
};

_Static_assert(sizeof(struct segment_header) == CAS_SEGMENT_HEADER, "no padding");
_Static_assert(sizeof(struct record_header) + DIGEST_HASH_MAX == CAS_RECORD_HEADER_MAX,
               "no padding");
_Static_assert(sizeof(struct contents_entry) == CAS_CONTENTS_ENTRY, "no padding");
_Static_assert(sizeof(struct contents_end) == CAS_CONTENTS_END, "no padding");

/* --- keys --- */

void cas_key_of(const struct digest *digest, struct cas_key *key)
{
    uint64_t size = (uint64_t)digest->size;
    /* What is left of a larger size must not be the size of another blob. */
    if (size > (uint64_t)CAS_BLOB_MAX)
        size = UINT64_MAX >> 8;
    memcpy(key->hash, digest->hash, CAS_KEY_HASH);
    key->size_function = size << 8 | (uint8_t)digest->function;
}

bool cas_key_equal(const struct cas_key *a, const struct cas_key *b)
{
    return a->size_function == b->size_function && memcmp(a->hash, b->hash, CAS_KEY_HASH) == 0;
}

int64_t cas_key_size(const struct cas_key *key)
{
    return (int64_t)(key->size_function >> 8);
}

enum digest_function cas_key_function(const struct cas_key *key)
{
    return (enum digest_function)(key->size_function & 0xff);
}

/* --- segments --- */

void cas_segment_put_header(const struct cas_origin *origin, uint64_t sequence,
                            uint8_t out[CAS_SEGMENT_HEADER])
{
    struct segment_header header = {
        .version = SEGMENT_VERSION, .number = origin->segment, .sequence = sequence};
    memcpy(header.magic, segment_magic, sizeof(header.magic));
    memcpy(header.store, origin->store, sizeof(header.store));
    header.sum = crc32c(0, &header, offsetof(struct segment_header, sum));
    memcpy(out, &header, sizeof(header));
}

int cas_segment_get_header(const struct cas_origin *origin, const uint8_t in[CAS_SEGMENT_HEADER],
                           uint64_t *sequence, struct err *err)
{
    struct segment_header header;
    memcpy(&header, in, sizeof(header));
    if (memcmp(header.magic, segment_magic, sizeof(header.magic)) != 0)
        return err_set(err, ERR_DATA_LOSS, "no header of a segment");
    if (header.sum != crc32c(0, &header, offsetof(struct segment_header, sum)))
        return err_set(err, ERR_DATA_LOSS, "the segment's header has a wrong checksum");
    if (header.version != SEGMENT_VERSION)
        return err_set(err, ERR_DATA_LOSS, "the segment has version %" PRIu32, header.version);
    if (memcmp(header.store, origin->store, sizeof(header.store)) != 0)
        return err_set(err, ERR_DATA_LOSS, "the segment is of another store");
    if (header.number != origin->segment)
        return err_set(err, ERR_DATA_LOSS, "the segment's header has the number %" PRIu64,
                       header.number);
    *sequence = header.sequence;
    return 0;
}

/* --- records --- */

size_t cas_record_header_size(enum digest_function function)
{
    size_t hash_size = digest_hash_size(function);
    assert(hash_size > 0);
    return sizeof(struct record_header) + hash_size;
}

int64_t cas_record_size(enum digest_function function, int64_t size)
{
    return (int64_t)cas_record_header_size(function) + size + cas_record_tail_size(function, size);
}

int64_t cas_key_record_size(const struct cas_key *key)
{
    return cas_record_size(cas_key_function(key), cas_key_size(key));
}

int64_t cas_record_tail_size(enum digest_function function, int64_t size)
{
    assert(size >= 0 && size <= CAS_BLOB_MAX);
    int64_t chunks = size / CAS_CHUNK + (size % CAS_CHUNK != 0);
    int64_t end = (int64_t)cas_record_header_size(function) + size + chunks * CAS_SUM;
    int64_t zeros = (CAS_ALIGN - end % CAS_ALIGN) % CAS_ALIGN;
    return chunks * CAS_SUM + zeros;
}

static uint32_t record_header_sum(const struct cas_origin *origin, uint64_t offset,
                                  const struct record_header *header, const uint8_t *hash)
{
    struct record_header rest = *header;
    rest.sum = 0;
    uint32_t sum = crc32c(0, origin->store, sizeof(origin->store));
    sum = crc32c(sum, &origin->segment, sizeof(origin->segment));
    sum = crc32c(sum, &offset, sizeof(offset));
    sum = crc32c(sum, &rest, sizeof(rest));
    return crc32c(sum, hash, header->hash_size);
}

void cas_record_put_header(const struct cas_origin *origin, uint64_t offset,
                           const struct digest *digest, uint8_t *out)
{
    size_t hash_size = digest_hash_size(digest->function);
    assert(hash_size > 0 && digest->size >= 0 && digest->size <= CAS_BLOB_MAX);
    struct record_header header = {.function = (uint8_t)digest->function,
                                   .hash_size = (uint8_t)hash_size,
                                   .size = (uint64_t)digest->size};
    memcpy(header.magic, record_magic, sizeof(header.magic));
    header.sum = record_header_sum(origin, offset, &header, digest->hash);
    memcpy(out, &header, sizeof(header));
    memcpy(out + sizeof(header), digest->hash, hash_size);
}

int cas_record_get_header(const struct cas_origin *origin, uint64_t offset, const uint8_t *in,
                          size_t available, struct digest *digest, struct err *err)
{
    struct record_header header;
    if (available < sizeof(header))
        return err_set(err, ERR_DATA_LOSS, "the record's header is cut off");
    memcpy(&header, in, sizeof(header));
    if (memcmp(header.magic, record_magic, sizeof(header.magic)) != 0)
        return err_set(err, ERR_DATA_LOSS, "no header of a record");
    size_t hash_size = digest_hash_size((enum digest_function)header.function);
    if (hash_size == 0 || header.hash_size != hash_size)
        return err_set(err, ERR_DATA_LOSS, "the record has digest function %u with %u bytes",
                       header.function, header.hash_size);
    if (available - sizeof(header) < hash_size)
        return err_set(err, ERR_DATA_LOSS, "the record's header is cut off");
    const uint8_t *hash = in + sizeof(header);
    if (header.sum != record_header_sum(origin, offset, &header, hash))
        return err_set(err, ERR_DATA_LOSS, "the record's header has a wrong checksum");
    if (header.size > (uint64_t)CAS_BLOB_MAX)
        return err_set(err, ERR_DATA_LOSS, "the record has size %" PRIu64, header.size);
    memset(digest, 0, sizeof(*digest));
    digest->function = (enum digest_function)header.function;
    digest->size = (int64_t)header.size;
    memcpy(digest->hash, hash, hash_size);
    return 0;
}

uint32_t cas_sum_begin(const struct digest *digest)
{
    return crc32c(0, digest->hash, digest_hash_size(digest->function));
}

uint32_t cas_sum_add(uint32_t sum, const void *data, size_t size)
{
    return crc32c(sum, data, size);
}

void cas_record_put_tail(const struct digest *digest, const uint8_t *payload, uint8_t *out)
{
    size_t rest = (size_t)cas_record_tail_size(digest->function, digest->size);
    size_t left = (size_t)digest->size;
    uint32_t begin = cas_sum_begin(digest);
    while (left > 0) {
        size_t size = left < CAS_CHUNK ? left : CAS_CHUNK;
        uint32_t sum = crc32c(begin, payload, size);
        memcpy(out, &sum, CAS_SUM);
        payload += size;
        left -= size;
        out += CAS_SUM;
        rest -= CAS_SUM;
    }
    memset(out, 0, rest);
}

int cas_record_verify(const struct digest *digest, const uint8_t *payload, size_t size,
                      const uint8_t *sums, struct err *err)
{
    uint32_t begin = cas_sum_begin(digest);
    for (size_t done = 0; done < size; done += CAS_CHUNK, sums += CAS_SUM) {
        size_t chunk = size - done < CAS_CHUNK ? size - done : CAS_CHUNK;
        uint32_t sum;
        memcpy(&sum, sums, CAS_SUM);
        if (sum != crc32c(begin, payload + done, chunk))
            return err_set(err, ERR_DATA_LOSS, "the payload has a wrong checksum");
    }
    return 0;
}

/* --- the table of contents --- */

void cas_contents_put_entry(const struct cas_content *content, uint8_t out[CAS_CONTENTS_ENTRY])
{
    struct contents_entry entry = {.size_function = content->key.size_function,
                                   .offset = content->offset};
    memcpy(entry.hash, content->key.hash, sizeof(entry.hash));
    memcpy(out, &entry, sizeof(entry));
}

void cas_contents_get_entry(const uint8_t in[CAS_CONTENTS_ENTRY], struct cas_content *content)
{
    struct contents_entry entry;
    memcpy(&entry, in, sizeof(entry));
    memcpy(content->key.hash, entry.hash, sizeof(entry.hash));
    content->key.size_function = entry.size_function;
    content->offset = entry.offset;
}

void cas_contents_put_end(const struct cas_origin *origin, const uint8_t *entries, uint64_t count,
                          uint8_t out[CAS_CONTENTS_END])
{
    struct contents_end end = {.number = origin->segment, .count = count};
    memcpy(end.magic, contents_magic, sizeof(end.magic));
    memcpy(end.store, origin->store, sizeof(end.store));
    end.entries_sum = crc32c(0, entries, (size_t)count * CAS_CONTENTS_ENTRY);
    end.sum = crc32c(0, &end, offsetof(struct contents_end, sum));
    memcpy(out, &end, sizeof(end));
}

int cas_contents_get_end(const struct cas_origin *origin, const uint8_t in[CAS_CONTENTS_END],
                         uint64_t *count, struct err *err)
{
    struct contents_end end;
    memcpy(&end, in, sizeof(end));
    if (memcmp(end.magic, contents_magic, sizeof(end.magic)) != 0)
        return err_set(err, ERR_DATA_LOSS, "no end of a table of contents");
    if (end.sum != crc32c(0, &end, offsetof(struct contents_end, sum)))
        return err_set(err, ERR_DATA_LOSS, "the contents' end has a wrong checksum");
    if (memcmp(end.store, origin->store, sizeof(end.store)) != 0 || end.number != origin->segment)
        return err_set(err, ERR_DATA_LOSS, "the contents are of another segment");
    if (end.count > (uint64_t)INT64_MAX / CAS_CONTENTS_ENTRY)
        return err_set(err, ERR_DATA_LOSS, "the contents have %" PRIu64 " entries", end.count);
    *count = end.count;
    return 0;
}

/* Whether a record could be what the entry says. */
static bool is_possible(const struct cas_content *content)
{
    return digest_hash_size(cas_key_function(&content->key)) > 0 &&
           cas_key_size(&content->key) <= CAS_BLOB_MAX && content->offset >= CAS_SEGMENT_HEADER &&
           content->offset <= (uint64_t)INT64_MAX && content->offset % CAS_ALIGN == 0;
}

int cas_contents_verify(const uint8_t in[CAS_CONTENTS_END], const uint8_t *entries, uint64_t count,
                        struct err *err)
{
    struct contents_end end;
    memcpy(&end, in, sizeof(end));
    if (end.count != count)
        return err_set(err, ERR_DATA_LOSS, "the contents have another count");
    if (end.entries_sum != crc32c(0, entries, (size_t)count * CAS_CONTENTS_ENTRY))
        return err_set(err, ERR_DATA_LOSS, "the contents have a wrong checksum");
    for (uint64_t i = 0; i < count; i++) {
        struct cas_content content;
        cas_contents_get_entry(entries + i * CAS_CONTENTS_ENTRY, &content);
        if (!is_possible(&content))
            return err_set(err, ERR_DATA_LOSS, "entry %" PRIu64 " of the contents is none", i);
    }
    return 0;
}
