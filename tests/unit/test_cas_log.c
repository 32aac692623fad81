/* SPDX-License-Identifier: Apache-2.0 */
/* The log: appending, reading, sealing, what a killed writer leaves, and removing. */
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <sys/wait.h>

#include "log_site.h"

static void test_sizes(void **state)
{
    struct log_site *site = *state;
    assert_int_equal(cas_log_segment_size(0), CAS_SEGMENT_SIZE_MIN);
    assert_int_equal(cas_log_segment_size((int64_t)1 << 30), 4 << 20);
    assert_int_equal(cas_log_segment_size(INT64_MAX), CAS_SEGMENT_SIZE_MAX);
    assert_int_equal(cas_log_growth(1000, 3), 1000 + 3 * CAS_CONTENTS_ENTRY);
    assert_true(cas_log_overhead(site->log) >= CAS_SEGMENT_HEADER + CAS_CONTENTS_END);
}

static void test_records_come_back(void **state)
{
    struct log_site *site = *state;
    enum { COUNT = 20 };
    struct stored stored[COUNT];
    for (size_t i = 0; i < COUNT; i++)
        stored[i] = put(site, i * 97, i);
    uint64_t number = stored[0].number;
    assert_int_equal(stored[0].offset, CAS_SEGMENT_HEADER);
    for (size_t i = 0; i < COUNT; i++) {
        assert_int_equal(stored[i].number, number);
        assert_int_equal(get_record(site->log, &stored[i]), 0);
    }
    struct cas_segment *segment = segment_of(site, number);
    assert_int_equal(atomic_load(&segment->records), COUNT);
    assert_int_equal(atomic_load(&segment->trusted), segment_stat(site, number).st_size);
    assert_int_equal(atomic_load(&segment->durable), 0);
    check_contents(site, number, stored, COUNT);

    site_end(site);
    assert_int_equal(atomic_load(&segment->state), CAS_SEALED);
    uint64_t trusted = atomic_load(&segment->trusted);
    assert_int_equal(atomic_load(&segment->durable), trusted);
    assert_int_equal(segment_stat(site, number).st_size,
                     trusted + COUNT * CAS_CONTENTS_ENTRY + CAS_CONTENTS_END);
    check_contents(site, number, stored, COUNT);
    site_close(site);
    site_open(site);
    site_begin(site);
    for (size_t i = 0; i < COUNT; i++)
        assert_int_equal(get_record(site->log, &stored[i]), 0);
    check_contents(site, number, stored, COUNT);
    assert_int_not_equal(put(site, 10, COUNT).number, number);
}

static void test_what_is_not_published_is_cut_off(void **state)
{
    struct log_site *site = *state;
    struct cas_appender appender;
    struct err err;
    struct stored stored = put(site, 100, 1);
    struct stored lost;
    bool is_new;
    off_t size = segment_stat(site, stored.number).st_size;
    assert_int_equal(cas_log_take(site->log, record_size(100), &appender, &is_new, &err), 0);
    assert_false(is_new);
    assert_int_equal(append_record(&appender, 100, 2, &lost, &err), 0);
    assert_int_equal(segment_stat(site, stored.number).st_size, size + record_size(100));
    assert_true(cas_log_give(&appender));
    assert_int_equal(segment_stat(site, stored.number).st_size, size);
    assert_int_equal(get_record(site->log, &lost), -ERR_NOT_FOUND);

    struct stored next = put(site, 50, 3);
    assert_int_equal(next.number, stored.number);
    assert_int_equal(next.offset, size);
    check_contents(site, stored.number, (struct stored[]){stored, next}, 2);
}

static void test_a_full_segment_is_sealed(void **state)
{
    struct log_site *site = *state;
    enum { SIZE = 10000 };
    struct stored stored[8];
    for (size_t i = 0; i < 8; i++)
        stored[i] = put(site, SIZE, i);
    /* The seventh reaches the size of a segment. */
    assert_int_equal(stored[6].number, stored[0].number);
    assert_int_not_equal(stored[7].number, stored[0].number);
    wait_sealed(site, stored[0].number);
    check_contents(site, stored[0].number, stored, 7);
    assert_int_equal(state_of_segment(site, stored[7].number), CAS_OPEN);
}

static void test_a_large_record_has_its_own(void **state)
{
    struct log_site *site = *state;
    struct stored small = put(site, 10, 1);
    struct stored large = put(site, 300000, 2);
    struct stored next = put(site, 10, 3);
    assert_int_not_equal(large.number, small.number);
    assert_int_equal(next.number, small.number);
    wait_sealed(site, large.number);
    assert_int_equal(get_record(site->log, &large), 0);
    check_contents(site, large.number, &large, 1);
}

static void test_a_large_upload_given_up_leaves_a_segment_to_use(void **state)
{
    struct log_site *site = *state;
    struct cas_appender appender;
    struct stored lost;
    struct err err;
    bool is_new;
    assert_int_equal(cas_log_take(site->log, record_size(300000), &appender, &is_new, &err), 0);
    assert_true(is_new);
    assert_int_equal(append_record(&appender, 300000, 1, &lost, &err), 0);
    assert_true(cas_log_give(&appender));
    assert_int_equal(segment_stat(site, lost.number).st_size, CAS_SEGMENT_HEADER);
    assert_int_equal(cas_log_take(site->log, record_size(300000), &appender, &is_new, &err), 0);
    assert_false(is_new);
    assert_true(cas_log_give(&appender));
    assert_int_equal(put(site, 10, 2).number, lost.number);
}

static void test_the_last_given_back_is_taken_and_the_surplus_sealed(void **state)
{
    struct log_site *site = *state;
    enum { COUNT = 12 };
    struct cas_appender appenders[COUNT];
    struct err err;
    bool is_new;
    for (size_t i = 0; i < COUNT; i++) {
        assert_int_equal(cas_log_take(site->log, 100, &appenders[i], &is_new, &err), 0);
        assert_true(is_new);
    }
    uint64_t first = appenders[0].number;
    uint64_t last = appenders[5].number;
    for (size_t i = 0; i < COUNT; i++)
        if (i != 5)
            assert_true(cas_log_give(&appenders[i]));
    assert_true(cas_log_give(&appenders[5]));
    wait_sealed(site, first);
    WAIT_UNTIL(count_segments(site, CAS_OPEN) <= 8);
    assert_int_equal(count_segments(site, CAS_OPEN), 8);
    assert_int_equal(put(site, 10, 1).number, last);
}

static void test_a_sealed_one_takes_no_more_than_was_said(void **state)
{
    struct log_site *site = *state;
    int64_t taken = cas_log_overhead(site->log);
    uint64_t number = 0;
    for (size_t i = 0; i < 1000; i++) {
        struct stored stored = put(site, 5, i);
        if (number == 0)
            number = stored.number;
        if (stored.number == number)
            taken += cas_log_growth(record_size(5), 1);
    }
    site_end(site);
    struct stat st = segment_stat(site, number);
    assert_true(st.st_size > SEGMENT_SIZE);
    assert_true(st.st_blocks * 512 <= taken);
}

/* --- reading contents that are damaged --- */

static void test_broken_contents_are_read_from_the_records(void **state)
{
    struct log_site *site = *state;
    struct stored stored[3];
    char path[64];
    for (size_t i = 0; i < 3; i++)
        stored[i] = put(site, 1000 * i, i);
    uint64_t number = stored[0].number;
    site_end(site);
    off_t size = segment_stat(site, number).st_size;
    scratch_flip(&site->scratch, segment_path(number, path), size - 1);
    check_contents(site, number, stored, 3);
    scratch_flip(&site->scratch, path, size - 1);
    scratch_flip(&site->scratch, path, size - CAS_CONTENTS_END - 40);
    check_contents(site, number, stored, 3);
    /* As after a power cut: nothing is known but the file. */
    atomic_store(&segment_of(site, number)->trusted, 0);
    check_contents(site, number, stored, 3);
    scratch_flip(&site->scratch, path, size - CAS_CONTENTS_END - 40);
    check_contents(site, number, stored, 3);
}

static void test_contents_that_make_no_sense_are_not_believed(void **state)
{
    struct log_site *site = *state;
    struct stored stored[2] = {put(site, 100, 1), put(site, 100, 2)};
    uint64_t number = stored[0].number;
    struct cas_origin origin = {.segment = number};
    uint8_t table[2 * CAS_CONTENTS_ENTRY + CAS_CONTENTS_END];
    char path[64];
    char joined[PATH_MAX];
    site_end(site);
    for (uint8_t i = 0; i < 16; i++)
        origin.store[i] = i;
    int fd = open(scratch_path(&site->scratch, segment_path(number, path), joined), O_RDWR);
    off_t at = segment_stat(site, number).st_size - (off_t)sizeof(table);
    /* The checksum is right, but both entries are of one place, or of one behind the records. */
    for (uint64_t i = 0; i < 2; i++) {
        struct cas_content content = {.offset = stored[1].offset + i * 1600};
        cas_key_of(&stored[1].digest, &content.key);
        cas_contents_put_entry(&content, table + CAS_CONTENTS_ENTRY);
        content.offset = stored[1].offset;
        cas_contents_put_entry(&content, table);
        cas_contents_put_end(&origin, table, 2, table + 2 * CAS_CONTENTS_ENTRY);
        assert_int_equal(pwrite(fd, table, sizeof(table), at), sizeof(table));
        check_contents(site, number, stored, 2);
    }
    (void)close(fd);
}

static void test_what_stands_before_a_fault_is_told(void **state)
{
    struct log_site *site = *state;
    struct stored stored[3];
    struct cas_content *contents;
    struct err err;
    size_t count;
    char path[64];
    char joined[PATH_MAX];
    for (size_t i = 0; i < 3; i++)
        stored[i] = put(site, 2000000 * (i == 1) + 10, i);
    /* The large one has a segment of its own. */
    uint64_t number = stored[0].number;
    assert_int_equal(stored[2].number, number);
    scratch_flip(&site->scratch, segment_path(number, path), (off_t)stored[2].offset + 9);
    assert_int_equal(cas_log_contents(site->log, number, &contents, &count, &err), -ERR_DATA_LOSS);
    assert_int_equal(count, 1);
    assert_int_equal(contents[0].offset, stored[0].offset);
    free(contents);
    /* A file that somebody has cut is damaged, one that is gone is gone. */
    assert_int_equal(truncate(scratch_path(&site->scratch, path, joined), 70), 0);
    assert_int_equal(cas_log_contents(site->log, number, &contents, &count, &err), -ERR_DATA_LOSS);
    assert_null(contents);
    assert_int_equal(get_record(site->log, &stored[0]), -ERR_DATA_LOSS);
    atomic_store(&segment_of(site, number)->state, CAS_LEAVING);
    assert_int_equal(get_record(site->log, &stored[0]), -ERR_NOT_FOUND);
    atomic_store(&segment_of(site, number)->state, CAS_OPEN);
    assert_int_equal(cas_log_read(site->log, number, contents, SIZE_MAX / 2, (uint64_t)-1, &err),
                     -ERR_DATA_LOSS);
    assert_true(cas_log_retire(site->log, number));
    assert_int_equal(cas_log_remove(site->log, number, &err), 0);
    cas_segment_free(segment_of(site, number));
    assert_int_equal(cas_log_contents(site->log, number, &contents, &count, &err), -ERR_NOT_FOUND);
}

static void test_headers_far_apart_are_found(void **state)
{
    struct log_site *site = *state;
    struct cas_appender appender;
    struct stored stored[6];
    struct err err;
    bool is_new;
    assert_int_equal(cas_log_take(site->log, 5 << 20, &appender, &is_new, &err), 0);
    for (size_t i = 0; i < 6; i++) {
        size_t size = i % 2 == 0 ? (size_t)1300000 : 700000;
        assert_int_equal(append_record(&appender, size, i, &stored[i], &err), 0);
        assert_int_equal(publish_one(&appender, &stored[i], &err), 0);
    }
    check_contents(site, appender.number, stored, 6);
    assert_true(cas_log_give(&appender));
}

/* --- a killed writer --- */

static void test_what_a_killed_writer_left_is_cut_and_sealed(void **state)
{
    struct log_site *site = *state;
    struct stored stored[3];
    site_end(site);
    site_close(site);
    pid_t child = fork();
    if (child == 0) {
        struct cas_appender appender;
        struct stored lost;
        struct err err;
        bool is_new;
        site_open(site);
        for (size_t i = 0; i < 3; i++)
            (void)put(site, 100 + i, i);
        (void)cas_log_take(site->log, 100, &appender, &is_new, &err);
        (void)append_record(&appender, 1000, 9, &lost, &err);
        (void)cas_log_take(site->log, 100, &appender, &is_new, &err);
        struct cas_segment *begun;
        (void)cas_segment_begin(&site->shared, &begun, &err);
        _exit(0);
    }
    int status;
    site_open(site);
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_int_equal(status, 0);
    assert_int_equal(count_segments(site, CAS_OPEN), 3);
    uint32_t index = 0;
    struct cas_segment *segment = cas_segment_next(&site->shared, &index);
    uint64_t number = atomic_load(&segment->number);
    uint64_t offset = CAS_SEGMENT_HEADER;
    for (size_t i = 0; i < 3; i++) {
        free(payload_of(100 + i, i, &stored[i].digest));
        stored[i].number = number;
        stored[i].offset = offset;
        offset += (uint64_t)record_size(100 + i);
    }
    assert_int_equal(atomic_load(&segment->trusted), offset);
    assert_true((uint64_t)segment_stat(site, number).st_size > offset);
    site_begin(site);
    wait_sealed(site, number);
    for (size_t i = 0; i < 3; i++)
        assert_int_equal(get_record(site->log, &stored[i]), 0);
    check_contents(site, number, stored, 3);
    assert_int_equal(segment_stat(site, number).st_size,
                     offset + 3 * CAS_CONTENTS_ENTRY + CAS_CONTENTS_END);
    site_end(site);
    /* Of the segment that had no file yet nothing is left. */
    assert_int_equal(count_segments(site, CAS_OPEN), 0);
    assert_int_equal(count_segments(site, CAS_SEALED), 2);
}

static void test_a_file_that_became_shorter_is_trusted_so_far(void **state)
{
    struct log_site *site = *state;
    struct stored stored[2];
    char path[64];
    char joined[PATH_MAX];
    for (size_t i = 0; i < 2; i++)
        stored[i] = put(site, 100, i);
    uint64_t number = stored[0].number;
    site_close(site);
    scratch_path(&site->scratch, segment_path(number, path), joined);
    site_open(site);
    struct cas_segment *segment = segment_of(site, number);
    /* As if it had never been sealed. */
    atomic_store(&segment->state, CAS_LEAVING);
    assert_int_equal(truncate(joined, (off_t)stored[1].offset + 20), 0);
    uint32_t version = atomic_load(&segment->version);
    site_begin(site);
    wait_sealed(site, number);
    assert_int_equal(atomic_load(&segment->trusted), stored[1].offset);
    assert_int_equal(atomic_load(&segment->durable), stored[1].offset);
    assert_true(atomic_load(&segment->version) > version);
    check_contents(site, number, stored, 1);
    assert_int_equal(get_record(site->log, &stored[0]), 0);
}

static void test_files_without_a_segment_are_removed(void **state)
{
    struct log_site *site = *state;
    struct stored stored = put(site, 10, 1);
    site_end(site);
    scratch_write(&site->scratch, "log/0000000000abcdef", "left");
    scratch_write(&site->scratch, "log/ffffffffffffffff", "left");
    scratch_write(&site->scratch, "log/0000000000ABCDEF", "another's");
    scratch_write(&site->scratch, "log/notes", "another's");
    site_begin(site);
    assert_false(scratch_exists(&site->scratch, "log/0000000000abcdef"));
    assert_false(scratch_exists(&site->scratch, "log/ffffffffffffffff"));
    assert_true(scratch_exists(&site->scratch, "log/0000000000ABCDEF"));
    assert_true(scratch_exists(&site->scratch, "log/notes"));
    assert_int_equal(get_record(site->log, &stored), 0);
}

/* --- retiring and removing --- */

static void test_only_what_has_no_appender_is_retired(void **state)
{
    struct log_site *site = *state;
    struct cas_appender appender;
    struct err err;
    bool is_new;
    struct stored stored = put(site, 10, 1);
    assert_int_equal(cas_log_take(site->log, 100, &appender, &is_new, &err), 0);
    assert_false(cas_log_retire(site->log, stored.number));
    assert_true(cas_log_give(&appender));
    assert_true(cas_log_retire(site->log, stored.number));
    assert_true(cas_log_retire(site->log, stored.number));
    assert_int_equal(get_record(site->log, &stored), 0);
    struct stored next = put(site, 10, 2);
    assert_int_not_equal(next.number, stored.number);

    /* One stays after all, the other until the end. */
    assert_true(cas_log_retire(site->log, next.number));
    cas_log_keep(site->log, stored.number);
    wait_sealed(site, stored.number);
    check_contents(site, stored.number, &stored, 1);
    WAIT_UNTIL(cas_log_retire(site->log, stored.number));
    cas_log_keep(site->log, stored.number);
    assert_int_equal(state_of_segment(site, next.number), CAS_OPEN);
    site_end(site);
    assert_int_equal(state_of_segment(site, next.number), CAS_SEALED);
    check_contents(site, next.number, &next, 1);
}

struct reading {
    struct log_site *site;
    struct stored stored[2]; /* the second one stays */
    atomic_int stop;
    atomic_int reads;
    atomic_int faults;
};

static void *read_until_gone(void *argument)
{
    struct reading *reading = argument;
    while (atomic_load(&reading->stop) == 0) {
        int rc = get_record(reading->site->log, &reading->stored[0]);
        if (rc != 0 && rc != -ERR_NOT_FOUND)
            atomic_fetch_add(&reading->faults, 1);
        if (get_record(reading->site->log, &reading->stored[1]) != 0)
            atomic_fetch_add(&reading->faults, 1);
        atomic_fetch_add(&reading->reads, 1);
    }
    return NULL;
}

static void test_a_segment_may_go_while_it_is_read(void **state)
{
    struct log_site *site = *state;
    struct reading reading = {.site = site};
    pthread_t threads[3];
    struct err err;
    char path[64];
    reading.stored[0] = put(site, 20000, 1);
    reading.stored[1] = put(site, 20000, 2);
    uint64_t number = reading.stored[0].number;
    assert_int_not_equal(number, reading.stored[1].number);
    wait_sealed(site, number);
    WAIT_UNTIL(cas_log_retire(site->log, number));
    for (size_t i = 0; i < 3; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, read_until_gone, &reading), 0);
    WAIT_UNTIL(atomic_load(&reading.reads) >= 100);
    atomic_store(&segment_of(site, number)->state, CAS_LEAVING);
    assert_int_equal(cas_log_remove(site->log, number, &err), 0);
    cas_segment_free(segment_of(site, number));
    int reads = atomic_load(&reading.reads);
    WAIT_UNTIL(atomic_load(&reading.reads) >= reads + 100);
    atomic_store(&reading.stop, 1);
    for (size_t i = 0; i < 3; i++)
        (void)pthread_join(threads[i], NULL);
    assert_int_equal(atomic_load(&reading.faults), 0);
    assert_int_equal(get_record(site->log, &reading.stored[0]), -ERR_NOT_FOUND);
    assert_false(scratch_exists(&site->scratch, segment_path(number, path)));
    /* That it is gone already is no fault. */
    assert_int_equal(cas_log_remove(site->log, number, &err), 0);
}

/* --- many threads --- */

enum { WRITERS = 4, RECORDS = 150 };

struct writing {
    struct log_site *site;
    uint64_t seed;
    struct stored stored[RECORDS];
    atomic_size_t count;
    size_t faults;
};

static void *write_records(void *argument)
{
    struct writing *writing = argument;
    for (size_t i = 0; i < RECORDS; i++) {
        struct err err;
        size_t size = i % 20 == 0 ? 20000 : i * 7;
        if (put_record(writing->site->log, size, writing->seed + i, &writing->stored[i], &err) != 0)
            writing->faults++;
        atomic_store(&writing->count, i + 1);
        if (i % 10 == 0)
            writing->faults +=
                cas_log_sync(writing->site->log, &writing->stored[i].number, 1, &err) != 0;
    }
    return NULL;
}

static void test_many_append_and_read(void **state)
{
    struct log_site *site = *state;
    struct writing *writings = calloc(WRITERS, sizeof(*writings));
    pthread_t threads[WRITERS];
    size_t done = 0;
    for (size_t i = 0; i < WRITERS; i++) {
        writings[i].site = site;
        writings[i].seed = i * 1000;
        assert_int_equal(pthread_create(&threads[i], NULL, write_records, &writings[i]), 0);
    }
    while (done < WRITERS) {
        done = 0;
        for (size_t i = 0; i < WRITERS; i++) {
            size_t count = atomic_load(&writings[i].count);
            done += count == RECORDS;
            if (count > 0)
                assert_int_equal(get_record(site->log, &writings[i].stored[count - 1]), 0);
        }
    }
    for (size_t i = 0; i < WRITERS; i++)
        (void)pthread_join(threads[i], NULL);
    site_end(site);
    for (size_t i = 0; i < WRITERS; i++) {
        assert_int_equal(writings[i].faults, 0);
        for (size_t j = 0; j < RECORDS; j++)
            assert_int_equal(get_record(site->log, &writings[i].stored[j]), 0);
    }
    free(writings);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
#define SITE_TEST(f) cmocka_unit_test_setup_teardown(f, site_setup, site_teardown)
        SITE_TEST(test_sizes),
        SITE_TEST(test_records_come_back),
        SITE_TEST(test_what_is_not_published_is_cut_off),
        SITE_TEST(test_a_full_segment_is_sealed),
        SITE_TEST(test_a_large_record_has_its_own),
        SITE_TEST(test_a_large_upload_given_up_leaves_a_segment_to_use),
        SITE_TEST(test_the_last_given_back_is_taken_and_the_surplus_sealed),
        SITE_TEST(test_a_sealed_one_takes_no_more_than_was_said),
        SITE_TEST(test_broken_contents_are_read_from_the_records),
        SITE_TEST(test_contents_that_make_no_sense_are_not_believed),
        SITE_TEST(test_what_stands_before_a_fault_is_told),
        SITE_TEST(test_headers_far_apart_are_found),
        SITE_TEST(test_what_a_killed_writer_left_is_cut_and_sealed),
        SITE_TEST(test_a_file_that_became_shorter_is_trusted_so_far),
        SITE_TEST(test_files_without_a_segment_are_removed),
        SITE_TEST(test_only_what_has_no_appender_is_retired),
        SITE_TEST(test_a_segment_may_go_while_it_is_read),
        SITE_TEST(test_many_append_and_read),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
