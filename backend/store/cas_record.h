/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the files of the log look like. A segment is a header, records, and once it is sealed a
 * table of contents. All numbers are little-endian; everything begins at a multiple of 16 bytes.
 *
 *     segment header   64 bytes: magic, version, store id, number, sequence, checksum
 *     record           header (magic, function, size, checksum, hash), payload, a CRC-32C for each
 *                      64 KiB of payload, zeros up to a multiple of 16 bytes
 *     contents         32 bytes for each record, in the order of the records
 *     contents' end    64 bytes, the last of the file: magic, store id, number, count, checksums
 *
 * The checksum of a record's header takes in the store's id, the segment's number and the record's
 * offset: a header that was copied elsewhere, within somebody's blob or by a file system, is none.
 * The checksum of a chunk begins with the hash of its blob, so that one blob's bytes do not pass
 * for another's.
 */
#ifndef ASSETD_STORE_CAS_RECORD_H
#define ASSETD_STORE_CAS_RECORD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/digest.h"
#include "base/err.h"

enum {
    CAS_ALIGN = 16,
    CAS_CHUNK = 64 * 1024, /* bytes of payload that share a checksum */
    CAS_SUM = 4,           /* bytes of a checksum */
    CAS_SEGMENT_HEADER = 64,
    CAS_RECORD_HEADER_MAX = 24 + DIGEST_HASH_MAX,
    CAS_CONTENTS_ENTRY = 32,
    CAS_CONTENTS_END = 64,
    CAS_KEY_HASH = 16, /* bytes of a hash that tables know; a record's header has all of it */
};

/* Which store and segment bytes belong to. */
struct cas_origin {
    uint8_t store[16]; /* the id in the format file */
    uint64_t segment;  /* its number */
};

/*
 * A digest as tables have it. A find takes two digests of the same key for one; a read tells them
 * apart, by the record's header.
 */
struct cas_key {
    uint8_t hash[CAS_KEY_HASH];
    uint64_t size_function; /* size << 8 | function */
};

/* A digest whose size is above CAS_BLOB_MAX gives a key that no blob has. */
void cas_key_of(const struct digest *digest, struct cas_key *key);
bool cas_key_equal(const struct cas_key *a, const struct cas_key *b);
int64_t cas_key_size(const struct cas_key *key);
enum digest_function cas_key_function(const struct cas_key *key);

/* Sizes of blobs up to this one are stored: 2^55. */
#define CAS_BLOB_MAX ((int64_t)1 << 55)

/* --- segments --- */

void cas_segment_put_header(const struct cas_origin *origin, uint64_t sequence,
                            uint8_t out[CAS_SEGMENT_HEADER]);

/* ERR_DATA_LOSS: not the header of that segment. */
int cas_segment_get_header(const struct cas_origin *origin, const uint8_t in[CAS_SEGMENT_HEADER],
                           uint64_t *sequence, struct err *err);

/* --- records --- */

/* Bytes of the header of a record, which depend on its function alone. */
size_t cas_record_header_size(enum digest_function function);

/* Bytes of all of a record, and of what stands behind its payload; SIZE is 0 to CAS_BLOB_MAX. */
int64_t cas_record_size(enum digest_function function, int64_t size);
int64_t cas_record_tail_size(enum digest_function function, int64_t size);
int64_t cas_key_record_size(const struct cas_key *key); /* as cas_record_size */

/* OFFSET: of the record in its segment. OUT holds cas_record_header_size bytes. */
void cas_record_put_header(const struct cas_origin *origin, uint64_t offset,
                           const struct digest *digest, uint8_t *out);

/*
 * Reads the header that begins at IN, of which AVAILABLE bytes are there. ERR_DATA_LOSS: no header
 * of a record at this place, or cut off.
 */
int cas_record_get_header(const struct cas_origin *origin, uint64_t offset, const uint8_t *in,
                          size_t available, struct digest *digest, struct err *err);

/* The checksum of a chunk (the last one may be short): *SUM of its bytes so far, then the end. */
uint32_t cas_sum_begin(const struct digest *digest);
uint32_t cas_sum_add(uint32_t sum, const void *data, size_t size);

/* Writes what stands behind a payload that is in memory: checksums and zeros. */
void cas_record_put_tail(const struct digest *digest, const uint8_t *payload, uint8_t *out);

/*
 * Verifies payload that begins at a multiple of CAS_CHUNK and has SIZE bytes, up to a chunk's end
 * or the blob's, by SUMS, the checksums of its chunks. ERR_DATA_LOSS.
 */
int cas_record_verify(const struct digest *digest, const uint8_t *payload, size_t size,
                      const uint8_t *sums, struct err *err);

/* --- the table of contents --- */

struct cas_content {
    struct cas_key key;
    uint64_t offset; /* of the record in its segment */
};

/* ENTRIES as they stand in the file; OUT holds CAS_CONTENTS_END bytes. */
void cas_contents_put_entry(const struct cas_content *content, uint8_t out[CAS_CONTENTS_ENTRY]);
void cas_contents_get_entry(const uint8_t in[CAS_CONTENTS_ENTRY], struct cas_content *content);
void cas_contents_put_end(const struct cas_origin *origin, const uint8_t *entries, uint64_t count,
                          uint8_t out[CAS_CONTENTS_END]);

/* How many entries stand before the end. ERR_DATA_LOSS: no such end, so the segment is unsealed. */
int cas_contents_get_end(const struct cas_origin *origin, const uint8_t in[CAS_CONTENTS_END],
                         uint64_t *count, struct err *err);

/*
 * Verifies the entries by their checksum in the end, and that each could be a record: a function
 * that is known, a size up to CAS_BLOB_MAX, an offset behind the segment's header. ERR_DATA_LOSS.
 */
int cas_contents_verify(const uint8_t in[CAS_CONTENTS_END], const uint8_t *entries, uint64_t count,
                        struct err *err);

#endif
