/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The asset index in several processes: a test tells its children what to do, one by one, and kills
 * them. It has no index open itself.
 */
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "base/log.h"
#include "index_site.h"
#include "store/asset_db.h"
#include "store/asset_file.h"
#include "store/asset_record.h"
#include "store/asset_shared.h"
#include "store/asset_uses.h"
#include "store/directory.h"

/* --- what a child does --- */

enum act {
    OPEN_TO_READ, /* NUMBER: quota */
    OPEN_TO_WRITE,
    OPEN_TO_WRITE_AT_ONCE,
    CLOSE,
    FILL, /* NUMBER up to END */
    PUT,
    PUT_UNTIL_EVICTED, /* from NUMBER on, until END were evicted; the value is the next number */
    HAS,
    TOUCH,
    IS_WRITING,
    COUNT_EXPIRED,
    BEGIN_SNAPSHOT, /* with the database alone; NUMBER: quota */
    CHECK_SNAPSHOT, /* the value is the number of assets, read one by one */
    END_SNAPSHOT,
};

struct order {
    enum act act;
    uint64_t number;
    uint64_t end;
    int64_t clock;
    int64_t expire_after;
};

struct outcome {
    int code; /* of an error; ERR_OK */
    uint64_t value;
    char msg[ERR_MESSAGE_SIZE];
};

struct snapshot {
    struct store_directory directory;
    struct asset_shared shared;
    struct asset_db *db;
    struct MDB_txn *txn;
};

/* A write whose outcome is waited for. */
struct put {
    struct asset_write write; /* first */
    struct outcome *outcome;
    sem_t done;
};

static void on_put(struct asset_write *write, const struct err *err)
{
    struct put *put = (struct put *)write;
    if (err != NULL) {
        put->outcome->code = (int)err->code;
        (void)snprintf(put->outcome->msg, sizeof(put->outcome->msg), "%s", err->msg);
    }
    (void)sem_post(&put->done);
}

static void put_number(struct asset_index *index, uint64_t number, struct outcome *outcome)
{
    char text[64];
    struct asset_key key = site_numbered_key(text, number);
    struct asset asset = site_asset(number);
    struct put put = {.outcome = outcome};
    put.write = (struct asset_write){.keys = &key, .key_count = 1, .asset = &asset, .done = on_put};
    (void)sem_init(&put.done, 0, 0);
    asset_index_write(index, &put.write);
    while (sem_wait(&put.done) != 0)
        continue;
    (void)sem_destroy(&put.done);
}

static void has(struct site *site, uint64_t number, struct outcome *outcome)
{
    char text[64];
    struct asset_key key = site_numbered_key(text, number);
    struct asset asset;
    int rc = site_get(site, &key, &asset);
    outcome->value = rc == 0;
    if (rc == 0 && asset.content.size != (int64_t)number)
        outcome->code = ERR_DATA_LOSS;
    else if (rc != 0 && rc != -ERR_NOT_FOUND)
        outcome->code = -rc;
}

static void put_until_evicted(struct site *site, const struct order *order, struct outcome *outcome)
{
    uint64_t number = order->number;
    while (outcome->code == ERR_OK && site_stats(site).evicted < order->end)
        put_number(site->index, number++, outcome);
    outcome->value = number;
}

static int begin_snapshot(struct site *site, struct snapshot *snapshot, uint64_t quota)
{
    static const struct store_kind kind = {"index", ASSET_FORMAT, ASSET_FORMAT};
    if (snapshot->db != NULL)
        return asset_db_read_begin(snapshot->db, &snapshot->txn, &site->err);
    int rc = store_directory_open(site->scratch.path, &kind, &snapshot->directory, &site->err);
    if (rc == 0)
        rc = asset_shared_open(&snapshot->directory, &snapshot->shared, &site->err);
    if (rc == 0)
        rc = asset_db_open(&snapshot->directory, &snapshot->shared, (int64_t)quota, false,
                           &snapshot->db, &site->err);
    return rc == 0 ? asset_db_read_begin(snapshot->db, &snapshot->txn, &site->err) : rc;
}

/* Every row leads to a record that is whole. */
static int check_snapshot(struct snapshot *snapshot, uint64_t *count)
{
    struct span key;
    struct span value;
    uint8_t hash[ASSET_HASH_SIZE];
    int rc = asset_env_first(snapshot->txn, ASSET_ROWS, &key, &value);
    for (*count = 0; rc == 0; ++*count) {
        struct asset_row row;
        struct arena arena;
        struct asset asset;
        struct asset_key asset_key;
        struct err err;
        struct span record;
        uint8_t number[8];
        if (key.size != sizeof(hash) || !asset_row_unpack(value, &row))
            return ERR_DATA_LOSS;
        for (int i = 0; i < 8; i++)
            number[i] = (uint8_t)(row.record >> (8 * (7 - i)));
        rc = asset_env_get(snapshot->txn, ASSET_RECORDS, (struct span){number, 8}, &record);
        if (rc != 0)
            return ERR_DATA_LOSS;
        arena_init(&arena);
        rc = asset_record_unpack(record, NULL, &arena, &asset_key, &asset, &err);
        arena_fini(&arena);
        if (rc != 0)
            return ERR_DATA_LOSS;
        memcpy(hash, key.data, sizeof(hash));
        key.data = hash;
        rc = asset_env_next(snapshot->txn, ASSET_ROWS, &key, &value);
    }
    return rc == ASSET_ENV_NOT_FOUND ? ERR_OK : ERR_IO;
}

static void open_index(struct site *site, const struct order *order, struct outcome *outcome)
{
    struct asset_index_options options = {.path = site->scratch.path,
                                          .quota = (int64_t)order->number,
                                          .expire_after = order->expire_after,
                                          .now = site_now,
                                          .may_write = order->act != OPEN_TO_READ,
                                          .writes_at_once = order->act == OPEN_TO_WRITE_AT_ONCE};
    outcome->code = -asset_index_open(&options, &site->index, &site->err);
    (void)snprintf(outcome->msg, sizeof(outcome->msg), "%s",
                   outcome->code != 0 ? site->err.msg : "");
}

static void act_on(struct site *site, struct snapshot *snapshot, const struct order *order,
                   struct outcome *outcome)
{
    switch (order->act) {
    case OPEN_TO_READ:
    case OPEN_TO_WRITE:
    case OPEN_TO_WRITE_AT_ONCE:
        open_index(site, order, outcome);
        break;
    case CLOSE:
        site_close(site);
        break;
    case FILL:
        site_fill(site, order->number, order->end);
        break;
    case PUT:
        put_number(site->index, order->number, outcome);
        break;
    case PUT_UNTIL_EVICTED:
        put_until_evicted(site, order, outcome);
        break;
    case HAS:
        has(site, order->number, outcome);
        break;
    case TOUCH:
        site_touch(site, order->number);
        break;
    case IS_WRITING:
        outcome->value = asset_index_is_writing(site->index, &site->err) == 0;
        if (outcome->value == 0)
            (void)snprintf(outcome->msg, sizeof(outcome->msg), "%s", site->err.msg);
        break;
    case COUNT_EXPIRED:
        outcome->value = site_stats(site).expired;
        break;
    case BEGIN_SNAPSHOT:
        outcome->code = -begin_snapshot(site, snapshot, order->number);
        break;
    case CHECK_SNAPSHOT:
        outcome->code = check_snapshot(snapshot, &outcome->value);
        break;
    case END_SNAPSHOT:
        asset_db_read_end(snapshot->db, snapshot->txn);
        break;
    }
}

static _Noreturn void obey(struct site *site, int fd)
{
    struct snapshot snapshot = {.db = NULL};
    struct order order;
    while (read(fd, &order, sizeof(order)) == (ssize_t)sizeof(order)) {
        struct outcome outcome = {.code = ERR_OK};
        atomic_store(&site_clock, order.clock);
        act_on(site, &snapshot, &order, &outcome);
        if (write(fd, &outcome, sizeof(outcome)) != (ssize_t)sizeof(outcome))
            break;
    }
    site_close(site);
    _exit(0);
}

/* --- what a test tells it --- */

struct child {
    pid_t pid;
    int fd;
};

static struct child start(struct site *site)
{
    struct child child;
    int fds[2];
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds), 0);
    child.pid = fork();
    assert_true(child.pid >= 0);
    if (child.pid == 0) {
        (void)prctl(PR_SET_PDEATHSIG, SIGKILL);
        (void)close(fds[0]);
        obey(site, fds[1]);
    }
    (void)close(fds[1]);
    child.fd = fds[0];
    return child;
}

static struct outcome tell_all(struct child *child, struct order order)
{
    struct outcome outcome;
    order.clock = site_now();
    assert_int_equal(write(child->fd, &order, sizeof(order)), sizeof(order));
    struct pollfd answer = {.fd = child->fd, .events = POLLIN};
    assert_int_equal(poll(&answer, 1, 120 * 1000), 1); /* nobody blocks */
    assert_int_equal(read(child->fd, &outcome, sizeof(outcome)), sizeof(outcome));
    return outcome;
}

/* What must work. */
static uint64_t tell(struct child *child, enum act act, uint64_t number)
{
    struct outcome outcome = tell_all(child, (struct order){.act = act, .number = number});
    if (outcome.code != ERR_OK)
        fail_msg("act %d, %llu: %s %s", (int)act, (unsigned long long)number,
                 err_name((enum err_code)outcome.code), outcome.msg);
    return outcome.value;
}

static uint64_t tell_range(struct child *child, enum act act, uint64_t number, uint64_t end)
{
    struct outcome outcome =
        tell_all(child, (struct order){.act = act, .number = number, .end = end});
    if (outcome.code != ERR_OK)
        fail_msg("%s", outcome.msg);
    return outcome.value;
}

static void end(struct child *child)
{
    int status;
    (void)shutdown(child->fd, SHUT_WR); /* not close: those started later have it open */
    assert_int_equal(waitpid(child->pid, &status, 0), child->pid);
    (void)close(child->fd);
    assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

static void kill_now(struct child *child)
{
    int status;
    assert_int_equal(kill(child->pid, SIGKILL), 0);
    assert_int_equal(waitpid(child->pid, &status, 0), child->pid);
    assert_true(WIFSIGNALED(status));
    (void)close(child->fd);
}

static void pause_for_turn(void)
{
    struct timespec pause = {.tv_nsec = 20 * 1000 * 1000};
    (void)nanosleep(&pause, NULL);
}

static void wait_until_writing(struct child *child)
{
    for (int i = 0; tell(child, IS_WRITING, 0) == 0; i++) {
        assert_true(i < 3000);
        pause_for_turn();
    }
}

/* --- reading beside a writer --- */

static void test_a_reader_before_the_writer(void **state)
{
    struct site *site = *state;
    struct child reader = start(site);
    struct child writer = start(site);
    (void)tell(&reader, OPEN_TO_READ, 4 * MIB);
    assert_int_equal(tell(&reader, HAS, 1), 0);
    assert_int_equal(tell(&reader, IS_WRITING, 0), 0);
    (void)tell(&writer, OPEN_TO_WRITE, 4 * MIB);
    assert_int_equal(tell(&writer, IS_WRITING, 0), 1);
    (void)tell(&writer, PUT, 1);
    assert_int_equal(tell(&reader, HAS, 1), 1);
    end(&writer);
    assert_int_equal(tell(&reader, HAS, 1), 1);
    end(&reader);
}

static void test_what_is_acknowledged_is_found_at_once(void **state)
{
    struct site *site = *state;
    struct child writer = start(site);
    struct child readers[2] = {start(site), start(site)};
    (void)tell(&writer, OPEN_TO_WRITE, 4 * MIB);
    (void)tell(&writer, PUT, 0);
    for (int i = 0; i < 2; i++)
        (void)tell(&readers[i], OPEN_TO_READ, 4 * MIB);
    for (uint64_t i = 0; i < 200; i++) {
        (void)tell(&writer, PUT, i);
        for (int j = 0; j < 2; j++)
            assert_int_equal(tell(&readers[j], HAS, i), 1);
    }
    struct outcome refused = tell_all(&readers[0], (struct order){.act = PUT, .number = 1000});
    char pid[32];
    (void)snprintf(pid, sizeof(pid), "process %d", (int)writer.pid);
    assert_int_equal(refused.code, ERR_UNAVAILABLE);
    assert_non_null(strstr(refused.msg, pid));
    assert_int_equal(tell(&writer, HAS, 1000), 0);
    end(&writer);
    end(&readers[0]);
    end(&readers[1]);
}

static void test_a_writer_with_a_larger_quota(void **state)
{
    struct site *site = *state;
    struct child reader = start(site);
    struct child writer = start(site);
    (void)tell(&reader, OPEN_TO_READ, MIB);
    assert_int_equal(tell(&reader, HAS, 1), 0);
    (void)tell(&writer, OPEN_TO_WRITE, 16 * MIB);
    (void)tell_range(&writer, FILL, 0, 20000);
    assert_true(site_file_size(site) > 4 * MIB);
    for (uint64_t i = 0; i < 20000; i += 1000)
        assert_int_equal(tell(&reader, HAS, i), 1);
    end(&writer);
    end(&reader);
}

/* --- uses --- */

enum { COUNT = 1500, USED = 100 };

/* Evicts half of the assets, of which each third of the first was used, and looks what is left. */
static void check_that_used_stay(struct child *writer, struct child *reader)
{
    (void)tell_range(writer, PUT_UNTIL_EVICTED, COUNT, COUNT / 2);
    for (uint64_t i = 0; i < 3 * USED; i++) {
        assert_int_equal(tell(writer, HAS, i), i % 3 == 0);
        assert_int_equal(tell(reader, HAS, i), i % 3 == 0);
    }
}

static void test_what_a_reader_used_is_not_evicted(void **state)
{
    struct site *site = *state;
    struct child writer = start(site);
    struct child reader = start(site);
    (void)tell(&writer, OPEN_TO_WRITE, MIB);
    (void)tell_range(&writer, FILL, 0, COUNT);
    (void)tell(&reader, OPEN_TO_READ, MIB);
    for (uint64_t i = 0; i < USED; i++)
        (void)tell(&reader, TOUCH, 3 * i);
    check_that_used_stay(&writer, &reader);
    end(&reader);
    end(&writer);
}

static void test_uses_wait_for_a_writer(void **state)
{
    struct site *site = *state;
    struct child writer = start(site);
    struct child reader = start(site);
    (void)tell(&writer, OPEN_TO_WRITE, MIB);
    (void)tell_range(&writer, FILL, 0, COUNT);
    kill_now(&writer);
    (void)tell(&reader, OPEN_TO_READ, MIB);
    for (uint64_t i = 0; i < USED; i++)
        (void)tell(&reader, TOUCH, 3 * i);
    kill_now(&reader);
    writer = start(site);
    reader = start(site);
    (void)tell(&writer, OPEN_TO_WRITE, MIB);
    (void)tell(&reader, OPEN_TO_READ, MIB);
    check_that_used_stay(&writer, &reader);
    end(&reader);
    end(&writer);
}

static void test_what_a_reader_used_does_not_expire(void **state)
{
    struct site *site = *state;
    struct child writer = start(site);
    struct child reader = start(site);
    struct order open_writer = {.act = OPEN_TO_WRITE, .number = MIB, .expire_after = HOUR};
    struct order open_reader = {.act = OPEN_TO_READ, .number = MIB, .expire_after = HOUR};
    assert_int_equal(tell_all(&writer, open_writer).code, ERR_OK);
    assert_int_equal(tell_all(&reader, open_reader).code, ERR_OK);
    (void)tell(&writer, PUT, 1);
    (void)tell(&writer, PUT, 2);
    atomic_fetch_add(&site_clock, HOUR - 1);
    (void)tell(&reader, TOUCH, 1);
    atomic_fetch_add(&site_clock, 1);
    assert_int_equal(tell(&reader, HAS, 1), 1);
    assert_int_equal(tell(&reader, HAS, 2), 0);
    (void)tell(&writer, PUT, 3); /* after the sweep */
    assert_int_equal(tell(&writer, COUNT_EXPIRED, 0), 1);
    assert_int_equal(tell(&writer, HAS, 1), 1);
    assert_int_equal(tell(&reader, HAS, 1), 1);
    end(&reader);
    end(&writer);
}

/* Uses of hashes that tell their time, from many threads; none may be taken that is none. */
struct user {
    pthread_t thread;
    struct asset_shared *shared;
    uint64_t number;
};

enum { USERS = 4, USES_EACH = 20000 };

static void make_hash(uint64_t number, uint8_t hash[ASSET_HASH_SIZE])
{
    for (unsigned i = 0; i < ASSET_HASH_SIZE / sizeof(number); i++)
        memcpy(hash + i * sizeof(number), &number, sizeof(number));
}

static void *use_all_the_time(void *argument)
{
    struct user *user = argument;
    for (uint64_t i = 1; i <= USES_EACH; i++) {
        uint8_t hash[ASSET_HASH_SIZE];
        uint64_t number = user->number * USES_EACH + i;
        make_hash(number, hash);
        asset_shared_use(user->shared, hash, (int64_t)number);
    }
    return NULL;
}

static size_t check_uses(struct asset_shared *shared, struct asset_uses *uses)
{
    static struct asset_use taken[ASSET_USES_MAX];
    asset_shared_take_uses(shared, uses);
    size_t count = asset_uses_copy(uses, taken);
    for (size_t i = 0; i < count; i++) {
        uint8_t hash[ASSET_HASH_SIZE];
        make_hash((uint64_t)taken[i].at, hash);
        assert_memory_equal(taken[i].hash, hash, sizeof(hash));
    }
    asset_uses_clear(uses);
    return count;
}

static void test_what_a_former_writer_told_counts_for_nobody(void **state)
{
    struct site *site = *state;
    static const struct store_kind kind = {"index", ASSET_FORMAT, ASSET_FORMAT};
    struct store_directory directory;
    struct asset_shared shared;
    const int self = getpid();
    assert_int_equal(store_directory_open(site->scratch.path, &kind, &directory, &site->err), 0);
    assert_int_equal(asset_shared_open(&directory, &shared, &site->err), 0);
    assert_int_equal(asset_shared_place(&shared, self), ASSET_PLACE_ANY);
    asset_shared_put_place(&shared, ASSET_PLACE_ELSEWHERE);
    assert_int_equal(asset_shared_place(&shared, self), ASSET_PLACE_ELSEWHERE);
    assert_int_equal(asset_shared_place(&shared, self + 1), ASSET_PLACE_ANY);
    asset_shared_put_place(&shared, ASSET_PLACE_HERE);
    assert_int_equal(asset_shared_place(&shared, self), ASSET_PLACE_HERE);
    asset_shared_close(&shared);
    store_directory_close(&directory);
}

static void test_uses_of_many(void **state)
{
    struct site *site = *state;
    static const struct store_kind kind = {"index", ASSET_FORMAT, ASSET_FORMAT};
    struct store_directory directory;
    struct asset_shared shared;
    struct asset_uses uses;
    struct user users[USERS];
    uint8_t hash[ASSET_HASH_SIZE];
    assert_int_equal(store_directory_open(site->scratch.path, &kind, &directory, &site->err), 0);
    assert_int_equal(asset_shared_open(&directory, &shared, &site->err), 0);
    assert_int_equal(asset_uses_init(&uses, &site->err), 0);
    for (unsigned i = 0; i < USERS; i++) {
        users[i] = (struct user){.shared = &shared, .number = i};
        assert_int_equal(pthread_create(&users[i].thread, NULL, use_all_the_time, &users[i]), 0);
    }
    for (int i = 0; i < 200; i++)
        (void)check_uses(&shared, &uses);
    for (int i = 0; i < USERS; i++)
        (void)pthread_join(users[i].thread, NULL);
    (void)check_uses(&shared, &uses);

    /* Nothing is taken twice, and of too many the last are there. */
    assert_int_equal(check_uses(&shared, &uses), 0);
    for (uint64_t i = 1; i <= ASSET_SHARED_USES + 10; i++) {
        make_hash(i, hash);
        asset_shared_use(&shared, hash, (int64_t)i);
    }
    asset_shared_take_uses(&shared, &uses);
    struct asset_use use;
    make_hash(10, hash);
    assert_false(asset_uses_find(&uses, hash, &use));
    make_hash(11, hash);
    assert_true(asset_uses_find(&uses, hash, &use));

    /* An older use of another process does not take the place of a later one. */
    asset_uses_clear(&uses);
    (void)asset_uses_add(&uses, hash, 20);
    asset_uses_merge(&uses, hash, 19);
    assert_true(asset_uses_find(&uses, hash, &use));
    assert_int_equal(use.at, 20);
    asset_uses_fini(&uses);
    asset_shared_close(&shared);
    store_directory_close(&directory);
}

/* --- who writes --- */

/* One that reads for long remembers the uses of late, however many there were before. */
static void test_a_reader_remembers_the_uses_of_late(void **state)
{
    const struct timespec pause = {.tv_sec = 1, .tv_nsec = 500 * 1000 * 1000};
    struct site *site = *state;
    struct child writer = start(site);
    struct order open_reader = {.act = OPEN_TO_READ, .number = MIB, .expire_after = HOUR};
    (void)tell(&writer, OPEN_TO_WRITE, MIB);
    (void)tell(&writer, PUT, 1);
    kill_now(&writer); /* so that nobody writes what is used */
    struct child reader = start(site);
    assert_int_equal(tell_all(&reader, open_reader).code, ERR_OK);
    atomic_fetch_add(&site_clock, HOUR - 1);
    for (uint64_t i = 0; i < ASSET_USES_MAX; i++)
        (void)tell(&reader, TOUCH, 2 + i);
    (void)nanosleep(&pause, NULL); /* it has looked at them since */
    (void)tell(&reader, TOUCH, 1);
    atomic_fetch_add(&site_clock, 1);
    assert_int_equal(tell(&reader, HAS, 1), 1);
    end(&reader);
}

static void test_a_waiting_process_takes_over(void **state)
{
    struct site *site = *state;
    struct child first = start(site);
    struct child second = start(site);
    struct child reader = start(site);
    char pid[32];
    (void)tell(&first, OPEN_TO_WRITE, 4 * MIB);
    (void)tell(&second, OPEN_TO_WRITE, 4 * MIB);
    (void)tell(&reader, OPEN_TO_READ, 4 * MIB);
    (void)tell_range(&first, FILL, 0, 1000);
    (void)snprintf(pid, sizeof(pid), "process %d", (int)first.pid);
    struct outcome refused = tell_all(&second, (struct order){.act = PUT, .number = 1000});
    assert_int_equal(refused.code, ERR_UNAVAILABLE);
    assert_non_null(strstr(refused.msg, pid));
    assert_int_equal(tell(&second, HAS, 999), 1);
    assert_int_equal(tell(&second, HAS, 1000), 0);
    kill_now(&first);
    assert_int_equal(tell(&second, HAS, 999), 1);
    wait_until_writing(&second);
    for (uint64_t i = 0; i < 1000; i += 37)
        assert_int_equal(tell(&second, HAS, i), 1);
    (void)tell(&second, PUT, 1000);
    assert_int_equal(tell(&reader, HAS, 1000), 1);
    assert_int_equal(tell(&reader, HAS, 0), 1);

    /* The other way round, after an orderly end. */
    first = start(site);
    (void)tell(&first, OPEN_TO_WRITE, 4 * MIB);
    assert_int_equal(tell(&first, IS_WRITING, 0), 0);
    end(&second);
    wait_until_writing(&first);
    (void)tell(&first, PUT, 1001);
    assert_int_equal(tell(&reader, HAS, 1001), 1);
    end(&reader);
    end(&first);
}

static void test_who_would_write_at_once_does_not_wait(void **state)
{
    struct site *site = *state;
    struct child writer = start(site);
    struct child other = start(site);
    char pid[32];
    (void)snprintf(pid, sizeof(pid), "process %d", (int)writer.pid);
    tell(&writer, OPEN_TO_WRITE, MIB);
    struct outcome outcome =
        tell_all(&other, (struct order){.act = OPEN_TO_WRITE_AT_ONCE, .number = MIB});
    assert_int_equal(outcome.code, ERR_UNAVAILABLE);
    assert_non_null(strstr(outcome.msg, pid));
    tell(&writer, PUT, 1);
    end(&writer);
    tell(&other, OPEN_TO_WRITE_AT_ONCE, MIB);
    assert_int_equal(tell(&other, HAS, 1), 1);
    tell(&other, PUT, 2);
    end(&other);
}

static void test_taking_over_with_a_smaller_quota(void **state)
{
    struct site *site = *state;
    struct child first = start(site);
    struct child second = start(site);
    struct child reader = start(site);
    (void)tell(&first, OPEN_TO_WRITE, 16 * MIB);
    (void)tell(&second, OPEN_TO_WRITE, 2 * MIB);
    (void)tell(&reader, OPEN_TO_READ, 16 * MIB);
    (void)tell_range(&first, FILL, 0, 20000);
    assert_int_equal(tell(&second, HAS, 19999), 1);
    kill_now(&first);
    wait_until_writing(&second);
    assert_true(site_file_size(site) <= 2 * MIB);
    assert_int_equal(tell(&second, HAS, 19999), 1);
    assert_int_equal(tell(&reader, HAS, 19999), 1);
    assert_int_equal(tell(&reader, HAS, 0), 0);
    (void)tell(&second, PUT, 20000);
    assert_int_equal(tell(&reader, HAS, 20000), 1);
    end(&reader);
    end(&second);
}

/* --- snapshots --- */

static void test_a_killed_reader_keeps_no_page(void **state)
{
    struct site *site = *state;
    struct child writer = start(site);
    struct child reader = start(site);
    (void)tell(&writer, OPEN_TO_WRITE, MIB);
    (void)tell_range(&writer, FILL, 0, 100);
    (void)tell(&reader, BEGIN_SNAPSHOT, MIB);
    (void)tell(&writer, PUT, 100);
    assert_int_equal(tell(&reader, CHECK_SNAPSHOT, 0), 100);
    kill_now(&reader);
    for (uint64_t i = 0; i < 1000; i++)
        (void)tell(&writer, PUT, 101 + i % 10);
    /* The pages were used again: neither has the file grown with the puts, nor is it another. */
    assert_true(site_file_size(site) < MIB / 2);
    assert_int_equal(site_file_number(site), 0);
    end(&writer);
}

static void test_a_snapshot_outlives_what_the_writer_does(void **state)
{
    struct site *site = *state;
    struct child writer = start(site);
    struct child reader = start(site);
    (void)tell(&writer, OPEN_TO_WRITE, MIB);
    (void)tell_range(&writer, FILL, 0, 1000);
    (void)tell(&reader, BEGIN_SNAPSHOT, MIB);
    /* No page can be used again, until the writer leaves the file to the snapshot. */
    for (uint64_t i = 0; i < 20; i++)
        (void)tell_range(&writer, FILL, 1000 + 500 * i, 1500 + 500 * i);
    assert_true(site_file_number(site) > 0);
    assert_true(site_file_size(site) <= MIB);
    assert_int_equal(tell(&reader, CHECK_SNAPSHOT, 0), 1000);
    (void)tell(&reader, END_SNAPSHOT, 0);
    (void)tell(&reader, BEGIN_SNAPSHOT, MIB);
    assert_true(tell(&reader, CHECK_SNAPSHOT, 0) > 1000);
    (void)tell(&reader, END_SNAPSHOT, 0);
    end(&writer);
    end(&reader);
}

static bool maps_a_removed_file(const struct child *child)
{
    char line[PATH_MAX + 128];
    bool is_found = false;
    (void)snprintf(line, sizeof(line), "/proc/%d/maps", (int)child->pid);
    FILE *maps = fopen(line, "r");
    assert_non_null(maps);
    while (fgets(line, sizeof(line), maps) != NULL)
        is_found |= strstr(line, ".mdb") != NULL && strstr(line, "(deleted)") != NULL;
    (void)fclose(maps);
    return is_found;
}

static void test_readers_follow_to_another_file(void **state)
{
    struct site *site = *state;
    struct child writer = start(site);
    struct child reader = start(site);
    struct child idle = start(site);
    struct child slow = start(site);
    (void)tell(&writer, OPEN_TO_WRITE, 4 * MIB);
    (void)tell_range(&writer, FILL, 0, 8000);
    (void)tell(&writer, CLOSE, 0);
    (void)tell(&reader, OPEN_TO_READ, 4 * MIB);
    (void)tell(&idle, OPEN_TO_READ, 4 * MIB);
    assert_int_equal(tell(&reader, HAS, 0), 1);
    (void)tell(&slow, BEGIN_SNAPSHOT, 4 * MIB);
    (void)tell(&writer, OPEN_TO_WRITE, MIB); /* it is written anew, and smaller */
    assert_true(site_file_number(site) > 0);
    assert_true(site_file_size(site) <= MIB);
    assert_false(scratch_exists(&site->scratch, "index/data.mdb"));
    assert_false(scratch_exists(&site->scratch, "index/data.mdb-lock"));
    assert_int_equal(tell(&reader, HAS, 0), 0);
    assert_int_equal(tell(&reader, HAS, 7999), 1);
    (void)tell(&writer, PUT, 9000);
    assert_int_equal(tell(&reader, HAS, 9000), 1);
    assert_int_equal(tell(&slow, CHECK_SNAPSHOT, 0), 8000);
    (void)tell(&slow, END_SNAPSHOT, 0);
    (void)tell(&slow, BEGIN_SNAPSHOT, 0);
    (void)tell(&slow, END_SNAPSHOT, 0);
    assert_false(maps_a_removed_file(&slow) || maps_a_removed_file(&reader));
    for (int i = 0; maps_a_removed_file(&idle); i++) {
        assert_true(i < 3000);
        pause_for_turn();
    }
    end(&writer);
    end(&reader);
    end(&idle);
    end(&slow);
}

/* --- all at once, and kill -9 --- */

enum { PROCESSES = 4, KILLS = 24, NUMBERS = 1 << 16 };

struct tally {
    atomic_uint_fast64_t next;
    atomic_int faults;
    atomic_int writer; /* who wrote last */
    atomic_uchar acknowledged[NUMBERS];
};

/* Pushes and reads for ever. What anybody was told is written must be found. */
static _Noreturn void work(struct site *site, struct tally *tally, int number)
{
    struct asset_index_options options = {
        .path = site->scratch.path, .quota = 64 * MIB, .may_write = number != 0};
    unsigned seed = (unsigned)getpid();
    if (asset_index_open(&options, &site->index, &site->err) != 0) {
        (void)fprintf(stderr, "%s\n", site->err.msg);
        atomic_fetch_add(&tally->faults, 1);
        _exit(1);
    }
    for (;;) {
        struct outcome outcome = {.code = ERR_OK};
        struct err err;
        if (asset_index_is_writing(site->index, &err) == 0) {
            uint64_t next = atomic_fetch_add(&tally->next, 1) % NUMBERS;
            put_number(site->index, next, &outcome);
            atomic_store(&tally->writer, number);
            if (outcome.code == ERR_OK)
                atomic_store(&tally->acknowledged[next], 1);
        }
        for (int i = 0; i < 4; i++) {
            seed = seed * 1103515245u + 12345u;
            uint64_t wanted = (seed >> 8) % (atomic_load(&tally->next) % NUMBERS + 1);
            bool is_there = atomic_load(&tally->acknowledged[wanted]) != 0;
            outcome = (struct outcome){.code = ERR_OK};
            has(site, wanted, &outcome);
            if (outcome.code != ERR_OK || (is_there && outcome.value == 0)) {
                (void)fprintf(stderr, "%llu: %d %s\n", (unsigned long long)wanted, outcome.code,
                              site->err.msg);
                atomic_fetch_add(&tally->faults, 1);
            }
            site_touch(site, wanted);
        }
    }
}

static pid_t start_work(struct site *site, struct tally *tally, int number)
{
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        (void)prctl(PR_SET_PDEATHSIG, SIGKILL);
        work(site, tally, number);
    }
    return pid;
}

static void test_any_of_them_is_killed_at_any_time(void **state)
{
    struct site *site = *state;
    pid_t pids[PROCESSES];
    struct tally *tally =
        mmap(NULL, sizeof(*tally), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    assert_true(tally != MAP_FAILED);
    unsigned seed = (unsigned)getpid();
    for (int i = 0; i < PROCESSES; i++)
        pids[i] = start_work(site, tally, i);
    for (int round = 0; round < KILLS; round++) {
        uint64_t before = atomic_load(&tally->next);
        for (int i = 0; atomic_load(&tally->next) < before + 20; i++) { /* somebody writes */
            assert_true(i < 3000);
            pause_for_turn();
        }
        seed = seed * 1103515245u + 12345u;
        int victim = round % 2 == 0 ? atomic_load(&tally->writer) : (int)((seed >> 8) % PROCESSES);
        int status;
        assert_int_equal(kill(pids[victim], SIGKILL), 0);
        assert_int_equal(waitpid(pids[victim], &status, 0), pids[victim]);
        pids[victim] = start_work(site, tally, victim);
    }
    for (int i = 0; i < PROCESSES; i++) {
        assert_int_equal(kill(pids[i], SIGKILL), 0);
        assert_int_equal(waitpid(pids[i], NULL, 0), pids[i]);
    }
    assert_int_equal(atomic_load(&tally->faults), 0);
    struct child last = start(site);
    (void)tell(&last, OPEN_TO_WRITE, 64 * MIB);
    assert_int_equal(tell(&last, IS_WRITING, 0), 1);
    for (uint64_t i = 0; i < NUMBERS; i++)
        if (atomic_load(&tally->acknowledged[i]))
            assert_int_equal(tell(&last, HAS, i), 1);
    end(&last);
    (void)munmap(tally, sizeof(*tally));
}

int main(void)
{
#define INDEX_TEST(name) cmocka_unit_test_setup_teardown(name, site_set_up, site_tear_down)
    const struct CMUnitTest tests[] = {
        INDEX_TEST(test_a_reader_before_the_writer),
        INDEX_TEST(test_what_is_acknowledged_is_found_at_once),
        INDEX_TEST(test_a_writer_with_a_larger_quota),
        INDEX_TEST(test_what_a_reader_used_is_not_evicted),
        INDEX_TEST(test_uses_wait_for_a_writer),
        INDEX_TEST(test_what_a_reader_used_does_not_expire),
        INDEX_TEST(test_a_reader_remembers_the_uses_of_late),
        INDEX_TEST(test_a_waiting_process_takes_over),
        INDEX_TEST(test_who_would_write_at_once_does_not_wait),
        INDEX_TEST(test_taking_over_with_a_smaller_quota),
        INDEX_TEST(test_a_killed_reader_keeps_no_page),
        INDEX_TEST(test_a_snapshot_outlives_what_the_writer_does),
        INDEX_TEST(test_readers_follow_to_another_file),
        INDEX_TEST(test_any_of_them_is_killed_at_any_time),
        INDEX_TEST(test_what_a_former_writer_told_counts_for_nobody),
        INDEX_TEST(test_uses_of_many), /* last: it makes threads */
    };
    (void)signal(SIGPIPE, SIG_IGN);
    log_set_level(LOG_LEVEL_ERROR);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
