/* SPDX-License-Identifier: Apache-2.0 */
/* What a stop, a kill or a power cut has left of a CAS: its segments, and whether to trust tables.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/log.h"
#include "store/cas_private.h"
#include "store/disk.h"

/* Counters above this one are not counters, but what a power cut has made of them. */
static const uint64_t counter_max = (uint64_t)1 << 62;

/* Bytes of log for which the table gets room for one blob, where nothing is known of them. */
enum { GUESSED_BLOB = 2048 };

enum { BOOT_ID_SIZE = sizeof(((struct cas_shared_header *)0)->boot_id) };

/* A file of cas/log that is named as a segment. */
struct segment_file {
    uint64_t number;
    int64_t size;
    int64_t charge;    /* bytes on disk */
    uint64_t sequence; /* from the ring that was or its header; 0: neither tells */
    uint64_t last_use; /* from the ring; 0: that did not know it */
    uint32_t records;  /* likewise */
};

struct segment_files {
    struct segment_file *list;
    size_t count;
    size_t capacity;
};

/* --- how it was left --- */

static void read_boot_id(char id[BOOT_ID_SIZE])
{
    memset(id, 0, BOOT_ID_SIZE);
    int fd = open("/proc/sys/kernel/random/boot_id", O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return;
    ssize_t got = read(fd, id, BOOT_ID_SIZE - 1);
    (void)close(fd);
    id[got > 0 ? got : 0] = '\0';
    id[strcspn(id, " \n")] = '\0';
}

/* Whether HEADER is of this store, and its tables are not being thrown away. */
static bool is_ours(const struct cas *cas, const struct cas_shared_header *header)
{
    return memcmp(header->store, cas->store, sizeof(cas->store)) == 0 &&
           atomic_load(&header->rebuilding) < CAS_EMPTYING;
}

/* Whether no power cut can have come between. Without a boot id nothing tells it from a kill. */
static bool is_sound(const struct cas_shared_header *header)
{
    char boot_id[BOOT_ID_SIZE];
    if (atomic_load(&header->clean) != 0)
        return true;
    read_boot_id(boot_id);
    return boot_id[0] != '\0' && memcmp(boot_id, header->boot_id, BOOT_ID_SIZE) == 0;
}

/* Whether the process that has the lock on the store has come so far that others can use it. */
static bool is_set_up(const struct cas_shared_header *header)
{
    char boot_id[BOOT_ID_SIZE];
    read_boot_id(boot_id);
    return atomic_load(&header->clean) != 0 || memcmp(boot_id, header->boot_id, BOOT_ID_SIZE) == 0;
}

/*
 * Says on disk that the store is in use, and how far the tables are to be trusted. Nothing else may
 * have been changed before. A kill in between must not leave what would be trusted: hence the
 * order.
 */
static int mark(struct cas *cas, enum cas_rebuilding rebuilding, struct err *err)
{
    struct cas_shared_header *header = cas->shared.header;
    atomic_store(&header->rebuilding, rebuilding);
    read_boot_id(header->boot_id);
    atomic_store(&header->clean, 0);
    return cas_shared_sync(&cas->shared, err);
}

/* --- the files of the log --- */

static int add_file(struct segment_files *files, uint64_t number, const struct stat *st,
                    struct err *err)
{
    if (files->count == files->capacity) {
        size_t capacity = files->capacity == 0 ? 1024 : 2 * files->capacity;
        struct segment_file *list = realloc(files->list, capacity * sizeof(*list));
        if (list == NULL)
            return err_no_memory(err, "the list of segments");
        files->list = list;
        files->capacity = capacity;
    }
    files->list[files->count++] = (struct segment_file){
        .number = number, .size = st->st_size, .charge = (int64_t)st->st_blocks * 512};
    return 0;
}

static int list_files(struct cas *cas, struct segment_files *files, struct err *err)
{
    int fd = openat(cas->log_fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *stream = fd >= 0 ? fdopendir(fd) : NULL;
    if (stream == NULL) {
        int rc = disk_fault(err, errno, "list the log");
        if (fd >= 0)
            (void)close(fd);
        return rc;
    }
    int rc = 0;
    struct dirent *entry;
    while (rc == 0 && (errno = 0, (entry = readdir(stream)) != NULL)) {
        struct stat st;
        uint64_t number;
        if (!cas_log_parse_name(entry->d_name, &number) || number >> CAS_SEGMENT_INDEX_BITS == 0 ||
            number >> CAS_SEGMENT_NUMBER_BITS != 0)
            continue;
        if (fstatat(fd, entry->d_name, &st, AT_SYMLINK_NOFOLLOW) != 0)
            rc = errno == ENOENT ? 0 : disk_fault(err, errno, "look at a segment");
        else if (S_ISREG(st.st_mode))
            rc = add_file(files, number, &st, err);
    }
    if (rc == 0 && errno != 0)
        rc = disk_fault(err, errno, "list the log");
    (void)closedir(stream);
    return rc;
}

/* A header that is damaged or cannot be read costs its segment nothing but its place in the order.
 */
static void read_sequence(struct cas *cas, struct segment_file *file)
{
    char name[CAS_LOG_NAME];
    uint8_t header[CAS_SEGMENT_HEADER];
    struct cas_origin origin = {.segment = file->number};
    memcpy(origin.store, cas->store, sizeof(origin.store));
    (void)cas_log_name(file->number, name);
    struct err err;
    int fd = disk.openat(cas->log_fd, name, O_RDONLY | O_CLOEXEC, 0);
    int rc = fd < 0 ? disk_fault(&err, errno, "open") : 0;
    if (rc == 0)
        rc = disk_read(fd, header, sizeof(header), 0, &err);
    if (rc == 0)
        rc = cas_segment_get_header(&origin, header, &file->sequence, &err);
    if (fd >= 0)
        (void)disk.close(fd);
    if (rc == 0 && file->sequence <= counter_max)
        return;
    file->sequence = 0;
    log_warning("cas-segment-damaged", log_str("path", cas->directory.path),
                log_str("segment", name),
                log_str("reason", rc != 0 ? err.msg : "its place in the order makes no sense"));
}

/* Removes a file with nothing in it that counts. Its blocks go first: another may have it open. */
static void remove_file(struct cas *cas, uint64_t number)
{
    char name[CAS_LOG_NAME];
    (void)cas_log_name(number, name);
    int fd = disk.openat(cas->log_fd, name, O_WRONLY | O_CLOEXEC, 0);
    bool is_empty = fd >= 0 && disk.ftruncate(fd, 0) == 0;
    int errnum = errno;
    if (fd >= 0)
        (void)disk.close(fd);
    if (is_empty && disk.unlinkat(cas->log_fd, name, 0) == 0)
        return;
    log_warning("cas-remove-failed", log_str("path", cas->directory.path), log_str("segment", name),
                log_str("reason", strerror(is_empty ? errno : errnum)));
}

/* --- the ring of segments --- */

static struct cas_segment *slot_of(const struct cas *cas, uint64_t number)
{
    uint32_t index = (uint32_t)(number & (CAS_SEGMENTS_MAX - 1));
    return index < atomic_load(&cas->shared.header->capacity) ? &cas->shared.segments[index] : NULL;
}

static void raise_to(_Atomic uint64_t *counter, uint64_t value)
{
    if (atomic_load(counter) < value)
        atomic_store(counter, value);
}

/*
 * What a segment takes on disk. Contents are still to be written to one that is open, and a kill
 * may have come before it was charged for its last records.
 */
static void charge(const struct cas *cas, struct cas_segment *segment,
                   const struct segment_file *file)
{
    int64_t bytes = file->charge;
    if (atomic_load(&segment->state) == CAS_OPEN) {
        int64_t grown =
            cas_log_overhead(cas->log) +
            cas_log_growth((int64_t)atomic_load(&segment->trusted), atomic_load(&segment->records));
        bytes = bytes > grown ? bytes : grown;
    }
    atomic_store(&segment->charged, (uint64_t)bytes);
}

/* Puts a file into the ring, of whose content nothing is known yet. */
static int adopt(struct cas *cas, const struct segment_file *file, struct err *err)
{
    struct cas_segment *segment;
    if (cas_segment_adopt(&cas->shared, file->number, &segment, err) != 0)
        return err_wrap(err, "take up segment %016" PRIx64, file->number);
    atomic_store(&segment->last_use, file->last_use);
    atomic_store(&segment->sequence, file->sequence);
    atomic_store(&segment->charged, (uint64_t)file->charge);
    raise_to(&cas->shared.header->counter, file->last_use);
    raise_to(&cas->shared.header->sequence, file->sequence);
    return 0;
}

/* --- tables that are trusted --- */

/*
 * A process was killed while it removed a segment. If the file is whole the segment stays: whether
 * it is sealed is not known, so it is taken for open, and what stands behind its records is written
 * anew; unless that is left to cas_rebuild, which may not have put all of it into the table yet.
 */
static void settle(struct cas_segment *segment, const struct segment_file *file, bool is_filling)
{
    uint64_t trusted = atomic_load(&segment->trusted);
    bool is_leaving = atomic_load(&segment->state) == CAS_LEAVING;
    bool is_whole = file->size > CAS_SEGMENT_HEADER && (uint64_t)file->size >= trusted;
    if (!is_whole && (is_leaving || trusted <= CAS_SEGMENT_HEADER))
        cas_segment_free(segment);
    else if (is_leaving)
        atomic_store(&segment->state, trusted != 0 && !is_filling ? CAS_OPEN : CAS_SEALED);
}

static bool has_undecided(const struct cas *cas)
{
    uint32_t index = 0;
    const struct cas_segment *segment;
    while ((segment = cas_segment_next(&cas->shared, &index)) != NULL)
        if (atomic_load(&segment->state) == CAS_LEAVING)
            return true;
    return false;
}

/* Segments of the ring whose files are not there; SEEN: by index, those whose files are. */
static void forget_missing(struct cas *cas, const bool *seen)
{
    uint32_t index = 0;
    struct cas_segment *segment;
    while ((segment = cas_segment_next(&cas->shared, &index)) != NULL) {
        if (seen[index - 1])
            continue;
        char name[CAS_LOG_NAME];
        (void)cas_log_name(atomic_load(&segment->number), name);
        /* One that was just begun had nothing in it; one that was to go is gone. */
        if (atomic_load(&segment->trusted) > CAS_SEGMENT_HEADER &&
            atomic_load(&segment->state) != CAS_LEAVING)
            log_error("cas-segment-missing", log_str("path", cas->directory.path),
                      log_str("segment", name),
                      log_str("reason", "its file is gone, and what was in it"));
        cas_segment_free(segment);
    }
}

/* A file that the ring does not know to be there. */
static int take_up_unknown(struct cas *cas, struct segment_file *file, struct err *err)
{
    struct cas_segment *slot = slot_of(cas, file->number);
    /* Its name is left of one that was removed, or came back; or it was only being begun. */
    if (file->size <= CAS_SEGMENT_HEADER ||
        (slot != NULL && atomic_load(&slot->number) >= file->number)) {
        remove_file(cas, file->number);
        return 0;
    }
    if (slot != NULL && atomic_load(&slot->state) != CAS_FREE)
        return 0; /* a stranger's; it counts as such */
    read_sequence(cas, file);
    file->last_use = cas_shared_tick(&cas->shared);
    int rc = adopt(cas, file, err);
    if (rc == 0)
        atomic_store(&cas->shared.header->rebuilding, CAS_FILLING);
    return rc;
}

/* Brings the ring, which is trusted, and the files into agreement. */
static int take_up_trusted(struct cas *cas, struct segment_files *files, struct err *err)
{
    bool is_filling = atomic_load(&cas->shared.header->rebuilding) != CAS_REBUILT;
    bool *seen = calloc(CAS_SEGMENTS_MAX, sizeof(*seen));
    if (seen == NULL)
        return err_no_memory(err, "the list of segments");
    for (size_t i = 0; i < files->count; i++) {
        struct segment_file *file = &files->list[i];
        struct cas_segment *segment = cas_segment_find(&cas->shared, file->number);
        if (segment == NULL)
            continue;
        seen[file->number & (CAS_SEGMENTS_MAX - 1)] = true;
        settle(segment, file, is_filling);
        charge(cas, segment, file);
    }
    forget_missing(cas, seen);
    free(seen);
    int rc = 0;
    for (size_t i = 0; rc == 0 && i < files->count; i++)
        if (cas_segment_find(&cas->shared, files->list[i].number) == NULL)
            rc = take_up_unknown(cas, &files->list[i], err);
    return rc;
}

/* --- tables that are made anew --- */

/* What the ring still tells of the files' segments, as far as it can be believed. */
static void remember(struct cas *cas, struct segment_files *files)
{
    uint64_t counter = atomic_load(&cas->shared.header->counter);
    for (size_t i = 0; i < files->count; i++) {
        struct segment_file *file = &files->list[i];
        const struct cas_segment *slot = slot_of(cas, file->number);
        if (slot == NULL || atomic_load(&slot->number) != file->number)
            continue;
        uint64_t last_use = atomic_load(&slot->last_use);
        uint64_t sequence = atomic_load(&slot->sequence);
        file->last_use = last_use <= counter_max && counter <= counter_max ? last_use : 0;
        file->sequence = sequence <= counter_max ? sequence : 0;
        file->records = atomic_load(&slot->records);
    }
}

static void empty_ring(struct cas *cas)
{
    struct cas_shared_header *header = cas->shared.header;
    uint32_t capacity = atomic_load(&header->capacity);
    for (uint32_t index = 0; index < capacity; index++) {
        struct cas_segment *segment = &cas->shared.segments[index];
        uint64_t number = atomic_load(&segment->number);
        if (number >> CAS_SEGMENT_NUMBER_BITS != 0 ||
            (number != 0 && (number & (CAS_SEGMENTS_MAX - 1)) != index))
            atomic_store(&segment->number, index);
        atomic_store(&segment->state, CAS_FREE);
    }
    if (atomic_load(&header->counter) > counter_max)
        atomic_store(&header->counter, 0);
    if (atomic_load(&header->sequence) > counter_max)
        atomic_store(&header->sequence, 0);
    atomic_store(&header->blobs, 0);
}

static int by_use(const void *a, const void *b)
{
    const struct segment_file *x = a;
    const struct segment_file *y = b;
    /* Those that the ring did not know were begun last. */
    if ((x->last_use == 0) != (y->last_use == 0))
        return x->last_use == 0 ? 1 : -1;
    if (x->last_use != y->last_use)
        return x->last_use < y->last_use ? -1 : 1;
    if (x->sequence != y->sequence)
        return x->sequence < y->sequence ? -1 : 1;
    return x->number < y->number ? -1 : x->number > y->number;
}

static int by_number(const void *a, const void *b)
{
    const struct segment_file *x = a;
    const struct segment_file *y = b;
    return x->number < y->number ? -1 : x->number > y->number;
}

/*
 * Leaves aside files that hold nothing: those which are no longer than a header; and those that
 * would have the place in the ring of a newer one, be that still there or not: they were evicted
 * before the other was begun, and are back because their removal was not durable.
 */
static void drop_dead(struct cas *cas, struct segment_files *files)
{
    size_t kept = 0;
    bool *taken = calloc(CAS_SEGMENTS_MAX, sizeof(*taken));
    if (taken == NULL)
        return; /* adopting the second one of two fails then */
    if (files->count > 0)
        qsort(files->list, files->count, sizeof(*files->list), by_number);
    for (size_t i = files->count; i-- > 0;) {
        struct segment_file *file = &files->list[i];
        bool *is_taken = &taken[file->number & (CAS_SEGMENTS_MAX - 1)];
        const struct cas_segment *slot = slot_of(cas, file->number);
        bool is_followed = slot != NULL && atomic_load(&slot->number) > file->number;
        if (file->size <= CAS_SEGMENT_HEADER || *is_taken || is_followed) {
            remove_file(cas, file->number);
            file->number = 0;
        }
        *is_taken = *is_taken || file->number != 0;
    }
    for (size_t i = 0; i < files->count; i++)
        if (files->list[i].number != 0)
            files->list[kept++] = files->list[i];
    files->count = kept;
    free(taken);
}

static uint64_t guess_entries(const struct segment_files *files)
{
    uint64_t entries = 0;
    for (size_t i = 0; i < files->count; i++) {
        const struct segment_file *file = &files->list[i];
        uint64_t most = (uint64_t)file->size / CAS_CONTENTS_ENTRY;
        uint64_t guess = file->records != 0 ? file->records : (uint64_t)file->size / GUESSED_BLOB;
        entries += guess < most ? guess : most;
    }
    return entries;
}

/* Makes ring and table of what is on disk alone. The header says so already. */
static int take_up_all(struct cas *cas, struct segment_files *files, struct err *err)
{
    struct cas_shared_header *header = cas->shared.header;
    int rc = cas_shared_widen(&cas->shared, err);
    if (rc != 0)
        return rc;
    remember(cas, files);
    empty_ring(cas);
    drop_dead(cas, files);
    for (size_t i = 0; i < files->count; i++) {
        /* Reading them all would take a cold disk seconds, where there are many. */
        if (files->list[i].sequence == 0)
            read_sequence(cas, &files->list[i]);
        raise_to(&header->counter, files->list[i].last_use);
    }
    if (files->count > 1)
        qsort(files->list, files->count, sizeof(*files->list), by_use);
    rc = digest_table_reset(&cas->shared, cas->table_fd, guess_entries(files), err);
    /* On a full disk it begins small, and grows as there is room: what is found is served. */
    if (rc == -ERR_EXHAUSTED)
        rc = digest_table_reset(&cas->shared, cas->table_fd, 0, err);
    for (size_t i = 0; rc == 0 && i < files->count; i++) {
        if (files->list[i].last_use == 0)
            files->list[i].last_use = cas_shared_tick(&cas->shared);
        rc = adopt(cas, &files->list[i], err);
    }
    /* The file grew for them, and a table that is empty must not be taken for one that is whole. */
    if (rc == 0)
        atomic_store(&header->rebuilding, files->count != 0 ? CAS_FILLING : CAS_REBUILT);
    return rc;
}

/* --- all of it --- */

static int open_log(struct cas *cas, struct err *err)
{
    if (cas->log != NULL)
        return 0;
    struct cas_log_options options = {.shared = &cas->shared,
                                      .log_fd = cas->log_fd,
                                      .segment_size = cas_log_segment_size(cas->options.quota),
                                      .path = cas->directory.path};
    memcpy(options.store, cas->store, sizeof(options.store));
    return cas_log_new(&options, &cas->log, err);
}

static int open_table(struct cas *cas, struct err *err)
{
    return cas->table != NULL ? 0
                              : digest_table_open(&cas->shared, cas->table_fd, &cas->table, err);
}

int cas_recover_beside(struct cas *cas, struct err *err)
{
    struct cas_shared_header header;
    struct err ignored;
    int fd = disk.openat(cas->directory.fd, "shared", O_RDONLY | O_CLOEXEC, 0);
    int rc = fd >= 0 ? disk_read(fd, &header, sizeof(header), 0, &ignored) : -1;
    if (fd >= 0)
        (void)disk.close(fd);
    bool is_ready = rc == 0 && is_ours(cas, &header);
    if (is_ready && cas->has_lock)
        is_ready = is_sound(&header) && atomic_load(&header.rebuilding) == CAS_REBUILT;
    else if (is_ready)
        is_ready = is_set_up(&header);
    if (!is_ready)
        return err_set(err, ERR_UNAVAILABLE, "%s is not set up yet", cas->directory.path);
    bool is_new;
    rc = cas_shared_open(cas->directory.fd, cas->directory.id, false, &cas->shared, &is_new, err);
    if (rc == -ERR_NOT_FOUND)
        return err_set(err, ERR_UNAVAILABLE, "%s is not set up yet", cas->directory.path);
    if (rc == 0)
        rc = open_table(cas, err);
    if (rc == 0)
        rc = open_log(cas, err);
    if (rc == 0 && cas->has_lock && has_undecided(cas))
        rc = err_set(err, ERR_UNAVAILABLE, "%s was not left in order", cas->directory.path);
    return rc;
}

int cas_recover(struct cas *cas, bool *rebuild, struct err *err)
{
    bool is_new = false;
    struct segment_files files = {.list = NULL};
    int rc = 0;
    if (cas->shared.header == NULL)
        rc =
            cas_shared_open(cas->directory.fd, cas->directory.id, true, &cas->shared, &is_new, err);
    if (rc == 0)
        rc = list_files(cas, &files, err);
    if (rc != 0)
        goto out;
    struct cas_shared_header *header = cas->shared.header;
    bool is_trusted = !is_new && is_ours(cas, header) && is_sound(header);
    rc = open_log(cas, err);
    if (rc == 0 && is_trusted) {
        rc = open_table(cas, err);
        if (rc == -ERR_DATA_LOSS) {
            log_error("cas-table-damaged", log_str("path", cas->directory.path),
                      log_str("reason", err->msg));
            is_trusted = false;
            rc = 0;
        }
    }
    if (rc == 0)
        rc = mark(cas, is_trusted ? atomic_load(&header->rebuilding) : CAS_EMPTYING, err);
    if (rc == 0)
        rc = is_trusted ? take_up_trusted(cas, &files, err) : take_up_all(cas, &files, err);
    /* Which names were durable is not known any more. */
    if (rc == 0 && disk.fsync(cas->log_fd) != 0)
        rc = disk_fault(err, errno, "fsync the log's directory");
    if (rc == 0)
        rc = open_table(cas, err);
    if (rc == 0)
        *rebuild = atomic_load(&header->rebuilding) != CAS_REBUILT;
out:
    free(files.list);
    return rc;
}
