/* SPDX-License-Identifier: Apache-2.0 */
/* Which segment goes, what of it stays, and how it ends. */
#include "store/cas_evict.h"

#include <assert.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "store/cas_carry.h"

/* Records that are looked up before others get their turn at the digest table. */
enum { SLICE = 256 };

/* A segment that may go. */
struct victim {
    struct cas_segment *segment;
    uint64_t number;
    uint64_t last_use; /* when it was chosen: a later one spares it */
    struct cas_content *contents;
    uint8_t *marks;
    size_t count;
    size_t capacity; /* of contents that are gathered from the table */
    bool is_short;   /* memory ran out for these */
    int64_t bytes;   /* of records, live or not */
    int64_t used_bytes;
};

static int64_t size_of(const struct cas_content *content)
{
    return cas_key_record_size(&content->key);
}

/* --- choosing --- */

/* The segment is there and could go, were it not for holds and appenders. */
static bool is_settled(const struct cas_segment *segment)
{
    uint32_t state = atomic_load(&segment->state);
    return state == CAS_SEALED || state == CAS_OPEN;
}

void cas_evict_survey(const struct cas_space *space, struct cas_survey *survey)
{
    struct cas_shared *shared = space->options.shared;
    uint64_t hold = cas_shared_oldest_hold(shared);
    uint32_t index = 0;
    struct cas_segment *segment;
    *survey = (struct cas_survey){.segments = 0};
    while ((segment = cas_segment_next(shared, &index)) != NULL) {
        survey->segments++;
        if (is_settled(segment) && atomic_load(&segment->last_use) < hold)
            survey->evictable += (int64_t)atomic_load(&segment->charged);
    }
}

/* The segment of the least use, and of those the least number, behind VICTIM; false: none. */
static bool find_next(const struct cas_space *space, struct victim *victim)
{
    struct cas_shared *shared = space->options.shared;
    struct victim next = {.last_use = cas_shared_oldest_hold(shared)};
    uint32_t index = 0;
    struct cas_segment *segment;
    while ((segment = cas_segment_next(shared, &index)) != NULL) {
        uint64_t use = atomic_load(&segment->last_use);
        uint64_t number = atomic_load(&segment->number);
        if (!is_settled(segment) || use > next.last_use ||
            (use == next.last_use && (next.segment == NULL || number > next.number)))
            continue;
        if (victim->segment != NULL &&
            (use < victim->last_use || (use == victim->last_use && number <= victim->number)))
            continue;
        next = (struct victim){.segment = segment, .number = number, .last_use = use};
    }
    *victim = next;
    return next.segment != NULL;
}

/* --- looking at it --- */

static bool add_content(struct victim *victim, const struct cas_key *key, uint64_t place)
{
    if (victim->count == victim->capacity) {
        size_t capacity = victim->capacity == 0 ? SLICE : 2 * victim->capacity;
        struct cas_content *contents = realloc(victim->contents, capacity * sizeof(*contents));
        if (contents == NULL)
            return false;
        victim->contents = contents;
        victim->capacity = capacity;
    }
    victim->contents[victim->count++] =
        (struct cas_content){.key = *key, .offset = cas_place_offset(place)};
    return true;
}

static bool gather(void *context, const struct cas_key *key, uint64_t place)
{
    struct victim *victim = context;
    bool is_here = cas_place_number(place) == victim->number &&
                   digest_hash_size(cas_key_function(key)) > 0 && cas_key_size(key) <= CAS_BLOB_MAX;
    victim->is_short = is_here && !add_content(victim, key, place);
    return !victim->is_short;
}

/* Marks the records in the table, and adds up their bytes. */
static void mark(const struct cas_space *space, struct victim *victim)
{
    struct digest_table *table = space->options.table;
    uint64_t trusted = atomic_load(&victim->segment->trusted);
    bool all_used = (atomic_load(&victim->segment->flags) & CAS_SEGMENT_TREE_USED) != 0;
    digest_table_enter(table);
    for (size_t i = 0; i < victim->count; i++) {
        if (i % SLICE == SLICE - 1) {
            digest_table_leave(table);
            digest_table_enter(table);
        }
        const struct cas_content *content = &victim->contents[i];
        int64_t size = size_of(content);
        if (content->offset > trusted || (uint64_t)size > trusted - content->offset)
            continue;
        victim->bytes += size;
        const _Atomic uint64_t *entry = digest_table_find(table, &content->key);
        uint64_t place = entry != NULL ? atomic_load(entry) : 0;
        if ((place & ~(uint64_t)CAS_PLACE_FLAGS) != cas_place(victim->number, content->offset))
            continue;
        victim->marks[i] = CAS_MARK_LIVE;
        if (all_used || (place & CAS_PLACE_USED) != 0) {
            victim->marks[i] |= CAS_MARK_USED;
            victim->used_bytes += size;
        }
    }
    digest_table_leave(table);
}

/*
 * Finds out what is in the segment. Where its contents cannot be read the table knows what is
 * live: a walk through all of it, but this is rare.
 */
static int look(const struct cas_space *space, struct victim *victim, struct err *err)
{
    struct err ignored;
    int rc = cas_log_contents(space->options.log, victim->number, &victim->contents, &victim->count,
                              &ignored);
    if (rc != 0) {
        free(victim->contents);
        victim->contents = NULL;
        victim->count = 0;
        rc = digest_table_each(space->options.table, gather, victim, err);
    }
    victim->marks = rc == 0 && !victim->is_short ? calloc(victim->count + 1, 1) : NULL;
    if (victim->marks == NULL) {
        victim->count = 0;
        return rc != 0 ? rc : err_no_memory(err, "the contents of a segment");
    }
    mark(space, victim);
    return digest_table_is_current(space->options.table)
               ? 0
               : err_set(err, ERR_UNAVAILABLE, "not all of the digest table can be opened");
}

static void finish(const struct cas_space *space, struct victim *victim, enum cas_eviction eviction)
{
    if (eviction != CAS_EVICTION_DONE)
        cas_log_keep(space->options.log, victim->number);
    free(victim->contents);
    free(victim->marks);
}

static int64_t count_live(const struct victim *victim)
{
    int64_t live = 0;
    for (size_t i = 0; i < victim->count; i++)
        live += (victim->marks[i] & (CAS_MARK_LIVE | CAS_MARK_LEFT)) == CAS_MARK_LIVE;
    return live;
}

/* --- its second chance --- */

/*
 * Takes the marks of use off, so that the next time is another question, and lets the segment count
 * as used halfway between its last use and now. Were it now, then where all is marked one after the
 * other would be renewed, and what was stored last would be the first to go. So whatever goes is at
 * least half as old as all that was spared.
 */
static void renew(const struct cas_space *space, struct victim *victim)
{
    struct cas_shared *shared = space->options.shared;
    struct digest_table *table = space->options.table;
    (void)atomic_fetch_and(&victim->segment->flags, ~(uint32_t)CAS_SEGMENT_TREE_USED);
    digest_table_enter(table);
    for (size_t i = 0; i < victim->count; i++) {
        if (i % SLICE == SLICE - 1) {
            digest_table_leave(table);
            digest_table_enter(table);
        }
        const struct cas_content *content = &victim->contents[i];
        if ((victim->marks[i] & CAS_MARK_USED) == 0)
            continue;
        _Atomic uint64_t *entry = digest_table_find(table, &content->key);
        uint64_t place = entry != NULL ? atomic_load(entry) : 0;
        /* If it changes under our hands it has been moved, and is none of this segment's. */
        if ((place & ~(uint64_t)CAS_PLACE_FLAGS) == cas_place(victim->number, content->offset))
            (void)atomic_compare_exchange_strong(entry, &place, place & ~(uint64_t)CAS_PLACE_USED);
    }
    digest_table_leave(table);
    uint64_t now = cas_shared_tick(shared);
    uint64_t halfway = victim->last_use / 2 + now / 2 + (victim->last_use & now & 1);
    /* No hold relies on it. Were it to count as if one did, all that is spared would be stuck until
     * that hold ends. */
    uint64_t hold = cas_shared_oldest_hold(shared);
    (void)cas_segment_use(shared, victim->number, halfway < hold ? halfway : hold - 1);
}

/* Carries what has all of MARK. */
static int carry(struct cas_space *space, const struct victim *victim, uint8_t mark_of,
                 struct err *err)
{
    struct cas_carry request = {.number = victim->number,
                                .contents = victim->contents,
                                .marks = victim->marks,
                                .count = victim->count};
    for (size_t i = 0; i < victim->count; i++)
        if ((victim->marks[i] & mark_of) != 0)
            victim->marks[i] |= CAS_MARK_WANTED;
    return cas_carry(space, &request, err);
}

/* --- its end --- */

static void count_gone(struct cas_shared_header *header, uint64_t blobs)
{
    /* How many there are is a guess after a kill. */
    uint64_t there = atomic_load(&header->blobs);
    while (!atomic_compare_exchange_weak(&header->blobs, &there, there > blobs ? there - blobs : 0))
        continue;
    (void)atomic_fetch_add(&header->evicted, blobs);
}

/*
 * Removes the segment, unless it was used since it was chosen or is held.
 *
 * A user stores its use and then reads the state; here the state is stored and then the use read,
 * all in one order (seq_cst): either the user sees LEAVING and asks again, or its use is seen here.
 * The hold is read again as well, because a use that is older than the segment's changes nothing.
 *
 * The file goes while the state is LEAVING, and FREE comes last. So every file of the log has its
 * segment in the ring, at any time: if we are killed in between, the next writer finds one that is
 * LEAVING, whole or cut or without a file, and nothing takes room that nobody counts. Were FREE
 * first, its index could be taken by a new segment while the old file is still there, and a removal
 * that fails could not be undone. The price is that who asks for a blob in it waits for the
 * removal; it is seldom asked for, being the one used longest ago. Whoever still reads the file
 * gets to its end and looks in the table again.
 */
static enum cas_eviction end(const struct cas_space *space, const struct victim *victim,
                             struct cas_evicted *evicted, struct err *err)
{
    struct cas_shared *shared = space->options.shared;
    struct cas_segment *segment = victim->segment;
    uint32_t state = atomic_load(&segment->state);
    /* The log may be sealing it at this very moment. */
    if ((state != CAS_SEALED && state != CAS_OPEN) ||
        !atomic_compare_exchange_strong(&segment->state, &state, CAS_LEAVING))
        return CAS_EVICTION_SPARED;
    if (atomic_load(&segment->last_use) != victim->last_use ||
        victim->last_use >= cas_shared_oldest_hold(shared)) {
        atomic_store(&segment->state, state);
        return CAS_EVICTION_SPARED;
    }
    if (cas_log_remove(space->options.log, victim->number, err) != 0) {
        atomic_store(&segment->state, state);
        (void)err_wrap(err, "evict segment %016" PRIx64, victim->number);
        return CAS_EVICTION_FAULT;
    }
    evicted->bytes = (int64_t)atomic_load(&segment->charged);
    evicted->blobs = count_live(victim);
    cas_log_free_segment(space->options.log, segment);
    count_gone(shared->header, (uint64_t)evicted->blobs);
    return CAS_EVICTION_DONE;
}

/*
 * More than half is compared with all records: what is live must not keep much that is not. A fault
 * at the second chance ends the eviction, so that a disk that fails costs uploads and not
 * content; so does a lack of memory, which passes. Where there is only no room for it, the segment
 * goes without.
 */
static enum cas_eviction evict(struct cas_space *space, struct victim *victim, bool second_chance,
                               struct cas_evicted *evicted, struct err *err)
{
    int rc = look(space, victim, err);
    if (rc != 0 && !second_chance)
        rc = 0;
    if (rc == 0 && second_chance && victim->used_bytes > 0) {
        if (victim->used_bytes > victim->bytes / 2) {
            renew(space, victim);
            return CAS_EVICTION_SPARED;
        }
        rc = carry(space, victim, CAS_MARK_USED, err);
    }
    if (rc == -ERR_CANCELLED || rc == -ERR_NO_MEMORY)
        return CAS_EVICTION_NONE;
    if (rc != 0 && rc != -ERR_EXHAUSTED) {
        (void)err_wrap(err, "carry segment %016" PRIx64, victim->number);
        return CAS_EVICTION_FAULT;
    }
    return end(space, victim, evicted, err);
}

enum cas_eviction cas_evict_oldest(struct cas_space *space, int64_t largest, bool second_chance,
                                   struct cas_evicted *evicted, struct err *err)
{
    struct victim victim = {.segment = NULL};
    struct cas_log *log = space->options.log;
    *evicted = (struct cas_evicted){.bytes = 0};
    while (find_next(space, &victim)) {
        if ((int64_t)atomic_load(&victim.segment->charged) > largest)
            return CAS_EVICTION_NONE;
        if (cas_log_retire(log, victim.number))
            break;
        /* Those that are appended to are passed over; to pass over others would break the order. */
        if (cas_log_is_sealing(log, victim.number))
            return CAS_EVICTION_LATER;
        if (cas_log_retire(log, victim.number))
            break; /* that has ended just now */
    }
    if (victim.segment == NULL)
        return CAS_EVICTION_NONE;
    enum cas_eviction eviction = evict(space, &victim, second_chance, evicted, err);
    finish(space, &victim, eviction);
    return eviction;
}

/* --- segments in which something is broken --- */

static enum cas_eviction evacuate(struct cas_space *space, struct victim *victim,
                                  struct cas_evicted *evicted, struct err *err)
{
    if (look(space, victim, err) != 0)
        return CAS_EVICTION_FAULT;
    if (victim->count == 1 && count_live(victim) == 1) {
        /*
         * The only blob that could be broken is still in the table: it was not found broken, or
         * not by its reader yet, who takes it out and says so again. It may be too large to carry.
         */
        (void)atomic_fetch_and(&victim->segment->flags, ~(uint32_t)CAS_SEGMENT_BROKEN);
        return CAS_EVICTION_SPARED;
    }
    int rc = carry(space, victim, CAS_MARK_LIVE, err);
    if (rc == -ERR_CANCELLED)
        return CAS_EVICTION_NONE;
    if (rc == 0 && count_live(victim) > 0)
        rc = err_set(err, ERR_IO, "some of it cannot be read");
    if (rc != 0) {
        (void)err_wrap(err, "evacuate segment %016" PRIx64, victim->number);
        return CAS_EVICTION_FAULT;
    }
    /* A hold that relies on what was in it relies on the copies now, but who is about to put what
     * it has appended into the table does not know of them: so the rule is that of all others. */
    return end(space, victim, evicted, err);
}

enum cas_eviction cas_evict_broken(struct cas_space *space, uint32_t *index,
                                   struct cas_evicted *evicted, struct err *err)
{
    struct victim victim = {.segment = NULL};
    *evicted = (struct cas_evicted){.bytes = 0};
    do {
        victim.segment = cas_segment_next(space->options.shared, index);
        if (victim.segment == NULL)
            return CAS_EVICTION_NONE;
    } while ((atomic_load(&victim.segment->flags) & CAS_SEGMENT_BROKEN) == 0 ||
             !is_settled(victim.segment));
    victim.number = atomic_load(&victim.segment->number);
    victim.last_use = atomic_load(&victim.segment->last_use);
    if (!cas_log_retire(space->options.log, victim.number))
        return CAS_EVICTION_SPARED;
    enum cas_eviction eviction = evacuate(space, &victim, evicted, err);
    finish(space, &victim, eviction);
    return eviction;
}
