/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Reading blobs out of the log. A blob is where it was found only as long as nobody evicts, carries
 * or breaks its segment: what cannot be read is looked up again before it is called lost.
 */
#include <assert.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "store/cas_private.h"

enum {
    SUMS = 64,          /* checksums that are read ahead */
    PIECE = 256 * 1024, /* bytes that are read at once: verified while the processor has them */
    RUN = 64 * 1024,    /* of neighbours in a segment, read together */
    GAP = 4 * 1024,     /* bytes between two of a run that are read for nothing */
    SLICE = 64,         /* blobs of a batch that are read together */
    MOVES_MAX = 16,     /* places at which a blob is looked for */
    MISSES_MAX = 16,    /* reads at one place that is not there, before it is called broken */
    MISS_PAUSE_MS = 5,  /* between them */
};

_Static_assert(PIECE % CAS_CHUNK == 0, "pieces are whole chunks");

/* --- one blob, where it was found --- */

struct cas_reader {
    struct cas *cas;
    struct cas_hold *hold; /* of who looks it up again; may be NULL */
    struct digest digest;
    bool is_empty; /* the empty blob: nothing below is used */
    struct cas_found found;
    bool is_begun;     /* the record's header was found to be right */
    bool is_other;     /* the record is of a blob with a similar hash: this one is not there */
    uint64_t payload;  /* its offset in the segment */
    int64_t first_sum; /* the chunk that the first of sums is of */
    int64_t sum_count; /* how many are there */
    uint8_t *chunk;    /* CAS_CHUNK bytes, for parts of chunks; heap, made when needed */
    uint8_t sums[SUMS * CAS_SUM];
};

/* FOUND: where it was found; NULL: to be looked up. */
static void reader_init(struct cas_reader *reader, struct cas *cas, struct cas_hold *hold,
                        const struct digest *digest, const struct cas_found *found)
{
    memset(reader, 0, sizeof(*reader));
    reader->cas = cas;
    reader->hold = hold;
    reader->digest = *digest;
    reader->is_empty = digest_is_empty(digest);
    if (found != NULL)
        reader->found = *found;
}

static void reader_fini(struct cas_reader *reader)
{
    free(reader->chunk);
}

static void move_to(struct cas_reader *reader, const struct cas_found *found)
{
    reader->found = *found;
    reader->is_begun = false;
    reader->is_other = false;
    reader->sum_count = 0;
}

/*
 * ERR_DATA_LOSS: no such record. ERR_NOT_FOUND: it is sound, but of another blob, which is the same
 * to the table, as that knows half of a hash: somebody has made up this digest.
 */
static int check_header(struct cas *cas, uint64_t place, const struct digest *digest,
                        const uint8_t *header, size_t available, struct err *err)
{
    struct cas_origin origin = {.segment = cas_place_number(place)};
    struct digest actual;
    struct cas_key key, actual_key;
    memcpy(origin.store, cas->store, sizeof(origin.store));
    int rc =
        cas_record_get_header(&origin, cas_place_offset(place), header, available, &actual, err);
    if (rc != 0 || digest_equal(&actual, digest))
        return rc;
    cas_key_of(digest, &key);
    cas_key_of(&actual, &actual_key);
    return cas_key_equal(&key, &actual_key)
               ? cas_miss(err, digest)
               : err_set(err, ERR_DATA_LOSS, "the record is of another blob");
}

static int begin(struct cas_reader *reader, struct err *err)
{
    uint8_t header[CAS_RECORD_HEADER_MAX];
    size_t size = cas_record_header_size(reader->digest.function);
    uint64_t place = reader->found.place;
    int rc = cas_log_read(reader->cas->log, cas_place_number(place), header, size,
                          cas_place_offset(place), err);
    if (rc != 0)
        return rc;
    rc = check_header(reader->cas, place, &reader->digest, header, size, err);
    reader->is_other = rc == -ERR_NOT_FOUND;
    if (rc != 0)
        return rc;
    reader->payload = cas_place_offset(place) + size;
    reader->is_begun = true;
    return 0;
}

/* The checksum of chunk NUMBER, and of some behind it. */
static int need_sums(struct cas_reader *reader, int64_t number, struct err *err)
{
    if (number >= reader->first_sum && number < reader->first_sum + reader->sum_count)
        return 0;
    int64_t count = (reader->digest.size + CAS_CHUNK - 1) / CAS_CHUNK - number;
    if (count > SUMS)
        count = SUMS;
    reader->sum_count = 0;
    uint64_t offset = reader->payload + (uint64_t)reader->digest.size + (uint64_t)number * CAS_SUM;
    int rc = cas_log_read(reader->cas->log, cas_place_number(reader->found.place), reader->sums,
                          (size_t)count * CAS_SUM, offset, err);
    if (rc != 0)
        return rc;
    reader->first_sum = number;
    reader->sum_count = count;
    return 0;
}

/*
 * Reads and verifies from the beginning of chunk NUMBER: SIZE bytes, or less as *TAKEN says, to the
 * end of a chunk or the blob.
 */
static int read_chunks(struct cas_reader *reader, int64_t number, uint8_t *buffer, size_t size,
                       size_t *taken, struct err *err)
{
    int rc = need_sums(reader, number, err);
    if (rc != 0)
        return rc;
    int64_t index = number - reader->first_sum;
    size_t covered = (size_t)(reader->sum_count - index) * CAS_CHUNK;
    if (size > covered)
        size = covered;
    if (size > PIECE)
        size = PIECE;
    rc = cas_log_read(reader->cas->log, cas_place_number(reader->found.place), buffer, size,
                      reader->payload + (uint64_t)number * CAS_CHUNK, err);
    if (rc != 0)
        return rc;
    *taken = size;
    return cas_record_verify(&reader->digest, buffer, size, reader->sums + index * CAS_SUM, err);
}

/* A part of chunk NUMBER: all of it is read, by way of a chunk of ours. */
static int read_part(struct cas_reader *reader, int64_t number, size_t skip, uint8_t *buffer,
                     size_t size, struct err *err)
{
    if (reader->chunk == NULL)
        reader->chunk = malloc(CAS_CHUNK);
    if (reader->chunk == NULL)
        return err_no_memory(err, "a part of a blob");
    int64_t rest = reader->digest.size - number * CAS_CHUNK;
    size_t whole = rest < CAS_CHUNK ? (size_t)rest : CAS_CHUNK;
    size_t taken;
    int rc = read_chunks(reader, number, reader->chunk, whole, &taken, err);
    if (rc == 0)
        memcpy(buffer, reader->chunk + skip, size);
    return rc;
}

static int read_here(struct cas_reader *reader, int64_t offset, uint8_t *buffer, size_t size,
                     struct err *err)
{
    int rc = reader->is_begun ? 0 : begin(reader, err);
    while (rc == 0 && size > 0) {
        int64_t number = offset / CAS_CHUNK;
        size_t skip = (size_t)(offset % CAS_CHUNK);
        bool to_end = (int64_t)size == reader->digest.size - offset;
        size_t take = to_end ? size : size - size % CAS_CHUNK;
        if (skip == 0 && take > 0) {
            rc = read_chunks(reader, number, buffer, take, &take, err);
        } else {
            take = CAS_CHUNK - skip < size ? CAS_CHUNK - skip : size;
            rc = read_part(reader, number, skip, buffer, take, err);
        }
        buffer += take;
        offset += (int64_t)take;
        size -= take;
    }
    return rc;
}

/* --- what a failed read means --- */

/*
 * The disk cannot read the blob: it is not offered before somebody could. It does not leave the
 * store, as all of the disk may be gone for the moment.
 */
static void suspect_unreadable(struct cas_reader *reader, const struct err *err)
{
    char text[DIGEST_TEXT_MAX];
    char name[CAS_LOG_NAME];
    if (!cas_set_suspect(reader->cas, &reader->found, true))
        return;
    log_error("blob-unreadable", log_str("path", reader->cas->directory.path),
              log_str("digest", digest_text(&reader->digest, text)),
              log_str("segment", cas_log_name(cas_place_number(reader->found.place), name)),
              log_str("reason", err->msg));
}

/* How often a blob was looked for again, and how often of late where it had been. */
struct tries {
    unsigned moves;
    unsigned misses;
};

/*
 * Whether to read once more at a place of which the bytes are not there, but which counts: its file
 * may be about to go, or to stay after all. Where something is known to be broken it is not.
 */
static bool is_worth_waiting(const struct cas_reader *reader, struct tries *tries)
{
    const struct cas_segment *segment =
        cas_segment_find(&reader->cas->shared, cas_place_number(reader->found.place));
    bool is_broken = segment != NULL && (atomic_load(&segment->flags) & CAS_SEGMENT_BROKEN) != 0;
    if (++tries->misses >= MISSES_MAX)
        return false;
    if (!is_broken)
        (void)cas_pause(reader->cas, MISS_PAUSE_MS);
    return true;
}

/*
 * After FAULT, which ERR tells of: 0 if the blob is to be tried where it is now. Bytes are broken
 * only if they are still relied on after they were read: they may have been evicted, or cut off
 * after a failed sync.
 */
static int settle(struct cas_reader *reader, int fault, struct tries *tries, struct err *err)
{
    struct cas_found found;
    struct err look_err;
    char text[DIGEST_TEXT_MAX];
    if (fault == -ERR_IO)
        suspect_unreadable(reader, err);
    if ((fault != -ERR_NOT_FOUND && fault != -ERR_DATA_LOSS) || reader->is_other)
        return fault;
    int rc = cas_locate(reader->cas, reader->hold, &reader->digest, &found, &look_err);
    if (rc != 0) {
        *err = look_err;
        return rc;
    }
    bool stays = cas_place_is_same(found.place, reader->found.place);
    if (stays && (fault == -ERR_DATA_LOSS || !is_worth_waiting(reader, tries))) {
        cas_drop_broken(reader->cas, &reader->digest, &found, err);
        return cas_miss(err, &reader->digest);
    }
    move_to(reader, &found);
    if (stays)
        return 0;
    tries->misses = 0;
    return ++tries->moves < MOVES_MAX ? 0
                                      : err_set(err, ERR_UNAVAILABLE, "blob %s is being moved",
                                                digest_text(&reader->digest, text));
}

static int read_range(struct cas_reader *reader, int64_t offset, uint8_t *buffer, size_t size,
                      struct err *err)
{
    int rc;
    struct tries tries = {0};
    do {
        rc = read_here(reader, offset, buffer, size, err);
        if (rc == 0)
            return 0;
        rc = settle(reader, rc, &tries, err);
    } while (rc == 0);
    return rc;
}

bool cas_is_other(struct cas *cas, const struct digest *digest, const struct cas_found *found)
{
    struct cas_reader reader;
    struct err ignored;
    reader_init(&reader, cas, NULL, digest, found);
    (void)begin(&reader, &ignored);
    return reader.is_other;
}

int cas_verify(struct cas *cas, const struct digest *digest, struct err *err)
{
    struct cas_found found;
    int rc = cas_locate(cas, NULL, digest, &found, err);
    if (rc != 0 || digest_is_empty(digest))
        return rc;
    struct cas_reader reader;
    reader_init(&reader, cas, NULL, digest, &found);
    size_t step = digest->size < PIECE ? (size_t)digest->size : PIECE;
    uint8_t *buffer = malloc(step);
    if (buffer == NULL)
        rc = err_no_memory(err, "a part of a blob");
    for (int64_t offset = 0; rc == 0 && offset < digest->size; offset += (int64_t)step) {
        int64_t rest = digest->size - offset;
        rc = read_range(&reader, offset, buffer, rest < PIECE ? (size_t)rest : step, err);
    }
    /* Of one that moved meanwhile, not all of what is there now was read. */
    if (rc == 0 && cas_place_is_same(reader.found.place, found.place))
        (void)cas_set_suspect(cas, &found, false);
    free(buffer);
    reader_fini(&reader);
    return rc;
}

/* --- readers --- */

/* Finds a blob that is to be read bit by bit: a suspect is read as a whole first. */
static int find_readable(struct cas *cas, const struct digest *digest, struct cas_found *found,
                         struct err *err)
{
    int rc = cas_locate(cas, NULL, digest, found, err);
    if (rc != 0 || (found->place & CAS_PLACE_SUSPECT) == 0)
        return rc;
    rc = cas_verify(cas, digest, err);
    return rc == 0 ? cas_locate(cas, NULL, digest, found, err) : rc;
}

int cas_reader_open(struct cas *cas, const struct digest *digest, struct cas_reader **out,
                    struct err *err)
{
    struct cas_found found;
    int rc = find_readable(cas, digest, &found, err);
    if (rc != 0)
        return rc;
    struct cas_reader *reader = malloc(sizeof(*reader));
    if (reader == NULL)
        return err_no_memory(err, "the reader of a blob");
    reader_init(reader, cas, NULL, digest, &found);
    *out = reader;
    return 0;
}

int cas_reader_read(struct cas_reader *reader, int64_t offset, uint8_t *buffer, size_t size,
                    struct err *err)
{
    assert(offset >= 0 && offset <= reader->digest.size &&
           size <= (uint64_t)(reader->digest.size - offset));
    return reader->is_empty ? 0 : read_range(reader, offset, buffer, size, err);
}

void cas_reader_close(struct cas_reader *reader)
{
    if (reader == NULL)
        return;
    reader_fini(reader);
    free(reader);
}

/* --- batches --- */

/* Of a batch, up to SLICE blobs and where they were found. */
struct slice {
    struct cas *cas;
    struct cas_hold *hold;
    struct cas_blob *blobs;
    size_t count;
    enum cas_presence presence[SLICE];
    struct cas_found found[SLICE];
    uint8_t *outs[SLICE];
    bool is_read[SLICE];
    uint8_t order[SLICE]; /* of those that can be read in runs, by their places */
    size_t ordered;
    uint8_t *scratch; /* RUN bytes, or as many as the only blob's record has; heap */
};

static uint64_t record_begin(const struct slice *slice, size_t rank)
{
    return cas_place_offset(slice->found[slice->order[rank]].place);
}

static uint64_t record_end(const struct slice *slice, size_t rank)
{
    const struct digest *digest = &slice->blobs[slice->order[rank]].digest;
    return record_begin(slice, rank) + (uint64_t)cas_record_size(digest->function, digest->size);
}

/* Whether the record of RANK can be read with the run that began at BEGIN and ends at END. */
static bool joins(const struct slice *slice, size_t rank, uint64_t number, uint64_t begin_at,
                  uint64_t end)
{
    return rank < slice->ordered &&
           cas_place_number(slice->found[slice->order[rank]].place) == number &&
           record_begin(slice, rank) <= end + GAP && record_end(slice, rank) <= begin_at + RUN;
}

/* Blobs come mostly in the order in which they were stored. */
static void sort_by_place(struct slice *slice)
{
    for (size_t i = 1; i < slice->ordered; i++) {
        uint8_t index = slice->order[i];
        size_t at = i;
        while (at > 0 && slice->found[slice->order[at - 1]].place > slice->found[index].place) {
            slice->order[at] = slice->order[at - 1];
            at--;
        }
        slice->order[at] = index;
    }
}

static void choose(struct slice *slice)
{
    for (size_t i = 0; i < slice->count; i++) {
        const struct digest *digest = &slice->blobs[i].digest;
        if (slice->presence[i] == CAS_PRESENT && slice->found[i].place != 0 &&
            cas_record_size(digest->function, digest->size) <= RUN)
            slice->order[slice->ordered++] = (uint8_t)i;
    }
    sort_by_place(slice);
}

/* Takes a blob out of its RECORD, if that is sound. */
static bool take_from_record(struct slice *slice, size_t index, const uint8_t *record)
{
    const struct digest *digest = &slice->blobs[index].digest;
    struct err err;
    size_t header = cas_record_header_size(digest->function);
    size_t size = (size_t)digest->size;
    if (check_header(slice->cas, slice->found[index].place, digest, record, header, &err) != 0 ||
        cas_record_verify(digest, record + header, size, record + header + size, &err) != 0)
        return false;
    memcpy(slice->outs[index], record + header, size);
    return true;
}

/* What cannot be read in a run is tried alone later. */
static void read_runs(struct slice *slice)
{
    size_t rank = 0;
    while (rank < slice->ordered) {
        size_t first = rank;
        uint64_t number = cas_place_number(slice->found[slice->order[rank]].place);
        uint64_t begin_at = record_begin(slice, rank);
        uint64_t end = begin_at;
        struct err err;
        for (; joins(slice, rank, number, begin_at, end); rank++)
            if (record_end(slice, rank) > end)
                end = record_end(slice, rank);
        if (cas_log_read(slice->cas->log, number, slice->scratch, (size_t)(end - begin_at),
                         begin_at, &err) != 0)
            continue;
        for (size_t i = first; i < rank; i++)
            slice->is_read[slice->order[i]] = take_from_record(
                slice, slice->order[i], slice->scratch + (record_begin(slice, i) - begin_at));
    }
}

/* Reads one as a whole; one that is suspect, but can be read, is suspect no more. */
static int get_alone(struct slice *slice, const struct digest *digest, uint8_t *buffer,
                     struct err *err)
{
    struct cas *cas = slice->cas;
    struct cas_reader reader;
    struct cas_found found;
    int rc = cas_locate(cas, slice->hold, digest, &found, err);
    if (rc != 0)
        return rc;
    reader_init(&reader, cas, slice->hold, digest, &found);
    rc = read_range(&reader, 0, buffer, (size_t)digest->size, err);
    if (rc == 0 && (reader.found.place & CAS_PLACE_SUSPECT) != 0)
        (void)cas_set_suspect(cas, &reader.found, false);
    reader_fini(&reader);
    return rc;
}

static void finish_blob(struct slice *slice, size_t index)
{
    struct cas_blob *blob = &slice->blobs[index];
    int rc = 0;
    blob->data = (struct span){slice->outs[index], 0};
    if (slice->presence[index] == CAS_ABSENT)
        rc = cas_miss(&blob->err, &blob->digest);
    else if (!slice->is_read[index] && !digest_is_empty(&blob->digest))
        rc = get_alone(slice, &blob->digest, slice->outs[index], &blob->err);
    if (rc != 0)
        return;
    blob->err.code = ERR_OK;
    blob->data.size = (size_t)blob->digest.size;
}

static void get_slice(struct slice *slice)
{
    const struct digest *digests[SLICE];
    for (size_t i = 0; i < slice->count; i++)
        digests[i] = &slice->blobs[i].digest;
    cas_look_up_all(slice->cas, slice->hold, digests, slice->count, slice->presence, slice->found);
    choose(slice);
    if (slice->ordered > 0) {
        uint64_t size = record_end(slice, 0) - record_begin(slice, 0);
        slice->scratch = malloc(slice->ordered > 1 ? RUN : (size_t)size);
    }
    if (slice->scratch != NULL)
        read_runs(slice);
    free(slice->scratch);
    for (size_t i = 0; i < slice->count; i++)
        finish_blob(slice, i);
}

void cas_get(struct cas *cas, struct cas_hold *hold, struct cas_blob *blobs, size_t count,
             uint8_t *buffer)
{
    assert(hold == NULL || hold->cas == cas);
    for (size_t done = 0; done < count; done += SLICE) {
        struct slice slice;
        memset(slice.is_read, 0, sizeof(slice.is_read));
        slice.cas = cas;
        slice.hold = hold;
        slice.blobs = blobs + done;
        slice.count = count - done < SLICE ? count - done : SLICE;
        slice.ordered = 0;
        slice.scratch = NULL;
        for (size_t i = 0; i < slice.count; i++) {
            slice.outs[i] = buffer;
            buffer += slice.blobs[i].digest.size;
        }
        get_slice(&slice);
    }
}
