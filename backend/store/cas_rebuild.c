/* SPDX-License-Identifier: Apache-2.0 */
/* Filling the digest table from the segments of the log, after a power cut or damage. */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>

#include "base/clock.h"
#include "base/log.h"
#include "store/cas_private.h"
#include "store/disk.h"

enum {
    WINDOW = 1 << 20, /* bytes that are read at a time; a multiple of CAS_CHUNK */
    WINDOW_CHUNKS = WINDOW / CAS_CHUNK,
    BATCH = 64,                /* entries added at a time */
    ATTEMPTS = 3,              /* at a segment that the disk cannot read */
    PATIENCE_MS = 200,         /* between them */
    LEAVING_MS = 1,            /* until it is decided whether a segment goes */
    OFFSET_MAX = 0xffffff * 16 /* of a record in its segment */
};

struct rebuild {
    struct cas *cas;
    uint8_t *window; /* WINDOW bytes of the segment being read, from window_offset on */
    uint64_t window_offset;
    size_t window_size;
    uint8_t *raw;                 /* contents as they stand in the file */
    size_t raw_capacity;          /* in entries */
    struct cas_content *contents; /* of the segment at hand */
    size_t count;
    size_t capacity;
    /* For the log. */
    int64_t segments;
    int64_t blobs;   /* that were not there yet */
    int64_t scanned; /* segments without contents */
    int64_t cut;     /* bytes cut off */
    int64_t unreadable;
};

/* A segment at hand. */
struct target {
    struct cas_segment *segment;
    struct cas_origin origin;
    int fd;
    uint64_t size; /* of its file */
    uint64_t end;  /* of its records */
    bool is_sealed;
    bool has_broken; /* a record in front of its end is not whole */
};

/* --- keeping a segment there --- */

/*
 * A hold on all that was used since this segment was: the others, used longer ago, can go
 * meanwhile, and this one's place in the order of use stays.
 */
static void guard(struct cas *cas, uint64_t last_use, struct cas_hold *hold)
{
    (void)pthread_mutex_lock(&cas->holds_lock);
    struct cas_hold *oldest = cas->oldest_hold;
    uint64_t since = last_use != 0 ? last_use : 1;
    if (oldest != NULL && oldest->since < since)
        since = oldest->since;
    *hold = (struct cas_hold){.cas = cas, .since = since, .next = oldest};
    if (oldest != NULL)
        oldest->previous = hold;
    else
        cas->newest_hold = hold;
    cas->oldest_hold = hold;
    cas_shared_set_oldest_hold(&cas->shared, since);
    (void)pthread_mutex_unlock(&cas->holds_lock);
}

/*
 * Under a guard: sets *STATE to what the segment is, and stays until that ends; CAS_FREE: it is
 * gone. ERR_CANCELLED: the store is being closed, and it is not decided.
 */
static int settle(struct cas *cas, uint64_t number, struct cas_segment **segment, uint32_t *state,
                  struct err *err)
{
    for (;;) {
        *segment = cas_segment_find(&cas->shared, number);
        *state = *segment != NULL ? atomic_load(&(*segment)->state) : CAS_FREE;
        if (*state != CAS_LEAVING)
            return 0;
        if (!cas_pause(cas, LEAVING_MS))
            return err_set(err, ERR_CANCELLED, "the store is being closed");
    }
}

/* Gives a guarded segment to who seals. It may be looked at for going, but stays. */
static void reopen(struct cas_segment *segment)
{
    uint32_t state = CAS_SEALED;
    while (!atomic_compare_exchange_weak(&segment->state, &state, CAS_OPEN)) {
        state = CAS_SEALED;
        (void)sched_yield();
    }
}

/* --- what a segment holds --- */

static int reserve(struct rebuild *rebuild, size_t count, struct err *err)
{
    if (count <= rebuild->capacity)
        return 0;
    size_t capacity = rebuild->capacity != 0 ? rebuild->capacity : CAS_SEGMENT_RECORDS_MAX;
    while (capacity < count)
        capacity *= 2;
    struct cas_content *contents = realloc(rebuild->contents, capacity * sizeof(*contents));
    if (contents == NULL)
        return err_no_memory(err, "the contents of a segment");
    rebuild->contents = contents;
    uint8_t *raw = realloc(rebuild->raw, capacity * CAS_CONTENTS_ENTRY);
    if (raw == NULL)
        return err_no_memory(err, "the contents of a segment");
    rebuild->raw = raw;
    rebuild->capacity = capacity;
    return 0;
}

static bool fits(const struct cas_content *content, uint64_t end)
{
    int64_t size = cas_key_record_size(&content->key);
    return content->offset % CAS_ALIGN == 0 && content->offset <= end &&
           content->offset <= OFFSET_MAX && (uint64_t)size <= end - content->offset;
}

/* From the contents at the end of the file. ERR_DATA_LOSS: it is not sealed. */
static int read_contents(struct rebuild *rebuild, struct target *target, struct err *err)
{
    uint8_t end[CAS_CONTENTS_END];
    uint64_t count;
    if (target->size < CAS_SEGMENT_HEADER + CAS_CONTENTS_END)
        return err_set(err, ERR_DATA_LOSS, "too short");
    uint64_t behind = target->size - CAS_CONTENTS_END;
    if (disk_read(target->fd, end, sizeof(end), (off_t)behind, err) != 0 ||
        cas_contents_get_end(&target->origin, end, &count, err) != 0)
        return -(int)err->code;
    if (count > (behind - CAS_SEGMENT_HEADER) / CAS_CONTENTS_ENTRY)
        return err_set(err, ERR_DATA_LOSS, "too many entries");
    target->end = behind - count * CAS_CONTENTS_ENTRY;
    if (reserve(rebuild, count, err) != 0 ||
        disk_read(target->fd, rebuild->raw, count * CAS_CONTENTS_ENTRY, (off_t)target->end, err) !=
            0 ||
        cas_contents_verify(end, rebuild->raw, count, err) != 0)
        return -(int)err->code;
    for (rebuild->count = 0; rebuild->count < count; rebuild->count++) {
        struct cas_content *content = &rebuild->contents[rebuild->count];
        cas_contents_get_entry(rebuild->raw + rebuild->count * CAS_CONTENTS_ENTRY, content);
        if (!fits(content, target->end))
            return err_set(err, ERR_DATA_LOSS, "an entry does not fit");
    }
    target->is_sealed = true;
    return 0;
}

/* Sets *BYTES to what stands at OFFSET, as much as there is up to SIZE, which is at most WINDOW. */
static int look_at(struct rebuild *rebuild, const struct target *target, uint64_t offset,
                   size_t size, const uint8_t **bytes, size_t *available, struct err *err)
{
    uint64_t rest = target->size - offset;
    *available = rest < size ? (size_t)rest : size;
    if (offset < rebuild->window_offset ||
        offset + *available > rebuild->window_offset + rebuild->window_size) {
        rebuild->window_size = 0;
        size_t take = rest < WINDOW ? (size_t)rest : WINDOW;
        if (disk_read(target->fd, rebuild->window, take, (off_t)offset, err) != 0)
            return -(int)err->code;
        rebuild->window_offset = offset;
        rebuild->window_size = take;
    }
    *bytes = rebuild->window + (offset - rebuild->window_offset);
    return 0;
}

/* Verifies a payload that does not fit into the window, piece by piece. */
static int verify_large(struct rebuild *rebuild, const struct target *target, uint64_t payload,
                        const struct digest *digest, struct err *err)
{
    uint8_t sums[WINDOW_CHUNKS * CAS_SUM];
    uint64_t size = (uint64_t)digest->size;
    for (uint64_t done = 0; done < size; done += WINDOW) {
        const uint8_t *bytes;
        size_t got;
        if (atomic_load(&rebuild->cas->closing))
            return err_set(err, ERR_CANCELLED, "closing");
        size_t take = size - done < WINDOW ? (size_t)(size - done) : WINDOW;
        size_t chunks = (take + CAS_CHUNK - 1) / CAS_CHUNK;
        if (disk_read(target->fd, sums, chunks * CAS_SUM,
                      (off_t)(payload + size + done / CAS_CHUNK * CAS_SUM), err) != 0 ||
            look_at(rebuild, target, payload + done, take, &bytes, &got, err) != 0 ||
            cas_record_verify(digest, bytes, take, sums, err) != 0)
            return -(int)err->code;
    }
    return 0;
}

/*
 * Reads and verifies the record at OFFSET. ERR_DATA_LOSS: there is none that is whole; then *NEXT
 * is where the one behind it would begin, or 0 if nothing tells.
 */
static int scan_record(struct rebuild *rebuild, const struct target *target, uint64_t offset,
                       uint64_t *next, struct err *err)
{
    struct digest digest;
    const uint8_t *bytes;
    size_t available;
    *next = 0;
    if (offset > OFFSET_MAX)
        return err_set(err, ERR_DATA_LOSS, "no record begins there");
    if (look_at(rebuild, target, offset, CAS_RECORD_HEADER_MAX, &bytes, &available, err) != 0 ||
        cas_record_get_header(&target->origin, offset, bytes, available, &digest, err) != 0)
        return -(int)err->code;
    size_t header = cas_record_header_size(digest.function);
    uint64_t size = (uint64_t)cas_record_size(digest.function, digest.size);
    if (size > target->size - offset)
        return err_set(err, ERR_DATA_LOSS, "cut off");
    *next = offset + size;
    int rc;
    if (size <= WINDOW) {
        rc = look_at(rebuild, target, offset, (size_t)size, &bytes, &available, err);
        if (rc == 0 && digest.size != 0)
            rc = cas_record_verify(&digest, bytes + header, (size_t)digest.size,
                                   bytes + header + digest.size, err);
    } else {
        rc = verify_large(rebuild, target, offset + header, &digest, err);
    }
    if (rc == 0)
        rc = reserve(rebuild, rebuild->count + 1, err);
    if (rc != 0)
        return rc;
    struct cas_content *content = &rebuild->contents[rebuild->count++];
    cas_key_of(&digest, &content->key);
    content->offset = offset;
    return 0;
}

/*
 * From the records, one by one, up to the last that is whole. A damaged payload costs its own
 * record: where the next one begins is known. On another error the target ends where that came.
 */
static int scan(struct rebuild *rebuild, struct target *target, struct err *err)
{
    rebuild->count = 0;
    rebuild->window_size = 0;
    target->end = CAS_SEGMENT_HEADER;
    target->has_broken = false;
    bool is_behind_broken = false;
    for (uint64_t offset = CAS_SEGMENT_HEADER, next; offset < target->size; offset = next) {
        if (atomic_load(&rebuild->cas->closing))
            return err_set(err, ERR_CANCELLED, "closing");
        int rc = scan_record(rebuild, target, offset, &next, err);
        if (rc != 0 && rc != -ERR_DATA_LOSS)
            return rc;
        if (rc != 0 && next == 0)
            break;
        if (rc == 0) {
            target->end = next;
            target->has_broken = is_behind_broken;
        } else {
            is_behind_broken = true;
        }
    }
    return 0;
}

/* --- making it as it should be --- */

/* What damage did to the header, which only tells the order in which segments were begun. */
static int mend_header(const struct target *target, struct err *err)
{
    uint8_t header[CAS_SEGMENT_HEADER];
    uint64_t sequence;
    int rc = disk_read(target->fd, header, sizeof(header), 0, err);
    if (rc == 0)
        rc = cas_segment_get_header(&target->origin, header, &sequence, err);
    if (rc != -ERR_DATA_LOSS)
        return rc;
    cas_segment_put_header(&target->origin, atomic_load(&target->segment->sequence), header);
    struct iovec part = {.iov_base = header, .iov_len = sizeof(header)};
    return disk_write(target->fd, &part, 1, 0, err);
}

/*
 * Cuts off what is behind the last record that is whole. What was read may be in the kernel's cache
 * alone, where there was no power cut: it counts as durable only after this.
 */
static int cut(struct rebuild *rebuild, const struct target *target, struct err *err)
{
    int rc = mend_header(target, err);
    if (rc == 0 && target->end < target->size &&
        disk.ftruncate(target->fd, (off_t)target->end) != 0)
        rc = disk_fault(err, errno, "cut off what is not whole");
    if (rc == 0 && disk.fdatasync(target->fd) != 0)
        rc = disk_fault(err, errno, "fdatasync");
    if (rc != 0)
        return rc;
    rebuild->scanned++;
    rebuild->cut += (int64_t)(target->size - target->end);
    return 0;
}

/* What it takes on disk once it is sealed. */
static int charge(struct rebuild *rebuild, const struct target *target, struct err *err)
{
    struct cas *cas = rebuild->cas;
    int64_t charged = (int64_t)atomic_load(&target->segment->charged);
    int64_t bytes = cas_log_overhead(cas->log) +
                    cas_log_growth((int64_t)target->end - CAS_SEGMENT_HEADER, rebuild->count);
    if (!atomic_load(&cas->writing)) {
        atomic_store(&target->segment->charged, (uint64_t)bytes);
    } else if (bytes > charged) {
        if (cas_space_take(cas->space, bytes - charged, err) != 0)
            return -(int)err->code;
        cas_space_charge(cas->space, target->segment, bytes - charged);
    } else {
        atomic_store(&target->segment->charged, (uint64_t)bytes);
        cas_space_give(cas->space, charged - bytes);
    }
    return 0;
}

/* --- the table --- */

/* Adds COUNT entries, at most BATCH, from the end; those that are known already stay. */
static int add_batch(struct rebuild *rebuild, uint64_t number, const struct cas_content *contents,
                     size_t count, struct err *err)
{
    struct digest_table *table = rebuild->cas->table;
    int rc = 0;
    digest_table_enter(table);
    for (size_t i = 0; i < count; i++)
        digest_table_prefetch(table, &contents[i].key);
    digest_table_leave(table);
    while (rc == 0 && count-- > 0) {
        uint64_t there;
        rc = digest_table_add(table, &contents[count].key,
                              cas_place(number, contents[count].offset), &there, err);
        rebuild->blobs += rc == 0 && there == 0;
    }
    return rc;
}

/* From the end, as the last of two records of a blob is the one that counts. */
static int add_contents(struct rebuild *rebuild, const struct target *target, struct err *err)
{
    int rc = 0;
    uint64_t trusted = atomic_load(&target->segment->trusted);
    while (rebuild->count > 0 && !fits(&rebuild->contents[rebuild->count - 1], trusted))
        rebuild->count--;
    for (size_t left = rebuild->count; rc == 0 && left > 0;) {
        size_t count = left < BATCH ? left : BATCH;
        left -= count;
        rc = add_batch(rebuild, target->origin.segment, rebuild->contents + left, count, err);
    }
    return rc;
}

/* --- one segment --- */

/* What is not trusted yet becomes so; durable it is. */
static void trust(const struct rebuild *rebuild, const struct target *target)
{
    struct cas_segment *segment = target->segment;
    /* A rebuild that was killed, or a writer that closed it, has been here. */
    if (atomic_load(&segment->trusted) != 0)
        return;
    atomic_store(&segment->records, (uint32_t)rebuild->count);
    atomic_store(&segment->durable, target->end);
    atomic_store(&segment->trusted, target->end);
}

/* LAST: what cannot be read by now is given up. */
static int find_contents(struct rebuild *rebuild, struct target *target, bool last, struct err *err)
{
    struct stat st;
    if (fstat(target->fd, &st) != 0)
        return disk_fault(err, errno, "look at the file");
    target->size = (uint64_t)st.st_size;
    int rc = read_contents(rebuild, target, err);
    if (rc != -ERR_DATA_LOSS && !(last && rc == -ERR_IO))
        return rc;
    rc = scan(rebuild, target, err);
    if (rc != -ERR_IO || !last)
        return rc;
    char name[CAS_LOG_NAME];
    rebuild->unreadable++;
    log_error("cas-segment-unreadable", log_str("path", rebuild->cas->directory.path),
              log_str("segment", cas_log_name(target->origin.segment, name)),
              log_num("offset", (int64_t)target->end), log_str("reason", err->msg));
    target->is_sealed = true; /* it is left as it is */
    return 0;
}

static int fill(struct rebuild *rebuild, struct target *target, bool last, struct err *err)
{
    struct cas *cas = rebuild->cas;
    int rc = find_contents(rebuild, target, last, err);
    if (rc != 0)
        return rc;
    uint64_t trusted = atomic_load(&target->segment->trusted);
    bool to_seal = !target->is_sealed && (trusted == 0 || trusted == target->end);
    if (to_seal) {
        rc = cut(rebuild, target, err);
        if (rc == 0)
            rc = charge(rebuild, target, err);
    }
    if (rc == 0) {
        trust(rebuild, target);
        rc = add_contents(rebuild, target, err);
    }
    if (rc != 0 || !to_seal)
        return rc;
    if (target->has_broken) {
        /* A table of contents would list what is broken: without one it is read like this again. */
        (void)atomic_fetch_or(&target->segment->flags, CAS_SEGMENT_BROKEN);
        if (atomic_load(&cas->writing))
            cas_space_broken(cas->space);
        return 0;
    }
    /* Only now: a segment that is open has all of its blobs in the table. */
    reopen(target->segment);
    if (atomic_load(&cas->writing))
        cas_log_keep(cas->log, target->origin.segment);
    return 0;
}

/* Segments that are gone, or whose blobs are in the table, are passed over. */
static int rebuild_segment(struct rebuild *rebuild, uint64_t number, bool last, struct err *err)
{
    struct cas *cas = rebuild->cas;
    struct cas_segment *segment = cas_segment_find(&cas->shared, number);
    struct cas_hold hold;
    if (segment == NULL)
        return 0;
    guard(cas, atomic_load(&segment->last_use), &hold);
    struct target target = {.origin = {.segment = number}};
    uint32_t state;
    int rc = settle(cas, number, &target.segment, &state, err);
    if (rc != 0 || state == CAS_FREE || state == CAS_OPEN)
        goto out;
    char name[CAS_LOG_NAME];
    (void)cas_log_name(number, name);
    memcpy(target.origin.store, cas->store, sizeof(target.origin.store));
    target.fd = disk.openat(cas->log_fd, name, O_RDWR | O_CLOEXEC, 0);
    if (target.fd < 0) {
        rc = disk_fault(err, errno, "open");
    } else {
        rc = fill(rebuild, &target, last, err);
        (void)disk.close(target.fd);
    }
    if (rc != 0)
        (void)err_wrap(err, "segment %s", name);
    rebuild->segments += rc == 0;
out:
    cas_hold_end(&hold);
    return rc;
}

/* Tries until it is done, or given up as the disk cannot read it. */
static int insist(struct rebuild *rebuild, uint64_t number, struct err *err)
{
    struct cas *cas = rebuild->cas;
    for (int attempt = 1; !atomic_load(&cas->closing); attempt++) {
        int rc = rebuild_segment(rebuild, number, attempt >= ATTEMPTS, err);
        if (rc == 0 || rc == -ERR_CANCELLED)
            return rc;
        bool is_given_up = attempt >= ATTEMPTS && rc == -ERR_IO;
        if (attempt == 1 || is_given_up)
            log_error("cas-rebuild-failed", log_str("path", cas->directory.path),
                      log_str("reason", err->msg),
                      log_str("answer", is_given_up ? "given up" : "tried again"));
        if (is_given_up)
            return 0;
        (void)cas_pause(cas, PATIENCE_MS);
    }
    return err_set(err, ERR_CANCELLED, "the store is being closed");
}

/* --- all of them --- */

struct age {
    uint64_t sequence;
    uint64_t number;
};

static int newest_first(const void *a, const void *b)
{
    const struct age *x = a;
    const struct age *y = b;
    if (x->sequence != y->sequence)
        return x->sequence > y->sequence ? -1 : 1;
    return x->number > y->number ? -1 : x->number < y->number;
}

/* The segments that are there and closed, by age; those begun meanwhile are none of them. */
static int list_segments(struct cas *cas, struct age **ages, size_t *count, struct err *err)
{
    size_t capacity = atomic_load(&cas->shared.header->capacity);
    struct cas_segment *segment;
    uint32_t index = 0;
    *count = 0;
    *ages = malloc((capacity + 1) * sizeof(**ages));
    if (*ages == NULL)
        return err_no_memory(err, "the list of segments");
    while (*count < capacity && (segment = cas_segment_next(&cas->shared, &index)) != NULL) {
        if (atomic_load(&segment->state) == CAS_OPEN)
            continue;
        (*ages)[(*count)++] = (struct age){.sequence = atomic_load(&segment->sequence),
                                           .number = atomic_load(&segment->number)};
    }
    qsort(*ages, *count, sizeof(**ages), newest_first);
    return 0;
}

/* Memory that is short now may not be soon; without all of this nothing would ever be found. */
static int prepare(struct rebuild *rebuild, struct age **ages, size_t *count, struct err *err)
{
    struct cas *cas = rebuild->cas;
    *ages = NULL;
    do {
        free(rebuild->window);
        rebuild->window = malloc(WINDOW);
        if (rebuild->window != NULL && list_segments(cas, ages, count, err) == 0)
            return 0;
    } while (cas_pause(cas, PATIENCE_MS));
    return err_set(err, ERR_CANCELLED, "the store is being closed");
}

int cas_rebuild(struct cas *cas, struct err *err)
{
    struct rebuild rebuild = {.cas = cas};
    struct age *ages;
    size_t count;
    int64_t begun = clock_steady();
    int rc = prepare(&rebuild, &ages, &count, err);
    if (rc == 0)
        log_info("cas-rebuild-begin", log_str("path", cas->directory.path),
                 log_num("segments", (int64_t)count),
                 log_str("reason", "the machine stopped without a close, or the table was lost"));
    for (size_t i = 0; rc == 0 && i < count; i++)
        rc = insist(&rebuild, ages[i].number, err);
    if (rc == 0) {
        atomic_store(&cas->shared.header->rebuilding, CAS_REBUILT);
        log_info("cas-rebuilt", log_str("path", cas->directory.path),
                 log_num("segments", rebuild.segments), log_num("blobs", rebuild.blobs),
                 log_num("unsealed", rebuild.scanned), log_num("cut-bytes", rebuild.cut),
                 log_num("unreadable", rebuild.unreadable), log_num("ms", clock_steady() - begun));
    }
    free(rebuild.window);
    free(rebuild.raw);
    free(rebuild.contents);
    free(ages);
    return rc;
}
