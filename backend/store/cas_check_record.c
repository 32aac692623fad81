/* SPDX-License-Identifier: Apache-2.0 */
/* Reading and verifying one record, as part of a check: header, checksums, and hash. */
#include "store/cas_check_private.h"

enum {
    WINDOW = CAS_CHECK_WINDOW,
    SMALL = WINDOW / 4, /* larger records are read piece by piece */
    PIECE = WINDOW / 4,
    PIECE_SUMS = PIECE / CAS_CHUNK,
};

_Static_assert(PIECE % CAS_CHUNK == 0, "pieces are whole chunks");

/*
 * Sets *BYTES to SIZE bytes at OFFSET, at most WINDOW. Reads on up to LIMIT where that fits into
 * the window, as records come in order.
 */
static int look(struct check *check, uint64_t number, uint64_t offset, size_t size, uint64_t limit,
                const uint8_t **bytes, struct err *err)
{
    uint64_t end = check->window_start + check->window_size;
    bool is_inside =
        number == check->window_number && offset >= check->window_start && offset <= end;
    size_t have = is_inside ? (size_t)(end - offset) : 0;
    if (have < size) {
        if (have > 0)
            memmove(check->window, check->window + (offset - check->window_start), have);
        check->window_number = number;
        check->window_start = offset;
        check->window_size = have;
        size_t take = WINDOW - have;
        uint64_t rest = limit - (offset + have);
        if (take > rest)
            take = (size_t)rest;
        struct cas_log *log = check->cas->log;
        int rc = cas_log_read(log, number, check->window + have, take, offset + have, err);
        /* What is wrong may be further on. */
        if (cas_check_is_damage(rc) && take > size - have) {
            take = size - have;
            rc = cas_log_read(log, number, check->window + have, take, offset + have, err);
        }
        if (rc != 0)
            return rc;
        check->window_size = have + take;
    }
    *bytes = check->window + (offset - check->window_start);
    return 0;
}

static int compare(const struct digest *digest, const struct digest *actual, struct err *err)
{
    if (digest_equal(digest, actual))
        return 0;
    char text[2 * DIGEST_HASH_MAX + 1];
    return err_set(err, ERR_DATA_LOSS, "the payload has the hash %s", digest_hex(actual, text));
}

static int verify_small(struct check *check, uint64_t number, uint64_t offset, uint64_t limit,
                        const struct digest *digest, struct err *err)
{
    const uint8_t *bytes;
    struct digest actual;
    size_t size = (size_t)digest->size;
    int rc = look(check, number, offset, (size_t)cas_record_size(digest->function, digest->size),
                  limit, &bytes, err);
    if (rc != 0)
        return rc;
    bytes += cas_record_header_size(digest->function);
    if (cas_record_verify(digest, bytes, size, bytes + size, err) != 0 ||
        digest_compute(digest->function, bytes, size, &actual, err) != 0)
        return -(int)err->code;
    return compare(digest, &actual, err);
}

static int hash_pieces(struct check *check, uint64_t number, uint64_t payload, uint64_t limit,
                       const struct digest *digest, struct hasher *hasher, struct err *err)
{
    uint8_t sums[PIECE_SUMS * CAS_SUM];
    uint64_t size = (uint64_t)digest->size;
    for (uint64_t done = 0; done < size; done += PIECE) {
        const uint8_t *bytes;
        size_t take = size - done < PIECE ? (size_t)(size - done) : PIECE;
        size_t chunks = (take + CAS_CHUNK - 1) / CAS_CHUNK;
        int rc = look(check, number, payload + done, take, limit, &bytes, err);
        if (rc == 0)
            rc = cas_log_read(check->cas->log, number, sums, chunks * CAS_SUM,
                              payload + size + done / CAS_CHUNK * CAS_SUM, err);
        if (rc == 0)
            rc = cas_record_verify(digest, bytes, take, sums, err);
        if (rc != 0)
            return rc;
        hasher_update(hasher, bytes, take);
        cas_check_progress(check, done + take);
    }
    return 0;
}

static int verify_large(struct check *check, uint64_t number, uint64_t offset, uint64_t limit,
                        const struct digest *digest, struct err *err)
{
    struct digest actual;
    struct hasher *hasher = hasher_new(digest->function);
    if (hasher == NULL)
        return err_no_memory(err, "a hash");
    uint64_t payload = offset + cas_record_header_size(digest->function);
    int rc = hash_pieces(check, number, payload, limit, digest, hasher, err);
    hasher_digest(hasher, &actual);
    hasher_free(hasher);
    return rc == 0 ? compare(digest, &actual, err) : rc;
}

int cas_check_record(struct check *check, uint64_t number, uint64_t offset, uint64_t limit,
                     const struct cas_key *key, struct digest *digest, struct err *err)
{
    const uint8_t *bytes;
    struct cas_key actual;
    struct cas_origin origin = cas_check_origin(check, number);
    size_t header = cas_record_header_size(cas_key_function(key));
    digest->function = DIGEST_UNKNOWN;
    int rc = look(check, number, offset, header, limit, &bytes, err);
    if (rc == 0)
        rc = cas_record_get_header(&origin, offset, bytes, header, digest, err);
    if (rc != 0)
        return rc;
    cas_key_of(digest, &actual);
    if (!cas_key_equal(&actual, key)) {
        char text[DIGEST_TEXT_MAX];
        (void)err_set(err, ERR_DATA_LOSS, "the record there is of blob %s",
                      digest_text(digest, text));
        digest->function = DIGEST_UNKNOWN;
        return -ERR_DATA_LOSS;
    }
    return cas_key_record_size(key) <= SMALL
               ? verify_small(check, number, offset, limit, digest, err)
               : verify_large(check, number, offset, limit, digest, err);
}
