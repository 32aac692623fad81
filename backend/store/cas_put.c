/* SPDX-License-Identifier: Apache-2.0 */
/* Storing batches of blobs: what is absent is appended to the log in one write, and published. */
#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "store/cas_private.h"

/* Bytes that are written at once, unless one record alone has more. */
enum { RUN_MAX = 1 << 20 };

/* To enter a blob that is moved again and again. */
enum { ENTER_TRIES = 100 };

/* --- room in the log --- */

/* Whether to try again what failed for ERR: once, and only if room could be made on the disk. */
static bool relieve(struct cas_upload *upload, struct err *err)
{
    if (err->code != ERR_EXHAUSTED)
        return false;
    if (!upload->is_relieved && cas_space_relieve(upload->cas->space, upload->left)) {
        upload->is_relieved = true;
        return true;
    }
    (void)err_wrap(err, "the disk is full");
    return false;
}

int cas_upload_begin(struct cas *cas, int64_t bytes, size_t records, struct cas_upload *upload,
                     struct err *err)
{
    bool is_new;
    int64_t overhead = cas_log_overhead(cas->log);
    upload->cas = cas;
    upload->left = bytes;
    upload->growth = cas_log_growth(bytes, records);
    upload->is_relieved = false;
    int rc = cas_space_take(cas->space, upload->growth + overhead, err);
    if (rc != 0)
        return rc;
    do
        rc = cas_log_take(cas->log, bytes, &upload->appender, &is_new, err);
    while (rc != 0 && relieve(upload, err));
    if (rc != 0) {
        cas_space_give(cas->space, upload->growth + overhead);
        return rc;
    }
    upload->version = atomic_load(&upload->appender.segment->version);
    /* A segment that was begun stays, whatever becomes of the upload. */
    if (is_new)
        cas_space_charge(cas->space, upload->appender.segment, overhead);
    else
        cas_space_give(cas->space, overhead);
    return 0;
}

int cas_upload_append(struct cas_upload *upload, const struct iovec *parts, int count,
                      struct err *err)
{
    struct iovec rest[CAS_UPLOAD_PARTS];
    uint64_t offset = upload->appender.offset;
    int rc;
    assert(count <= CAS_UPLOAD_PARTS);
    do {
        memcpy(rest, parts, (size_t)count * sizeof(rest[0]));
        rc = cas_log_append(&upload->appender, rest, count, err);
    } while (rc != 0 && relieve(upload, err));
    if (rc == 0)
        upload->left -= (int64_t)(upload->appender.offset - offset);
    return rc;
}

void cas_upload_end(struct cas_upload *upload, bool published)
{
    struct cas *cas = upload->cas;
    struct cas_segment *segment = upload->appender.segment;
    if (published)
        cas_space_charge(cas->space, segment, upload->growth);
    bool is_cut = cas_log_give(&upload->appender);
    if (published)
        return;
    if (is_cut)
        cas_space_give(cas->space, upload->growth);
    else
        cas_space_charge(cas->space, segment, upload->growth);
}

/* --- publishing --- */

/*
 * Enters a blob that was published, unless it is there already. Of two uploads of one blob the
 * first stays: a push may rely on it already, and has made it durable where it is. What cannot be
 * relied on at present is replaced.
 */
static int enter_blob(const struct cas_upload *upload, struct cas_hold *hold,
                      const struct cas_content *content, const struct digest *digest,
                      struct err *err)
{
    struct cas *cas = upload->cas;
    const struct cas_appender *appender = &upload->appender;
    uint64_t place = cas_place(appender->number, content->offset);
    char text[DIGEST_TEXT_MAX];
    bool is_entered = false;
    for (unsigned tries = 0; !is_entered; tries++) {
        struct cas_found found;
        uint64_t there;
        if (tries == ENTER_TRIES)
            return err_set(err, ERR_UNAVAILABLE, "blob %s is being moved",
                           digest_text(digest, text));
        int rc = digest_table_add(cas->table, &content->key, place, &there, err);
        if (rc != 0)
            return rc;
        is_entered = there == 0;
        if (!is_entered && cas_look_up(cas, hold, digest, &found) == CAS_PRESENT)
            return 0;
        /* If it is not there any more it is added, if it was moved it is looked at again. */
        if (!is_entered && found.place != 0)
            is_entered = cas_replace(cas, &found, place);
    }
    cas_hold_note(hold, appender->segment, appender->number, upload->version,
                  content->offset + (uint64_t)cas_record_size(digest->function, digest->size));
    return 0;
}

int cas_upload_publish(struct cas_upload *upload, struct cas_hold *hold,
                       struct cas_blob *const *blobs, const struct cas_content *contents,
                       size_t count, bool replaces, struct err *err)
{
    struct cas *cas = upload->cas;
    struct cas_appender *appender = &upload->appender;
    uint64_t end = appender->offset;
    assert(count <= CAS_PUT_BATCH);
    int rc = cas_log_publish(appender, contents, count, err);
    if (rc != 0)
        return rc;
    /* Nobody decides on a segment that is appended to: this only renews it. */
    (void)cas_segment_use(&cas->shared, appender->number, cas_shared_tick(&cas->shared));
    /*
     * What the other was relied on for, this one has to be good for: a power cut included. The
     * other is not carried forward any more, be it a suspect or not found again yet.
     */
    struct err lost;
    bool is_lost = replaces && cas_log_sync(cas->log, &appender->number, 1, &lost) != 0;
    for (size_t i = 0; !is_lost && i < count; i++)
        if (enter_blob(upload, hold, &contents[i], &blobs[i]->digest, &blobs[i]->err) == 0)
            blobs[i]->err.code = ERR_OK;
    if (!is_lost && atomic_load(&appender->segment->trusted) < end) {
        is_lost = true;
        (void)err_set(&lost, ERR_UNAVAILABLE, "the disk failed while the blob was written");
    }
    for (size_t i = 0; is_lost && i < count; i++)
        blobs[i]->err = lost;
    return 0;
}

/* --- batches --- */

/* Blobs to be stored, and with which of them each stands or falls. */
struct batch {
    struct cas *cas;
    struct cas_hold *hold;
    struct cas_blob *blobs[CAS_PUT_BATCH];
    bool replaces[CAS_PUT_BATCH]; /* one that is suspect, or that may be there */
    size_t count;
};

static int64_t record_size(const struct cas_blob *blob)
{
    return cas_record_size(blob->digest.function, blob->digest.size);
}

/* Writes the records of COUNT blobs one behind the other. */
static int append_run(struct cas_upload *upload, struct cas_blob *const *blobs, size_t count,
                      struct cas_content *contents, struct err *err)
{
    struct iovec parts[CAS_UPLOAD_PARTS];
    size_t size = 0;
    for (size_t i = 0; i < count; i++)
        size += (size_t)record_size(blobs[i]) - blobs[i]->data.size;
    uint8_t *frames = malloc(size);
    if (frames == NULL)
        return err_no_memory(err, "the records of blobs");
    uint64_t offset = upload->appender.offset;
    uint8_t *at = frames;
    uint8_t *part = frames;
    for (size_t i = 0; i < count; i++) {
        const struct digest *digest = &blobs[i]->digest;
        cas_key_of(digest, &contents[i].key);
        contents[i].offset = offset;
        cas_record_put_header(&upload->appender.origin, offset, digest, at);
        at += cas_record_header_size(digest->function);
        parts[2 * i] = (struct iovec){part, (size_t)(at - part)};
        parts[2 * i + 1] = (struct iovec){(void *)blobs[i]->data.data, blobs[i]->data.size};
        part = at;
        cas_record_put_tail(digest, blobs[i]->data.data, at);
        at += cas_record_tail_size(digest->function, digest->size);
        offset += (uint64_t)record_size(blobs[i]);
    }
    parts[2 * count] = (struct iovec){part, (size_t)(at - part)};
    int rc = cas_upload_append(upload, parts, 2 * (int)count + 1, err);
    free(frames);
    return rc;
}

/* Blobs of the batch from FIRST on, whose records have BYTES. */
static int store_run(const struct batch *batch, size_t first, size_t count, int64_t bytes,
                     struct err *err)
{
    struct cas_content contents[CAS_PUT_BATCH];
    struct cas_upload upload;
    struct cas_blob *const *blobs = batch->blobs + first;
    bool replaces = false;
    for (size_t i = 0; i < count; i++)
        replaces = replaces || batch->replaces[first + i];
    int rc = cas_upload_begin(batch->cas, bytes, count, &upload, err);
    if (rc != 0)
        return rc;
    rc = append_run(&upload, blobs, count, contents, err);
    if (rc == 0)
        rc = cas_upload_publish(&upload, batch->hold, blobs, contents, count, replaces, err);
    cas_upload_end(&upload, rc == 0);
    return rc;
}

/* A run is not so large that the log would give it a segment of its own. */
static void store_batch(const struct batch *batch)
{
    int64_t limit = cas_log_segment_size(batch->cas->options.quota) / 4;
    if (limit > RUN_MAX)
        limit = RUN_MAX;
    size_t first = 0;
    while (first < batch->count) {
        int64_t bytes = record_size(batch->blobs[first]);
        size_t next = first + 1;
        while (next < batch->count && bytes + record_size(batch->blobs[next]) <= limit)
            bytes += record_size(batch->blobs[next++]);
        struct err err;
        int rc = store_run(batch, first, next - first, bytes, &err);
        for (size_t i = first; rc != 0 && i < next; i++)
            batch->blobs[i]->err = err;
        first = next;
    }
}

/* The blob of the batch that is the same, or NULL. */
static const struct cas_blob *find_twin(const struct batch *batch, const struct digest *digest)
{
    for (size_t i = 0; i < batch->count; i++)
        if (batch->blobs[i]->digest.hash[0] == digest->hash[0] &&
            digest_equal(&batch->blobs[i]->digest, digest))
            return batch->blobs[i];
    return NULL;
}

/* Whether there is a blob that need not be stored. */
static bool is_stored(const struct batch *batch, const struct digest *digest,
                      enum cas_presence presence, struct cas_found *found)
{
    struct err err;
    bool is_undecided =
        presence == CAS_UNVERIFIED && found->place != 0 && (found->place & CAS_PLACE_SUSPECT) == 0;
    if (!is_undecided)
        return presence == CAS_PRESENT;
    return cas_locate(batch->cas, batch->hold, digest, found, &err) == 0 &&
           (found->place & CAS_PLACE_SUSPECT) == 0;
}

void cas_put_verified(struct cas *cas, struct cas_hold *hold, struct cas_blob *const *blobs,
                      size_t count)
{
    const struct digest *digests[CAS_PUT_BATCH];
    const struct cas_blob *twins[CAS_PUT_BATCH] = {NULL};
    enum cas_presence presence[CAS_PUT_BATCH];
    struct cas_found found[CAS_PUT_BATCH];
    struct batch batch = {.cas = cas, .hold = hold};
    assert(count <= CAS_PUT_BATCH);
    if (count == 0)
        return;
    for (size_t i = 0; i < count; i++)
        digests[i] = &blobs[i]->digest;
    cas_look_up_all(cas, hold, digests, count, presence, found);
    for (size_t i = 0; i < count; i++) {
        blobs[i]->err.code = ERR_OK;
        if (is_stored(&batch, digests[i], presence[i], &found[i]))
            continue;
        twins[i] = find_twin(&batch, digests[i]);
        if (twins[i] != NULL)
            continue;
        batch.replaces[batch.count] = presence[i] == CAS_UNVERIFIED;
        batch.blobs[batch.count++] = blobs[i];
    }
    store_batch(&batch);
    for (size_t i = 0; i < count; i++)
        if (twins[i] != NULL)
            blobs[i]->err = twins[i]->err;
}

static int verify(const struct cas_blob *blob, struct err *err)
{
    struct digest actual;
    char text[DIGEST_TEXT_MAX];
    if (blob->data.size == (uint64_t)blob->digest.size) {
        int rc =
            digest_compute(blob->digest.function, blob->data.data, blob->data.size, &actual, err);
        if (rc != 0 || digest_equal(&actual, &blob->digest))
            return rc;
    }
    return err_set(err, ERR_INVALID, "the data has another hash or size than the digest %s",
                   digest_text(&blob->digest, text));
}

void cas_put(struct cas *cas, struct cas_hold *hold, struct cas_blob *blobs, size_t count)
{
    struct cas_blob *sound[CAS_PUT_BATCH];
    struct err refused;
    assert(hold == NULL || hold->cas == cas);
    bool is_refused = cas_is_writing(cas, &refused) != 0;
    size_t done = 0;
    while (done < count) {
        size_t chosen = 0;
        for (; done < count && chosen < CAS_PUT_BATCH; done++) {
            struct cas_blob *blob = &blobs[done];
            if (is_refused)
                blob->err = refused;
            else if (verify(blob, &blob->err) == 0)
                sound[chosen++] = blob;
        }
        cas_put_verified(cas, hold, sound, chosen);
    }
}
