/* SPDX-License-Identifier: Apache-2.0 */
/* The file cas/shared: made, mapped, and what its atomics need to be right between processes. */
#include "store/cas_shared.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "store/disk.h"

#define FILE_NAME "shared"
#define NEW_NAME  "shared.new"

enum {
    PAGE = 4096, /* of the file; what the kernel maps may be larger */
    PAGE_SEGMENTS = PAGE / (int)sizeof(struct cas_segment),
    FILE_SIZE = PAGE + CAS_SEGMENTS_MAX * (int)sizeof(struct cas_segment),
    GENERATION_BITS = CAS_SEGMENT_NUMBER_BITS - CAS_SEGMENT_INDEX_BITS,
    BLOCK = 512, /* of st_blocks */
};

static const uint8_t magic[16] = "assetd shared 1";

static int read_store_id(const char *text, uint8_t id[16], struct err *err)
{
    for (size_t i = 0; i < 32; i++) {
        const char *digits = "0123456789abcdef";
        const char *digit = text[i] != '\0' ? strchr(digits, text[i]) : NULL;
        if (digit == NULL)
            return err_set(err, ERR_INVALID, "the id of a store has 32 hexadecimal digits");
        id[i / 2] = (uint8_t)(id[i / 2] << 4 | (digit - digits));
    }
    return 0;
}

/* Bytes of the file that are written to through the map, of CAPACITY segments. */
static off_t used_size(uint32_t capacity)
{
    return PAGE + (off_t)capacity * (off_t)sizeof(struct cas_segment);
}

/* It is in a file that somebody else may have written. */
static uint32_t capacity_of(const struct cas_shared *shared)
{
    uint32_t capacity = atomic_load_explicit(&shared->header->capacity, memory_order_acquire);
    return capacity <= CAS_SEGMENTS_MAX ? capacity : CAS_SEGMENTS_MAX;
}

/* --- opening --- */

/* Fills a file that nobody else has open. */
static int fill_new(int fd, const uint8_t store[16], struct err *err)
{
    union {
        struct cas_shared_header header;
        uint8_t page[PAGE];
    } first = {.page = {0}};
    memcpy(first.header.magic, magic, sizeof(magic));
    memcpy(first.header.store, store, sizeof(first.header.store));
    atomic_init(&first.header.capacity, PAGE_SEGMENTS);
    int rc = digest_keys_init(&first.header.keys, err);
    if (rc != 0)
        return rc;
    if (disk.ftruncate(fd, FILE_SIZE) != 0 ||
        disk.fallocate(fd, 0, 0, used_size(PAGE_SEGMENTS)) != 0)
        return disk_fault(err, errno, "make %s", NEW_NAME);
    struct iovec part = {.iov_base = first.page, .iov_len = sizeof(first.page)};
    rc = disk_write(fd, &part, 1, 0, err);
    /* Half of a header would pass for one; what else is in the file may get lost. */
    if (rc == 0 && disk.fsync(fd) != 0)
        rc = disk_fault(err, errno, "make %s durable", NEW_NAME);
    return rc;
}

/*
 * Makes the file beside the one that is there, and puts it in its place: nobody sees half of it,
 * and who has the old one mapped keeps that whole.
 */
static int make(int cas_fd, const uint8_t store[16], int *fd, struct err *err)
{
    *fd = disk.openat(cas_fd, NEW_NAME, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0640);
    if (*fd < 0)
        return disk_fault(err, errno, "make %s", NEW_NAME);
    int rc = fill_new(*fd, store, err);
    if (rc == 0 && disk.renameat(cas_fd, NEW_NAME, cas_fd, FILE_NAME) != 0)
        rc = disk_fault(err, errno, "name %s", FILE_NAME);
    if (rc != 0) {
        (void)disk.close(*fd);
        (void)disk.unlinkat(cas_fd, NEW_NAME, 0);
        *fd = -1;
    }
    return rc;
}

/* ERR_NOT_FOUND: it is not the file of this store. */
static int verify(int fd, const uint8_t store[16], struct err *err)
{
    struct stat st;
    if (fstat(fd, &st) != 0)
        return disk_fault(err, errno, "look at %s", FILE_NAME);
    if (!S_ISREG(st.st_mode) || st.st_size != FILE_SIZE)
        return err_set(err, ERR_NOT_FOUND, "%s has the wrong size", FILE_NAME);
    struct cas_shared_header header;
    int rc = disk_read(fd, &header, sizeof(header), 0, err);
    if (rc != 0)
        return rc;
    if (memcmp(header.magic, magic, sizeof(magic)) != 0)
        return err_set(err, ERR_NOT_FOUND, "%s is of another kind or version", FILE_NAME);
    if (memcmp(header.store, store, sizeof(header.store)) != 0)
        return err_set(err, ERR_NOT_FOUND, "%s is of another store", FILE_NAME);
    uint32_t capacity = atomic_load(&header.capacity);
    if (capacity > CAS_SEGMENTS_MAX || capacity % PAGE_SEGMENTS != 0)
        return err_set(err, ERR_NOT_FOUND, "%s has a wrong capacity", FILE_NAME);
    rc = disk_take_blocks(fd, used_size(capacity), err);
    return rc == 0 ? 0 : err_wrap(err, "take blocks for %s", FILE_NAME);
}

/* Opens the file that is there. */
static int open_existing(int cas_fd, const uint8_t store[16], int *fd, struct err *err)
{
    *fd = disk.openat(cas_fd, FILE_NAME, O_RDWR | O_CLOEXEC, 0);
    if (*fd < 0 && errno == ENOENT)
        return err_set(err, ERR_NOT_FOUND, "%s is not there", FILE_NAME);
    if (*fd < 0)
        return disk_fault(err, errno, "open %s", FILE_NAME);
    int rc = verify(*fd, store, err);
    if (rc != 0) {
        (void)disk.close(*fd);
        *fd = -1;
    }
    return rc;
}

int cas_shared_open(int cas_fd, const char *store_id, bool may_make, struct cas_shared *shared,
                    bool *is_new, struct err *err)
{
    uint8_t store[16] = {0};
    *is_new = false;
    *shared = (struct cas_shared){.fd = -1, .process = -1};
    int rc = read_store_id(store_id, store, err);
    if (rc != 0)
        return rc;
    rc = open_existing(cas_fd, store, &shared->fd, err);
    if (rc == -ERR_NOT_FOUND && may_make) {
        *is_new = true;
        rc = make(cas_fd, store, &shared->fd, err);
    }
    if (rc != 0)
        return rc;
    void *map = disk.mmap(NULL, FILE_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, shared->fd, 0);
    if (map == MAP_FAILED) {
        rc = disk_fault(err, errno, "map %s", FILE_NAME);
        (void)disk.close(shared->fd);
        shared->fd = -1;
        return rc;
    }
    shared->header = map;
    shared->segments = (struct cas_segment *)((uint8_t *)map + PAGE);
    (void)pthread_mutex_init(&shared->begins_lock, NULL);
    return 0;
}

void cas_shared_close(struct cas_shared *shared)
{
    if (shared->process >= 0) {
        struct cas_process *process = &shared->header->processes[shared->process];
        atomic_store(&process->oldest_hold, 0);
        atomic_store(&process->pid, 0);
    }
    (void)pthread_mutex_destroy(&shared->begins_lock);
    (void)disk.munmap(shared->header, FILE_SIZE);
    (void)disk.close(shared->fd); /* this gives up the lock on the process's byte */
    *shared = (struct cas_shared){.fd = -1, .process = -1};
}

int64_t cas_shared_bytes(const struct cas_shared *shared)
{
    struct stat st;
    return fstat(shared->fd, &st) == 0 ? (int64_t)st.st_blocks * BLOCK : 0;
}

int cas_shared_sync(struct cas_shared *shared, struct err *err)
{
    /* What was written through the map is in the file's cached pages, which this writes. */
    return disk.fsync(shared->fd) == 0 ? 0 : disk_fault(err, errno, "make %s durable", FILE_NAME);
}

/* --- processes and holds --- */

/*
 * Locks or unlocks the byte of the process INDEX, without waiting. The lock belongs to the open
 * file, which no other process has, and ends with it, however the process ends.
 */
static int lock_byte(const struct cas_shared *shared, int index, short type)
{
    struct flock lock = {
        .l_type = type, .l_whence = SEEK_SET, .l_start = 1 + index, .l_len = 1, .l_pid = 0};
    int rc;
    do {
        rc = fcntl(shared->fd, F_OFD_SETLK, &lock);
    } while (rc != 0 && errno == EINTR);
    return rc;
}

int cas_shared_join(struct cas_shared *shared, struct err *err)
{
    assert(shared->process < 0);
    /* A place that another process looks at for being dead is locked for a moment: look twice. */
    for (int i = 0; i < 2 * CAS_PROCESSES; i++) {
        int index = i % CAS_PROCESSES;
        if (lock_byte(shared, index, F_WRLCK) == 0) {
            struct cas_process *process = &shared->header->processes[index];
            atomic_store(&process->oldest_hold, 0); /* of a dead process */
            atomic_store(&process->pid, (uint32_t)getpid());
            shared->process = index;
            return 0;
        }
        if (errno != EAGAIN && errno != EACCES)
            return disk_fault(err, errno, "lock %s", FILE_NAME);
    }
    return err_set(err, ERR_EXHAUSTED, "%d processes have the store open already", CAS_PROCESSES);
}

void cas_shared_set_oldest_hold(struct cas_shared *shared, uint64_t use)
{
    assert(shared->process >= 0);
    /* Before the uses that rely on it, for who reads it behind them: see cas_segment_use. */
    atomic_store(&shared->header->processes[shared->process].oldest_hold, use);
}

/*
 * A place whose byte can be locked belongs to nobody. It is cleared with the lock held, as a new
 * process may take it at any time.
 */
static bool forget_if_dead(struct cas_shared *shared, int index)
{
    if (index == shared->process || lock_byte(shared, index, F_WRLCK) != 0)
        return false;
    struct cas_process *process = &shared->header->processes[index];
    atomic_store(&process->oldest_hold, 0);
    atomic_store(&process->pid, 0);
    (void)lock_byte(shared, index, F_UNLCK);
    return true;
}

/*
 * A hold counts whether its process was seen to join or not: it is set before the first use that
 * relies on it, so who has read that use before this sees the hold. One that is seen without its
 * process's lock is of a dead one, as a process has the lock before it has a hold.
 */
static uint64_t find_oldest(struct cas_shared *shared, int *index)
{
    uint64_t oldest = UINT64_MAX;
    *index = -1;
    for (int i = 0; i < CAS_PROCESSES; i++) {
        uint64_t hold = atomic_load(&shared->header->processes[i].oldest_hold);
        if (hold == 0 || hold >= oldest || forget_if_dead(shared, i))
            continue;
        oldest = hold;
        *index = i;
    }
    return oldest;
}

uint64_t cas_shared_oldest_hold(struct cas_shared *shared)
{
    int index;
    return find_oldest(shared, &index);
}

uint32_t cas_shared_oldest_holder(struct cas_shared *shared, uint64_t *use)
{
    int index;
    *use = find_oldest(shared, &index);
    return index >= 0 && index != shared->process
               ? atomic_load(&shared->header->processes[index].pid)
               : 0;
}

/* --- uses --- */

static uint32_t index_of(uint64_t number)
{
    return (uint32_t)(number & (CAS_SEGMENTS_MAX - 1));
}

/*
 * The user stores last_use and then reads the state, the evictor stores LEAVING and then reads
 * last_use: with all four sequentially consistent at least one of them sees the other, so what is
 * DONE here stays, and what goes was not used. Where last_use is as new already, the load that
 * tells so stands for the store: it has seen a store that the evictor will see.
 */
enum cas_use cas_segment_use(struct cas_shared *shared, uint64_t number, uint64_t use)
{
    struct cas_segment *segment = cas_segment_find(shared, number);
    if (segment == NULL)
        return CAS_USE_GONE;
    uint64_t last = atomic_load(&segment->last_use);
    while (last < use && !atomic_compare_exchange_weak(&segment->last_use, &last, use))
        continue;
    uint32_t state = atomic_load(&segment->state);
    /* A state of the next segment here is seen only with its number, which is set before. */
    if (state == CAS_FREE || atomic_load(&segment->number) != number)
        return CAS_USE_GONE;
    return state == CAS_LEAVING ? CAS_USE_UNDECIDED : CAS_USE_DONE;
}

struct cas_segment *cas_segment_find(const struct cas_shared *shared, uint64_t number)
{
    /* Behind the capacity there are zeros, which are never a number. */
    struct cas_segment *segment = &shared->segments[index_of(number)];
    if (number == 0 || atomic_load_explicit(&segment->state, memory_order_acquire) == CAS_FREE ||
        atomic_load_explicit(&segment->number, memory_order_acquire) != number)
        return NULL;
    return segment;
}

bool cas_place_is_trusted(const struct cas_shared *shared, uint64_t place, int64_t record_size)
{
    uint64_t number = cas_place_number(place);
    const struct cas_segment *segment = &shared->segments[index_of(number)];
    uint32_t state = atomic_load_explicit(&segment->state, memory_order_acquire);
    uint64_t trusted = atomic_load_explicit(&segment->trusted, memory_order_acquire);
    /* Read last: the number of the next segment here is set before the rest of it. */
    if (number == 0 || atomic_load_explicit(&segment->number, memory_order_acquire) != number)
        return false;
    uint64_t offset = cas_place_offset(place);
    return state != CAS_FREE && record_size >= 0 && offset <= trusted &&
           (uint64_t)record_size <= trusted - offset;
}

/* --- the writer's --- */

/* Gives the file blocks for a page more of segments. */
static int grow(struct cas_shared *shared, struct err *err)
{
    uint32_t capacity = capacity_of(shared);
    if (capacity > CAS_SEGMENTS_MAX - PAGE_SEGMENTS)
        return err_set(err, ERR_EXHAUSTED, "no segment can be added to the %d that there can be",
                       CAS_SEGMENTS_MAX);
    /* Without its blocks a write to the map would end the process when the disk is full. */
    if (disk.fallocate(shared->fd, 0, used_size(capacity), PAGE) != 0)
        return disk_fault(err, errno, "take blocks for %s", FILE_NAME);
    atomic_store_explicit(&shared->header->capacity, capacity + PAGE_SEGMENTS,
                          memory_order_release);
    return 0;
}

/* The generation of the last number at an index. */
static uint64_t generation_of(const struct cas_segment *segment)
{
    return atomic_load(&segment->number) >> CAS_SEGMENT_INDEX_BITS;
}

int cas_shared_widen(struct cas_shared *shared, struct err *err)
{
    off_t at = used_size(capacity_of(shared));
    while (at < FILE_SIZE && (at = lseek(shared->fd, at, SEEK_DATA)) >= 0) {
        off_t page = at / PAGE * PAGE;
        uint32_t first = (uint32_t)(page / PAGE - 1) * PAGE_SEGMENTS;
        uint64_t numbers = 0;
        for (uint32_t i = first; i < first + PAGE_SEGMENTS; i++)
            numbers |= atomic_load(&shared->segments[i].number);
        while (numbers != 0 && capacity_of(shared) <= first) {
            int rc = grow(shared, err);
            if (rc != 0)
                return rc;
        }
        at = page + PAGE;
    }
    return 0;
}

/*
 * An index that is free and has numbers left. The search begins one further for each segment that
 * is begun: the numbers of all indexes grow alike, and slowly.
 */
static struct cas_segment *find_free(const struct cas_shared *shared)
{
    uint32_t capacity = capacity_of(shared);
    uint64_t start = atomic_load(&shared->header->sequence);
    for (uint32_t i = 0; i < capacity; i++) {
        struct cas_segment *segment = &shared->segments[(start % capacity + i) % capacity];
        if (atomic_load(&segment->state) == CAS_FREE &&
            generation_of(segment) + 1 < (uint64_t)1 << GENERATION_BITS)
            return segment;
    }
    return NULL;
}

/* The number first and the state last: who sees the state sees that it is of another number. */
static void begin(struct cas_segment *segment, uint64_t number, uint64_t sequence, uint64_t use,
                  enum cas_segment_state state)
{
    atomic_store(&segment->number, number);
    atomic_store(&segment->version, 0);
    atomic_store(&segment->trusted, 0);
    atomic_store(&segment->durable, 0);
    atomic_store(&segment->charged, 0);
    atomic_store(&segment->flags, 0);
    atomic_store(&segment->records, 0);
    atomic_store(&segment->sequence, sequence);
    atomic_store(&segment->last_use, use);
    atomic_store(&segment->state, state);
}

int cas_segment_begin(struct cas_shared *shared, struct cas_segment **segment, struct err *err)
{
    int rc = 0;
    (void)pthread_mutex_lock(&shared->begins_lock);
    struct cas_segment *found = find_free(shared);
    while (found == NULL) {
        rc = grow(shared, err);
        if (rc != 0)
            goto out;
        found = find_free(shared);
    }
    uint64_t index = (uint64_t)(found - shared->segments);
    uint64_t number = (generation_of(found) + 1) << CAS_SEGMENT_INDEX_BITS | index;
    uint64_t sequence = atomic_fetch_add(&shared->header->sequence, 1) + 1;
    begin(found, number, sequence, cas_shared_tick(shared), CAS_OPEN);
    *segment = found;
out:
    (void)pthread_mutex_unlock(&shared->begins_lock);
    return rc;
}

int cas_segment_adopt(struct cas_shared *shared, uint64_t number, struct cas_segment **segment,
                      struct err *err)
{
    if (number >> CAS_SEGMENT_NUMBER_BITS != 0 || number >> CAS_SEGMENT_INDEX_BITS == 0)
        return err_set(err, ERR_INVALID, "no segment has the number %016llx",
                       (unsigned long long)number);
    int rc = 0;
    (void)pthread_mutex_lock(&shared->begins_lock);
    while (rc == 0 && index_of(number) >= capacity_of(shared))
        rc = grow(shared, err);
    if (rc != 0)
        goto out;
    struct cas_segment *found = &shared->segments[index_of(number)];
    if (atomic_load(&found->state) != CAS_FREE || atomic_load(&found->number) > number) {
        rc = err_set(err, ERR_PRECONDITION, "segment %016llx is followed by another",
                     (unsigned long long)number);
        goto out;
    }
    begin(found, number, 0, 0, CAS_SEALED);
    *segment = found;
out:
    (void)pthread_mutex_unlock(&shared->begins_lock);
    return rc;
}

void cas_segment_free(struct cas_segment *segment)
{
    atomic_store(&segment->state, CAS_FREE);
}

struct cas_segment *cas_segment_next(const struct cas_shared *shared, uint32_t *index)
{
    uint32_t capacity = capacity_of(shared);
    while (*index < capacity) {
        struct cas_segment *segment = &shared->segments[(*index)++];
        if (atomic_load(&segment->state) != CAS_FREE)
            return segment;
    }
    return NULL;
}
