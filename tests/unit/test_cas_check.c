/* SPDX-License-Identifier: Apache-2.0 */
/* A check of a CAS: what counts as a fault and what does not, and a disk that fails meanwhile. */
#include <errno.h>

#include "base/log.h"
#include "disk_faults.h"
#include "store/cas_check.h"
#include "store_blobs.h"

enum { QUOTA = 64 * MIB, BLOBS = 20, SMALL = 3000, LARGE = 3 * MIB };

/* What a check told. */
struct told {
    unsigned blobs;
    unsigned segments;
    unsigned unanswered;
    char last[1024]; /* reason and answer */
};

static void on_fault(void *context, const struct store_fault *fault)
{
    struct told *told = context;
    told->blobs += strcmp(fault->what, "blob") == 0;
    told->segments += strcmp(fault->what, "segment") == 0;
    told->unanswered += fault->answer == NULL;
    (void)snprintf(told->last, sizeof(told->last), "%s; %s", fault->reason,
                   fault->answer != NULL ? fault->answer : "");
}

static void on_progress(void *context, const char *what, uint64_t done, uint64_t total)
{
    (void)context;
    (void)what;
    assert_true(done <= total);
}

static int check(struct store *store, bool repairs, struct told *told, struct cas_checked *checked,
                 struct err *err)
{
    struct store_check store_check = {
        .repairs = repairs, .tell = on_fault, .progress = on_progress, .context = told};
    memset(told, 0, sizeof(*told));
    return cas_check(store->cas, &store_check, checked, err);
}

static struct cas_checked check_clean(struct store *store)
{
    struct told told;
    struct cas_checked checked;
    struct err err;
    assert_int_equal(check(store, false, &told, &checked, &err), 0);
    if (told.blobs + told.segments != 0)
        fail_msg("%s", told.last);
    return checked;
}

/* A store that is open to read, with BLOBS small blobs and a large one. */
static int open_store(void **state)
{
    struct digest digest;
    (void)store_setup(state);
    struct store *store = *state;
    store_open(store, QUOTA);
    for (unsigned i = 0; i < BLOBS; i++)
        assert_int_equal(put_blob(store->cas, NULL, SMALL, i, &digest), ERR_OK);
    assert_int_equal(put_blob(store->cas, NULL, LARGE, BLOBS, &digest), ERR_OK);
    store_close(store);
    struct err err;
    const struct cas_options options = {.path = store->scratch.path, .quota = QUOTA};
    assert_int_equal(cas_open(&options, &store->cas, &err), 0);
    return 0;
}

static struct digest digest_of(uint64_t seed)
{
    struct digest digest;
    free(make_blob(seed < BLOBS ? SMALL : LARGE, seed, &digest));
    return digest;
}

static void check_all_there(struct store *store)
{
    for (unsigned i = 0; i <= BLOBS; i++)
        assert_int_equal(get_blob(store->cas, i < BLOBS ? SMALL : LARGE, i), ERR_OK);
}

static uint64_t place_of(struct cas *cas, const struct digest *digest)
{
    struct cas_key key;
    cas_key_of(digest, &key);
    digest_table_enter(cas->table);
    uint64_t place = atomic_load(digest_table_find(cas->table, &key));
    digest_table_leave(cas->table);
    return place;
}

static void test_all_is_counted_and_nothing_used(void **state)
{
    struct store *store = *state;
    struct digest digest = digest_of(3);
    struct digest other = digest_of(BLOBS + 1);
    uint64_t place = place_of(store->cas, &digest);
    const struct cas_segment *segment =
        cas_segment_find(&store->cas->shared, cas_place_number(place));
    uint64_t last_use = atomic_load(&segment->last_use);
    assert_int_equal(place & CAS_PLACE_USED, 0);
    struct cas_checked checked = check_clean(store);
    assert_int_equal(checked.records, BLOBS + 1);
    assert_int_equal(checked.entries, BLOBS + 1);
    assert_true(checked.bytes > BLOBS * SMALL + LARGE);
    assert_int_equal(checked.segments, 2);
    assert_true(cas_check_has(store->cas, &digest));
    assert_false(cas_check_has(store->cas, &other));
    digest.size++;
    assert_false(cas_check_has(store->cas, &digest));
    digest.size--;
    assert_int_equal(place_of(store->cas, &digest), place);
    assert_int_equal(atomic_load(&segment->last_use), last_use);
}

static void test_what_nothing_leads_to_is_no_fault(void **state)
{
    struct store *store = *state;
    struct digest digest = digest_of(3);
    struct cas_key key;
    blob_flip(store, &digest, 100);
    cas_key_of(&digest, &key);
    assert_true(digest_table_move(store->cas->table, &key, place_of(store->cas, &digest), 0));
    struct cas_checked checked = check_clean(store);
    assert_int_equal(checked.dead_broken, 1);
    assert_int_equal(checked.records, BLOBS);
    assert_int_equal(checked.entries, BLOBS);
    assert_false(cas_check_has(store->cas, &digest));
}

static void test_a_segment_that_is_leaving_is_passed_over(void **state)
{
    struct store *store = *state;
    struct digest digest = digest_of(BLOBS);
    blob_flip(store, &digest, 2 * MIB);
    struct cas_segment *segment = segment_of(store->cas, &digest);
    atomic_store(&segment->state, CAS_LEAVING);
    struct cas_checked checked = check_clean(store);
    assert_int_equal(checked.records, BLOBS);
    atomic_store(&segment->state, CAS_SEALED);
}

static void test_what_was_cut_is_passed_over(void **state)
{
    struct store *store = *state;
    struct digest digest = digest_of(3);
    blob_flip(store, &digest, 100);
    struct cas_segment *segment = segment_of(store->cas, &digest);
    uint64_t place = place_of(store->cas, &digest);
    atomic_store(&segment->trusted, cas_place_offset(place));
    struct cas_checked checked = check_clean(store);
    assert_int_equal(checked.records, 3 + 1);
    assert_int_equal(checked.entries, 3 + 1);
}

static void test_a_broken_blob_is_dropped(void **state)
{
    struct store *store = *state;
    struct told told;
    struct cas_checked checked;
    struct err err;
    struct digest digest = digest_of(BLOBS);
    uint64_t broken = atomic_load(&store->cas->shared.header->broken);
    const struct cas_segment *segment = segment_of(store->cas, &digest);
    blob_flip(store, &digest, LARGE - 1);
    assert_int_equal(check(store, false, &told, &checked, &err), 0);
    assert_int_equal(told.blobs, 1);
    assert_int_equal(told.unanswered, 1);
    assert_true(cas_check_has(store->cas, &digest));
    uint32_t version = atomic_load(&segment->version);
    assert_int_equal(check(store, true, &told, &checked, &err), 0);
    assert_int_equal(told.blobs, 1);
    assert_string_equal(told.last, "the payload has a wrong checksum; dropped");
    assert_false(cas_check_has(store->cas, &digest));
    assert_true(atomic_load(&segment->version) > version);
    assert_int_equal(atomic_load(&segment->flags) & CAS_SEGMENT_BROKEN, CAS_SEGMENT_BROKEN);
    assert_int_equal(atomic_load(&store->cas->shared.header->broken), broken + 1);
    checked = check_clean(store);
    assert_int_equal(checked.marked, 1);
    assert_int_equal(checked.dead_broken, 1);
}

/* --- a disk that fails --- */

static void test_what_cannot_be_read_is_told_and_stays(void **state)
{
    struct store *store = *state;
    struct told told;
    struct cas_checked checked;
    struct err err;
    disk_faults_begin(DISK_FAULTS_READ, 1, EIO, DISK_FAULTS_FOR_EVER);
    assert_int_equal(check(store, true, &told, &checked, &err), 0);
    assert_true(disk_faults_end() > 0);
    assert_int_equal(told.blobs, BLOBS + 1);
    assert_int_equal(told.segments, 2);
    assert_non_null(strstr(told.last, "; stays"));
    assert_int_equal(checked.records, 0);
    check_clean(store);
    check_all_there(store);
}

/* Each read fails once: no blob is lost for it. */
static void test_a_read_that_fails_once_loses_nothing(void **state)
{
    struct store *store = *state;
    struct told told;
    struct cas_checked checked;
    struct err err;
    for (unsigned nth = 1;; nth++) {
        disk_faults_begin(DISK_FAULTS_READ, nth, EIO, 1);
        assert_int_equal(check(store, true, &told, &checked, &err), 0);
        bool is_over = disk_faults_end() == 0;
        assert_int_equal(checked.entries, BLOBS + 1);
        if (is_over)
            break;
    }
    check_clean(store);
    check_all_there(store);
}

static void test_files_that_cannot_be_opened_end_it(void **state)
{
    static const int errnums[] = {EMFILE, ENFILE};
    struct store *store = *state;
    struct told told;
    struct cas_checked checked;
    struct err err;
    for (size_t i = 0; i < sizeof(errnums) / sizeof(errnums[0]); i++) {
        disk_faults_begin(DISK_FAULTS_OPEN, 1, errnums[i], DISK_FAULTS_FOR_EVER);
        assert_int_equal(check(store, true, &told, &checked, &err), -ERR_UNAVAILABLE);
        (void)disk_faults_end();
        assert_int_equal(told.blobs + told.segments, 0);
    }
    check_clean(store);
    disk_faults_begin(DISK_FAULTS_MMAP, 1, ENOMEM, DISK_FAULTS_FOR_EVER);
    assert_int_equal(check(store, true, &told, &checked, &err), -ERR_NO_MEMORY);
    (void)disk_faults_end();
    check_clean(store);
    check_all_there(store);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_all_is_counted_and_nothing_used, open_store,
                                        store_teardown),
        cmocka_unit_test_setup_teardown(test_what_nothing_leads_to_is_no_fault, open_store,
                                        store_teardown),
        cmocka_unit_test_setup_teardown(test_a_segment_that_is_leaving_is_passed_over, open_store,
                                        store_teardown),
        cmocka_unit_test_setup_teardown(test_what_was_cut_is_passed_over, open_store,
                                        store_teardown),
        cmocka_unit_test_setup_teardown(test_a_broken_blob_is_dropped, open_store, store_teardown),
        cmocka_unit_test_setup_teardown(test_what_cannot_be_read_is_told_and_stays, open_store,
                                        store_teardown),
        cmocka_unit_test_setup_teardown(test_a_read_that_fails_once_loses_nothing, open_store,
                                        store_teardown),
        cmocka_unit_test_setup_teardown(test_files_that_cannot_be_opened_end_it, open_store,
                                        store_teardown),
    };
    log_set_level(LOG_LEVEL_ERROR);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
