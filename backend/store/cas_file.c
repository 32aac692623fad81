/* SPDX-License-Identifier: Apache-2.0 */
/* Names, checksums, reading and writing of the files of blobs. */
#include "store/cas_file.h"

#include <endian.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/crc32c.h"

struct cas_disk cas_disk = {
    .pread = pread, .pwrite = pwrite, .syncfs = syncfs, .unlinkat = unlinkat};

char *cas_file_name(const struct digest *digest, char name[CAS_NAME_SIZE])
{
    char hex[2 * DIGEST_HASH_MAX + 1];
    (void)snprintf(name, CAS_NAME_SIZE, "%s-%s-%" PRId64, digest_function_name(digest->function),
                   digest_hex(digest, hex), digest->size);
    return name;
}

bool cas_file_parse(const char *name, struct digest *digest)
{
    char function_name[16];
    const char *hex = strchr(name, '-');
    const char *size_text = hex != NULL ? strchr(hex + 1, '-') : NULL;
    if (size_text == NULL || (size_t)(hex - name) >= sizeof(function_name))
        return false;
    memcpy(function_name, name, (size_t)(hex - name));
    function_name[hex - name] = '\0';
    hex++;
    char *end;
    errno = 0;
    long long size = strtoll(size_text + 1, &end, 10);
    struct err err;
    if (errno != 0 || *end != '\0' || cas_file_size(size) < 0 ||
        digest_parse(digest_function_by_name(function_name), hex, (size_t)(size_text - hex), size,
                     digest, &err) != 0)
        return false;
    /* Only the name that would be written is one: no leading zeros, no signs. */
    char again[CAS_NAME_SIZE];
    return strcmp(cas_file_name(digest, again), name) == 0;
}

int64_t cas_file_chunks(int64_t size)
{
    return size / CAS_CHUNK + (size % CAS_CHUNK != 0);
}

int64_t cas_file_size(int64_t size)
{
    if (size < 0 || size > INT64_MAX / 2)
        return -1;
    return size + cas_file_chunks(size) * CAS_SUM;
}

uint32_t cas_file_seed(const struct digest *digest)
{
    return crc32c(0, digest->hash, digest_hash_size(digest->function));
}

int cas_file_errno(struct err *err, int errnum, const char *what)
{
    (void)err_errno(err, errnum, "%s", what);
    if (err->code != ERR_EXHAUSTED && err->code != ERR_NO_MEMORY)
        err->code = ERR_IO;
    return -(int)err->code;
}

int cas_file_write(int fd, const void *data, size_t size, int64_t offset, struct err *err)
{
    const uint8_t *bytes = data;
    while (size > 0) {
        ssize_t written = cas_disk.pwrite(fd, bytes, size, offset);
        if (written < 0 && errno == EINTR)
            continue;
        if (written < 0)
            return cas_file_errno(err, errno, "write a blob");
        bytes += written;
        size -= (size_t)written;
        offset += written;
    }
    return 0;
}

int cas_file_open(struct cas_file *file, int directory, const struct digest *digest,
                  struct err *err)
{
    char name[CAS_NAME_SIZE];
    file->first_sum = 0;
    file->sum_count = 0;
    file->chunk = NULL;
    file->size = digest->size;
    file->seed = cas_file_seed(digest);
    file->fd = openat(directory, cas_file_name(digest, name), O_RDONLY | O_CLOEXEC);
    if (file->fd >= 0)
        return 0;
    if (errno == ENOENT)
        return err_set(err, ERR_DATA_LOSS, "its file is not there");
    return cas_file_errno(err, errno, "open a blob");
}

void cas_file_close(struct cas_file *file)
{
    free(file->chunk);
    if (file->fd >= 0)
        (void)close(file->fd);
    file->chunk = NULL;
    file->fd = -1;
}

static int read_exactly(const struct cas_file *file, void *buffer, size_t size, int64_t offset,
                        struct err *err)
{
    uint8_t *bytes = buffer;
    while (size > 0) {
        ssize_t got = cas_disk.pread(file->fd, bytes, size, offset);
        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0)
            return cas_file_errno(err, errno, "read a blob");
        if (got == 0)
            return err_set(err, ERR_DATA_LOSS, "its file is too short");
        bytes += got;
        size -= (size_t)got;
        offset += got;
    }
    return 0;
}

static int sum_of_chunk(struct cas_file *file, int64_t number, uint32_t *sum, struct err *err)
{
    const int64_t ahead = sizeof(file->sums) / sizeof(file->sums[0]);
    if (number < file->first_sum || number >= file->first_sum + (int64_t)file->sum_count) {
        int64_t count = cas_file_chunks(file->size) - number;
        if (count > ahead)
            count = ahead;
        file->sum_count = 0;
        if (read_exactly(file, file->sums, (size_t)count * CAS_SUM, file->size + number * CAS_SUM,
                         err) != 0)
            return -(int)err->code;
        file->first_sum = number;
        file->sum_count = (size_t)count;
    }
    *sum = le32toh(file->sums[number - file->first_sum]);
    return 0;
}

/* Reads chunk NUMBER, which has SIZE bytes. */
static int read_chunk(struct cas_file *file, int64_t number, uint8_t *buffer, size_t size,
                      struct err *err)
{
    uint32_t sum = 0;
    if (read_exactly(file, buffer, size, number * CAS_CHUNK, err) != 0 ||
        sum_of_chunk(file, number, &sum, err) != 0)
        return -(int)err->code;
    if (crc32c(file->seed, buffer, size) != sum)
        return err_set(err, ERR_DATA_LOSS, "the checksum at offset %" PRId64 " is wrong",
                       number * CAS_CHUNK);
    return 0;
}

static size_t chunk_size(const struct cas_file *file, int64_t number)
{
    int64_t rest = file->size - number * CAS_CHUNK;
    return rest < CAS_CHUNK ? (size_t)rest : CAS_CHUNK;
}

static int need_chunk(struct cas_file *file, struct err *err)
{
    if (file->chunk == NULL)
        file->chunk = malloc(CAS_CHUNK);
    return file->chunk != NULL ? 0 : err_no_memory(err, "a part of a blob");
}

int cas_file_read(struct cas_file *file, int64_t offset, uint8_t *buffer, size_t size,
                  struct err *err)
{
    while (size > 0) {
        int64_t number = offset / CAS_CHUNK;
        size_t skip = (size_t)(offset % CAS_CHUNK);
        size_t whole = chunk_size(file, number);
        size_t take = whole - skip < size ? whole - skip : size;
        bool in_place = take == whole;
        if ((!in_place && need_chunk(file, err) != 0) ||
            read_chunk(file, number, in_place ? buffer : file->chunk, whole, err) != 0)
            return -(int)err->code;
        if (!in_place)
            memcpy(buffer, file->chunk + skip, take);
        buffer += take;
        offset += (int64_t)take;
        size -= take;
    }
    return 0;
}

int cas_file_verify(struct cas_file *file, const atomic_bool *stopping, struct err *err)
{
    int rc = need_chunk(file, err);
    /* The disk is asked, not the kernel's cache. */
    (void)posix_fadvise(file->fd, 0, 0, POSIX_FADV_DONTNEED);
    for (int64_t number = 0; rc == 0 && number < cas_file_chunks(file->size); number++) {
        if (atomic_load(stopping))
            return err_set(err, ERR_CANCELLED, "the store is being closed");
        rc = read_chunk(file, number, file->chunk, chunk_size(file, number), err);
    }
    return rc;
}

int cas_file_unlink(int directory, const char *name, struct err *err)
{
    if (cas_disk.unlinkat(directory, name, 0) == 0 || errno == ENOENT)
        return 0;
    (void)cas_file_errno(err, errno, "remove a file");
    /* Some file systems need room to remove: a full disk is no other fault here. */
    err->code = ERR_IO;
    return -ERR_IO;
}
