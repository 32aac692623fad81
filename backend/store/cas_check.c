/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Checking a CAS. First all records are read, segment by segment, and for each that is sound it is
 * counted if the table leads to it. Then the entries of the table are counted for each segment:
 * where there are as many, all of them lead to sound records. Only where there are not, each entry
 * is followed by itself. So memory does not grow with the store, and the log is read once and in
 * order.
 */
#include "store/cas_check.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "store/cas_check_private.h"
#include "store/digest_shard.h"
#include "store/disk.h"

enum {
    AHEAD = 8,     /* records for which the table is read ahead */
    WAIT_MS = 200, /* between two looks whether the tables are made */
};

/* --- the table, without a use --- */

/* The place of KEY with its flags; 0: there is none. */
static uint64_t place_of(struct cas *cas, const struct cas_key *key)
{
    digest_table_enter(cas->table);
    const _Atomic uint64_t *entry = digest_table_find(cas->table, key);
    uint64_t place = entry != NULL ? atomic_load(entry) : 0;
    digest_table_leave(cas->table);
    return place;
}

/* A table is larger than what the processor keeps: its slots are fetched while hashes are taken. */
static void prefetch(struct cas *cas, const struct cas_key *key)
{
    digest_table_enter(cas->table);
    digest_table_prefetch(cas->table, key);
    digest_table_leave(cas->table);
}

/* Whether the bytes at PLACE are still relied on, so that they had to be right. */
static bool is_relied_on(const struct cas *cas, const struct cas_key *key, uint64_t place)
{
    const struct cas_segment *segment = cas_segment_find(&cas->shared, cas_place_number(place));
    return segment != NULL && atomic_load(&segment->state) != CAS_LEAVING &&
           cas_place_is_trusted(&cas->shared, place, cas_key_record_size(key));
}

bool cas_check_has(struct cas *cas, const struct digest *digest)
{
    struct cas_key key;
    if (digest_is_empty(digest))
        return true;
    if (digest->size < 0 || digest->size > CAS_BLOB_MAX)
        return false;
    cas_key_of(digest, &key);
    for (;;) {
        uint64_t place = place_of(cas, &key);
        if (place != 0 && cas_place_is_trusted(&cas->shared, place, cas_key_record_size(&key)))
            return true;
        /* One that is carried forward meanwhile has another place. */
        if (cas_place_is_same(place_of(cas, &key), place))
            return false;
    }
}

/* --- segments --- */

/* Whether the segment is there to stay, as far as END, so that its file has to be. */
static bool is_there(const struct check *check, uint64_t number, uint64_t end)
{
    const struct cas_segment *segment = cas_segment_find(&check->cas->shared, number);
    return segment != NULL && atomic_load(&segment->state) != CAS_LEAVING &&
           atomic_load(&segment->trusted) >= end;
}

static int check_size(const struct check *check, uint64_t number, uint64_t end, uint64_t *size,
                      struct err *err)
{
    char name[CAS_LOG_NAME];
    struct stat st;
    if (fstatat(check->cas->log_fd, cas_log_name(number, name), &st, 0) != 0)
        return errno == ENOENT ? err_set(err, ERR_DATA_LOSS, "its file is missing")
                               : disk_fault(err, errno, "look at its file");
    *size = (uint64_t)st.st_size;
    if (*size < end)
        return err_set(err, ERR_DATA_LOSS,
                       "its file ends at %" PRIu64 ", and there were records up to %" PRIu64, *size,
                       end);
    return 0;
}

/*
 * The table of contents, if there is one: a segment that was closed because the disk failed has
 * none.
 */
static int check_contents(const struct check *check, uint64_t number, uint64_t size,
                          struct err *err)
{
    uint8_t end[CAS_CONTENTS_END];
    uint64_t count;
    struct err ignored;
    struct cas_origin origin = cas_check_origin(check, number);
    struct cas_log *log = check->cas->log;
    if (size < CAS_SEGMENT_HEADER + CAS_CONTENTS_END)
        return 0;
    uint64_t rest = size - CAS_SEGMENT_HEADER - CAS_CONTENTS_END;
    int rc = cas_log_read(log, number, end, sizeof(end), size - sizeof(end), err);
    if (rc != 0 || cas_contents_get_end(&origin, end, &count, &ignored) != 0)
        return rc;
    if (count > rest / CAS_CONTENTS_ENTRY)
        return err_set(err, ERR_DATA_LOSS, "its contents are larger than its file");
    size_t bytes = (size_t)count * CAS_CONTENTS_ENTRY;
    uint8_t *entries = malloc(bytes + 1);
    if (entries == NULL)
        return err_no_memory(err, "the contents of a segment");
    rc = cas_log_read(log, number, entries, bytes, size - sizeof(end) - bytes, err);
    if (rc == 0)
        rc = cas_contents_verify(end, entries, count, err);
    free(entries);
    return rc;
}

/* What is around the records: they can be sound without it, but not be found after a power cut. */
static int check_frame(const struct check *check, uint64_t number, uint64_t end, struct err *err)
{
    uint8_t header[CAS_SEGMENT_HEADER];
    uint64_t sequence;
    uint64_t size = 0;
    struct cas_origin origin = cas_check_origin(check, number);
    int rc = check_size(check, number, end, &size, err);
    if (rc == 0)
        rc = cas_log_read(check->cas->log, number, header, sizeof(header), 0, err);
    if (rc == 0)
        rc = cas_segment_get_header(&origin, header, &sequence, err);
    const struct cas_segment *segment = cas_segment_find(&check->cas->shared, number);
    if (rc == 0 && segment != NULL && atomic_load(&segment->state) == CAS_SEALED)
        rc = check_contents(check, number, size, err);
    return rc;
}

/* What went wrong, without the name of the segment, which is told anyway. */
static const char *reason_of(const struct err *err, uint64_t number)
{
    char prefix[sizeof("segment : ") + CAS_LOG_NAME];
    char name[CAS_LOG_NAME];
    int length = snprintf(prefix, sizeof(prefix), "segment %s: ", cas_log_name(number, name));
    return strncmp(err->msg, prefix, (size_t)length) == 0 ? err->msg + length : err->msg;
}

/* A segment that is damaged is told once: it is marked then, and evacuated by who writes. */
static void tell_segment(struct check *check, uint64_t number, uint64_t end, const char *reason)
{
    char name[CAS_LOG_NAME];
    struct cas_segment *segment = cas_segment_find(&check->cas->shared, number);
    if (segment == NULL || !is_there(check, number, end) ||
        (atomic_load(&segment->flags) & CAS_SEGMENT_BROKEN) != 0)
        return;
    bool repairs = check->told->repairs;
    if (repairs)
        (void)atomic_fetch_or(&segment->flags, CAS_SEGMENT_BROKEN);
    struct store_fault fault = {.what = "segment",
                                .subject = cas_log_name(number, name),
                                .reason = reason,
                                .answer = repairs ? "marked: the server moves what is sound in it"
                                                  : NULL};
    store_check_tell(check->told, &fault, repairs);
}

/* Counts the record of CONTENT, or the damage. ERR_NOT_FOUND: the segment is gone. */
static int count_record(struct check *check, struct seen *seen, const struct cas_content *content,
                        struct err *err)
{
    struct digest digest;
    uint64_t place = cas_place(seen->number, content->offset);
    int rc = cas_check_record(check, seen->number, content->offset, seen->end, &content->key,
                              &digest, err);
    bool is_led_to = cas_place_is_same(place_of(check->cas, &content->key), place);
    if (rc == 0) {
        check->checked->records++;
        check->checked->bytes += (uint64_t)cas_key_record_size(&content->key);
        seen->sound += is_led_to;
        return 0;
    }
    if (!cas_check_is_damage(rc))
        return rc;
    /* What an entry leads to is told when the entries are followed. */
    if (!is_led_to && is_relied_on(check->cas, &content->key, place))
        check->checked->dead_broken++;
    return 0;
}

static int check_records(struct check *check, struct seen *seen, const struct cas_content *contents,
                         size_t count, struct err *err)
{
    uint64_t begun = check->done;
    int rc = 0;
    for (size_t i = 0; rc == 0 && i < count; i++) {
        uint64_t size = (uint64_t)cas_key_record_size(&contents[i].key);
        if (contents[i].offset > seen->end || size > seen->end - contents[i].offset)
            continue;
        if (i + AHEAD < count)
            prefetch(check->cas, &contents[i + AHEAD].key);
        rc = count_record(check, seen, &contents[i], err);
        check->done = begun + contents[i].offset + size;
        cas_check_progress(check, 0);
    }
    return rc;
}

/* ERR_NOT_FOUND: it has gone meanwhile. */
static int check_segment(struct check *check, struct seen *seen, struct err *err)
{
    struct cas_content *contents;
    size_t count;
    struct cas *cas = check->cas;
    int rc = check_frame(check, seen->number, seen->end, err);
    bool is_told = cas_check_is_damage(rc);
    if (is_told)
        tell_segment(check, seen->number, seen->end, reason_of(err, seen->number));
    else if (rc != 0)
        return rc;
    rc = cas_log_contents(cas->log, seen->number, &contents, &count, err);
    if (cas_check_is_damage(rc)) {
        if (!is_told)
            tell_segment(check, seen->number, seen->end,
                         "its records cannot be followed to its end");
        rc = 0;
    }
    if (rc == 0)
        rc = check_records(check, seen, contents, count, err);
    free(contents);
    return rc;
}

/* Takes up the segment that is at INDEX now. False: there is none with records. */
static bool take_up(const struct check *check, const struct cas_segment *segment, uint32_t index)
{
    struct seen *seen = &check->seen[index];
    uint64_t number = atomic_load(&segment->number);
    uint64_t end = atomic_load(&segment->trusted);
    if (end <= CAS_SEGMENT_HEADER || !is_there(check, number, end))
        return false;
    *seen = (struct seen){.number = number, .end = end};
    return true;
}

static int check_segments(struct check *check, struct err *err)
{
    struct cas *cas = check->cas;
    const struct cas_segment *segment;
    uint32_t index = 0;
    while ((segment = cas_segment_next(&cas->shared, &index)) != NULL && index <= check->capacity)
        check->total += atomic_load(&segment->trusted);
    index = 0;
    while ((segment = cas_segment_next(&cas->shared, &index)) != NULL && index <= check->capacity) {
        if (!take_up(check, segment, index - 1))
            continue;
        struct seen *seen = &check->seen[index - 1];
        uint64_t begun = check->done;
        int rc = check_segment(check, seen, err);
        if (rc != 0 && rc != -ERR_NOT_FOUND)
            return rc;
        check->done = begun + seen->end;
        check->checked->segments += rc == 0;
        check->checked->marked +=
            rc == 0 && (atomic_load(&segment->flags) & CAS_SEGMENT_BROKEN) != 0;
        if (rc != 0)
            seen->number = 0;
        /* The files of shards that were written anew take room as long as they are mapped. */
        digest_table_refresh(cas->table);
    }
    check->done = check->total;
    return 0;
}

/* --- entries --- */

/* An entry of a shard's file, mapped. */
struct entry {
    unsigned shard;
    const struct digest_shard *file;
    struct digest_slot *slot;
    struct cas_key key;
    uint64_t place; /* as it was */
};

/* What was seen of the segment that ENTRY leads to, or NULL if that is not all there was. */
static struct seen *seen_of(const struct check *check, const struct entry *entry)
{
    uint64_t number = cas_place_number(entry->place);
    uint32_t index = (uint32_t)(number & (CAS_SEGMENTS_MAX - 1));
    struct seen *seen = index < check->capacity ? &check->seen[index] : NULL;
    uint64_t end = cas_place_offset(entry->place) + (uint64_t)cas_key_record_size(&entry->key);
    return seen != NULL && seen->number == number && end <= seen->end ? seen : NULL;
}

/* Calls VISIT for all entries that are trusted, until it fails. */
static int each_entry(struct check *check, const char *what,
                      int (*visit)(struct check *check, const struct entry *entry, struct err *err),
                      struct err *err)
{
    const struct cas *cas = check->cas;
    int rc = 0;
    for (unsigned index = 0; rc == 0 && index < CAS_SHARDS; index++) {
        struct digest_shard *file;
        rc = digest_shard_open(&cas->shared, cas->table_fd, index, &file, err);
        if (rc != 0)
            return err_wrap(err, "the digest table");
        for (uint32_t i = 0; rc == 0 && i < file->count; i++) {
            struct entry entry = {.shard = index, .file = file, .slot = &file->slots[i]};
            entry.key.size_function =
                atomic_load_explicit(&entry.slot->size_function, memory_order_acquire);
            entry.place = atomic_load(&entry.slot->place);
            if (entry.key.size_function == 0 ||
                !digest_slot_is_live(&cas->shared, entry.key.size_function, entry.place))
                continue;
            memcpy(entry.key.hash, entry.slot->hash, sizeof(entry.key.hash));
            rc = visit(check, &entry, err);
        }
        digest_shard_close(file);
        check->told->progress(check->told->context, what, index + 1, CAS_SHARDS);
    }
    return rc;
}

static int count_entry(struct check *check, const struct entry *entry, struct err *err)
{
    (void)err;
    struct seen *seen = seen_of(check, entry);
    check->checked->entries++;
    if (seen != NULL)
        seen->entries++;
    return 0;
}

/* Whether the entry is still what it was, in the file that counts. */
static bool is_current(const struct check *check, const struct entry *entry)
{
    return cas_place_is_same(atomic_load(&entry->slot->place), entry->place) &&
           digest_shard_word(&check->cas->shared, entry->shard) == entry->file->word;
}

/* An entry that no look-up finds is taken out where it stands. */
static bool clear_slot(const struct entry *entry)
{
    uint64_t place = atomic_load(&entry->slot->place);
    while (cas_place_is_same(place, entry->place))
        if (atomic_compare_exchange_weak(&entry->slot->place, &place, 0))
            return true;
    return false;
}

/* Takes a broken blob out of the table, as who reads it would. */
static void take_out(struct cas *cas, const struct entry *entry)
{
    /* Told before and after: this process may be killed in between. */
    cas_left_segment(cas, entry->place);
    if (!digest_table_move(cas->table, &entry->key, entry->place, 0) && !clear_slot(entry))
        return;
    cas_left_segment(cas, entry->place);
    struct cas_segment *segment = cas_segment_find(&cas->shared, cas_place_number(entry->place));
    if (segment != NULL)
        (void)atomic_fetch_or(&segment->flags, CAS_SEGMENT_BROKEN);
    (void)atomic_fetch_add(&cas->shared.header->broken, 1);
}

/* The table knows half of a hash; the other half is in the record's header, if that is sound. */
static void name_blob(const struct entry *entry, const struct digest *digest,
                      char text[DIGEST_TEXT_MAX])
{
    if (digest->function != DIGEST_UNKNOWN) {
        (void)digest_text(digest, text);
        return;
    }
    char hex[2 * DIGEST_HASH_MAX + 1];
    struct digest half = {.function = cas_key_function(&entry->key)};
    memcpy(half.hash, entry->key.hash, sizeof(entry->key.hash));
    (void)digest_hex(&half, hex);
    (void)snprintf(text, DIGEST_TEXT_MAX, "%.*s.../%" PRId64, 2 * CAS_KEY_HASH, hex,
                   cas_key_size(&entry->key));
}

static void tell_entry(struct check *check, const struct entry *entry, const struct digest *digest,
                       bool is_readable, const char *reason)
{
    char subject[DIGEST_TEXT_MAX];
    name_blob(entry, digest, subject);
    bool is_dropped = check->told->repairs && is_readable;
    if (is_dropped)
        take_out(check->cas, entry);
    struct store_fault fault = {.what = "blob",
                                .subject = subject,
                                .segment = cas_place_number(entry->place),
                                .offset = cas_place_offset(entry->place),
                                .reason = reason};
    if (check->told->repairs)
        fault.answer = is_dropped ? "dropped" : "stays: the disk may read it another time";
    store_check_tell(check->told, &fault, is_dropped);
}

/* Follows an entry of a segment in which not all entries are known to be right. */
static int follow_entry(struct check *check, const struct entry *entry, struct err *err)
{
    struct digest digest;
    const struct seen *seen = seen_of(check, entry);
    if (seen == NULL || seen->entries == seen->sound)
        return 0;
    uint64_t offset = cas_place_offset(entry->place);
    uint64_t end = offset + (uint64_t)cas_key_record_size(&entry->key);
    int rc = cas_check_record(check, seen->number, offset, end, &entry->key, &digest, err);
    if (rc == 0 && !cas_place_is_same(place_of(check->cas, &entry->key), entry->place) &&
        is_current(check, entry))
        tell_entry(check, entry, &digest, true, "its entry of the digest table is never found");
    if (cas_check_is_damage(rc) && is_current(check, entry) &&
        is_relied_on(check->cas, &entry->key, entry->place))
        tell_entry(check, entry, &digest, rc == -ERR_DATA_LOSS, reason_of(err, seen->number));
    return cas_check_is_damage(rc) || rc == -ERR_NOT_FOUND ? 0 : rc;
}

static bool has_doubts(const struct check *check)
{
    for (uint32_t i = 0; i < check->capacity; i++)
        if (check->seen[i].number != 0 && check->seen[i].entries != check->seen[i].sound)
            return true;
    return false;
}

/* --- all of it --- */

/* Whether another process has the lock on the store. */
static bool is_held(const struct cas *cas)
{
    struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_len = 1};
    return fcntl(cas->directory.lock_fd, F_OFD_GETLK, &lock) != 0 || lock.l_type != F_UNLCK;
}

int cas_check_wait(struct cas *cas, const struct store_check *told, struct err *err)
{
    const struct cas_shared_header *header = cas->shared.header;
    while (atomic_load(&header->rebuilding) != CAS_REBUILT) {
        bool is_ours = cas->to_rebuild;
        bool is_over = is_ours
                           ? cas->has_turn_thread && pthread_tryjoin_np(cas->turn_thread, NULL) == 0
                           : !is_held(cas);
        if (is_over && is_ours)
            cas->has_turn_thread = false;
        if (is_over && atomic_load(&header->rebuilding) != CAS_REBUILT)
            return err_set(err, ERR_UNAVAILABLE,
                           "the tables of %s have to be made anew after a power cut, and %s; run "
                           "this again",
                           cas->directory.path,
                           is_ours ? "that failed" : "the process that did it has ended");
        told->progress(told->context, "blobs found after a power cut", atomic_load(&header->blobs),
                       0);
        (void)cas_pause(cas, WAIT_MS);
    }
    return 0;
}

int cas_check(struct cas *cas, struct store_check *told, struct cas_checked *checked,
              struct err *err)
{
    *checked = (struct cas_checked){.segments = 0};
    int rc = cas_check_wait(cas, told, err);
    if (rc != 0)
        return rc;
    struct check check = {.told = told,
                          .checked = checked,
                          .cas = cas,
                          .capacity = atomic_load(&cas->shared.header->capacity)};
    if (check.capacity > CAS_SEGMENTS_MAX)
        return err_set(err, ERR_DATA_LOSS, "%s/shared is damaged", cas->directory.path);
    check.window = malloc(CAS_CHECK_WINDOW);
    check.seen = calloc(check.capacity + 1, sizeof(*check.seen));
    if (check.window == NULL || check.seen == NULL)
        rc = err_no_memory(err, "a check");
    if (rc == 0)
        rc = check_segments(&check, err);
    if (rc == 0)
        rc = each_entry(&check, "shards of the digest table", count_entry, err);
    if (rc == 0 && has_doubts(&check))
        rc = each_entry(&check, "shards with doubtful entries", follow_entry, err);
    free(check.seen);
    free(check.window);
    return rc;
}
