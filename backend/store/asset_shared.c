/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The file that the processes of an asset index share. Nothing in it need survive a power cut, and
 * nothing that is wrong in it does harm: a use may be lost, and one of no asset is passed over.
 */
#include "store/asset_shared.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdalign.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "store/disk.h"

#define SHARED_NAME "shared"

static const char magic[16] = "assetd index s1";

enum { PLACE_BITS = 8 };

enum { HASH_WORDS = ASSET_HASH_SIZE / sizeof(uint64_t), LINE = 64, HEADER_SIZE = 4096 };

/*
 * Whoever uses an asset takes the next number of a use, and with it a slot, and fills that. CHECK
 * is over the number and all else: a slot that is half written, or by two at a time, or of the
 * round before, does not pass for a use.
 */
struct shared_use {
    _Atomic uint64_t hash[HASH_WORDS];
    _Atomic int64_t at;
    _Atomic uint64_t check;
};

struct asset_shared_map {
    char magic[16];
    char store[48]; /* the id in the format file */
    alignas(LINE) _Atomic uint64_t generation;
    _Atomic uint64_t place; /* of the content: the pid of a process that wrote, and what it said */
    alignas(LINE) _Atomic uint64_t put;   /* uses */
    alignas(LINE) _Atomic uint64_t taken; /* of them, by the writing process */
    alignas(HEADER_SIZE) struct shared_use uses[ASSET_SHARED_USES];
};

_Static_assert(ATOMIC_LLONG_LOCK_FREE == 2, "processes share no lock for them");

/* What this process has open. */
static pthread_mutex_t open_lock = PTHREAD_MUTEX_INITIALIZER;
static struct asset_shared *open_first;

static int note_open(struct asset_shared *shared)
{
    int rc = 0;
    (void)pthread_mutex_lock(&open_lock);
    for (const struct asset_shared *other = open_first; other != NULL; other = other->next)
        if (other->device == shared->device && other->inode == shared->inode)
            rc = -ERR_UNAVAILABLE;
    if (rc == 0) {
        shared->next = open_first;
        open_first = shared;
    }
    (void)pthread_mutex_unlock(&open_lock);
    return rc;
}

static void forget_open(const struct asset_shared *shared)
{
    (void)pthread_mutex_lock(&open_lock);
    for (struct asset_shared **at = &open_first; *at != NULL; at = &(*at)->next)
        if (*at == shared) {
            *at = shared->next;
            break;
        }
    (void)pthread_mutex_unlock(&open_lock);
}

/* --- open and close --- */

/* Under the lock: nobody else looks at a file that is of no use yet. */
static int map_file(struct asset_shared *shared, const char *store_id, struct err *err)
{
    int rc = disk_take_blocks(shared->fd, (off_t)sizeof(*shared->map), err);
    if (rc != 0)
        return err_wrap(err, "take blocks for " SHARED_NAME);
    void *map =
        disk.mmap(NULL, sizeof(*shared->map), PROT_READ | PROT_WRITE, MAP_SHARED, shared->fd, 0);
    if (map == MAP_FAILED)
        return disk_fault(err, errno, "map " SHARED_NAME);
    shared->map = map;
    char store[sizeof(shared->map->store)] = {0};
    memcpy(store, store_id, strnlen(store_id, sizeof(store) - 1));
    if (memcmp(shared->map->magic, magic, sizeof(magic)) == 0 &&
        memcmp(shared->map->store, store, sizeof(store)) == 0)
        return 0;
    memset(map, 0, sizeof(*shared->map));
    memcpy(shared->map->store, store, sizeof(store));
    memcpy(shared->map->magic, magic, sizeof(magic));
    return 0;
}

int asset_shared_open(const struct store_directory *directory, struct asset_shared *shared,
                      struct err *err)
{
    struct stat st;
    *shared = (struct asset_shared){.map = NULL};
    shared->fd = disk.openat(directory->fd, SHARED_NAME, O_RDWR | O_CREAT | O_CLOEXEC, 0640);
    if (shared->fd < 0)
        return disk_fault(err, errno, "open " SHARED_NAME);
    if (fstat(shared->fd, &st) != 0) {
        int rc = disk_fault(err, errno, "look at " SHARED_NAME);
        (void)disk.close(shared->fd);
        return rc;
    }
    shared->device = st.st_dev;
    shared->inode = st.st_ino;
    if (note_open(shared) != 0) {
        (void)disk.close(shared->fd);
        return err_set(err, ERR_UNAVAILABLE, "it is open in this process already");
    }
    int rc = asset_shared_lock(shared, err);
    if (rc == 0) {
        rc = map_file(shared, directory->id, err);
        asset_shared_unlock(shared);
    }
    if (rc != 0)
        asset_shared_close(shared);
    return rc;
}

void asset_shared_close(struct asset_shared *shared)
{
    forget_open(shared);
    if (shared->map != NULL)
        (void)disk.munmap(shared->map, sizeof(*shared->map));
    (void)disk.close(shared->fd);
    shared->map = NULL;
    shared->fd = -1;
}

/* --- opening the file of the assets --- */

static int set_lock(const struct asset_shared *shared, short type)
{
    struct flock lock = {.l_type = type, .l_whence = SEEK_SET, .l_start = 0, .l_len = 1};
    int rc;
    do
        rc = fcntl(shared->fd, F_OFD_SETLKW, &lock);
    while (rc != 0 && errno == EINTR);
    return rc;
}

int asset_shared_lock(struct asset_shared *shared, struct err *err)
{
    return set_lock(shared, F_WRLCK) == 0 ? 0 : disk_fault(err, errno, "lock " SHARED_NAME);
}

void asset_shared_unlock(struct asset_shared *shared)
{
    (void)set_lock(shared, F_UNLCK);
}

uint64_t asset_shared_generation(const struct asset_shared *shared)
{
    return atomic_load(&shared->map->generation);
}

void asset_shared_replaced(struct asset_shared *shared)
{
    (void)atomic_fetch_add(&shared->map->generation, 1);
}

/* --- where the content is --- */

void asset_shared_put_place(struct asset_shared *shared, unsigned place)
{
    atomic_store(&shared->map->place, (uint64_t)getpid() << PLACE_BITS | place);
}

unsigned asset_shared_place(const struct asset_shared *shared, int pid)
{
    uint64_t place = atomic_load(&shared->map->place);
    return place >> PLACE_BITS == (uint64_t)pid ? place & ((1 << PLACE_BITS) - 1) : 0;
}

/* --- uses --- */

static uint64_t check_of(uint64_t number, const uint64_t hash[HASH_WORDS], int64_t at)
{
    uint64_t check = number ^ UINT64_C(0x9e3779b97f4a7c15);
    for (int i = 0; i <= HASH_WORDS; i++) {
        check ^= i < HASH_WORDS ? hash[i] : (uint64_t)at;
        check *= UINT64_C(0xff51afd7ed558ccd);
        check ^= check >> 32;
    }
    return check;
}

void asset_shared_use(struct asset_shared *shared, const uint8_t hash[ASSET_HASH_SIZE], int64_t at)
{
    uint64_t words[HASH_WORDS];
    memcpy(words, hash, sizeof(words));
    uint64_t number = atomic_fetch_add(&shared->map->put, 1);
    struct shared_use *use = &shared->map->uses[number % ASSET_SHARED_USES];
    for (int i = 0; i < HASH_WORDS; i++)
        atomic_store_explicit(&use->hash[i], words[i], memory_order_relaxed);
    atomic_store_explicit(&use->at, at, memory_order_relaxed);
    atomic_store_explicit(&use->check, check_of(number, words, at), memory_order_release);
}

void asset_shared_take_uses(struct asset_shared *shared, struct asset_uses *uses)
{
    struct asset_shared_map *map = shared->map;
    uint64_t end = atomic_load(&map->put);
    uint64_t number = atomic_load(&map->taken);
    if (number == end)
        return;
    if (end - number > ASSET_SHARED_USES)
        number = end - ASSET_SHARED_USES;
    for (; number != end; number++) {
        struct shared_use *use = &map->uses[number % ASSET_SHARED_USES];
        uint64_t check = atomic_load_explicit(&use->check, memory_order_acquire);
        int64_t at = atomic_load_explicit(&use->at, memory_order_relaxed);
        uint64_t words[HASH_WORDS];
        for (int i = 0; i < HASH_WORDS; i++)
            words[i] = atomic_load_explicit(&use->hash[i], memory_order_relaxed);
        uint8_t hash[ASSET_HASH_SIZE];
        memcpy(hash, words, sizeof(hash));
        if (check == check_of(number, words, at))
            asset_uses_merge(uses, hash, at);
    }
    atomic_store(&map->taken, end);
}
