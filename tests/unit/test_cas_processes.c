/* SPDX-License-Identifier: Apache-2.0 */
/* One CAS and several processes: writers that take turns, readers beside them, and kills. */
#include <errno.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>

#include "store/cas_private.h"
#include "store_blobs.h"

enum { QUOTA = 16 * MIB, BLOB = 5000 };

/* What a process is told to do; it answers with a number. */
enum order {
    OPEN_WRITER, /* a code of err.h */
    OPEN_READER,
    PUT,        /* blob NUMBER; a code */
    GET,        /* likewise */
    FIND,       /* whether it is there */
    IS_WRITING, /* 0, or 1 if the reason names process NUMBER, else 2 */
    IS_REBUILT,
    PUT_MANY, /* from NUMBER on until it is killed; no answer: see acknowledged */
    CLOSE,
};

struct command {
    enum order order;
    uint64_t number;
};

struct process {
    pid_t pid;
    int to;
    int from;
};

/* How many blobs have been put by PUT_MANY; shared by all processes. */
static _Atomic uint64_t *acknowledged;

static int is_writing(struct cas *cas, uint64_t pid)
{
    struct err err;
    char text[32];
    if (cas_is_writing(cas, &err) == 0)
        return 0;
    (void)snprintf(text, sizeof(text), "process %llu ", (unsigned long long)pid);
    return err.code == ERR_UNAVAILABLE && strstr(err.msg, text) != NULL ? 1 : 2;
}

static int carry_out(const struct store *store, struct cas **cas, const struct command *command)
{
    struct digest digest;
    struct err err = {.code = ERR_OK};
    struct cas_options options = {.path = store->scratch.path, .quota = QUOTA};
    switch (command->order) {
    case OPEN_WRITER:
        options.may_write = true;
        return -cas_open(&options, cas, &err);
    case OPEN_READER:
        return -cas_open(&options, cas, &err);
    case PUT:
        return (int)put_blob(*cas, NULL, BLOB, command->number, &digest);
    case GET:
        return (int)get_blob(*cas, BLOB, command->number);
    case FIND:
        free(make_blob(BLOB, command->number, &digest));
        return is_there(*cas, &digest);
    case IS_WRITING:
        return is_writing(*cas, command->number);
    case IS_REBUILT:
        return atomic_load(&(*cas)->shared.header->rebuilding) == CAS_REBUILT;
    case PUT_MANY:
        for (uint64_t i = command->number;; i++)
            if (put_blob(*cas, NULL, BLOB, i, &digest) == ERR_OK)
                atomic_store(acknowledged, i + 1);
    case CLOSE:
        cas_close(*cas);
        *cas = NULL;
        return 0;
    }
    return -1;
}

static void serve(const struct store *store, int from, int to)
{
    struct cas *cas = NULL;
    struct command command;
    while (read(from, &command, sizeof(command)) == (ssize_t)sizeof(command)) {
        int answer = carry_out(store, &cas, &command);
        if (write(to, &answer, sizeof(answer)) != (ssize_t)sizeof(answer))
            break;
    }
    _exit(0);
}

static void start(const struct store *store, struct process *process)
{
    int to[2];
    int from[2];
    assert_int_equal(pipe2(to, O_CLOEXEC), 0);
    assert_int_equal(pipe2(from, O_CLOEXEC), 0);
    process->pid = fork();
    assert_true(process->pid >= 0);
    if (process->pid == 0) {
        /* A test that fails leaves none behind. */
        (void)prctl(PR_SET_PDEATHSIG, SIGKILL);
        (void)close(to[1]);
        (void)close(from[0]);
        serve(store, to[0], from[1]);
    }
    (void)close(to[0]);
    (void)close(from[1]);
    process->to = to[1];
    process->from = from[0];
}

static void tell(const struct process *process, enum order order, uint64_t number)
{
    const struct command command = {order, number};
    assert_int_equal(write(process->to, &command, sizeof(command)), sizeof(command));
}

static int ask(const struct process *process, enum order order, uint64_t number)
{
    int answer;
    tell(process, order, number);
    assert_int_equal(read(process->from, &answer, sizeof(answer)), sizeof(answer));
    return answer;
}

static void end(struct process *process)
{
    (void)kill(process->pid, SIGKILL);
    assert_int_equal(waitpid(process->pid, NULL, 0), process->pid);
    (void)close(process->to);
    (void)close(process->from);
}

static void wait_for_turn(const struct process *process)
{
    while (ask(process, IS_WRITING, 0) != 0)
        (void)usleep(1000);
}

static void test_a_writer_and_readers_in_any_order(void **state)
{
    struct store *store = *state;
    for (int writer = 0; writer < 3; writer++) {
        struct process processes[3];
        char path[PATH_MAX];
        for (int i = 0; i < 3; i++) {
            start(store, &processes[i]);
            assert_int_equal(ask(&processes[i], i == writer ? OPEN_WRITER : OPEN_READER, 0), 0);
        }
        assert_int_equal(ask(&processes[writer], IS_WRITING, 0), 0);
        for (uint64_t number = 0; number < 50; number++)
            assert_int_equal(ask(&processes[writer], PUT, number), ERR_OK);
        for (int i = 0; i < 3; i++) {
            for (uint64_t number = 0; number < 50; number++)
                assert_int_equal(ask(&processes[i], GET, number), ERR_OK);
            assert_int_equal(ask(&processes[i], FIND, 50), 0);
            if (i == writer)
                continue;
            assert_int_equal(ask(&processes[i], PUT, 50), ERR_UNAVAILABLE);
            assert_int_equal(ask(&processes[i], IS_WRITING, (uint64_t)processes[writer].pid), 1);
        }
        /* In the order of their start, and without the one that a kill has taken. */
        end(&processes[(writer + 1) % 3]);
        assert_int_equal(ask(&processes[writer], PUT, 50), ERR_OK);
        assert_int_equal(ask(&processes[writer], CLOSE, 0), 0);
        assert_int_equal(ask(&processes[(writer + 2) % 3], GET, 50), ERR_OK);
        end(&processes[writer]);
        end(&processes[(writer + 2) % 3]);
        scratch_remove(scratch_path(&store->scratch, "cas", path));
    }
}

/* The second of two that may write takes over when the first has ended, which KILLED says how. */
static void expect_turn(struct store *store, bool killed)
{
    struct process first;
    struct process second;
    struct process reader;
    start(store, &first);
    start(store, &second);
    start(store, &reader);
    assert_int_equal(ask(&first, OPEN_WRITER, 0), 0);
    assert_int_equal(ask(&second, OPEN_WRITER, 0), 0);
    assert_int_equal(ask(&reader, OPEN_READER, 0), 0);
    for (uint64_t number = 0; number < 50; number++)
        assert_int_equal(ask(&first, PUT, number), ERR_OK);
    assert_int_equal(ask(&second, IS_WRITING, (uint64_t)first.pid), 1);
    assert_int_equal(ask(&second, PUT, 100), ERR_UNAVAILABLE);
    assert_int_equal(ask(&second, GET, 49), ERR_OK);
    if (!killed)
        assert_int_equal(ask(&first, CLOSE, 0), 0);
    end(&first);
    wait_for_turn(&second);
    for (uint64_t number = 50; number < 100; number++)
        assert_int_equal(ask(&second, PUT, number), ERR_OK);
    for (uint64_t number = 0; number < 100; number++) {
        assert_int_equal(ask(&second, GET, number), ERR_OK);
        assert_int_equal(ask(&reader, GET, number), ERR_OK);
    }
    assert_int_equal(ask(&reader, IS_WRITING, (uint64_t)second.pid), 1);
    /* And in its turn it is followed by one that starts now. */
    start(store, &first);
    end(&second);
    assert_int_equal(ask(&first, OPEN_WRITER, 0), 0);
    wait_for_turn(&first);
    for (uint64_t number = 0; number < 100; number++)
        assert_int_equal(ask(&first, GET, number), ERR_OK);
    assert_int_equal(ask(&first, PUT, 100), ERR_OK);
    assert_int_equal(ask(&reader, GET, 100), ERR_OK);
    end(&reader);
    end(&first);
}

static void test_the_second_writer_takes_over_after_a_kill(void **state)
{
    expect_turn(*state, true);
}

static void test_the_second_writer_takes_over_after_an_end(void **state)
{
    expect_turn(*state, false);
}

static void test_writers_that_are_killed_at_any_time(void **state)
{
    enum { ROUNDS = 8 };
    struct store *store = *state;
    struct process reader;
    struct process writers[2];
    start(store, &reader);
    assert_int_equal(ask(&reader, OPEN_READER, 0), 0);
    atomic_store(acknowledged, 0);
    for (int i = 0; i < 2; i++) {
        start(store, &writers[i]);
        assert_int_equal(ask(&writers[i], OPEN_WRITER, 0), 0);
    }
    wait_for_turn(&writers[0]);
    for (int round = 0; round < ROUNDS; round++) {
        struct process *writer = &writers[round % 2];
        uint64_t first = atomic_load(acknowledged);
        tell(writer, PUT_MANY, first);
        while (atomic_load(acknowledged) < first + 20 + (uint64_t)round * 17)
            (void)usleep(100);
        end(writer);
        uint64_t last = atomic_load(acknowledged);
        for (uint64_t number = first; number < last; number++)
            assert_int_equal(ask(&reader, GET, number), ERR_OK);
        wait_for_turn(&writers[(round + 1) % 2]);
        start(store, writer);
        assert_int_equal(ask(writer, OPEN_WRITER, 0), 0);
    }
    end(&writers[0]);
    end(&writers[1]);
    end(&reader);
    uint64_t count = atomic_load(acknowledged);
    store_open(store, QUOTA);
    assert_in_range(stats_of(store->cas).blobs, count, count + 2 * ROUNDS);
    for (uint64_t number = 0; number < count; number++)
        assert_int_equal(get_blob(store->cas, BLOB, number), ERR_OK);
}

static void test_a_reader_rebuilds_where_nobody_writes(void **state)
{
    struct store *store = *state;
    struct process writer;
    struct process reader;
    char path[PATH_MAX];
    start(store, &writer);
    assert_int_equal(ask(&writer, OPEN_WRITER, 0), 0);
    for (uint64_t number = 0; number < 50; number++)
        assert_int_equal(ask(&writer, PUT, number), ERR_OK);
    end(&writer);
    assert_int_equal(unlink(scratch_path(&store->scratch, "cas/shared", path)), 0);
    start(store, &reader);
    assert_int_equal(ask(&reader, OPEN_READER, 0), 0);
    while (ask(&reader, IS_REBUILT, 0) == 0)
        (void)usleep(1000);
    for (uint64_t number = 0; number < 50; number++)
        assert_int_equal(ask(&reader, GET, number), ERR_OK);
    /* It leaves the turn to who may write, who finds all of it as well. */
    start(store, &writer);
    assert_int_equal(ask(&writer, OPEN_WRITER, 0), 0);
    wait_for_turn(&writer);
    assert_int_equal(ask(&writer, PUT, 50), ERR_OK);
    for (uint64_t number = 0; number < 51; number++) {
        assert_int_equal(ask(&writer, GET, number), ERR_OK);
        assert_int_equal(ask(&reader, GET, number), ERR_OK);
    }
    end(&writer);
    end(&reader);
}

static void test_who_comes_while_another_sets_up_waits_for_it(void **state)
{
    struct store *store = *state;
    struct store_directory directory;
    struct process reader;
    struct err err;
    const struct store_kind kind = {.name = "cas", .version = 2, .oldest = 2};
    assert_int_equal(store_directory_open(store->scratch.path, &kind, &directory, &err), 0);
    assert_int_equal(store_directory_lock(&directory, &err), 0);
    /* In this process a second opening is another one. */
    struct cas *cas;
    const struct cas_options options = {.path = store->scratch.path, .quota = QUOTA};
    assert_int_equal(cas_open(&options, &cas, &err), -ERR_UNAVAILABLE);
    assert_non_null(strstr(err.msg, "not set up"));
    assert_non_null(strstr(err.msg, "in use"));
    start(store, &reader);
    tell(&reader, OPEN_READER, 0);
    (void)usleep(50 * 1000);
    int answer;
    /* The child must not have the lock: it has not opened the directory before. */
    store_directory_unlock(&directory);
    store_directory_close(&directory);
    assert_int_equal(read(reader.from, &answer, sizeof(answer)), sizeof(answer));
    assert_int_equal(answer, 0);
    end(&reader);
}

static int group_setup(void **state)
{
    (void)state;
    acknowledged = mmap(NULL, sizeof(*acknowledged), PROT_READ | PROT_WRITE,
                        MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    return acknowledged == MAP_FAILED ? -1 : 0;
}

static int group_teardown(void **state)
{
    (void)state;
    return munmap((void *)acknowledged, sizeof(*acknowledged));
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, store_setup, store_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_a_writer_and_readers_in_any_order),
        TEST(test_the_second_writer_takes_over_after_a_kill),
        TEST(test_the_second_writer_takes_over_after_an_end),
        TEST(test_writers_that_are_killed_at_any_time),
        TEST(test_a_reader_rebuilds_where_nobody_writes),
        TEST(test_who_comes_while_another_sets_up_waits_for_it),
    };
    return cmocka_run_group_tests(tests, group_setup, group_teardown);
}
