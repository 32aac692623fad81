/* SPDX-License-Identifier: Apache-2.0 */
/* Checks that are started, shared, answered and cancelled by many threads. */
#include "remote_site.h"

enum { TREES = 12, USERS = 4, ROUNDS = 400, WINDOW = 24, INQUIRIES = ROUNDS / 8 };

struct user {
    pthread_t thread;
    unsigned seed;
    const struct digest *roots;
    struct asked asked[WINDOW];
    size_t counts[ERR_CODES];
    struct remote_capabilities inquiries[INQUIRIES];
    atomic_size_t learned; /* of the inquiries */
};

static struct user users[USERS];

static void on_learned(struct remote_capabilities *inquiry, struct span message,
                       const struct err *err)
{
    (void)err;
    assert(message.data == NULL || message.size == 4);
    for (struct user *user = users; user < users + USERS; user++)
        if (inquiry >= user->inquiries && inquiry < user->inquiries + INQUIRIES)
            atomic_fetch_add(&user->learned, 1);
}

static void await(struct asked *asked)
{
    while (atomic_load(&asked->told) == 0)
        (void)usleep(50);
    assert(atomic_load(&asked->told) == 1);
}

/* Has some checks under way, of which it cancels some, and forgets each once it is told. */
static void *use(void *argument)
{
    struct user *user = argument;
    for (size_t i = 0; i < ROUNDS; i++) {
        struct asked *asked = &user->asked[i % WINDOW];
        if (i >= WINDOW) {
            await(asked);
            user->counts[asked->err.code]++;
            memset(asked, 0xAA, sizeof(*asked));
        }
        const struct digest *root = &user->roots[(unsigned)rand_r(&user->seed) % TREES];
        start(asked, root, true, (unsigned)rand_r(&user->seed) % 8 == 0);
        if (rand_r(&user->seed) % 4 == 0)
            cancel(&user->asked[(unsigned)rand_r(&user->seed) % (i < WINDOW ? i + 1 : WINDOW)]);
        (void)trusts(root, true);
        if (rand_r(&user->seed) % 64 == 0)
            fake_fail_next(3);
        if (rand_r(&user->seed) % 16 == 0)
            atomic_fetch_add(&fake_time, i % 32 == 0 ? REMOTE_CAPABILITIES_AGE : 400);
        if (i % 8 == 0) {
            struct remote_capabilities *inquiry = &user->inquiries[i / 8];
            *inquiry = (struct remote_capabilities){.cas = cas, .done = on_learned};
            remote_capabilities_start(inquiry);
        }
    }
    for (size_t i = 0; i < WINDOW; i++)
        await(&user->asked[i]);
    while (atomic_load(&user->learned) < INQUIRIES)
        (void)usleep(50);
    return NULL;
}

static void test_many_threads(void **state)
{
    (void)state;
    struct digest roots[TREES];
    size_t counts[ERR_CODES] = {0};
    for (size_t i = 0; i < TREES; i++)
        roots[i] = put_chain(i * 100, 1 + i % 4, 4);
    struct digest file = digest_of(100, 100);
    fake_remove(&file);
    roots[TREES - 1] = put_directory(5000, 14000); /* a large one */
    reopen(1000);
    fake.delay = 200;
    fake.capabilities = "able";
    fake_answer_when(FAKE_ON_THREADS);
    for (unsigned i = 0; i < USERS; i++) {
        users[i].seed = i + 1;
        users[i].roots = roots;
        assert_int_equal(pthread_create(&users[i].thread, NULL, use, &users[i]), 0);
    }
    for (size_t i = 0; i < USERS; i++) {
        assert_int_equal(pthread_join(users[i].thread, NULL), 0);
        for (size_t k = 0; k < ERR_CODES; k++)
            counts[k] += users[i].counts[k];
    }
    assert_int_equal(counts[ERR_OK] + counts[ERR_PRECONDITION] + counts[ERR_UNAVAILABLE] +
                         counts[ERR_CANCELLED],
                     USERS * (ROUNDS - WINDOW));
    assert_true(counts[ERR_OK] > 0 && counts[ERR_PRECONDITION] > 0 && counts[ERR_CANCELLED] > 0);
    assert_true(fake.most_large <= 1);
}

/* --- cancelling beside the start --- */

static void *cancel_all(void *argument)
{
    struct asked *asked = argument;
    for (size_t i = 0; i < ROUNDS; i++) {
        cancel(&asked[i]);
        /* Now and then the other is ahead. */
        if (i % 16 == 0)
            (void)usleep(100);
    }
    return NULL;
}

static void test_cancelling_while_it_starts(void **state)
{
    (void)state;
    static struct asked asked[ROUNDS];
    struct digest roots[TREES];
    pthread_t thread;
    for (size_t i = 0; i < TREES; i++)
        roots[i] = put_chain(i * 100, 3, 4);
    for (size_t i = 0; i < ROUNDS; i++) {
        prepare(&asked[i], &asked[i].list, 1);
        asked[i].list = (struct tree_list){&roots[i % TREES], 1, true};
        asked[i].check.is_fresh = i % 2 == 0;
    }
    fake_answer_when(FAKE_ON_THREADS);
    assert_int_equal(pthread_create(&thread, NULL, cancel_all, asked), 0);
    for (size_t i = 0; i < ROUNDS; i++)
        remote_check_start(&asked[i].check);
    assert_int_equal(pthread_join(thread, NULL), 0);
    /* Every one was cancelled, before or after it started, unless it was told first. */
    for (size_t i = 0; i < ROUNDS; i++) {
        await(&asked[i]);
        assert_told(&asked[i], asked[i].err.code == ERR_OK ? ERR_OK : ERR_CANCELLED);
    }
}

/* --- closing beside the start --- */

static void *start_prepared(void *argument)
{
    struct asked *asked = argument;
    remote_check_start(&asked->check);
    return NULL;
}

/* Who is told on one thread may close it while another has not returned from the start. */
static void test_closing_while_the_start_returns(void **state)
{
    enum { TIMES = 20 };
    (void)state;
    struct digest root = put_chain(1, 3, 4);
    for (unsigned time = 0; time < TIMES; time++) {
        struct asked asked;
        pthread_t thread;
        size_t before = fake_calls(FAKE_READ);
        prepare(&asked, &asked.list, 1);
        asked.list = (struct tree_list){&root, 1, true};
        fake.linger = 2000;
        assert_int_equal(pthread_create(&thread, NULL, start_prepared, &asked), 0);
        while (fake_calls(FAKE_READ) == before)
            (void)usleep(50);
        cancel(&asked);
        assert_told(&asked, ERR_CANCELLED);
        remote_cas_close(cas);
        assert_int_equal(pthread_join(thread, NULL), 0);
        fake.linger = 0;
        open_cas(TRUST);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_many_threads),
        TEST(test_cancelling_while_it_starts),
        TEST(test_closing_while_the_start_returns),
    };
    log_set_level(LOG_LEVEL_ERROR);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
