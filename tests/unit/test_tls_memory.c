/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The files of a listener's TLS, read while each allocation of memory fails in turn. The sanitizers
 * bring their own allocators: under them nothing fails, and only the reading is run.
 */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include <cmocka.h>

#include "credential/pair.h"
#include "credential/pair_check.h"
#include "scratch.h"
#include "transport/tls_files.h"

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define HAS_OWN_ALLOCATOR 0
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
#define HAS_OWN_ALLOCATOR 0
#endif
#endif
#ifndef HAS_OWN_ALLOCATOR
#define HAS_OWN_ALLOCATOR 1
#endif

/* --- memory that runs out --- */

static unsigned seen;  /* allocations since it began */
static unsigned first; /* the one that fails, from 1; 0: none */
static unsigned last;  /* and those up to this one */

static void fail_memory(unsigned nth, unsigned times)
{
    seen = 0;
    first = nth;
    last = nth + times - 1;
}

#if HAS_OWN_ALLOCATOR

/* Of the C library, where its own are replaced. */
void *__libc_malloc(size_t size);
void *__libc_calloc(size_t count, size_t size);
void *__libc_realloc(void *memory, size_t size);

static bool fails(void)
{
    seen++;
    if (first == 0 || seen < first || seen > last)
        return false;
    errno = ENOMEM;
    return true;
}

void *malloc(size_t size)
{
    return fails() ? NULL : __libc_malloc(size);
}

void *calloc(size_t count, size_t size)
{
    return fails() ? NULL : __libc_calloc(count, size);
}

void *realloc(void *memory, size_t size)
{
    return fails() ? NULL : __libc_realloc(memory, size);
}

#endif

/* --- the reading --- */

struct site {
    struct scratch scratch;
    char certificate[PATH_MAX];
    char key[PATH_MAX];
    char client_ca[PATH_MAX];
    struct conf_tls conf;
};

static void write_text(const struct scratch *scratch, const char *name, struct text *text)
{
    text_add(text, "", 1);
    assert_false(text->failed);
    scratch_write(scratch, name, text->bytes);
    text_fini(text);
}

static void set_up(struct site *site)
{
    static const char *const names[] = {"localhost", "friend", "other"};
    struct text key = {.bytes = NULL}, certificate = {.bytes = NULL}, clients = {.bytes = NULL};
    struct text unused = {.bytes = NULL};
    struct err err;
    scratch_init(&site->scratch);
    site->conf = (struct conf_tls){
        .certificate = scratch_path(&site->scratch, "server.crt", site->certificate),
        .key = scratch_path(&site->scratch, "server.key", site->key),
        .client_ca = scratch_path(&site->scratch, "authorized.crt", site->client_ca),
        .client = CONF_CLIENT_REQUIRE};
    if (pair_make(PAIR_SERVER, &names[0], 1, 2, &key, &certificate, &err) != 0 ||
        pair_make(PAIR_CLIENT, &names[1], 1, 2, &unused, &clients, &err) != 0 ||
        pair_make(PAIR_CLIENT, &names[2], 1, 2, &unused, &clients, &err) != 0)
        fail_msg("%s", err.msg);
    write_text(&site->scratch, "server.crt", &certificate);
    write_text(&site->scratch, "server.key", &key);
    write_text(&site->scratch, "authorized.crt", &clients);
    text_fini(&unused);
}

static int read_files(const struct conf_tls *conf, struct err *err)
{
    struct tls_files files;
    int rc = tls_files_read(conf, &files, err);
    if (rc == 0)
        rc = tls_files_judge(conf, &files, err);
    if (rc == 0)
        assert_int_equal(files.members.count, 2);
    tls_files_fini(&files);
    return rc;
}

enum { STEP = 16 };

/* OpenSSL takes some of it for a fault of the file: that is why those are read again. */
static void no_client_is_lost_where_memory_runs_out(void **state)
{
    (void)state;
    struct site site;
    struct err err;
    unsigned failures = 0;
    set_up(&site);
    assert_int_equal(read_files(&site.conf, &err), 0); /* what is made once is there */
    /* Each of thousands in turn takes half a minute: some of all kinds are enough. */
    for (unsigned times = 1; times <= 64; times *= 64) {
        bool ran_out = true;
        for (unsigned nth = 1; ran_out; nth += times + STEP) {
            fail_memory(nth, times);
            failures += read_files(&site.conf, &err) != 0;
            first = 0;
            ran_out = seen >= nth;
        }
    }
    assert_true(failures > 0 || !HAS_OWN_ALLOCATOR);
    assert_int_equal(read_files(&site.conf, &err), 0);
    scratch_fini(&site.scratch);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(no_client_is_lost_where_memory_runs_out),
    };
    pair_check_begin();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
