/* SPDX-License-Identifier: Apache-2.0 */
/* Memory of messages to send: what is kept for the next, how much, and when it is given back. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>
#include <pthread.h>

#include "rpc/message_space.h"

/* A slice of SIZE bytes, all of which are written. */
static grpc_slice make(struct message_space *space, size_t size, uint8_t value)
{
    grpc_slice slice;
    assert_true(message_space_make(space, size, &slice));
    assert_int_equal(GRPC_SLICE_LENGTH(slice), size);
    memset(GRPC_SLICE_START_PTR(slice), value, size);
    return slice;
}

static void large_ones_are_kept(void **state)
{
    (void)state;
    struct message_space *space = message_space_new();
    assert_non_null(space);
    grpc_slice slice = make(space, MESSAGE_SPACE_MOST, 1);
    const uint8_t *first = GRPC_SLICE_START_PTR(slice);
    /* A part of it holds all of it. */
    grpc_slice part = grpc_slice_sub(slice, 1000, 2000);
    grpc_slice_unref(slice);
    assert_int_equal(message_space_spare(space), 0);
    grpc_slice_unref(part);
    assert_int_equal(message_space_spare(space), 1);
    slice = make(space, MESSAGE_SPACE_LEAST, 2);
    assert_ptr_equal(GRPC_SLICE_START_PTR(slice), first);
    assert_int_equal(message_space_spare(space), 0);
    grpc_slice_unref(slice);
    message_space_free(space);
}

static void others_are_the_allocators(void **state)
{
    (void)state;
    static const size_t sizes[] = {1, MESSAGE_SPACE_LEAST - 1, MESSAGE_SPACE_MOST + 1};
    struct message_space *space = message_space_new();
    assert_non_null(space);
    for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
        grpc_slice_unref(make(space, sizes[i], 3));
        assert_int_equal(message_space_spare(space), 0);
    }
    message_space_free(space);
}

static void no_more_are_kept_than_the_bound(void **state)
{
    (void)state;
    enum { COUNT = MESSAGE_SPACE_SPARE + 5 };
    struct message_space *space = message_space_new();
    assert_non_null(space);
    grpc_slice slices[COUNT];
    for (size_t round = 0; round < 2; round++) {
        for (size_t i = 0; i < COUNT; i++)
            slices[i] = make(space, MESSAGE_SPACE_LEAST, (uint8_t)i);
        assert_int_equal(message_space_spare(space), 0);
        for (size_t i = 0; i < COUNT; i++) {
            assert_int_equal(GRPC_SLICE_START_PTR(slices[i])[MESSAGE_SPACE_LEAST - 1], i);
            grpc_slice_unref(slices[i]);
        }
        assert_int_equal(message_space_spare(space), MESSAGE_SPACE_SPARE);
    }
    message_space_free(space);
}

/* The core may hold slices longer than the server lives; the sanitizers see that none is lost. */
static void slices_may_be_given_back_last(void **state)
{
    (void)state;
    struct message_space *space = message_space_new();
    assert_non_null(space);
    grpc_slice slices[3];
    for (size_t i = 0; i < 3; i++)
        slices[i] = make(space, MESSAGE_SPACE_MOST, (uint8_t)i);
    grpc_slice_unref(slices[0]);
    message_space_free(space);
    for (size_t i = 1; i < 3; i++) {
        assert_int_equal(GRPC_SLICE_START_PTR(slices[i])[0], i);
        grpc_slice_unref(slices[i]);
    }
    message_space_free(NULL);
}

enum { THREADS = 4, TURNS = 500 };

/* One thread, which writes its number into all that it gets. */
struct user {
    struct message_space *space;
    uint8_t number;
};

static void *use(void *argument)
{
    const struct user *user = argument;
    size_t changed = 0;
    for (size_t turn = 0; turn < TURNS; turn++) {
        grpc_slice slices[MESSAGE_SPACE_SPARE / 2];
        size_t count = 1 + turn % (MESSAGE_SPACE_SPARE / 2);
        for (size_t i = 0; i < count; i++) {
            if (!message_space_make(user->space, MESSAGE_SPACE_LEAST, &slices[i]))
                return NULL;
            memset(GRPC_SLICE_START_PTR(slices[i]), user->number, MESSAGE_SPACE_LEAST);
        }
        for (size_t i = 0; i < count; i++) {
            changed += GRPC_SLICE_START_PTR(slices[i])[turn] != user->number;
            grpc_slice_unref(slices[i]);
        }
    }
    return changed == 0 ? argument : NULL;
}

static void threads_share_none_at_once(void **state)
{
    (void)state;
    struct message_space *space = message_space_new();
    assert_non_null(space);
    pthread_t threads[THREADS];
    struct user users[THREADS];
    for (size_t i = 0; i < THREADS; i++) {
        users[i] = (struct user){space, (uint8_t)i};
        assert_int_equal(pthread_create(&threads[i], NULL, use, &users[i]), 0);
    }
    for (size_t i = 0; i < THREADS; i++) {
        void *result;
        assert_int_equal(pthread_join(threads[i], &result), 0);
        assert_ptr_equal(result, &users[i]);
    }
    assert_in_range(message_space_spare(space), MESSAGE_SPACE_SPARE / 2, MESSAGE_SPACE_SPARE);
    message_space_free(space);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(large_ones_are_kept),
        cmocka_unit_test(others_are_the_allocators),
        cmocka_unit_test(no_more_are_kept_than_the_bound),
        cmocka_unit_test(slices_may_be_given_back_last),
        cmocka_unit_test(threads_share_none_at_once),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
