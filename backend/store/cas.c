/* SPDX-License-Identifier: Apache-2.0 */
/* Finding, reading and removing of blobs, and holds. */
#include "store/cas.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "store/cas_private.h"

uint64_t cas_tick(struct cas *cas)
{
    struct timespec now;
    (void)clock_gettime(CLOCK_REALTIME_COARSE, &now);
    uint64_t time = (uint64_t)now.tv_sec * 1000000000 + (uint64_t)now.tv_nsec;
    cas->counter = time > cas->counter ? time : cas->counter + 1;
    return cas->counter;
}

bool cas_wait(struct cas *cas, const struct timespec *deadline)
{
    int rc;
    cas->waiting++;
    if (deadline != NULL)
        rc = pthread_cond_timedwait(&cas->changed, &cas->lock, deadline);
    else
        rc = pthread_cond_wait(&cas->changed, &cas->lock);
    cas->waiting--;
    return rc != ETIMEDOUT;
}

void cas_wake(struct cas *cas)
{
    if (cas->waiting != 0)
        (void)pthread_cond_broadcast(&cas->changed);
}

void cas_renew(struct cas *cas, struct cas_entry *entry)
{
    cas_table_unlist(&cas->table, entry);
    cas_table_list(&cas->table, entry, cas_tick(cas));
}

void cas_hold_begin(struct cas *cas, struct cas_hold *hold)
{
    (void)pthread_mutex_lock(&cas->lock);
    *hold = (struct cas_hold){.cas = cas, .since = cas_tick(cas), .previous = cas->newest_hold};
    if (cas->newest_hold != NULL)
        cas->newest_hold->next = hold;
    else
        cas->oldest_hold = hold;
    cas->newest_hold = hold;
    (void)pthread_mutex_unlock(&cas->lock);
}

void cas_hold_end(struct cas_hold *hold)
{
    struct cas *cas = hold->cas;
    (void)pthread_mutex_lock(&cas->lock);
    if (hold->previous != NULL)
        hold->previous->next = hold->next;
    else
        cas->oldest_hold = hold->next;
    if (hold->next != NULL)
        hold->next->previous = hold->previous;
    else
        cas->newest_hold = hold->previous;
    cas_wake(cas);
    (void)pthread_mutex_unlock(&cas->lock);
}

/* The entry of a blob that is there, or NULL. Lock held. */
static struct cas_entry *find_there(struct cas *cas, const struct digest *digest)
{
    struct cas_entry *entry = cas_table_find(&cas->table, digest);
    return entry != NULL && entry->state == CAS_THERE ? entry : NULL;
}

void cas_drop_broken(struct cas *cas, struct cas_entry *entry, const struct err *err)
{
    struct digest digest;
    char text[DIGEST_TEXT_MAX];
    cas_entry_digest(entry, &digest);
    (void)pthread_mutex_lock(&cas->lock);
    bool first = entry->state == CAS_THERE;
    if (first) {
        struct cas_entry *list = NULL;
        cas->broken++;
        cas_leave(cas, entry, &list);
        cas_unlink(cas, list);
    }
    (void)pthread_mutex_unlock(&cas->lock);
    if (first)
        log_error("blob-broken", log_str("path", cas->directory.path),
                  log_str("digest", digest_text(&digest, text)), log_str("reason", err->msg));
}

static int miss(struct err *err, const struct digest *digest)
{
    char text[DIGEST_TEXT_MAX];
    return err_set(err, ERR_NOT_FOUND, "blob %s is not in the store", digest_text(digest, text));
}

int cas_verify(struct cas *cas, struct cas_entry *entry, struct err *err)
{
    struct digest digest;
    struct cas_file file;
    cas_entry_digest(entry, &digest);
    int rc = cas_file_open(&file, cas->blobs_fd, &digest, err);
    if (rc == 0) {
        rc = cas_file_verify(&file, &cas->stopping, err);
        cas_file_close(&file);
    }
    if (rc == -ERR_DATA_LOSS) {
        cas_drop_broken(cas, entry, err);
        return miss(err, &digest);
    }
    if (rc != 0)
        return rc;
    (void)pthread_mutex_lock(&cas->lock);
    if (entry->suspect)
        cas->suspects--;
    entry->suspect = false;
    (void)pthread_mutex_unlock(&cas->lock);
    return 0;
}

int cas_pin(struct cas *cas, const struct digest *digest, struct cas_entry **found, struct err *err)
{
    (void)pthread_mutex_lock(&cas->lock);
    struct cas_entry *entry = find_there(cas, digest);
    bool suspect = false;
    if (entry != NULL) {
        entry->pins++;
        suspect = entry->suspect;
        cas_renew(cas, entry);
    }
    (void)pthread_mutex_unlock(&cas->lock);
    if (entry == NULL)
        return miss(err, digest);
    int rc = suspect ? cas_verify(cas, entry, err) : 0;
    if (rc != 0)
        cas_unpin(cas, entry);
    else
        *found = entry;
    return rc;
}

void cas_unpin(struct cas *cas, struct cas_entry *entry)
{
    (void)pthread_mutex_lock(&cas->lock);
    entry->pins--;
    cas_wake(cas);
    cas_release(cas, entry);
    (void)pthread_mutex_unlock(&cas->lock);
}

void cas_find_nowait(struct cas *cas, struct cas_hold *hold, const struct digest *digests,
                     size_t count, enum cas_presence *presence)
{
    assert(hold == NULL || hold->cas == cas);
    (void)pthread_mutex_lock(&cas->lock);
    for (size_t i = 0; i < count; i++) {
        presence[i] = CAS_PRESENT;
        if (digest_is_empty(&digests[i]))
            continue;
        struct cas_entry *entry = find_there(cas, &digests[i]);
        if (entry == NULL) {
            presence[i] = CAS_ABSENT;
        } else if (entry->suspect) {
            presence[i] = CAS_UNVERIFIED;
        } else {
            cas_renew(cas, entry);
        }
    }
    (void)pthread_mutex_unlock(&cas->lock);
}

/* As cas_pin has it, which knows of a suspect whether it can be read. */
static enum cas_presence verified_presence(struct cas *cas, const struct digest *digest)
{
    struct cas_entry *entry;
    struct err err;
    int rc = cas_pin(cas, digest, &entry, &err);
    if (rc == 0)
        cas_unpin(cas, entry);
    if (rc == -ERR_NOT_FOUND)
        return CAS_ABSENT;
    return rc == 0 ? CAS_PRESENT : CAS_UNVERIFIED;
}

void cas_find_verified(struct cas *cas, struct cas_hold *hold, const struct digest *digests,
                       size_t count, enum cas_presence *presence)
{
    cas_find_nowait(cas, hold, digests, count, presence);
    for (size_t i = 0; i < count; i++)
        if (presence[i] == CAS_UNVERIFIED)
            presence[i] = verified_presence(cas, &digests[i]);
}

void cas_find(struct cas *cas, struct cas_hold *hold, const struct digest *digests, size_t count,
              bool *present)
{
    enum cas_presence presence[64];
    const size_t step = sizeof(presence) / sizeof(presence[0]);
    for (size_t done = 0; done < count; done += step) {
        size_t take = count - done < step ? count - done : step;
        cas_find_verified(cas, hold, digests + done, take, presence);
        for (size_t i = 0; i < take; i++)
            present[done + i] = presence[i] == CAS_PRESENT;
    }
}

/*
 * The disk cannot read ENTRY, which is pinned: it is not offered before somebody could. It does not
 * leave the store, as all of the disk may be gone for the moment.
 */
static void suspect_unreadable(struct cas *cas, struct cas_entry *entry, const struct err *err)
{
    struct digest digest;
    char text[DIGEST_TEXT_MAX];
    (void)pthread_mutex_lock(&cas->lock);
    bool first = entry->state == CAS_THERE && !entry->suspect;
    if (first) {
        entry->suspect = true;
        cas->suspects++;
    }
    (void)pthread_mutex_unlock(&cas->lock);
    cas_entry_digest(entry, &digest);
    if (first)
        log_error("blob-unreadable", log_str("path", cas->directory.path),
                  log_str("digest", digest_text(&digest, text)), log_str("reason", err->msg));
}

/* Reads what is pinned; bytes that are broken end the blob, and unreadable ones make it suspect. */
static int read_pinned(struct cas *cas, struct cas_entry *entry, struct cas_file *file,
                       int64_t offset, uint8_t *buffer, size_t size, struct err *err)
{
    int rc = cas_file_read(file, offset, buffer, size, err);
    if (rc == -ERR_IO)
        suspect_unreadable(cas, entry, err);
    if (rc != -ERR_DATA_LOSS)
        return rc;
    struct digest digest;
    cas_entry_digest(entry, &digest);
    cas_drop_broken(cas, entry, err);
    return miss(err, &digest);
}

static int open_pinned(struct cas *cas, struct cas_entry *entry, const struct digest *digest,
                       struct cas_file *file, struct err *err)
{
    int rc = cas_file_open(file, cas->blobs_fd, digest, err);
    if (rc != -ERR_DATA_LOSS)
        return rc;
    cas_drop_broken(cas, entry, err);
    return miss(err, digest);
}

static int get(struct cas *cas, const struct digest *digest, uint8_t *buffer, struct err *err)
{
    if (digest_is_empty(digest))
        return 0;
    struct cas_entry *entry;
    struct cas_file file;
    int rc = cas_pin(cas, digest, &entry, err);
    if (rc != 0)
        return rc;
    rc = open_pinned(cas, entry, digest, &file, err);
    if (rc == 0) {
        rc = read_pinned(cas, entry, &file, 0, buffer, (size_t)digest->size, err);
        cas_file_close(&file);
    }
    cas_unpin(cas, entry);
    return rc;
}

void cas_get(struct cas *cas, struct cas_hold *hold, struct cas_blob *blobs, size_t count,
             uint8_t *buffer)
{
    assert(hold == NULL || hold->cas == cas);
    for (size_t i = 0; i < count; i++) {
        blobs[i].data = (struct span){buffer, 0};
        if (get(cas, &blobs[i].digest, buffer, &blobs[i].err) == 0) {
            blobs[i].err.code = ERR_OK;
            blobs[i].data.size = (size_t)blobs[i].digest.size;
            buffer += blobs[i].data.size;
        }
    }
}

int cas_delete(struct cas *cas, const struct digest *digest, struct err *err)
{
    (void)pthread_mutex_lock(&cas->lock);
    struct cas_entry *entry = find_there(cas, digest);
    if (entry != NULL) {
        struct cas_entry *list = NULL;
        cas_leave(cas, entry, &list);
        cas_unlink(cas, list);
    }
    (void)pthread_mutex_unlock(&cas->lock);
    return entry != NULL ? 0 : miss(err, digest);
}

struct cas_reader {
    struct cas *cas;
    struct cas_entry *entry; /* pinned; NULL: the empty blob */
    struct cas_file file;
};

int cas_reader_open(struct cas *cas, const struct digest *digest, struct cas_reader **out,
                    struct err *err)
{
    struct cas_reader *reader = calloc(1, sizeof(*reader));
    if (reader == NULL)
        return err_no_memory(err, "the reader of a blob");
    reader->cas = cas;
    reader->file.fd = -1;
    int rc = 0;
    if (!digest_is_empty(digest)) {
        rc = cas_pin(cas, digest, &reader->entry, err);
        if (rc == 0)
            rc = open_pinned(cas, reader->entry, digest, &reader->file, err);
    }
    if (rc != 0) {
        cas_reader_close(reader);
        return rc;
    }
    *out = reader;
    return 0;
}

int cas_reader_read(struct cas_reader *reader, int64_t offset, uint8_t *buffer, size_t size,
                    struct err *err)
{
    if (reader->entry == NULL)
        return 0;
    assert(offset >= 0 && offset <= reader->file.size &&
           size <= (uint64_t)(reader->file.size - offset));
    return read_pinned(reader->cas, reader->entry, &reader->file, offset, buffer, size, err);
}

void cas_reader_close(struct cas_reader *reader)
{
    if (reader == NULL)
        return;
    cas_file_close(&reader->file);
    if (reader->entry != NULL)
        cas_unpin(reader->cas, reader->entry);
    free(reader);
}

void cas_stats(struct cas *cas, struct cas_stats *stats)
{
    (void)pthread_mutex_lock(&cas->lock);
    *stats = (struct cas_stats){.blobs = cas->table.count,
                                .bytes = (uint64_t)cas->used,
                                .evicted = cas->evicted,
                                .broken = cas->broken};
    (void)pthread_mutex_unlock(&cas->lock);
}
