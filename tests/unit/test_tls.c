/* SPDX-License-Identifier: Apache-2.0 */
/* TLS of a listener: who calls, and when files that change are believed. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <openssl/ec.h>
#include <openssl/pem.h>
#include <openssl/x509.h>

#include "base/arena.h"
#include "base/identity.h"
#include "credential/pair.h"
#include "far_cas.h"
#include "transport/tls.h"

/* The server is the one that tests of outgoing calls have, and their client the client. */
struct site {
    struct far_cas *cas;
    struct tls *tls;
    struct conf_tls conf;
    struct conf_listener listener;
    char paths[5][PATH_MAX];
    char address[64];
    void (*answer)(struct stub_server *server, const struct stub_request *request,
                   struct stub_answer *answer);
    /* Of the last call: */
    char name[IDENTITY_MAX + 1];
    enum role role;
    struct err err;
};

static struct site site;

/* --- files --- */

static void replace(const char *file, const char *text)
{
    char path[PATH_MAX], next[PATH_MAX];
    scratch_write(&site.cas->scratch, "next", text);
    assert_int_equal(rename(scratch_path(&site.cas->scratch, "next", next),
                            scratch_path(&site.cas->scratch, file, path)),
                     0);
}

/* A pair, NUL-ended; key and certificate are the caller's. */
static void make_pair(enum pair_use use, const char *name, struct text *key,
                      struct text *certificate)
{
    struct err err;
    *key = *certificate = (struct text){.bytes = NULL};
    if (pair_make(use, &name, 1, 2, key, certificate, &err) != 0)
        fail_msg("%s", err.msg);
    text_add(key, "", 1);
    text_add(certificate, "", 1);
}

static void write_pair(enum pair_use use, const char *name)
{
    struct text key, certificate;
    char file[64];
    make_pair(use, name, &key, &certificate);
    (void)snprintf(file, sizeof(file), "%s.crt", name);
    replace(file, certificate.bytes);
    (void)snprintf(file, sizeof(file), "%s.key", name);
    replace(file, key.bytes);
    text_fini(&key);
    text_fini(&certificate);
}

/* Has the clients' file hold COMMENT and the certificate of NAME; NULL: nobody's. */
static void authorize(const char *comment, const char *name)
{
    char path[PATH_MAX], text[8192] = "", file[64];
    (void)snprintf(text, sizeof(text), "%s\n", comment);
    if (name != NULL) {
        (void)snprintf(file, sizeof(file), "%s.crt", name);
        FILE *stream = fopen(scratch_path(&site.cas->scratch, file, path), "r");
        assert_non_null(stream);
        size_t begin = strlen(text), size = fread(text + begin, 1, 4096, stream);
        text[begin + size] = '\0';
        (void)fclose(stream);
    }
    replace("authorized.crt", text);
}

/* --- server and client --- */

static void answer(struct stub_server *server, const struct stub_request *request,
                   struct stub_answer *out)
{
    struct arena arena;
    const char *name;
    arena_init(&arena);
    site.err = (struct err){.code = ERR_OK};
    if (tls_identify(site.tls, request->core, &arena, &name, &site.role, &site.err) != 0)
        *out = (struct stub_answer){.status = (grpc_status_code)err_grpc_status(site.err.code),
                                    .text = site.err.msg};
    else
        site.answer(server, request, out);
    (void)snprintf(site.name, sizeof(site.name), "%s", name != NULL ? name : "?");
    arena_fini(&arena);
}

/* A client that has no certificate; of the listener's files the one of clients is empty. */
static int set_up(void **state)
{
    struct far_cas *cas;
    struct err err;
    site = (struct site){.tls = NULL};
    if (far_cas_set_up(state) != 0)
        return -1;
    site.cas = cas = *state;
    write_pair(PAIR_SERVER, "localhost");
    write_pair(PAIR_CLIENT, "friend");
    authorize("# nobody", NULL);
    site.conf = (struct conf_tls){
        .certificate = scratch_path(&cas->scratch, "localhost.crt", site.paths[0]),
        .key = scratch_path(&cas->scratch, "localhost.key", site.paths[1]),
        .client_ca = scratch_path(&cas->scratch, "authorized.crt", site.paths[2]),
        .client = CONF_CLIENT_REQUEST};
    site.listener = (struct conf_listener){.address = "here", .tls = &site.conf};
    if (tls_open(&site.listener, &site.tls, &err) != 0)
        fail_msg("%s", err.msg);
    int port = far_cas_serve_at(cas, "127.0.0.1:0", tls_credentials(site.tls));
    site.answer = cas->server.answer;
    cas->server.answer = answer;
    (void)snprintf(site.address, sizeof(site.address), "grpcs://localhost:%d", port);
    cas->conf.address = site.address;
    cas->conf.tls_ca = site.conf.certificate;
    far_cas_answer_whole(cas);
    return 0;
}

static int tear_down(void **state)
{
    far_cas_close(*state);
    far_cas_stop(*state);
    tls_close(site.tls);
    return far_cas_tear_down(state);
}

/* Connects anew as NAME. */
static void connect_as(const char *name)
{
    char file[64];
    far_cas_close(site.cas);
    (void)snprintf(file, sizeof(file), "%s.crt", name);
    site.cas->conf.tls_certificate = scratch_path(&site.cas->scratch, file, site.paths[3]);
    (void)snprintf(file, sizeof(file), "%s.key", name);
    site.cas->conf.tls_key = scratch_path(&site.cas->scratch, file, site.paths[4]);
    far_cas_open(site.cas);
}

static void call_as(const char *name, enum role role)
{
    struct err err;
    if (far_cas_try(site.cas, &err) != ERR_OK)
        fail_msg("%s", err.msg);
    assert_string_equal(site.name, name);
    assert_int_equal(site.role, role);
}

static void call_refused(const char *reason)
{
    struct err err;
    assert_int_not_equal(far_cas_try(site.cas, &err), ERR_OK);
    assert_int_equal(site.err.code, ERR_UNAUTHENTICATED);
    if (strstr(site.err.msg, reason) == NULL)
        fail_msg("%s", site.err.msg);
}

static size_t logged(const char *text)
{
    return far_cas_logged(site.cas, text);
}

/* --- who calls --- */

static void who_shows_nothing_is_nobody_and_reads(void **state)
{
    (void)state;
    far_cas_open(site.cas);
    call_as("", ROLE_READ);
}

static void a_client_is_who_the_file_says(void **state)
{
    (void)state;
    authorize("# client: pal", "friend");
    connect_as("friend");
    call_as("pal", ROLE_WRITE);
    authorize("# client: mate read", "friend");
    tls_refresh(site.tls);
    call_as("mate", ROLE_READ);
    assert_int_equal(logged("client-refused"), 0);
}

static void who_is_taken_out_is_refused_at_the_next_call(void **state)
{
    (void)state;
    authorize("# client: pal", "friend");
    connect_as("friend");
    call_as("pal", ROLE_WRITE);
    write_pair(PAIR_CLIENT, "other");
    authorize("# client: other", "other");
    tls_refresh(site.tls);
    call_refused("is not registered here");
    assert_string_equal(site.name, "");
    assert_int_equal(site.role, ROLE_READ);
    authorize("# client: pal", "friend");
    tls_refresh(site.tls);
    call_as("pal", ROLE_WRITE);
}

static void who_is_refused_may_go_on_calling(void **state)
{
    (void)state;
    enum { CALLS = 100 };
    authorize("# client: pal", "friend");
    connect_as("friend");
    call_as("pal", ROLE_WRITE);
    authorize("# nobody", NULL);
    tls_refresh(site.tls);
    for (unsigned i = 0; i < CALLS; i++)
        call_refused("is not registered here");
    size_t lines = logged("event=client-refused listener=here fingerprint=");
    assert_true(lines >= 1 && lines < CALLS);
}

/* A pair whose certificate ends in SECONDS. */
static void write_brief_pair(const char *name, int seconds)
{
    EVP_PKEY *pair = EVP_EC_gen("P-256");
    X509 *x509 = X509_new();
    char path[PATH_MAX], file[64];
    assert_true(pair != NULL && x509 != NULL);
    X509_NAME *subject = X509_get_subject_name(x509);
    assert_true(X509_NAME_add_entry_by_txt(subject, "CN", MBSTRING_ASC, (const unsigned char *)name,
                                           -1, -1, 0) == 1 &&
                X509_set_issuer_name(x509, subject) == 1 && X509_set_pubkey(x509, pair) == 1 &&
                X509_gmtime_adj(X509_getm_notBefore(x509), -3600) != NULL &&
                X509_gmtime_adj(X509_getm_notAfter(x509), seconds) != NULL &&
                X509_sign(x509, pair, EVP_sha256()) != 0);
    (void)snprintf(file, sizeof(file), "%s.crt", name);
    FILE *out = fopen(scratch_path(&site.cas->scratch, file, path), "w");
    assert_true(out != NULL && PEM_write_X509(out, x509) == 1 && fclose(out) == 0);
    (void)snprintf(file, sizeof(file), "%s.key", name);
    out = fopen(scratch_path(&site.cas->scratch, file, path), "w");
    assert_true(out != NULL && PEM_write_PrivateKey(out, pair, NULL, NULL, 0, NULL, NULL) == 1 &&
                fclose(out) == 0);
    X509_free(x509);
    EVP_PKEY_free(pair);
}

/* However long the connection lives. */
static void a_certificate_that_expires_is_refused_at_the_next_call(void **state)
{
    (void)state;
    struct err err;
    bool was_let_in = false;
    for (int seconds = 2; !was_let_in; seconds *= 2) { /* until the machine is quick enough */
        write_brief_pair("brief", seconds);
        authorize("# client: brief", "brief");
        connect_as("brief");
        was_let_in = far_cas_try(site.cas, &err) == ERR_OK;
    }
    while (far_cas_try(site.cas, &err) == ERR_OK)
        (void)usleep(50000);
    call_refused("has expired");
    assert_int_equal(logged("reason=expired"), 1);
}

/* --- files that change --- */

static void half_of_a_change_is_told_once(void **state)
{
    (void)state;
    struct text key, certificate;
    make_pair(PAIR_SERVER, "localhost", &key, &certificate);
    assert_int_equal(logged("event=tls-files "), 1);
    replace("localhost.key", key.bytes);
    tls_refresh(site.tls);
    tls_refresh(site.tls);
    assert_int_equal(logged("level=warning event=tls-files-kept listener=here"), 1);
    assert_int_equal(logged("is not the key of"), 1);
    replace("localhost.crt", certificate.bytes);
    tls_refresh(site.tls);
    assert_int_equal(logged("event=tls-files "), 2);
    assert_int_equal(logged("event=tls-files-kept"), 1);
    far_cas_open(site.cas);
    call_as("", ROLE_READ);
    text_fini(&key);
    text_fini(&certificate);
}

static void what_is_written_again_as_it_was_is_nothing_new(void **state)
{
    (void)state;
    authorize("# nobody", NULL);
    tls_refresh(site.tls);
    assert_int_equal(logged("event=tls-files "), 1);
    replace("authorized.crt", "words");
    tls_refresh(site.tls);
    assert_int_equal(logged("event=tls-files-kept"), 1);
    /* Unless the log had that it is not. */
    authorize("# nobody", NULL);
    tls_refresh(site.tls);
    tls_refresh(site.tls);
    assert_int_equal(logged("event=tls-files "), 2);
}

static void files_that_go_leave_what_they_held(void **state)
{
    (void)state;
    authorize("# client: pal", "friend");
    connect_as("friend");
    call_as("pal", ROLE_WRITE);
    for (size_t i = 0; i < 3; i++) {
        assert_int_equal(unlink(site.paths[i]), 0);
        tls_refresh(site.tls);
        call_as("pal", ROLE_WRITE);
    }
    assert_int_equal(logged("event=tls-files-kept"), 3);
    assert_int_equal(logged("nobody is revoked, not by removing the file either"), 1);
}

/* Not by calls on an open connection, nor for new ones. */
static void a_broken_pair_delays_no_revocation(void **state)
{
    (void)state;
    struct text key, certificate;
    struct err err;
    authorize("# client: pal", "friend");
    connect_as("friend");
    call_as("pal", ROLE_WRITE);
    make_pair(PAIR_SERVER, "localhost", &key, &certificate);
    replace("localhost.key", key.bytes);
    tls_refresh(site.tls);
    assert_int_equal(logged("who is taken out of it is refused"), 1);
    write_pair(PAIR_CLIENT, "other");
    authorize("# client: other", "other");
    tls_refresh(site.tls);
    call_refused("is not registered here");
    connect_as("other");
    call_as("other", ROLE_WRITE);
    connect_as("friend");
    site.name[0] = '\0';
    assert_int_not_equal(far_cas_try(site.cas, &err), ERR_OK);
    assert_string_equal(site.name, "");
    assert_int_equal(logged("event=tls-files listener=here read=clients clients=1 "), 2);
    assert_int_equal(logged("event=tls-files-kept"), 1);
    text_fini(&key);
    text_fini(&certificate);
}

static void a_broken_list_delays_no_new_pair(void **state)
{
    (void)state;
    authorize("# client: pal", "friend");
    connect_as("friend");
    call_as("pal", ROLE_WRITE);
    replace("authorized.crt", "words");
    tls_refresh(site.tls);
    assert_int_equal(logged("nobody is revoked, not by removing the file either"), 1);
    write_pair(PAIR_SERVER, "localhost");
    tls_refresh(site.tls);
    assert_int_equal(logged("event=tls-files listener=here read=\"certificate and key\""), 1);
    call_as("pal", ROLE_WRITE);
    connect_as("friend"); /* who trusts the new certificate alone */
    call_as("pal", ROLE_WRITE);
    assert_int_equal(logged("event=tls-files-kept"), 1);
}

/* --- all at once --- */

static atomic_bool is_over;

static void *refresh(void *unused)
{
    while (!atomic_load(&is_over))
        tls_refresh(site.tls);
    return unused;
}

static void calls_and_connections_go_on_while_files_change(void **state)
{
    (void)state;
    enum { THREADS = 2, TURNS = 20, CALLS = 5 };
    pthread_t threads[THREADS];
    authorize("# client: pal", "friend");
    atomic_store(&is_over, false);
    for (size_t i = 0; i < THREADS; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, refresh, NULL), 0);
    for (unsigned turn = 0; turn < TURNS; turn++) {
        char comment[32], name[16];
        (void)snprintf(name, sizeof(name), "pal%u", turn);
        (void)snprintf(comment, sizeof(comment), "# client: %s", name);
        authorize(comment, "friend");
        connect_as("friend");
        for (unsigned i = 0; i < CALLS; i++)
            call_as(name, ROLE_WRITE);
    }
    atomic_store(&is_over, true);
    for (size_t i = 0; i < THREADS; i++)
        assert_int_equal(pthread_join(threads[i], NULL), 0);
    assert_int_equal(logged("event=tls-files-kept"), 0);
}

int main(void)
{
#define test(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)
    const struct CMUnitTest tests[] = {
        test(who_shows_nothing_is_nobody_and_reads),
        test(a_client_is_who_the_file_says),
        test(who_is_taken_out_is_refused_at_the_next_call),
        test(who_is_refused_may_go_on_calling),
        test(a_certificate_that_expires_is_refused_at_the_next_call),
        test(half_of_a_change_is_told_once),
        test(what_is_written_again_as_it_was_is_nothing_new),
        test(files_that_go_leave_what_they_held),
        test(a_broken_pair_delays_no_revocation),
        test(a_broken_list_delays_no_new_pair),
        test(calls_and_connections_go_on_while_files_change),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
