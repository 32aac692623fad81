/* SPDX-License-Identifier: Apache-2.0 */
/* Files of shards: opened and made so that the map of one is always whole, and removed. */
#include "store/digest_shard.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include "store/disk.h"

enum { BLOCK = 512 /* of st_blocks */, NAME_SIZE = 16 };

static void name_file(unsigned index, uint64_t word, char name[NAME_SIZE])
{
    (void)snprintf(name, NAME_SIZE, "%02u-%08x", index, (unsigned)(word >> 32));
}

void digest_shard_close(struct digest_shard *shard)
{
    if (shard == NULL)
        return;
    (void)disk.munmap(shard->slots, (size_t)shard->count * sizeof(struct digest_slot));
    free(shard);
}

/* Maps the open file of a shard, which must be as large as WORD says. */
static int map_file(int fd, const char *name, uint64_t word, struct digest_shard **shard,
                    struct err *err)
{
    uint32_t pages = (uint32_t)word;
    off_t size = (off_t)pages * DIGEST_SHARD_PAGE;
    struct stat st;
    if (fstat(fd, &st) != 0)
        return disk_fault(err, errno, "look at table/%s", name);
    if (!S_ISREG(st.st_mode) || st.st_size != size)
        return err_set(err, ERR_DATA_LOSS, "table/%s has the wrong size", name);
    if (disk_take_blocks(fd, size, err) != 0)
        return err_wrap(err, "take blocks for table/%s", name);
    if (fstat(fd, &st) != 0)
        return disk_fault(err, errno, "look at table/%s", name);
    struct digest_shard *made = malloc(sizeof(*made));
    if (made == NULL)
        return err_no_memory(err, "a shard of the digest table");
    void *map = disk.mmap(NULL, (size_t)size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (map == MAP_FAILED) {
        int rc = disk_fault(err, errno, "map table/%s", name);
        free(made);
        return rc;
    }
    *made = (struct digest_shard){.word = word,
                                  .slots = map,
                                  .count = pages * DIGEST_SHARD_PAGE_SLOTS,
                                  .bytes = (int64_t)st.st_blocks * BLOCK};
    *shard = made;
    return 0;
}

static int open_file(int table_fd, unsigned index, uint64_t word, struct digest_shard **shard,
                     struct err *err)
{
    char name[NAME_SIZE];
    name_file(index, word, name);
    uint32_t pages = (uint32_t)word;
    if (pages == 0 || pages > DIGEST_SHARD_PAGES_MAX)
        return err_set(err, ERR_DATA_LOSS, "there is no shard %u of the digest table", index);
    int fd = disk.openat(table_fd, name, O_RDWR | O_CLOEXEC, 0);
    if (fd < 0 && errno == ENOENT)
        return err_set(err, ERR_DATA_LOSS, "table/%s is missing", name);
    if (fd < 0)
        return disk_fault(err, errno, "open table/%s", name);
    int rc = map_file(fd, name, word, shard, err);
    (void)disk.close(fd);
    return rc;
}

int digest_shard_open(const struct cas_shared *shared, int table_fd, unsigned index,
                      struct digest_shard **shard, struct err *err)
{
    for (;;) {
        uint64_t word = digest_shard_word(shared, index);
        int rc = open_file(table_fd, index, word, shard, err);
        /* One that has been replaced meanwhile may well be missing. */
        if (rc == 0 || digest_shard_word(shared, index) == word)
            return rc;
    }
}

int digest_shard_unlink(int table_fd, unsigned index, uint64_t word, struct err *err)
{
    char name[NAME_SIZE];
    name_file(index, word, name);
    return disk.unlinkat(table_fd, name, 0) == 0 ? 0
                                                 : disk_fault(err, errno, "remove table/%s", name);
}

int digest_shard_make(int table_fd, unsigned index, uint64_t word, struct digest_shard **shard,
                      struct err *err)
{
    char name[NAME_SIZE];
    name_file(index, word, name);
    /* One that a killed writer did not come to publish is in nobody's use. */
    if (disk.unlinkat(table_fd, name, 0) != 0 && errno != ENOENT)
        return disk_fault(err, errno, "remove table/%s", name);
    int fd = disk.openat(table_fd, name, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0640);
    if (fd < 0)
        return disk_fault(err, errno, "make table/%s", name);
    int rc = 0;
    if (disk.fallocate(fd, 0, 0, (off_t)(uint32_t)word * DIGEST_SHARD_PAGE) != 0)
        rc = disk_fault(err, errno, "take blocks for table/%s", name);
    if (rc == 0)
        rc = map_file(fd, name, word, shard, err);
    (void)disk.close(fd);
    if (rc != 0)
        (void)disk.unlinkat(table_fd, name, 0);
    return rc;
}

/* Whether NAME is a file that the shared header names. */
static bool is_published(const struct cas_shared *shared, const char *name)
{
    char current[NAME_SIZE];
    for (unsigned i = 0; i < CAS_SHARDS; i++) {
        uint64_t word = digest_shard_word(shared, i);
        name_file(i, word, current);
        if ((uint32_t)word != 0 && strcmp(name, current) == 0)
            return true;
    }
    return false;
}

int digest_shard_sweep(const struct cas_shared *shared, int table_fd, struct err *err)
{
    int fd = disk.openat(table_fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC, 0);
    DIR *directory = fd >= 0 ? fdopendir(fd) : NULL;
    if (directory == NULL) {
        int rc = disk_fault(err, errno, "list table");
        if (fd >= 0)
            (void)disk.close(fd);
        return rc;
    }
    int rc = 0;
    struct dirent *found;
    while (rc == 0 && (errno = 0, found = readdir(directory)) != NULL) {
        if (strcmp(found->d_name, ".") == 0 || strcmp(found->d_name, "..") == 0 ||
            is_published(shared, found->d_name))
            continue;
        /* A directory is not of our making: it stays. */
        if (disk.unlinkat(table_fd, found->d_name, 0) != 0 && errno != ENOENT && errno != EISDIR)
            rc = disk_fault(err, errno, "remove table/%s", found->d_name);
    }
    if (rc == 0 && errno != 0)
        rc = disk_fault(err, errno, "list table");
    (void)closedir(directory);
    return rc;
}

int digest_shard_sync(const struct cas_shared *shared, int table_fd, unsigned index,
                      struct err *err)
{
    char name[NAME_SIZE];
    name_file(index, digest_shard_word(shared, index), name);
    int rc = 0;
    int fd = disk.openat(table_fd, name, O_RDWR | O_CLOEXEC, 0);
    if (fd < 0 || disk.fsync(fd) != 0)
        rc = disk_fault(err, errno, "make table/%s durable", name);
    if (fd >= 0)
        (void)disk.close(fd);
    return rc;
}

bool digest_slot_is_live(const struct cas_shared *shared, uint64_t size_function, uint64_t place)
{
    struct cas_key key = {.size_function = size_function};
    if (place == 0 || digest_hash_size(cas_key_function(&key)) == 0 ||
        cas_key_size(&key) > CAS_BLOB_MAX)
        return false;
    return cas_place_is_trusted(shared, place, cas_key_record_size(&key));
}
