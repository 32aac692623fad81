/* SPDX-License-Identifier: Apache-2.0 */
/* An external CAS that is opened on a stand-in, content for it, and checks of that. */
#ifndef ASSETD_TESTS_REMOTE_SITE_H
#define ASSETD_TESTS_REMOTE_SITE_H

#include "base/log.h"
#include "fake_cas_calls.h"
#include "remote/remote_cas.h"
#include "remote/remote_private.h"
#include "test_tree_messages.h"

enum { TRUST = 600000 };

static struct conf_cas conf = {.address = "grpc://cas.example.com:8980",
                               .instance_name = "kernel",
                               .trust = TRUST,
                               .timeout = 5000,
                               .connections = 1};
static struct remote_cas *cas;

/* --- a CAS, opened and asked what it can do --- */

static inline void open_cas(int64_t trust)
{
    struct err err;
    conf.trust = trust;
    if (remote_cas_open(&conf, "team/kernel", NULL, &cas, &err) != 0)
        fail_msg("%s", err.msg);
}

static inline int set_up(void **state)
{
    (void)state;
    fake_begin_test(FAKE_AT_ONCE);
    open_cas(TRUST);
    fake_answer_when(FAKE_WHEN_TOLD);
    return 0;
}

static inline int tear_down(void **state)
{
    (void)state;
    remote_cas_close(cas);
    fake_end_test();
    return 0;
}

static inline void reopen(int64_t trust)
{
    remote_cas_close(cas);
    fake_answer_when(FAKE_AT_ONCE);
    open_cas(trust);
    fake_answer_when(FAKE_WHEN_TOLD);
}

/* --- content --- */

/* A digest that nobody has. */
static inline struct digest digest_of(uint64_t seed, int64_t size)
{
    struct digest digest = {.function = DIGEST_SHA256, .size = size};
    uint64_t random = seed * 2 + 1;
    for (size_t k = 0; k < 32; k += 8) {
        random = random * 6364136223846793005u + 1442695040888963407u;
        memcpy(digest.hash + k, &random, 8);
    }
    return digest;
}

static inline struct digest put_file(uint64_t seed)
{
    struct digest digest = digest_of(seed, 100);
    fake_put(&digest, NULL);
    return digest;
}

/* MESSAGE is freed. */
static inline struct digest put_message(struct message *message)
{
    struct digest digest;
    struct err err;
    assert_int_equal(digest_compute(DIGEST_SHA256, message->data, message->size, &digest, &err), 0);
    fake_put(&digest, message->data);
    free(message->data);
    return digest;
}

/* Files that are there, whose seeds begin at SEED. */
static inline void add_files(struct message *message, uint64_t seed, size_t count)
{
    char name[24];
    for (size_t i = 0; i < count; i++) {
        struct digest file = put_file(seed + i);
        (void)snprintf(name, sizeof(name), "%08zu", i);
        add_file(message, name, &file);
    }
}

static inline struct digest put_directory(uint64_t seed, size_t files)
{
    struct message message = {0};
    add_files(&message, seed, files);
    return put_message(&message);
}

/* DEPTH directories, each in the next one, with FILES files in each. */
static inline struct digest put_chain(uint64_t seed, size_t depth, size_t files)
{
    struct digest last = put_directory(seed, files);
    for (size_t level = 1; level < depth; level++) {
        struct message message = {0};
        add_files(&message, seed + level * files, files);
        add_directory(&message, "down", &last);
        last = put_message(&message);
    }
    return last;
}

/* --- checks --- */

struct asked {
    struct remote_check check; /* first */
    struct tree_list list;
    struct digest digest;
    atomic_bool is_cancelled;
    atomic_uint told; /* times */
    struct err err;   /* how it ended */
};

static inline void on_done(struct remote_check *check, const struct err *err)
{
    struct asked *asked = (struct asked *)check;
    asked->err.code = ERR_OK;
    if (err != NULL)
        asked->err = *err;
    atomic_fetch_add(&asked->told, 1);
}

static inline void prepare(struct asked *asked, const struct tree_list *lists, size_t list_count)
{
    *asked = (struct asked){.check = {.cas = cas,
                                      .lists = lists,
                                      .list_count = list_count,
                                      .is_cancelled = &asked->is_cancelled,
                                      .done = on_done}};
}

/* Starts a check of one digest. */
static inline void start(struct asked *asked, const struct digest *digest, bool is_directory,
                         bool is_fresh)
{
    prepare(asked, &asked->list, 1);
    asked->digest = *digest;
    asked->list = (struct tree_list){&asked->digest, 1, is_directory};
    asked->check.is_fresh = is_fresh;
    remote_check_start(&asked->check);
}

static inline void cancel(struct asked *asked)
{
    atomic_store(&asked->is_cancelled, true);
    remote_check_cancel(&asked->check);
}

/* Told once, so. */
static inline void assert_told(struct asked *asked, enum err_code code)
{
    assert_int_equal(atomic_load(&asked->told), 1);
    if (asked->err.code != code)
        fail_msg("%s: %s", err_name(asked->err.code), asked->err.msg);
}

static inline void assert_waits(struct asked *asked)
{
    assert_int_equal(atomic_load(&asked->told), 0);
}

static inline void check_lists(struct asked *asked, const struct tree_list *lists,
                               size_t list_count)
{
    prepare(asked, lists, list_count);
    remote_check_start(&asked->check);
    fake_answer_all();
}

static inline struct err check_tree(const struct digest *digest)
{
    struct asked asked;
    start(&asked, digest, true, false);
    fake_answer_all();
    assert_int_equal(atomic_load(&asked.told), 1);
    return asked.err;
}

static inline bool trusts(const struct digest *digest, bool is_directory)
{
    const struct tree_list list = {digest, 1, is_directory};
    return remote_cas_trusts(cas, &list, 1);
}

/* A test of its own CAS. */
#define TEST(function) cmocka_unit_test_setup_teardown(function, set_up, tear_down)

#endif
