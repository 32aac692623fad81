/* SPDX-License-Identifier: Apache-2.0 */
/* The file of one blob: its bytes, and behind them a checksum of every chunk of them. */
#ifndef ASSETD_STORE_CAS_FILE_H
#define ASSETD_STORE_CAS_FILE_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/digest.h"
#include "base/err.h"

enum {
    CAS_CHUNK = 64 * 1024,                                /* bytes that share a checksum */
    CAS_SUM = 4,                                          /* bytes of a checksum, little-endian */
    CAS_NAME_SIZE = 8 + 2 * DIGEST_HASH_MAX + 1 + 20 + 1, /* FUNCTION-HASH-SIZE with its NUL */
};

/* The system calls that touch a blob's bytes, or remove files; tests put failing ones here. */
struct cas_disk {
    ssize_t (*pread)(int fd, void *buffer, size_t size, off_t offset);
    ssize_t (*pwrite)(int fd, const void *buffer, size_t size, off_t offset);
    int (*syncfs)(int fd);
    int (*unlinkat)(int directory, const char *name, int flags);
};
extern struct cas_disk cas_disk;

/* The name of a blob's file. Returns NAME. */
char *cas_file_name(const struct digest *digest, char name[CAS_NAME_SIZE]);

/* The digest that NAME stands for; false if it is the name of no blob. */
bool cas_file_parse(const char *name, struct digest *digest);

/* Chunks of a blob of SIZE bytes. */
int64_t cas_file_chunks(int64_t size);

/* Bytes of the file of a blob of SIZE bytes, checksums included; -1 if they are too many. */
int64_t cas_file_size(int64_t size);

/*
 * Where the checksum of a chunk begins: with the digest, so that the bytes of one blob never pass
 * for those of another.
 */
uint32_t cas_file_seed(const struct digest *digest);

/*
 * As err_errno, but for a store's own files: what is neither a full disk nor memory is ERR_IO, a
 * missing file or right included, which are no fault of whoever asks for a blob.
 */
int cas_file_errno(struct err *err, int errnum, const char *what);

/* Writes all of it. ERR_EXHAUSTED: the disk is full. */
int cas_file_write(int fd, const void *data, size_t size, int64_t offset, struct err *err);

/* A blob's file for reading. One thread at a time. */
struct cas_file {
    int fd;
    uint32_t seed;
    int64_t size;      /* of the blob */
    int64_t first_sum; /* the chunk that the first of sums is of */
    size_t sum_count;
    uint32_t sums[64]; /* read ahead, as they are on disk */
    uint8_t *chunk;    /* CAS_CHUNK bytes, for parts of chunks; made when needed */
};

/* ERR_DATA_LOSS if the file is not there. DIRECTORY is the fd of its directory. */
int cas_file_open(struct cas_file *file, int directory, const struct digest *digest,
                  struct err *err);
void cas_file_close(struct cas_file *file);

/*
 * Reads SIZE bytes at OFFSET, both within the blob, and verifies the checksums of all chunks that
 * they are in. ERR_DATA_LOSS: they are wrong, or the file is too short.
 */
int cas_file_read(struct cas_file *file, int64_t offset, uint8_t *buffer, size_t size,
                  struct err *err);

/*
 * Reads the blob from end to end for its checksums alone. ERR_CANCELLED once STOPPING is true,
 * which is looked at before each chunk.
 */
int cas_file_verify(struct cas_file *file, const atomic_bool *stopping, struct err *err);

/* Removes a file of the store, if it is there. DIRECTORY is the fd of its directory. ERR_IO. */
int cas_file_unlink(int directory, const char *name, struct err *err);

#endif
