/* SPDX-License-Identifier: Apache-2.0 */
/* Uploads: a file of its own for each, and its publication under the name of the digest. */
#include <assert.h>
#include <endian.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/crc32c.h"
#include "base/log.h"
#include "store/cas_private.h"

enum { UPLOAD_NAME_SIZE = 24 };

/* Files larger than this have their blocks allocated first: few pieces, and a full disk is found.
 */
enum { ALLOCATE_MIN = 16 * 1024 };

struct cas_writer {
    struct cas *cas;
    struct digest digest;
    struct cas_entry *existing; /* pinned: the blob is there already; NULL: all below */
    struct hasher *hasher;      /* NULL: the bytes are known to be right */
    int fd;
    char name[UPLOAD_NAME_SIZE]; /* in uploads/; empty: not made yet */
    int64_t room;                /* taken of the quota */
    int64_t written;             /* bytes of the blob */
    uint32_t seed;
    uint32_t sum;      /* of the chunk that is being written */
    uint32_t *sums;    /* of those before, and of it, as they go to the disk */
    uint64_t failures; /* the store's when this began */
    bool relieved;     /* room was made once on a full disk */
};

/* Whether to try again what failed for ERR: once, and only if room could be made on the disk. */
static bool relieve(struct cas_writer *writer, const struct err *err)
{
    if (err->code != ERR_EXHAUSTED || writer->relieved)
        return false;
    writer->relieved = true;
    return cas_room_relieve(writer->cas, writer->room);
}

static int make_file(struct cas_writer *writer, struct err *err)
{
    struct cas *cas = writer->cas;
    (void)pthread_mutex_lock(&cas->lock);
    uint64_t number = cas->uploads++;
    writer->failures = cas->failures;
    (void)pthread_mutex_unlock(&cas->lock);
    char name[UPLOAD_NAME_SIZE];
    (void)snprintf(name, sizeof(name), "%" PRIu64, number);
    do {
        writer->fd = openat(cas->uploads_fd, name, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0640);
        if (writer->fd < 0)
            (void)cas_file_errno(err, errno, "make a file for an upload");
    } while (writer->fd < 0 && relieve(writer, err));
    if (writer->fd < 0)
        return -(int)err->code;
    memcpy(writer->name, name, sizeof(name));
    return 0;
}

static int allocate(struct cas_writer *writer, struct err *err)
{
    int64_t size = cas_file_size(writer->digest.size);
    if (size <= ALLOCATE_MIN)
        return 0;
    do {
        if (fallocate(writer->fd, 0, 0, size) == 0)
            return 0;
        if (errno == EOPNOTSUPP || errno == ENOSYS)
            return 0;
        (void)cas_file_errno(err, errno, "allocate the blocks of an upload");
    } while (relieve(writer, err));
    return -(int)err->code;
}

static int begin_upload(struct cas_writer *writer, struct err *err)
{
    int64_t size = writer->digest.size;
    int64_t room = cas_room_of(writer->cas, size);
    int rc = cas_room_take(writer->cas, room, err);
    if (rc != 0)
        return rc;
    writer->room = room;
    writer->seed = cas_file_seed(&writer->digest);
    writer->sums = malloc((size_t)cas_file_chunks(size) * CAS_SUM);
    if (writer->sums == NULL)
        return err_no_memory(err, "the checksums of an upload");
    rc = make_file(writer, err);
    return rc == 0 ? allocate(writer, err) : rc;
}

/* VERIFY: whether the hash is taken of what is appended. */
static int open_writer(struct cas *cas, const struct digest *digest, bool verify,
                       struct cas_writer **out, struct err *err)
{
    struct cas_writer *writer = calloc(1, sizeof(*writer));
    if (writer == NULL)
        return err_no_memory(err, "an upload");
    writer->cas = cas;
    writer->digest = *digest;
    writer->fd = -1;
    int rc = 0;
    if (verify) {
        writer->hasher = hasher_new(digest->function);
        if (writer->hasher == NULL)
            rc = err_no_memory(err, "a hash");
    }
    if (rc == 0 && digest->size != 0) {
        rc = cas_pin(cas, digest, &writer->existing, err);
        /* One that cannot be read is replaced. */
        if (rc == -ERR_NOT_FOUND || rc == -ERR_IO)
            rc = begin_upload(writer, err);
    }
    if (rc != 0) {
        cas_writer_abort(writer);
        return rc;
    }
    *out = writer;
    return 0;
}

int cas_writer_open(struct cas *cas, const struct digest *digest, struct cas_writer **writer,
                    struct err *err)
{
    return open_writer(cas, digest, true, writer, err);
}

static void add_to_sums(struct cas_writer *writer, const uint8_t *bytes, size_t size)
{
    int64_t position = writer->written;
    while (size > 0) {
        size_t filled = (size_t)(position % CAS_CHUNK);
        size_t take = CAS_CHUNK - filled < size ? CAS_CHUNK - filled : size;
        writer->sum = crc32c(filled == 0 ? writer->seed : writer->sum, bytes, take);
        writer->sums[position / CAS_CHUNK] = htole32(writer->sum);
        position += (int64_t)take;
        bytes += take;
        size -= take;
    }
}

static int write_bytes(struct cas_writer *writer, const void *data, size_t size, int64_t offset,
                       struct err *err)
{
    int rc;
    do
        rc = cas_file_write(writer->fd, data, size, offset, err);
    while (rc != 0 && relieve(writer, err));
    return rc;
}

int cas_writer_append(struct cas_writer *writer, const void *data, size_t size, struct err *err)
{
    if (size > (uint64_t)(writer->digest.size - writer->written))
        return err_set(err, ERR_INVALID, "blob has more than the %" PRId64 " bytes of its digest",
                       writer->digest.size);
    if (size == 0)
        return 0;
    if (writer->existing == NULL) {
        int rc = write_bytes(writer, data, size, writer->written, err);
        if (rc != 0)
            return rc;
        add_to_sums(writer, data, size);
    }
    if (writer->hasher != NULL)
        hasher_update(writer->hasher, data, size);
    writer->written += (int64_t)size;
    return 0;
}

static int verify_digest(struct cas_writer *writer, struct err *err)
{
    if (writer->written != writer->digest.size)
        return err_set(err, ERR_INVALID, "blob has %" PRId64 " bytes, its digest says %" PRId64,
                       writer->written, writer->digest.size);
    if (writer->hasher == NULL)
        return 0;
    struct digest actual;
    char text[DIGEST_TEXT_MAX];
    hasher_digest(writer->hasher, &actual);
    if (!digest_equal(&actual, &writer->digest))
        return err_set(err, ERR_INVALID, "blob has another hash than its digest, %s",
                       digest_text(&writer->digest, text));
    return 0;
}

/* The blob that was found there when the writer was opened lives on, unless it left meanwhile. */
static int renew_existing(struct cas_writer *writer, struct err *err)
{
    struct cas *cas = writer->cas;
    (void)pthread_mutex_lock(&cas->lock);
    bool there = writer->existing->state == CAS_THERE;
    if (there)
        cas_renew(cas, writer->existing);
    (void)pthread_mutex_unlock(&cas->lock);
    return there ? 0
                 : err_set(err, ERR_UNAVAILABLE, "the blob was removed while it was sent again");
}

/* Writes the checksums, and finds what the file really takes. */
static int finish_file(struct cas_writer *writer, int64_t *room, struct err *err)
{
    struct stat st;
    int64_t size = writer->digest.size;
    if (write_bytes(writer, writer->sums, (size_t)cas_file_chunks(size) * CAS_SUM, size, err) != 0)
        return -(int)err->code;
    if (fstat(writer->fd, &st) != 0)
        return cas_file_errno(err, errno, "look at an upload");
    /* Some file systems tell the blocks later, or compress: then what was written counts. */
    int64_t bytes = cas_file_size(size);
    int64_t rounded =
        (bytes / writer->cas->block + (bytes % writer->cas->block != 0)) * writer->cas->block;
    *room = (int64_t)st.st_blocks * 512;
    if (*room < rounded)
        *room = rounded;
    return 0;
}

/*
 * Waits until nobody works on DIGEST, and finds it if it is there then, or NULL. A suspect, which
 * could not be read when the upload began, makes place. Lock held; released meanwhile.
 */
static struct cas_entry *find_settled(struct cas *cas, const struct digest *digest)
{
    struct cas_entry *entry;
    while ((entry = cas_table_find(&cas->table, digest)) != NULL &&
           (entry->state != CAS_THERE || entry->suspect)) {
        struct cas_entry *list = NULL;
        if (entry->state == CAS_THERE) {
            cas_leave(cas, entry, &list);
            cas_unlink(cas, list);
        } else {
            (void)cas_wait(cas, NULL);
        }
    }
    return entry;
}

static int rename_upload(struct cas_writer *writer, struct err *err)
{
    struct cas *cas = writer->cas;
    char name[CAS_NAME_SIZE];
    (void)cas_file_name(&writer->digest, name);
    do {
        if (renameat(cas->uploads_fd, writer->name, cas->blobs_fd, name) == 0) {
            writer->name[0] = '\0';
            return 0;
        }
        (void)cas_file_errno(err, errno, "publish an upload");
    } while (relieve(writer, err));
    return -(int)err->code;
}

/* Gives the entry what the upload had taken, or takes it out again. Lock held. */
static int settle(struct cas_writer *writer, struct cas_entry *entry, int64_t room, int rc,
                  struct err *err)
{
    struct cas *cas = writer->cas;
    if (rc != 0) {
        cas_table_remove(&cas->table, entry);
        free(entry);
        return rc;
    }
    cas->used += room - writer->room;
    writer->room = 0;
    entry->room = room;
    entry->epoch = cas->epoch;
    cas->newest_epoch = cas->epoch;
    entry->state = CAS_THERE;
    cas_table_list(&cas->table, entry, cas_tick(cas));
    if (writer->failures == cas->failures)
        return 0;
    /* The failed sync may have been about its bytes. Nobody has seen it yet. */
    struct cas_entry *list = NULL;
    cas_leave(cas, entry, &list);
    cas_unlink(cas, list);
    return err_set(err, ERR_UNAVAILABLE, "the disk failed while the blob was written");
}

static int publish(struct cas_writer *writer, struct err *err)
{
    struct cas *cas = writer->cas;
    int64_t room = 0;
    int rc = finish_file(writer, &room, err);
    if (rc != 0)
        return rc;
    struct cas_entry *entry = cas_entry_new(&writer->digest);
    if (entry == NULL)
        return err_no_memory(err, "a blob");
    (void)pthread_mutex_lock(&cas->lock);
    struct cas_entry *first = find_settled(cas, &writer->digest);
    if (first != NULL) {
        /* Another upload was faster. */
        cas_renew(cas, first);
        free(entry);
    } else {
        cas_table_add(&cas->table, entry);
        (void)pthread_mutex_unlock(&cas->lock);
        rc = rename_upload(writer, err);
        cas_room_measure(cas);
        (void)pthread_mutex_lock(&cas->lock);
        rc = settle(writer, entry, room, rc, err);
        cas_wake(cas);
    }
    (void)pthread_mutex_unlock(&cas->lock);
    return rc;
}

int cas_writer_commit(struct cas_writer *writer, struct err *err)
{
    int rc = verify_digest(writer, err);
    if (rc == 0 && writer->existing != NULL)
        rc = renew_existing(writer, err);
    else if (rc == 0 && writer->digest.size != 0)
        rc = publish(writer, err);
    /* The map of a file in many pieces may be larger than what was taken for it. */
    if (rc == 0)
        (void)cas_room_shrink(writer->cas);
    cas_writer_abort(writer);
    return rc;
}

void cas_writer_abort(struct cas_writer *writer)
{
    if (writer == NULL)
        return;
    struct cas *cas = writer->cas;
    if (writer->fd >= 0)
        (void)close(writer->fd);
    if (writer->name[0] != '\0')
        cas_room_measure(cas);
    struct err err;
    if (writer->name[0] != '\0' && cas_file_unlink(cas->uploads_fd, writer->name, &err) != 0) {
        /* It goes on to count, until the next start. */
        writer->room = 0;
        log_error("cas-unlink-failed", log_str("path", cas->directory.path),
                  log_str("upload", writer->name), log_str("reason", err.msg));
    }
    if (writer->room != 0)
        cas_room_give(cas, writer->room);
    if (writer->existing != NULL)
        cas_unpin(cas, writer->existing);
    hasher_free(writer->hasher);
    free(writer->sums);
    free(writer);
}

static int put(struct cas *cas, const struct cas_blob *blob, struct err *err)
{
    struct digest actual;
    char text[DIGEST_TEXT_MAX];
    int rc = digest_compute(blob->digest.function, blob->data.data, blob->data.size, &actual, err);
    if (rc != 0)
        return rc;
    if (!digest_equal(&actual, &blob->digest))
        return err_set(err, ERR_INVALID, "the data has another hash or size than the digest %s",
                       digest_text(&blob->digest, text));
    struct cas_writer *writer;
    rc = open_writer(cas, &blob->digest, false, &writer, err);
    if (rc != 0)
        return rc;
    rc = cas_writer_append(writer, blob->data.data, blob->data.size, err);
    if (rc == 0)
        return cas_writer_commit(writer, err);
    cas_writer_abort(writer);
    return rc;
}

void cas_put(struct cas *cas, struct cas_hold *hold, struct cas_blob *blobs, size_t count)
{
    assert(hold == NULL || hold->cas == cas);
    for (size_t i = 0; i < count; i++) {
        if (put(cas, &blobs[i], &blobs[i].err) == 0)
            blobs[i].err.code = ERR_OK;
    }
}
