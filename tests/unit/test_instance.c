/* SPDX-License-Identifier: Apache-2.0 */
/* Instances: what binds the index and the CAS of one while a push or a fetch goes on. */
#include <semaphore.h>
#include <unistd.h>

#include "fake_services.h"
#include "store/disk.h"
#include "store/instance.h"
#include "store_blobs.h"

static struct instance *instance;
static struct asset_key key = {.kind = ASSET_BLOB, .function = DIGEST_SHA256, .uri = "urn:a"};

static int set_up(void **state)
{
    int rc = fake_services_set_up(state);
    instance = instances_find(fake_services.instances, "");
    return rc;
}

static int tear_down(void **state)
{
    disk.fdatasync = fdatasync;
    return fake_services_tear_down(state);
}

static struct digest blob(uint64_t seed)
{
    struct digest digest;
    assert_int_equal(put_blob(instance->cas, NULL, 1000, seed, &digest), ERR_OK);
    return digest;
}

/* --- holds --- */

struct pushing {
    struct instance_push push; /* first */
    enum err_code code;
    sem_t done;
};

static void on_pushed(struct instance_push *push, const struct err *err)
{
    struct pushing *pushing = (struct pushing *)push;
    pushing->code = err != NULL ? err->code : ERR_OK;
    (void)sem_post(&pushing->done);
}

static enum err_code push(const struct digest *content, const struct digest *reference)
{
    struct pushing pushing = {
        .push = {.keys = &key,
                 .key_count = 1,
                 .asset = {.content = *content, .blobs = reference, .blob_count = 1},
                 .done = on_pushed}};
    assert_int_equal(sem_init(&pushing.done, 0, 0), 0);
    instance_push(instance, &pushing.push);
    while (sem_wait(&pushing.done) != 0)
        continue;
    (void)sem_destroy(&pushing.done);
    return pushing.code;
}

static bool has_hold(void)
{
    struct cas *cas = instance->cas;
    (void)pthread_mutex_lock(&cas->holds_lock);
    bool has = cas->oldest_hold != NULL;
    (void)pthread_mutex_unlock(&cas->holds_lock);
    return has;
}

static atomic_int syncs_with_hold;
static atomic_int syncs_without_hold;

static int sync_and_look(int fd)
{
    atomic_fetch_add(has_hold() ? &syncs_with_hold : &syncs_without_hold, 1);
    return fdatasync(fd);
}

/* From the check until all is durable, and no longer, whether it is refused or not. */
static void test_a_push_holds_what_it_found(void **state)
{
    struct digest content = blob(1);
    struct digest reference = blob(2);
    struct digest missing = content;
    (void)state;
    missing.hash[0] ^= 1;
    disk.fdatasync = sync_and_look;
    assert_int_equal(push(&content, &reference), ERR_OK);
    assert_int_not_equal(atomic_load(&syncs_with_hold), 0);
    assert_int_equal(atomic_load(&syncs_without_hold), 0);
    assert_false(has_hold());
    assert_int_equal(push(&content, &missing), ERR_PRECONDITION);
    assert_false(has_hold());
}

/* --- what is remembered of a fetched asset --- */

static int fetch(void)
{
    struct instance_fetch fetch = {
        .kind = key.kind, .function = key.function, .uris = &key.uri, .uri_count = 1};
    struct arena arena;
    struct err err;
    arena_init(&arena);
    instance_fetch_begin(instance, &fetch);
    int rc = instance_fetch(instance, &fetch, &arena, &err);
    instance_fetch_end(instance, &fetch);
    arena_fini(&arena);
    return rc;
}

struct writing {
    struct asset_write write; /* first */
    sem_t done;
};

static void on_written(struct asset_write *write, const struct err *err)
{
    assert_null(err);
    (void)sem_post(&((struct writing *)write)->done);
}

/* As a push at that time does. */
static void write_pushed(const struct digest *content, int64_t pushed_at)
{
    const struct asset asset = {
        .content = *content, .pushed_at = pushed_at, .fetched_at = pushed_at};
    struct writing writing = {
        .write = {.keys = &key, .key_count = 1, .asset = &asset, .done = on_written}};
    assert_int_equal(sem_init(&writing.done, 0, 0), 0);
    asset_index_write(instance->index, &writing.write);
    while (sem_wait(&writing.done) != 0)
        continue;
    (void)sem_destroy(&writing.done);
}

/* What one push was found to be says nothing of the next, be they of the same millisecond. */
static void test_pushes_of_one_millisecond_are_apart(void **state)
{
    struct digest there = blob(11);
    struct digest gone = blob(12);
    struct err err;
    (void)state;
    assert_int_equal(cas_delete(instance->cas, &gone, &err), 0);
    write_pushed(&there, 1700000000000);
    assert_int_equal(fetch(), 0);
    assert_int_equal(fetch(), 0);
    write_pushed(&gone, 1700000000000);
    assert_int_equal(fetch(), -ERR_NOT_FOUND);
}

static void reopen(void)
{
    fake_services_reopen();
    instance = instances_find(fake_services.instances, "");
}

static int64_t fetched_at(void)
{
    struct asset asset;
    struct arena arena;
    struct err err;
    arena_init(&arena);
    assert_int_equal(asset_index_get(instance->index, &key, &arena, &asset, &err), 0);
    arena_fini(&arena);
    return asset.fetched_at;
}

static void test_a_fetch_renews_the_asset(void **state)
{
    struct digest content = blob(21);
    struct err err;
    (void)state;
    reopen(); /* the fetches of other tests are written */
    write_pushed(&content, 1700000000000);
    assert_int_equal(fetched_at(), 1700000000000);
    assert_int_equal(cas_delete(instance->cas, &content, &err), 0);
    assert_int_equal(fetch(), -ERR_NOT_FOUND); /* that does not count */
    reopen();
    assert_int_equal(fetched_at(), 1700000000000);
    (void)blob(21);
    assert_int_equal(fetch(), 0);
    reopen();
    assert_true(fetched_at() > 1700000000000);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_push_holds_what_it_found),
        cmocka_unit_test(test_pushes_of_one_millisecond_are_apart),
        cmocka_unit_test(test_a_fetch_renews_the_asset),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
