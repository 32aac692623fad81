/* SPDX-License-Identifier: Apache-2.0 */
/* The digest table: what was put is found, by other threads and processes, while shards change. */
#include <sched.h>
#include <signal.h>
#include <sys/wait.h>

#include "digest_site.h"

/* --- putting, finding, moving --- */

static void test_what_was_put_is_found(void **state)
{
    struct site *site = *state;
    put(site, 0, MANY);
    expect_all(site, site->writer.table, 0, MANY);
    for (uint64_t i = MANY; i < 2 * MANY; i++)
        assert_int_equal(find(site->writer.table, i), 0);
    /* Another size or function is another key. */
    struct cas_key key = key_of(0);
    key.size_function += 1 << 8;
    digest_table_enter(site->writer.table);
    assert_null(digest_table_find(site->writer.table, &key));
    key.size_function = (uint64_t)BLOB_SIZE << 8 | DIGEST_SHA512;
    assert_null(digest_table_find(site->writer.table, &key));
    digest_table_leave(site->writer.table);
    assert_int_equal(blobs(site), MANY);
    /* With the 32 bytes of the contents no more than 130 bytes a blob. */
    assert_in_range(digest_table_bytes(site->writer.table), MANY * 32, MANY * 98);
    assert_int_equal(count_files(site), CAS_SHARDS);
    close_store(&site->writer);
    must_open(site, &site->writer);
    expect_all(site, site->writer.table, 0, MANY);
}

/* Adds the key 0 at PLACE; what is there instead, or 0. */
static uint64_t add(struct site *site, uint64_t place)
{
    struct cas_key key = key_of(0);
    uint64_t there;
    struct err err;
    assert_int_equal(digest_table_add(site->writer.table, &key, place, &there, &err), 0);
    return there;
}

static void test_the_first_stays(void **state)
{
    struct site *site = *state;
    struct cas_key key = key_of(0);
    uint64_t second = place_of(site->segment, 7);
    struct cas_segment *gone = begin_segment(site);
    put(site, 1, 2);
    uint64_t first = place_of(gone, 0);
    assert_int_equal(add(site, first), 0);
    assert_int_equal(add(site, second), first);
    assert_true(digest_table_move(site->writer.table, &key, first, first | CAS_PLACE_SUSPECT));
    assert_int_equal(add(site, second), first | CAS_PLACE_SUSPECT);
    /* One that is leaving may stay. */
    atomic_store(&gone->state, CAS_LEAVING);
    assert_int_equal(add(site, second), first | CAS_PLACE_SUSPECT);
    assert_int_equal(find(site->writer.table, 0), first | CAS_PLACE_SUSPECT);
    assert_int_equal(blobs(site), 2);
    /* What leads nowhere was taken off the count when it went, and counts again. */
    cas_segment_free(gone);
    assert_int_equal(add(site, second), 0);
    assert_int_equal(find(site->writer.table, 0), second);
    assert_int_equal(blobs(site), 3);
    /* So does what was taken out. */
    assert_true(digest_table_move(site->writer.table, &key, second, 0));
    assert_int_equal(add(site, second), 0);
    assert_int_equal(blobs(site), 3);
    /* Behind what is trusted there is nothing. */
    atomic_store(&site->segment->trusted, cas_place_offset(second));
    assert_int_equal(add(site, second), 0);
}

/* Threads that add the same keys, each at a place of its own. */
struct adding {
    struct site *site;
    uint64_t first_place; /* MANY behind each other */
    uint64_t added;
    uint64_t wrong; /* what is said to be there is not what is found */
};

static void *add_all(void *context)
{
    struct adding *adding = context;
    struct digest_table *table = adding->site->writer.table;
    for (uint64_t i = 0; i < MANY; i++) {
        struct cas_key key = key_of(i);
        uint64_t place = place_of(adding->site->segment, adding->first_place + i);
        uint64_t there;
        struct err err;
        if (digest_table_add(table, &key, place, &there, &err) != 0)
            adding->wrong++;
        adding->added += there == 0;
        adding->wrong += find(table, i) != (there == 0 ? place : there);
    }
    return NULL;
}

static void test_of_threads_that_add_one_is_first(void **state)
{
    struct site *site = *state;
    struct adding adding[3];
    pthread_t threads[3];
    uint64_t added = 0;
    for (uint64_t i = 0; i < 3; i++) {
        adding[i] = (struct adding){.site = site, .first_place = i * MANY};
        assert_int_equal(pthread_create(&threads[i], NULL, add_all, &adding[i]), 0);
    }
    for (int i = 0; i < 3; i++) {
        assert_int_equal(pthread_join(threads[i], NULL), 0);
        assert_int_equal(adding[i].wrong, 0);
        added += adding[i].added;
    }
    assert_int_equal(added, MANY);
    assert_int_equal(blobs(site), MANY);
}

static void test_move(void **state)
{
    struct site *site = *state;
    struct digest_table *table = site->writer.table;
    struct cas_key key = key_of(0), other = key_of(1);
    uint64_t from = place_of(site->segment, 0), to = place_of(site->segment, 9);
    put(site, 0, 1);
    assert_false(digest_table_move(table, &other, from, to));
    assert_false(digest_table_move(table, &key, to, from));
    digest_table_enter(table);
    atomic_fetch_or(digest_table_find(table, &key), CAS_PLACE_USED);
    digest_table_leave(table);
    assert_true(digest_table_move(table, &key, from, to));
    assert_int_equal(find(table, 0), to);
    assert_false(digest_table_move(table, &key, from, 0));
    assert_true(digest_table_move(table, &key, to | CAS_PLACE_SUSPECT, 0));
    assert_int_equal(find(table, 0), 0);
    assert_int_equal(blobs(site), 0);
    assert_false(digest_table_move(table, &key, 0, to));
    put(site, 0, 1);
    assert_int_equal(find(table, 0), from);
    assert_int_equal(blobs(site), 1);
}

static void test_dead_entries_are_dropped(void **state)
{
    struct site *site = *state;
    enum { LIVE = 2000, ROUNDS = 40 };
    put(site, 0, LIVE);
    int64_t bytes = 0;
    for (uint64_t round = 1; round < ROUNDS; round++) {
        struct cas_segment *old = site->segment;
        site->segment = begin_segment(site);
        cas_segment_free(old);
        put(site, round * LIVE, (round + 1) * LIVE);
        expect_all(site, site->writer.table, round * LIVE, (round + 1) * LIVE);
        if (round == ROUNDS / 2)
            bytes = digest_table_bytes(site->writer.table);
    }
    assert_int_equal(find(site->writer.table, 0), 0);
    assert_in_range(digest_table_bytes(site->writer.table), 1, 2 * bytes);
    assert_in_range(bytes, 1, 4 * CAS_SHARDS * PAGE);
    /* Few are left of many: the shards become smaller. */
    put(site, ROUNDS * LIVE, ROUNDS * LIVE + MANY);
    int64_t large = digest_table_bytes(site->writer.table);
    struct cas_segment *old = site->segment;
    site->segment = begin_segment(site);
    cas_segment_free(old);
    put(site, 0, MANY * 3 / 4);
    assert_true(digest_table_bytes(site->writer.table) < large);
    expect_all(site, site->writer.table, 0, MANY * 3 / 4);
}

/* A segment about which it is being decided may stay. */
static void test_entries_of_a_leaving_segment_are_kept(void **state)
{
    struct site *site = *state;
    put(site, 0, 1000);
    atomic_store(&site->segment->state, CAS_LEAVING);
    struct cas_segment *leaving = site->segment;
    site->segment = begin_segment(site);
    put(site, 1000, MANY);
    for (uint64_t i = 0; i < 1000; i++)
        assert_int_equal(find(site->writer.table, i), place_of(leaving, i));
}

struct visits {
    unsigned count;
    unsigned stop_at;
    bool seen[MANY];
};

static bool visit(void *context, const struct cas_key *key, uint64_t place)
{
    struct visits *visits = context;
    uint64_t number = cas_place_offset(place) / 16 - 4;
    struct cas_key expected = key_of(number);
    assert_true(cas_key_equal(key, &expected));
    assert_false(visits->seen[number]);
    visits->seen[number] = true;
    return ++visits->count != visits->stop_at;
}

static void test_each(void **state)
{
    struct site *site = *state;
    struct err err;
    struct visits *visits = calloc(1, sizeof(*visits));
    put(site, 0, MANY);
    struct cas_key key = key_of(5);
    assert_true(digest_table_move(site->writer.table, &key, place_of(site->segment, 5), 0));
    assert_int_equal(digest_table_each(site->writer.table, visit, visits, &err), 0);
    assert_int_equal(visits->count, MANY - 1);
    *visits = (struct visits){.stop_at = 3};
    assert_int_equal(digest_table_each(site->writer.table, visit, visits, &err), 0);
    assert_int_equal(visits->count, 3);
    free(visits);
}

/* --- more than one process --- */

static void test_another_opening_follows(void **state)
{
    struct site *site = *state;
    struct opening reader;
    struct cas_key key = key_of(0);
    put(site, 0, 10);
    must_open(site, &reader);
    expect_all(site, reader.table, 0, 10);
    digest_table_enter(reader.table);
    _Atomic uint64_t *place = digest_table_find(reader.table, &key);
    assert_non_null(place);
    put(site, 10, MANY);
    for (uint64_t i = 10; i < MANY; i++) {
        struct cas_key other = key_of(i);
        assert_non_null(digest_table_find(reader.table, &other));
    }
    /* What was found before is still mapped. */
    assert_int_equal(atomic_load(place), place_of(site->segment, 0));
    digest_table_leave(reader.table);
    assert_int_equal(digest_table_bytes(reader.table), digest_table_bytes(site->writer.table));
    /* What the one does the other sees. */
    assert_true(digest_table_move(reader.table, &key, place_of(site->segment, 0), 0));
    assert_int_equal(find(site->writer.table, 0), 0);
    close_store(&reader);
}

/* Puts keys, and tells how many by the header's sequence, which is of no other use here. */
static void put_until_killed(struct site *site)
{
    struct opening writer;
    struct err err;
    if (open_store(site, &writer, &err) != 0)
        _exit(1);
    for (uint64_t i = 0; i < 10 * MANY; i++) {
        struct cas_key key = key_of(i);
        uint64_t there;
        if (digest_table_add(writer.table, &key, place_of(site->segment, i), &there, &err) != 0)
            _exit(1);
        atomic_store(&writer.shared.header->sequence, i + 1);
    }
    _exit(0);
}

static void test_what_a_killed_writer_has_put_is_found(void **state)
{
    struct site *site = *state;
    struct err err;
    _Atomic uint64_t *done = &site->writer.shared.header->sequence;
    for (uint64_t round = 0; round < 5; round++) {
        atomic_store(done, 0);
        pid_t pid = fork();
        if (pid == 0)
            put_until_killed(site);
        /* Beside it, what it says it has put is found at once. */
        uint64_t count = 0;
        while (count < (round + 1) * MANY / 4) {
            count = atomic_load(done);
            if (count > 0)
                assert_int_not_equal(find(site->writer.table, count - 1), 0);
        }
        assert_int_equal(kill(pid, SIGKILL), 0);
        assert_int_equal(waitpid(pid, NULL, 0), pid);
        count = atomic_load(done);
        expect_all(site, site->writer.table, 0, count);
        assert_int_equal(digest_table_sweep(site->writer.table, &err), 0);
        assert_int_equal(count_files(site), CAS_SHARDS);
        put(site, count, count + 1000);
        expect_all(site, site->writer.table, 0, count + 1000);
    }
}

/* --- threads --- */

struct threads {
    struct site *site;
    struct digest_table *table;
    _Atomic uint64_t put; /* keys before this one are there */
    _Atomic uint64_t missed;
};

static void wait_for_put(struct threads *threads, uint64_t number)
{
    while (atomic_load(&threads->put) <= number)
        (void)sched_yield();
}

/* Nothing that is there is missed. */
static void *find_many(void *context)
{
    struct threads *threads = context;
    uint64_t number = 1, count;
    do {
        count = atomic_load(&threads->put);
        digest_table_enter(threads->table);
        for (int i = 0; i < 20 && count > 0; i++) {
            number = (number * 1664525 + 1013904223) % MANY;
            struct cas_key key = key_of(number % count);
            if (digest_table_find(threads->table, &key) == NULL)
                atomic_fetch_add(&threads->missed, 1);
        }
        digest_table_leave(threads->table);
    } while (count < MANY);
    return NULL;
}

/* Marks every second key once, as soon as it is there. */
static void *mark_even(void *context)
{
    struct threads *threads = context;
    for (uint64_t i = 0; i < MANY; i += 2) {
        struct cas_key key = key_of(i);
        wait_for_put(threads, i);
        digest_table_enter(threads->table);
        _Atomic uint64_t *place = digest_table_find(threads->table, &key);
        if (place != NULL)
            atomic_fetch_or(place, CAS_PLACE_USED);
        digest_table_leave(threads->table);
    }
    return NULL;
}

/* Moves each of the others once. */
static void *move_odd(void *context)
{
    struct threads *threads = context;
    for (uint64_t i = 1; i < MANY; i += 2) {
        struct cas_key key = key_of(i);
        uint64_t from = place_of(threads->site->segment, i);
        wait_for_put(threads, i);
        uint64_t to = place_of(threads->site->segment, i + MANY);
        if (!digest_table_move(threads->table, &key, from, to))
            atomic_fetch_add(&threads->missed, 1);
    }
    return NULL;
}

/* Puts in this thread while others run; nobody misses anything. */
static void put_beside(struct threads *threads, void *(*const *runs)(void *), size_t count)
{
    pthread_t others[4];
    assert_true(count <= sizeof(others) / sizeof(others[0]));
    for (size_t i = 0; i < count; i++)
        assert_int_equal(pthread_create(&others[i], NULL, runs[i], threads), 0);
    for (uint64_t i = 0; i < MANY; i++) {
        put(threads->site, i, i + 1);
        atomic_store(&threads->put, i + 1);
    }
    for (size_t i = 0; i < count; i++)
        assert_int_equal(pthread_join(others[i], NULL), 0);
    assert_int_equal(threads->missed, 0);
}

static void test_no_change_is_lost_when_shards_are_rewritten(void **state)
{
    struct site *site = *state;
    struct threads threads = {.site = site, .table = site->writer.table};
    void *(*const runs[])(void *) = {find_many, mark_even, move_odd};
    put_beside(&threads, runs, 3);
    for (uint64_t i = 0; i < MANY; i += 2) {
        assert_int_equal(find(site->writer.table, i), place_of(site->segment, i) | CAS_PLACE_USED);
        assert_int_equal(find(site->writer.table, i + 1), place_of(site->segment, i + 1 + MANY));
    }
}

static void *refresh(void *table)
{
    digest_table_refresh(table);
    return NULL;
}

/* Also if another thread goes over to the new files meanwhile: it waits before it unmaps. */
static void test_what_was_found_stays_mapped(void **state)
{
    struct site *site = *state;
    struct opening reader;
    struct cas_key key = key_of(0);
    pthread_t thread;
    put(site, 0, 1);
    must_open(site, &reader);
    digest_table_enter(reader.table);
    _Atomic uint64_t *place = digest_table_find(reader.table, &key);
    put(site, 1, MANY);
    assert_int_equal(pthread_create(&thread, NULL, refresh, reader.table), 0);
    (void)usleep(50 * 1000);
    assert_int_equal(atomic_load(place), place_of(site->segment, 0));
    digest_table_leave(reader.table);
    assert_int_equal(pthread_join(thread, NULL), 0);
    expect_all(site, reader.table, 0, MANY);
    close_store(&reader);
}

/* As in another process. */
static void test_threads_of_another_opening(void **state)
{
    struct site *site = *state;
    struct opening reader;
    must_open(site, &reader);
    struct threads threads = {.site = site, .table = reader.table};
    void *(*const runs[])(void *) = {find_many, mark_even, find_many};
    put_beside(&threads, runs, 3);
    for (uint64_t i = 0; i < MANY; i++)
        assert_int_equal(find(site->writer.table, i) & ~(uint64_t)CAS_PLACE_FLAGS,
                         place_of(site->segment, i));
    close_store(&reader);
}

/* Threads that put the same keys, and move them to and fro. */
static void *put_and_move(void *context)
{
    struct threads *threads = context;
    struct err err;
    for (uint64_t i = 0; i < MANY; i++) {
        struct cas_key key = key_of(i);
        uint64_t place = place_of(threads->site->segment, i);
        if (put_one(threads->site, i, &err) != 0 ||
            (digest_table_move(threads->table, &key, place, place | CAS_PLACE_USED) &&
             find(threads->table, i) == 0))
            atomic_fetch_add(&threads->missed, 1);
    }
    return NULL;
}

static void test_threads_that_put(void **state)
{
    struct site *site = *state;
    struct threads threads = {.site = site, .table = site->writer.table};
    pthread_t putters[3];
    for (int i = 0; i < 3; i++)
        assert_int_equal(pthread_create(&putters[i], NULL, put_and_move, &threads), 0);
    for (int i = 0; i < 3; i++)
        assert_int_equal(pthread_join(putters[i], NULL), 0);
    assert_int_equal(threads.missed, 0);
    assert_int_equal(blobs(site), MANY);
    for (uint64_t i = 0; i < MANY; i++)
        assert_int_equal(find(site->writer.table, i) & ~(uint64_t)CAS_PLACE_FLAGS,
                         place_of(site->segment, i));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_what_was_put_is_found),
        TEST(test_the_first_stays),
        TEST(test_of_threads_that_add_one_is_first),
        TEST(test_move),
        TEST(test_dead_entries_are_dropped),
        TEST(test_entries_of_a_leaving_segment_are_kept),
        TEST(test_each),
        TEST(test_another_opening_follows),
        TEST(test_what_a_killed_writer_has_put_is_found),
        TEST(test_no_change_is_lost_when_shards_are_rewritten),
        TEST(test_what_was_found_stays_mapped),
        TEST(test_threads_of_another_opening),
        TEST(test_threads_that_put),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
