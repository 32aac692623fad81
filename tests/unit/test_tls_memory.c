/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The files of a listener's TLS, read while each allocation of memory fails in turn. The sanitizers
 * bring their own allocators: under them nothing fails, and only the reading is run.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include <cmocka.h>

#include "credential/pair.h"
#include "credential/pair_check.h"
#include "failing_memory.h"
#include "scratch.h"
#include "transport/tls_files.h"

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
            ran_out = restore_memory() >= nth;
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
