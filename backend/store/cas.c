/* SPDX-License-Identifier: Apache-2.0 */
/* Holds, and what is found in a CAS: a look at the digest table, and a use of the segment. */
#include "store/cas.h"

#include <assert.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/log.h"
#include "store/cas_private.h"

enum {
    BATCH = 64,         /* slots that are fetched from memory at the same time */
    SPREAD_MIN = 16,    /* segments */
    DELETE_TRIES = 100, /* of what is moved again and again */
    DECIDE_SPINS = 20,  /* waits of DECIDE_SPIN_NS, as most decisions are that quick */
    DECIDE_WAITS = 520, /* more of DECIDE_WAIT_NS, as who decides may have been killed */
    DECIDE_SPIN_NS = 20 * 1000,
    DECIDE_WAIT_NS = 2 * 1000 * 1000,
};

/* --- holds --- */

void cas_hold_begin(struct cas *cas, struct cas_hold *hold)
{
    (void)pthread_mutex_lock(&cas->holds_lock);
    *hold = (struct cas_hold){.cas = cas,
                              .since = cas_shared_tick(&cas->shared),
                              .failures = cas_log_failures(cas->log),
                              .previous = cas->newest_hold};
    if (cas->newest_hold != NULL) {
        cas->newest_hold->next = hold;
    } else {
        cas->oldest_hold = hold;
        cas_shared_set_oldest_hold(&cas->shared, hold->since);
    }
    cas->newest_hold = hold;
    (void)pthread_mutex_unlock(&cas->holds_lock);
}

void cas_hold_end(struct cas_hold *hold)
{
    struct cas *cas = hold->cas;
    (void)pthread_mutex_lock(&cas->holds_lock);
    bool was_oldest = hold->previous == NULL;
    if (hold->next != NULL)
        hold->next->previous = hold->previous;
    else
        cas->newest_hold = hold->previous;
    if (was_oldest) {
        cas->oldest_hold = hold->next;
        cas_shared_set_oldest_hold(&cas->shared, hold->next != NULL ? hold->next->since : 0);
    } else {
        hold->previous->next = hold->next;
    }
    (void)pthread_mutex_unlock(&cas->holds_lock);
    if (was_oldest && atomic_load(&cas->writing))
        cas_space_wake(cas->space);
}

void cas_spread_fini(struct cas_spread *spread)
{
    free(spread->segments);
    *spread = (struct cas_spread){0};
}

static bool grow_spread(struct cas_spread *spread)
{
    size_t capacity = spread->capacity == 0 ? SPREAD_MIN : 2 * spread->capacity;
    struct cas_spread_segment *segments = realloc(spread->segments, capacity * sizeof(segments[0]));
    if (segments == NULL)
        return false;
    spread->segments = segments;
    spread->capacity = capacity;
    return true;
}

/* They are kept in the order of their numbers. */
static void add_to_spread(struct cas_spread *spread, uint64_t number, uint32_t version)
{
    if (spread->is_over)
        return;
    /* The first that is not smaller. Without branches, which could not be foretold. */
    size_t low = 0;
    for (size_t left = spread->count; left > 0; left /= 2) {
        size_t half = left - left / 2;
        low += spread->segments[low + half - 1].number < number ? half : 0;
    }
    struct cas_spread_segment *at = spread->segments + low;
    if (low < spread->count && at->number == number) {
        /* Something left it between the two finds. */
        spread->is_over = at->version != version;
        return;
    }
    if (spread->count == spread->capacity && !grow_spread(spread)) {
        spread->is_over = true;
        return;
    }
    at = spread->segments + low;
    memmove(at + 1, at, (spread->count - low) * sizeof(*at));
    *at = (struct cas_spread_segment){.number = number, .version = version};
    spread->count++;
}

static void add_unsynced(struct cas_hold *hold, uint64_t number)
{
    if (hold->unsynced_count > CAS_HOLD_UNSYNCED)
        return;
    for (unsigned i = 0; i < hold->unsynced_count; i++)
        if (hold->unsynced[i] == number)
            return;
    if (hold->unsynced_count < CAS_HOLD_UNSYNCED)
        hold->unsynced[hold->unsynced_count] = number;
    hold->unsynced_count++;
}

void cas_hold_note(struct cas_hold *hold, const struct cas_segment *segment, uint64_t number,
                   uint32_t version, uint64_t end)
{
    if (hold == NULL)
        return;
    if (atomic_load(&segment->durable) < end)
        add_unsynced(hold, number);
    if (hold->spread != NULL)
        add_to_spread(hold->spread, number, version);
}

bool cas_spread_renew(struct cas *cas, struct cas_hold *hold, const struct cas_spread *spread)
{
    assert(hold == NULL || hold->cas == cas);
    if (spread->is_over)
        return false;
    uint64_t use = cas_shared_tick(&cas->shared);
    for (size_t i = 0; i < spread->count; i++) {
        uint64_t number = spread->segments[i].number;
        uint32_t version = spread->segments[i].version;
        struct cas_segment *segment = cas_segment_find(&cas->shared, number);
        if (segment == NULL)
            return false;
        /* Before the use: who decides on the segment looks at it once it sees that. */
        if ((atomic_load(&segment->flags) & CAS_SEGMENT_TREE_USED) == 0)
            (void)atomic_fetch_or(&segment->flags, CAS_SEGMENT_TREE_USED);
        if (cas_segment_use(&cas->shared, number, use) != CAS_USE_DONE)
            return false;
        /* Before the version: a failed sync raises that before it takes `trusted` back. */
        uint64_t end = atomic_load(&segment->trusted);
        if (atomic_load(&segment->version) != version)
            return false;
        cas_hold_note(hold, segment, number, version, end);
    }
    return true;
}

/* --- finding --- */

/* One look at the table, which is one use. */
struct look {
    struct cas *cas;
    struct cas_hold *hold;
    uint64_t use;
    bool is_rebuilding;          /* before the first find: what is not found now may be there */
    uint64_t shards[CAS_SHARDS]; /* files of the table, likewise */
    uint64_t number;             /* of the segment that was renewed last; 0: none */
    struct cas_segment *segment;
    uint32_t version; /* from before any place in it was looked at */
    bool is_spread;   /* the segment is in the hold's spread */
};

static void look_begin(struct look *look, struct cas *cas, struct cas_hold *hold)
{
    look->cas = cas;
    look->hold = hold;
    look->use = cas_shared_tick(&cas->shared);
    look->number = 0;
}

static void note_shards(struct look *look)
{
    const struct cas_shared_header *header = look->cas->shared.header;
    look->is_rebuilding = atomic_load(&header->rebuilding) != CAS_REBUILT;
    for (size_t i = 0; i < CAS_SHARDS; i++)
        look->shards[i] = atomic_load_explicit(&header->shards[i], memory_order_acquire);
}

/*
 * Whether a shard was written anew since note_shards: then places may have been read in the old
 * file which had changed in the new one.
 */
static bool have_shards_changed(const struct look *look)
{
    const struct cas_shared_header *header = look->cas->shared.header;
    uint64_t changes = 0;
    for (size_t i = 0; i < CAS_SHARDS; i++)
        changes |= look->shards[i] ^ atomic_load_explicit(&header->shards[i], memory_order_acquire);
    return changes != 0;
}

/* Once for a run of blobs in the same segment. */
static enum cas_use use_segment(struct look *look, uint64_t number)
{
    if (number == look->number)
        return CAS_USE_DONE;
    struct cas_segment *segment = cas_segment_find(&look->cas->shared, number);
    if (segment == NULL)
        return CAS_USE_GONE;
    uint32_t version = atomic_load(&segment->version);
    enum cas_use use = cas_segment_use(&look->cas->shared, number, look->use);
    if (use == CAS_USE_DONE) {
        look->number = number;
        look->segment = segment;
        look->version = version;
        look->is_spread = false;
    }
    return use;
}

/*
 * Uses the segment and marks the blob as used, and only then takes the place for true: whoever
 * decides on the segment after that knows of the use. Sets *PLACE to what it is then.
 */
static enum cas_use use_place(struct look *look, _Atomic uint64_t *entry, uint64_t *place)
{
    uint64_t seen = atomic_load(entry);
    for (;;) {
        *place = seen;
        uint64_t number = cas_place_number(seen);
        enum cas_use use = number != 0 ? use_segment(look, number) : CAS_USE_GONE;
        if (use == CAS_USE_DONE && (seen & CAS_PLACE_USED) == 0) {
            if (atomic_compare_exchange_strong(entry, &seen, seen | CAS_PLACE_USED))
                return use;
            continue;
        }
        /* It may have been carried elsewhere meanwhile. */
        uint64_t again = atomic_load(entry);
        if (cas_place_is_same(again, seen)) {
            *place = again;
            return use;
        }
        seen = again;
    }
}

/*
 * Whether the record that ends at END is to be trusted. LEAVING is no matter: who uses a segment
 * before that keeps it. The number is read last, and vouches for the rest.
 */
static bool is_trusted(const struct look *look, uint64_t end)
{
    const struct cas_segment *segment = look->segment;
    return end <= atomic_load(&segment->trusted) && atomic_load(&segment->state) != CAS_FREE &&
           atomic_load(&segment->number) == look->number;
}

static void note(struct look *look, uint64_t end)
{
    struct cas_hold *hold = look->hold;
    if (hold == NULL)
        return;
    if (atomic_load(&look->segment->durable) < end)
        add_unsynced(hold, look->number);
    if (hold->spread != NULL && !look->is_spread)
        add_to_spread(hold->spread, look->number, look->version);
    look->is_spread = true;
}

/* What is not found may be there if the table is not filled yet, or cannot be read in part. */
static enum cas_presence miss(const struct look *look)
{
    bool is_known = !look->is_rebuilding && digest_table_is_current(look->cas->table);
    return is_known ? CAS_ABSENT : CAS_UNVERIFIED;
}

static enum cas_presence find(struct look *look, struct cas_found *found)
{
    _Atomic uint64_t *entry = digest_table_find(look->cas->table, &found->key);
    if (entry == NULL)
        return miss(look);
    uint64_t place;
    enum cas_use use = use_place(look, entry, &place);
    if (use == CAS_USE_GONE)
        return miss(look);
    if (use == CAS_USE_DONE) {
        uint64_t end = cas_place_offset(place) + (uint64_t)cas_key_record_size(&found->key);
        if (!is_trusted(look, end))
            return miss(look);
        note(look, end);
    }
    found->place = place;
    bool known = use == CAS_USE_DONE && (place & CAS_PLACE_SUSPECT) == 0;
    return known ? CAS_PRESENT : CAS_UNVERIFIED;
}

/* Sets what needs no table; false: the table is to be asked. */
static bool find_outside(const struct digest *digest, enum cas_presence *presence,
                         struct cas_found *found)
{
    found->place = 0;
    *presence = CAS_ABSENT;
    if (digest->size < 0 || digest->size > CAS_BLOB_MAX)
        return true;
    cas_key_of(digest, &found->key);
    if (!digest_is_empty(digest))
        return false;
    *presence = CAS_PRESENT;
    return true;
}

/* Up to BATCH of them. False: once more. */
static bool try_batch(struct look *look, const struct digest *const *digests, size_t count,
                      enum cas_presence *presence, struct cas_found *found)
{
    bool is_done[BATCH];
    note_shards(look);
    digest_table_enter(look->cas->table);
    for (size_t i = 0; i < count; i++) {
        is_done[i] = find_outside(digests[i], &presence[i], &found[i]);
        if (!is_done[i])
            digest_table_prefetch(look->cas->table, &found[i].key);
    }
    for (size_t i = 0; i < count; i++) {
        if (is_done[i])
            continue;
        found[i].place = 0;
        presence[i] = find(look, &found[i]);
    }
    digest_table_leave(look->cas->table);
    return !have_shards_changed(look);
}

static void find_batch(struct look *look, const struct digest *const *digests, size_t count,
                       enum cas_presence *presence, struct cas_found *found)
{
    while (!try_batch(look, digests, count, presence, found))
        continue;
}

void cas_look_up_all(struct cas *cas, struct cas_hold *hold, const struct digest *const *digests,
                     size_t count, enum cas_presence *presence, struct cas_found *found)
{
    struct look look;
    assert(hold == NULL || hold->cas == cas);
    look_begin(&look, cas, hold);
    for (size_t done = 0; done < count; done += BATCH)
        find_batch(&look, digests + done, count - done < BATCH ? count - done : BATCH,
                   presence + done, found + done);
}

enum cas_presence cas_look_up(struct cas *cas, struct cas_hold *hold, const struct digest *digest,
                              struct cas_found *found)
{
    enum cas_presence presence;
    cas_look_up_all(cas, hold, &digest, 1, &presence, found);
    return presence;
}

int cas_miss(struct err *err, const struct digest *digest)
{
    char text[DIGEST_TEXT_MAX];
    return err_set(err, ERR_NOT_FOUND, "blob %s is not in the store", digest_text(digest, text));
}

/* Waits until it may be decided whether a segment goes. False: long enough, now or before. */
static bool wait_for_decision(struct cas *cas, uint64_t number, unsigned waits)
{
    if (atomic_load(&cas->stuck) == number)
        return false;
    if (waits >= DECIDE_WAITS) {
        atomic_store(&cas->stuck, number);
        return false;
    }
    const struct timespec pause = {.tv_nsec =
                                       waits < DECIDE_SPINS ? DECIDE_SPIN_NS : DECIDE_WAIT_NS};
    (void)nanosleep(&pause, NULL);
    return true;
}

int cas_locate(struct cas *cas, struct cas_hold *hold, const struct digest *digest,
               struct cas_found *found, struct err *err)
{
    char text[DIGEST_TEXT_MAX];
    unsigned waits = 0;
    do {
        enum cas_presence presence = cas_look_up(cas, hold, digest, found);
        if (presence == CAS_ABSENT)
            return cas_miss(err, digest);
        if (presence == CAS_PRESENT || (found->place & CAS_PLACE_SUSPECT) != 0)
            return 0;
        if (found->place == 0)
            return err_set(err, ERR_UNAVAILABLE,
                           "whether blob %s is in the store is still being found out after a power "
                           "cut",
                           digest_text(digest, text));
    } while (wait_for_decision(cas, cas_place_number(found->place), waits++));
    return err_set(err, ERR_UNAVAILABLE, "whether blob %s leaves the store is being decided",
                   digest_text(digest, text));
}

void cas_find_nowait(struct cas *cas, struct cas_hold *hold, const struct digest *digests,
                     size_t count, enum cas_presence *presence)
{
    struct look look;
    const struct digest *batch[BATCH];
    struct cas_found found[BATCH];
    assert(hold == NULL || hold->cas == cas);
    look_begin(&look, cas, hold);
    for (size_t done = 0; done < count; done += BATCH) {
        size_t take = count - done < BATCH ? count - done : BATCH;
        for (size_t i = 0; i < take; i++)
            batch[i] = &digests[done + i];
        find_batch(&look, batch, take, presence + done, found);
    }
}

/* A suspect is read, and then looked for again: another upload may have taken its place. */
static enum cas_presence find_verified(struct cas *cas, struct cas_hold *hold,
                                       const struct digest *digest)
{
    struct cas_found found;
    struct err err;
    int rc = cas_locate(cas, hold, digest, &found, &err);
    if (rc == 0 && (found.place & CAS_PLACE_SUSPECT) != 0) {
        rc = cas_verify(cas, digest, &err);
        if (rc == 0)
            rc = cas_locate(cas, hold, digest, &found, &err);
        if (rc == 0 && (found.place & CAS_PLACE_SUSPECT) != 0)
            return CAS_UNVERIFIED;
    }
    if (rc == -ERR_NOT_FOUND)
        return CAS_ABSENT;
    return rc == 0 ? CAS_PRESENT : CAS_UNVERIFIED;
}

void cas_find_verified(struct cas *cas, struct cas_hold *hold, const struct digest *digests,
                       size_t count, enum cas_presence *presence)
{
    cas_find_nowait(cas, hold, digests, count, presence);
    for (size_t i = 0; i < count; i++)
        if (presence[i] == CAS_UNVERIFIED)
            presence[i] = find_verified(cas, hold, &digests[i]);
}

void cas_find(struct cas *cas, struct cas_hold *hold, const struct digest *digests, size_t count,
              bool *present)
{
    enum cas_presence presence[2 * BATCH];
    const size_t step = sizeof(presence) / sizeof(presence[0]);
    for (size_t done = 0; done < count; done += step) {
        size_t take = count - done < step ? count - done : step;
        cas_find_verified(cas, hold, digests + done, take, presence);
        for (size_t i = 0; i < take; i++)
            present[done + i] = presence[i] == CAS_PRESENT;
    }
}

/* --- what leaves --- */

void cas_left_segment(struct cas *cas, uint64_t place)
{
    struct cas_segment *segment = cas_segment_find(&cas->shared, cas_place_number(place));
    if (segment != NULL)
        (void)atomic_fetch_add(&segment->version, 1);
}

bool cas_set_suspect(struct cas *cas, const struct cas_found *found, bool suspect)
{
    digest_table_enter(cas->table);
    const _Atomic uint64_t *entry = digest_table_find(cas->table, &found->key);
    uint64_t place = entry != NULL ? atomic_load(entry) : 0;
    digest_table_leave(cas->table);
    /* Whoever found that out has used it. */
    uint64_t wanted =
        (place & ~(uint64_t)CAS_PLACE_SUSPECT) | CAS_PLACE_USED | (suspect ? CAS_PLACE_SUSPECT : 0);
    if (!cas_place_is_same(place, found->place) || ((place ^ wanted) & CAS_PLACE_SUSPECT) == 0 ||
        !digest_table_move(cas->table, &found->key, place, wanted))
        return false;
    /* What is remembered to be whole has to be looked at again. */
    if (suspect)
        cas_left_segment(cas, found->place);
    return true;
}

/*
 * Whoever remembers that all of the segment is there is told before and after. This process may be
 * killed in between, and others live on with what they remember: so nothing goes untold. And as
 * some may look just before it goes, they are told once more.
 */
bool cas_replace(struct cas *cas, const struct cas_found *found, uint64_t place)
{
    cas_left_segment(cas, found->place);
    if (!digest_table_move(cas->table, &found->key, found->place, place))
        return false;
    cas_left_segment(cas, found->place);
    return true;
}

/*
 * Takes a blob out of the table. It becomes a suspect first, which nobody takes for being there:
 * who looks after the first telling does not remember it.
 */
static bool take_out(struct cas *cas, const struct cas_found *found)
{
    (void)cas_set_suspect(cas, found, true);
    return cas_replace(cas, found, 0);
}

void cas_drop_broken(struct cas *cas, const struct digest *digest, const struct cas_found *found,
                     const struct err *err)
{
    char text[DIGEST_TEXT_MAX];
    char name[CAS_LOG_NAME];
    if (!take_out(cas, found))
        return;
    uint64_t number = cas_place_number(found->place);
    struct cas_segment *segment = cas_segment_find(&cas->shared, number);
    if (segment != NULL)
        (void)atomic_fetch_or(&segment->flags, CAS_SEGMENT_BROKEN);
    (void)atomic_fetch_add(&cas->shared.header->broken, 1);
    log_error("blob-broken", log_str("path", cas->directory.path),
              log_str("digest", digest_text(digest, text)),
              log_str("segment", cas_log_name(number, name)),
              log_num("offset", (int64_t)cas_place_offset(found->place)),
              log_str("reason", err->msg));
    if (atomic_load(&cas->writing))
        cas_space_broken(cas->space);
}

int cas_delete(struct cas *cas, const struct digest *digest, struct err *err)
{
    struct cas_found found;
    char text[DIGEST_TEXT_MAX];
    int rc = cas_is_writing(cas, err);
    if (rc != 0)
        return rc;
    if (digest_is_empty(digest))
        return cas_miss(err, digest);
    for (unsigned tries = 0; tries < DELETE_TRIES; tries++) {
        rc = cas_locate(cas, NULL, digest, &found, err);
        if (rc != 0)
            return rc;
        if (cas_is_other(cas, digest, &found))
            return cas_miss(err, digest);
        if (take_out(cas, &found))
            return 0;
    }
    return err_set(err, ERR_UNAVAILABLE, "blob %s is being moved", digest_text(digest, text));
}

void cas_stats(struct cas *cas, struct cas_stats *stats)
{
    const struct cas_shared_header *header = cas->shared.header;
    *stats = (struct cas_stats){.blobs = atomic_load(&header->blobs),
                                .bytes = atomic_load(&header->bytes),
                                .evicted = atomic_load(&header->evicted),
                                .broken = atomic_load(&header->broken)};
}
