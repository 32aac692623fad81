/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A CAS without a network, for tests of what is built on remote/cas_calls.h, and a clock that the
 * test sets. Included by one file of a program, it takes the place of the program's own calls to a
 * CAS, completion queue and clock.
 */
#ifndef ASSETD_TESTS_FAKE_CAS_CALLS_H
#define ASSETD_TESTS_FAKE_CAS_CALLS_H

#include <assert.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/clock.h"
#include "base/digest_set.h"
#include "remote/cas_calls.h"
#include "rpc/queue.h"

/* When calls are answered: before the function that begins them returns, when told, on a thread. */
enum fake_moment { FAKE_AT_ONCE, FAKE_WHEN_TOLD, FAKE_ON_THREADS };

enum fake_kind { FAKE_FIND, FAKE_READ, FAKE_CAPABILITIES, FAKE_KINDS };

enum { FAKE_THREADS = 2 };

/* A call that waits for its answer. */
struct fake_call {
    struct fake_call *next;
    struct cas_connections *connections;
    enum fake_kind kind;
    void *call;
    bool fails;
};

struct cas_connections {
    const struct conf_cas *conf;
    const char *label;
    struct rpc_queue *queue;
    size_t under_way;
    uint64_t calls;
    bool is_cancelled;
};

/* The content of a digest that is known. */
struct fake_blob {
    void *data; /* NULL: only its digest is of interest */
    bool is_there;
    bool is_damaged; /* FindMissingBlobs finds it, but it cannot be read */
    unsigned asked;  /* by FindMissingBlobs */
    unsigned read;
};

static struct fake {
    pthread_mutex_t lock;
    pthread_cond_t changed;
    pthread_t threads[FAKE_THREADS];
    enum fake_moment moment;
    bool is_over;
    /* What the CAS has: */
    struct digest_set digests;
    struct fake_blob *blobs; /* by the index of their digest */
    size_t capacity;
    const char *capabilities; /* a message; NULL: UNIMPLEMENTED */
    /* How it answers: */
    bool refuses;      /* no call is begun */
    unsigned failures; /* calls of now on that fail */
    unsigned delay;    /* most microseconds that a thread waits */
    unsigned linger;   /* microseconds after which who began a call goes on */
    /* What waits, oldest first: */
    struct fake_call *first;
    struct fake_call *last;
    size_t waiting;
    /* What was done: */
    size_t calls[FAKE_KINDS];
    size_t under_way[FAKE_KINDS];
    size_t most[FAKE_KINDS]; /* under way at once */
    size_t large;            /* reads of more than a batch under way, */
    size_t most_large;       /* at once */
    size_t asked;            /* digests in all FindMissingBlobs */
    size_t open;             /* connections */
    size_t queues;
    _Atomic int64_t batch; /* as cas_connections_set_batch set it last; 0: not yet */
    int64_t lost_at;       /* when its breaker opened, as cas_connections_lost_at has it */
    const char *unusable;  /* the address that cannot be opened */
} fake = {.lock = PTHREAD_MUTEX_INITIALIZER, .changed = PTHREAD_COND_INITIALIZER};

static _Atomic int64_t fake_time = 1000000;

int64_t clock_steady(void)
{
    return atomic_load(&fake_time);
}

int64_t clock_now(void)
{
    return atomic_load(&fake_time);
}

/* --- what it has --- */

/* Under the lock. */
static inline struct fake_blob *fake_find_blob(const struct digest *digest)
{
    size_t index = digest_set_index(&fake.digests, digest);
    return index != SIZE_MAX ? &fake.blobs[index] : NULL;
}

/* The blob of DIGEST is there; DATA is copied unless it is NULL. */
static inline void fake_put(const struct digest *digest, const void *data)
{
    struct err err;
    bool is_new;
    (void)pthread_mutex_lock(&fake.lock);
    assert_int_equal(digest_set_add(&fake.digests, digest, &is_new, &err), 0);
    if (fake.capacity < fake.digests.capacity) {
        fake.blobs = realloc(fake.blobs, fake.digests.capacity * sizeof(fake.blobs[0]));
        assert_non_null(fake.blobs);
        fake.capacity = fake.digests.capacity;
    }
    struct fake_blob *blob = fake_find_blob(digest);
    if (is_new)
        *blob = (struct fake_blob){.data = NULL};
    if (blob->data == NULL && data != NULL) {
        blob->data = malloc((size_t)digest->size);
        assert_non_null(blob->data);
        memcpy(blob->data, data, (size_t)digest->size);
    }
    blob->is_there = true;
    (void)pthread_mutex_unlock(&fake.lock);
}

static inline void fake_remove(const struct digest *digest)
{
    (void)pthread_mutex_lock(&fake.lock);
    fake_find_blob(digest)->is_there = false;
    (void)pthread_mutex_unlock(&fake.lock);
}

static inline void fake_damage(const struct digest *digest)
{
    (void)pthread_mutex_lock(&fake.lock);
    fake_find_blob(digest)->is_damaged = true;
    (void)pthread_mutex_unlock(&fake.lock);
}

/* How often FindMissingBlobs had DIGEST. */
static inline unsigned fake_asked(const struct digest *digest)
{
    (void)pthread_mutex_lock(&fake.lock);
    unsigned asked = fake_find_blob(digest)->asked;
    (void)pthread_mutex_unlock(&fake.lock);
    return asked;
}

static inline unsigned fake_read(const struct digest *digest)
{
    (void)pthread_mutex_lock(&fake.lock);
    unsigned read = fake_find_blob(digest)->read;
    (void)pthread_mutex_unlock(&fake.lock);
    return read;
}

static inline size_t fake_calls(enum fake_kind kind)
{
    (void)pthread_mutex_lock(&fake.lock);
    size_t calls = fake.calls[kind];
    (void)pthread_mutex_unlock(&fake.lock);
    return calls;
}

static inline size_t fake_waiting(void)
{
    (void)pthread_mutex_lock(&fake.lock);
    size_t waiting = fake.waiting;
    (void)pthread_mutex_unlock(&fake.lock);
    return waiting;
}

static inline void fake_fail_next(unsigned count)
{
    (void)pthread_mutex_lock(&fake.lock);
    fake.failures = count;
    (void)pthread_mutex_unlock(&fake.lock);
}

static inline void fake_refuse(bool refuses)
{
    (void)pthread_mutex_lock(&fake.lock);
    fake.refuses = refuses;
    (void)pthread_mutex_unlock(&fake.lock);
}

/* The CAS is lost, now, and comes back. */
static inline void fake_lose(void)
{
    (void)pthread_mutex_lock(&fake.lock);
    fake.lost_at = atomic_load(&fake_time);
    (void)pthread_mutex_unlock(&fake.lock);
}

/* --- answers --- */

static inline void fake_answer_find(struct cas_find *find)
{
    (void)pthread_mutex_lock(&fake.lock);
    for (size_t i = 0; i < find->count; i++) {
        struct fake_blob *blob = fake_find_blob(&find->digests[i]);
        find->is_missing[i] = blob == NULL || !blob->is_there;
        if (blob != NULL)
            blob->asked++;
    }
    (void)pthread_mutex_unlock(&fake.lock);
    find->done(find, NULL);
}

/* The last one first: any order will do. */
static inline void fake_answer_read(struct cas_read *read)
{
    for (size_t i = read->count; i-- > 0;) {
        struct span data = {NULL, 0};
        (void)pthread_mutex_lock(&fake.lock);
        struct fake_blob *blob = fake_find_blob(&read->digests[i]);
        if (blob != NULL && blob->is_there && !blob->is_damaged) {
            assert(blob->data != NULL);
            data = (struct span){blob->data, (size_t)read->digests[i].size};
        }
        if (blob != NULL)
            blob->read++;
        (void)pthread_mutex_unlock(&fake.lock);
        read->blob(read, i, data);
    }
    read->done(read, NULL);
}

static inline void fake_fail(struct fake_call *call, const struct err *err)
{
    if (call->kind == FAKE_FIND) {
        struct cas_find *find = call->call;
        find->done(find, err);
    } else if (call->kind == FAKE_READ) {
        struct cas_read *read = call->call;
        read->done(read, err);
    } else {
        struct cas_capabilities *capabilities = call->call;
        capabilities->done(capabilities, (struct span){NULL, 0}, err);
    }
}

int64_t cas_connections_batch(struct cas_connections *connections)
{
    (void)connections;
    int64_t batch = atomic_load(&fake.batch);
    return batch > 0 && batch < CAS_BATCH_MAX ? batch : CAS_BATCH_MAX;
}

void cas_connections_set_batch(struct cas_connections *connections, int64_t bytes)
{
    (void)connections;
    atomic_store(&fake.batch, bytes);
}

static inline bool fake_is_large(const struct fake_call *call)
{
    return call->kind == FAKE_READ &&
           ((struct cas_read *)call->call)->digests[0].size > cas_connections_batch(NULL);
}

/* Answers CALL, and gives it back. */
static inline void fake_answer(struct fake_call *call)
{
    struct cas_connections *connections = call->connections;
    struct err err;
    (void)pthread_mutex_lock(&fake.lock);
    bool is_cancelled = connections->is_cancelled;
    const char *capabilities = fake.capabilities;
    fake.under_way[call->kind]--;
    fake.large -= fake_is_large(call);
    (void)pthread_mutex_unlock(&fake.lock);
    if (is_cancelled) {
        (void)err_set(&err, ERR_CANCELLED, "closing");
        fake_fail(call, &err);
    } else if (call->fails) {
        (void)err_set(&err, ERR_UNAVAILABLE, "CAS %s: it fails", connections->conf->address);
        fake_fail(call, &err);
    } else if (call->kind == FAKE_FIND) {
        fake_answer_find(call->call);
    } else if (call->kind == FAKE_READ) {
        fake_answer_read(call->call);
    } else {
        struct span message = {(const uint8_t *)capabilities, 0};
        if (capabilities != NULL)
            message.size = strlen(capabilities);
        struct cas_capabilities *own = call->call;
        own->done(own, message, NULL);
    }
    (void)pthread_mutex_lock(&fake.lock);
    connections->under_way--;
    (void)pthread_cond_broadcast(&fake.changed);
    (void)pthread_mutex_unlock(&fake.lock);
    free(call);
}

/* The oldest of those that wait, of CONNECTIONS unless that is NULL. Under the lock. */
static inline struct fake_call *fake_take(const struct cas_connections *connections)
{
    struct fake_call **link = &fake.first;
    struct fake_call *before = NULL;
    while (*link != NULL && connections != NULL && (*link)->connections != connections) {
        before = *link;
        link = &before->next;
    }
    struct fake_call *call = *link;
    if (call == NULL)
        return NULL;
    *link = call->next;
    if (fake.last == call)
        fake.last = before;
    fake.waiting--;
    return call;
}

/* Answers the oldest call that waits; false if there is none. */
static inline bool fake_answer_one(void)
{
    (void)pthread_mutex_lock(&fake.lock);
    struct fake_call *call = fake_take(NULL);
    (void)pthread_mutex_unlock(&fake.lock);
    if (call != NULL)
        fake_answer(call);
    return call != NULL;
}

/* Those that come meanwhile as well. */
static inline void fake_answer_all(void)
{
    while (fake_answer_one())
        ;
}

static inline void *fake_serve(void *argument)
{
    unsigned seed = (unsigned)(uintptr_t)argument + 1;
    (void)pthread_mutex_lock(&fake.lock);
    for (;;) {
        struct fake_call *call = fake.moment == FAKE_ON_THREADS ? fake_take(NULL) : NULL;
        if (call == NULL && fake.is_over)
            break;
        if (call == NULL) {
            (void)pthread_cond_wait(&fake.changed, &fake.lock);
            continue;
        }
        unsigned delay = fake.delay;
        (void)pthread_mutex_unlock(&fake.lock);
        if (delay != 0)
            (void)usleep((unsigned)rand_r(&seed) % delay);
        fake_answer(call);
        (void)pthread_mutex_lock(&fake.lock);
    }
    (void)pthread_mutex_unlock(&fake.lock);
    return NULL;
}

static inline void fake_answer_when(enum fake_moment moment)
{
    (void)pthread_mutex_lock(&fake.lock);
    fake.moment = moment;
    (void)pthread_cond_broadcast(&fake.changed);
    (void)pthread_mutex_unlock(&fake.lock);
}

/* --- the functions of cas_calls.h --- */

int cas_connections_open(const struct conf_cas *conf, const char *label, struct rpc_queue *queue,
                         struct cas_connections **out, struct err *err)
{
    if (fake.unusable != NULL && strcmp(conf->address, fake.unusable) == 0)
        return err_set(err, ERR_PRECONDITION, "%s cannot be used", conf->address);
    struct cas_connections *connections = calloc(1, sizeof(*connections));
    if (connections == NULL)
        return err_no_memory(err, "connections");
    *connections = (struct cas_connections){.conf = conf, .label = label, .queue = queue};
    (void)pthread_mutex_lock(&fake.lock);
    fake.open++;
    (void)pthread_mutex_unlock(&fake.lock);
    *out = connections;
    return 0;
}

void cas_connections_cancel(struct cas_connections *connections)
{
    struct fake_call *call;
    do {
        (void)pthread_mutex_lock(&fake.lock);
        connections->is_cancelled = true;
        call = fake_take(connections);
        (void)pthread_mutex_unlock(&fake.lock);
        if (call != NULL)
            fake_answer(call);
    } while (call != NULL);
}

void cas_connections_close(struct cas_connections *connections)
{
    if (connections == NULL)
        return;
    (void)pthread_mutex_lock(&fake.lock);
    while (connections->under_way != 0)
        (void)pthread_cond_wait(&fake.changed, &fake.lock);
    fake.open--;
    (void)pthread_mutex_unlock(&fake.lock);
    free(connections);
}

bool cas_connections_are_up(struct cas_connections *connections)
{
    (void)connections;
    (void)pthread_mutex_lock(&fake.lock);
    bool are_up = !fake.refuses;
    (void)pthread_mutex_unlock(&fake.lock);
    return are_up;
}

int64_t cas_connections_lost_at(struct cas_connections *connections)
{
    (void)connections;
    (void)pthread_mutex_lock(&fake.lock);
    int64_t lost_at = fake.lost_at;
    (void)pthread_mutex_unlock(&fake.lock);
    return lost_at;
}

uint64_t cas_connections_calls(struct cas_connections *connections)
{
    (void)pthread_mutex_lock(&fake.lock);
    uint64_t calls = connections->calls;
    (void)pthread_mutex_unlock(&fake.lock);
    return calls;
}

/* Under the lock. */
static inline void fake_count(struct fake_call *call)
{
    call->fails = fake.failures != 0;
    fake.failures -= call->fails;
    call->connections->calls++;
    call->connections->under_way++;
    fake.calls[call->kind]++;
    if (++fake.under_way[call->kind] > fake.most[call->kind])
        fake.most[call->kind] = fake.under_way[call->kind];
    fake.large += fake_is_large(call);
    if (fake.large > fake.most_large)
        fake.most_large = fake.large;
    if (call->kind == FAKE_FIND)
        fake.asked += ((struct cas_find *)call->call)->count;
}

static inline int fake_begin(struct cas_connections *connections, enum fake_kind kind, void *begun,
                             struct err *err)
{
    struct fake_call *call = calloc(1, sizeof(*call));
    if (call == NULL)
        return err_no_memory(err, "a call");
    *call = (struct fake_call){.connections = connections, .kind = kind, .call = begun};
    (void)pthread_mutex_lock(&fake.lock);
    bool is_cancelled = connections->is_cancelled;
    bool is_refused = is_cancelled || fake.refuses;
    bool is_at_once = fake.moment == FAKE_AT_ONCE;
    unsigned linger = fake.linger;
    if (!is_refused)
        fake_count(call);
    if (!is_refused && !is_at_once) {
        if (fake.last != NULL && fake.first != NULL)
            fake.last->next = call;
        else
            fake.first = call;
        fake.last = call;
        fake.waiting++;
        (void)pthread_cond_broadcast(&fake.changed);
    }
    (void)pthread_mutex_unlock(&fake.lock);
    if (is_refused) {
        free(call);
        return is_cancelled ? err_set(err, ERR_CANCELLED, "closing")
                            : err_set(err, ERR_AWAY, "CAS %s: the breaker is open",
                                      connections->conf->address);
    }
    if (is_at_once)
        fake_answer(call);
    else if (linger != 0)
        (void)usleep(linger);
    return 0;
}

/* What every call has to keep to. */
static inline void fake_check_digests(const struct digest *digests, size_t count)
{
    struct digest_set set = {0};
    struct err err;
    bool is_new = true;
    for (size_t i = 0; i < count; i++) {
        assert(digests[i].function == digests[0].function);
        assert(!digest_is_empty(&digests[i]));
        if (digest_set_add(&set, &digests[i], &is_new, &err) != 0)
            break;
        assert(is_new);
    }
    digest_set_fini(&set);
}

int cas_find_missing(struct cas_connections *connections, struct cas_find *find, struct err *err)
{
    assert(find->count >= 1 && find->count <= CAS_FIND_MAX);
    fake_check_digests(find->digests, find->count);
    return fake_begin(connections, FAKE_FIND, find, err);
}

int cas_read_blobs(struct cas_connections *connections, struct cas_read *read, struct err *err)
{
    int64_t bytes = 0;
    fake_check_digests(read->digests, read->count);
    for (size_t i = 0; i < read->count; i++) {
        assert(read->digests[i].size > 0);
        bytes += read->digests[i].size;
    }
    assert(read->count == 1 || (read->count > 1 && bytes <= cas_connections_batch(connections)));
    return fake_begin(connections, FAKE_READ, read, err);
}

int cas_get_capabilities(struct cas_connections *connections, struct cas_capabilities *capabilities,
                         struct err *err)
{
    return fake_begin(connections, FAKE_CAPABILITIES, capabilities, err);
}

/* --- the functions of rpc/queue.h that are called --- */

int rpc_queue_new_for_calls(struct rpc_queue **queue, struct err *err)
{
    (void)err;
    fake.queues++;
    *queue = malloc(1);
    return 0;
}

void rpc_queue_free(struct rpc_queue *queue)
{
    if (queue != NULL)
        fake.queues--;
    free(queue);
}

/* --- begin and end of a test --- */

static inline void fake_begin_test(enum fake_moment moment)
{
    fake.moment = moment;
    fake.is_over = false;
    for (size_t i = 0; i < FAKE_THREADS; i++)
        assert_int_equal(pthread_create(&fake.threads[i], NULL, fake_serve, (void *)i), 0);
}

static inline void fake_end_test(void)
{
    (void)pthread_mutex_lock(&fake.lock);
    fake.is_over = true;
    (void)pthread_cond_broadcast(&fake.changed);
    (void)pthread_mutex_unlock(&fake.lock);
    for (size_t i = 0; i < FAKE_THREADS; i++)
        assert_int_equal(pthread_join(fake.threads[i], NULL), 0);
    for (size_t i = 0; i < fake.digests.count; i++)
        free(fake.blobs[i].data);
    free(fake.blobs);
    digest_set_fini(&fake.digests);
    assert_int_equal(fake.open, 0);
    assert_int_equal(fake.queues, 0);
    assert_int_equal(fake.waiting, 0);
    fake = (struct fake){.lock = PTHREAD_MUTEX_INITIALIZER, .changed = PTHREAD_COND_INITIALIZER};
}

#endif
