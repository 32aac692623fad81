/* SPDX-License-Identifier: Apache-2.0 */
/* Blobs of casd's into the CAS: small ones together, large ones as they are read. */
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "control/import_casd.h"

enum {
    BATCH = 64,            /* blobs that are looked up, and stored, together */
    SMALL_MAX = 256 << 10, /* bytes of a blob that is read whole */
    BUFFER_SIZE = 4 << 20, /* bytes of those that are stored together */
    READ_SIZE = 256 << 10, /* bytes of a large one that are read at once */
};

struct batch {
    struct casd_import *import;
    const struct casd_file *files[BATCH]; /* of the blobs that are to be stored */
    struct cas_blob blobs[BATCH];
    size_t count;
    size_t used; /* bytes of the buffer */
    uint8_t *buffer;
    uint64_t done, total; /* bytes, for the progress */
    bool is_full;         /* not even small ones found room */
};

static void show(struct batch *batch, uint64_t more)
{
    screen_show(&batch->import->screen, "bytes", batch->done + more, batch->total);
}

static void leave_out(struct batch *batch, const struct casd_file *file, const struct err *err)
{
    char text[CASD_FILE_TEXT_MAX];
    batch->import->objects.broken++;
    casd_import_tell(batch->import, casd_file_text(CASD_OBJECTS, file, text), err->msg);
}

static void count_imported(struct batch *batch, const struct digest *digest)
{
    batch->import->objects.imported++;
    batch->import->objects.imported_bytes += (uint64_t)digest->size;
}

static void count_without_room(struct batch *batch, const struct casd_file *file,
                               const struct err *err)
{
    struct casd_object_counts *counts = &batch->import->objects;
    if (counts->without_room == 0)
        counts->room = *err;
    counts->without_room++;
    counts->without_room_bytes += (uint64_t)file->size;
}

/* What became of a blob. An error ends the import. */
static int count_outcome(struct batch *batch, const struct casd_file *file,
                         const struct digest *digest, const struct err *outcome, struct err *err)
{
    struct err fault;
    if (outcome->code == ERR_OK) {
        count_imported(batch, digest);
    } else if (outcome->code == ERR_INVALID) {
        (void)err_set(&fault, ERR_INVALID, "what is in it has another hash than its name says");
        leave_out(batch, file, &fault);
    } else if (outcome->code == ERR_EXHAUSTED) {
        count_without_room(batch, file, outcome);
    } else {
        *err = *outcome;
        return -(int)err->code;
    }
    return 0;
}

static void name_digest(const struct casd_file *file, int64_t size, struct digest *digest)
{
    *digest = (struct digest){.size = size, .function = DIGEST_SHA256};
    memcpy(digest->hash, file->name, CASD_NAME_SIZE);
}

/* --- small ones --- */

static int flush(struct batch *batch, struct err *err)
{
    int rc = 0;
    cas_put(batch->import->cas, NULL, batch->blobs, batch->count);
    for (size_t i = 0; rc == 0 && i < batch->count; i++) {
        const struct cas_blob *blob = &batch->blobs[i];
        batch->is_full |= blob->err.code == ERR_EXHAUSTED;
        rc = count_outcome(batch, batch->files[i], &blob->digest, &blob->err, err);
    }
    batch->count = 0;
    batch->used = 0;
    return rc;
}

static void add_small(struct batch *batch, const struct casd_file *file, int fd)
{
    struct err err;
    uint8_t *bytes = batch->buffer + batch->used;
    ssize_t size = casd_source_read(fd, bytes, SMALL_MAX, &err);
    if (size < 0) {
        leave_out(batch, file, &err);
        return;
    }
    struct cas_blob *blob = &batch->blobs[batch->count];
    name_digest(file, size, &blob->digest);
    blob->data = (struct span){bytes, (size_t)size};
    batch->files[batch->count++] = file;
    batch->used += (size_t)size;
}

/* --- large ones --- */

/* FAULT: the file cannot be read. ERR: what the store says. */
static int stream(struct batch *batch, int fd, struct cas_writer *writer, struct err *fault,
                  struct err *err)
{
    uint64_t done = 0;
    int rc = 0;
    while (rc == 0) {
        ssize_t size = casd_source_read(fd, batch->buffer, READ_SIZE, fault);
        if (size < 0)
            return -(int)fault->code;
        if (size == 0)
            return 0;
        rc = cas_writer_append(writer, batch->buffer, (size_t)size, err);
        done += (uint64_t)size;
        show(batch, done);
    }
    return rc;
}

/* The buffer is empty. */
static int put_large(struct batch *batch, const struct casd_file *file,
                     const struct casd_opened *opened, struct err *err)
{
    struct cas_writer *writer;
    struct digest digest;
    struct err fault = {.code = ERR_OK};
    struct err outcome = {.code = ERR_OK};
    name_digest(file, opened->size, &digest);
    if (cas_writer_open(batch->import->cas, &digest, &writer, &outcome) != 0)
        return count_outcome(batch, file, &digest, &outcome, err);
    if (stream(batch, opened->fd, writer, &fault, &outcome) != 0)
        cas_writer_abort(writer);
    else
        (void)cas_writer_commit(writer, &outcome);
    if (fault.code == ERR_OK)
        return count_outcome(batch, file, &digest, &outcome, err);
    leave_out(batch, file, &fault);
    return 0;
}

/* --- all of them --- */

/* One that is not there. */
static int put(struct batch *batch, const struct casd_file *file, struct err *err)
{
    struct casd_opened opened;
    struct err fault;
    int rc = 0;
    if (batch->is_full) {
        count_without_room(batch, file, &batch->import->objects.room);
        return 0;
    }
    if (casd_source_open_file(&batch->import->source, CASD_OBJECTS, file, &opened, &fault) != 0) {
        leave_out(batch, file, &fault);
        return 0;
    }
    bool is_large = opened.size > SMALL_MAX;
    if (is_large || batch->used + SMALL_MAX > BUFFER_SIZE)
        rc = flush(batch, err);
    if (rc == 0 && is_large)
        rc = put_large(batch, file, &opened, err);
    else if (rc == 0)
        add_small(batch, file, opened.fd);
    (void)close(opened.fd);
    return rc;
}

static int put_some(struct batch *batch, const struct casd_file *files, size_t count,
                    struct err *err)
{
    struct digest digests[BATCH] = {{.size = 0}};
    bool present[BATCH];
    int rc = 0;
    for (size_t i = 0; i < count; i++)
        name_digest(&files[i], files[i].size, &digests[i]);
    cas_find(batch->import->cas, NULL, digests, count, present);
    for (size_t i = 0; rc == 0 && i < count; i++) {
        if (present[i])
            batch->import->objects.there++;
        else
            rc = put(batch, &files[i], err);
        batch->done += (uint64_t)files[i].size;
    }
    if (rc == 0)
        rc = flush(batch, err);
    show(batch, 0);
    return rc;
}

static int put_all(struct casd_import *import, const struct casd_files *files, struct err *err)
{
    struct batch *batch = calloc(1, sizeof(*batch));
    int rc = 0;
    if (batch != NULL)
        batch->buffer = malloc(BUFFER_SIZE);
    if (batch == NULL || batch->buffer == NULL) {
        free(batch);
        return err_no_memory(err, "an import");
    }
    batch->import = import;
    batch->total = files->bytes;
    for (size_t i = 0; rc == 0 && i < files->count; i += BATCH) {
        size_t left = files->count - i;
        rc = put_some(batch, files->files + i, left < BATCH ? left : BATCH, err);
    }
    free(batch->buffer);
    free(batch);
    return rc;
}

int casd_import_objects(struct casd_import *import, struct err *err)
{
    struct casd_files files;
    int rc = casd_import_list(import, CASD_OBJECTS, &import->objects.broken, &files, err);
    if (rc == 0)
        rc = put_all(import, &files, err);
    casd_files_fini(&files);
    return rc;
}
