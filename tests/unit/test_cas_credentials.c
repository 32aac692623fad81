/* SPDX-License-Identifier: Apache-2.0 */
/* What an external CAS wants of who calls it: tokens, certificates, and their files. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "credential/pair.h"
#include "far_cas.h"
#include "remote/cas_credentials.h"

static const char *path_of(const struct far_cas *cas, const char *file, char path[PATH_MAX])
{
    return scratch_path(&cas->scratch, file, path);
}

/* --- the token --- */

/* The next call has this. */
static void assert_authorization(struct far_cas *cas, const char *expected)
{
    struct err err;
    if (far_cas_try(cas, &err) != ERR_OK)
        fail_msg("%s", err.msg);
    assert_string_equal(cas->authorization, expected);
}

/* As editors and secret stores do it, in one step. */
static void replace(const struct far_cas *cas, const char *file, const char *text)
{
    char path[PATH_MAX], next[PATH_MAX];
    scratch_write(&cas->scratch, "next", text);
    assert_int_equal(rename(path_of(cas, "next", next), path_of(cas, file, path)), 0);
}

static void without_a_token_there_is_no_authorization(void **state)
{
    struct far_cas *cas = *state;
    far_cas_answer_whole(cas);
    far_cas_serve(cas);
    far_cas_open(cas);
    assert_authorization(cas, "");
}

static void the_token_is_read_again_when_it_has_changed(void **state)
{
    struct far_cas *cas = *state;
    char path[PATH_MAX];
    far_cas_answer_whole(cas);
    cas->conf.token_file = path_of(cas, "token", path);
    replace(cas, "token", "first\n");
    far_cas_serve(cas);
    far_cas_open(cas);
    assert_authorization(cas, "Bearer first");
    replace(cas, "token", "  other\r\n");
    assert_authorization(cas, "Bearer other");
    scratch_write(&cas->scratch, "token", "in-place");
    assert_authorization(cas, "Bearer in-place");
    assert_int_equal(far_cas_logged(cas, "cas-token-unreadable"), 0);
}

static void the_last_token_is_used_while_there_is_none(void **state)
{
    struct far_cas *cas = *state;
    char path[PATH_MAX];
    far_cas_answer_whole(cas);
    cas->conf.token_file = path_of(cas, "token", path);
    replace(cas, "token", "first");
    far_cas_serve(cas);
    far_cas_open(cas);
    assert_int_equal(unlink(path), 0);
    assert_authorization(cas, "Bearer first");
    assert_authorization(cas, "Bearer first");
    assert_int_equal(far_cas_logged(cas, "event=cas-token-unreadable instance=near"), 1);
    replace(cas, "token", "\n");
    assert_authorization(cas, "Bearer first");
    assert_authorization(cas, "Bearer first");
    assert_int_equal(far_cas_logged(cas, "event=cas-token-unreadable"), 2);
    replace(cas, "token", "second");
    assert_authorization(cas, "Bearer second");
    assert_int_equal(far_cas_logged(cas, "first"), 0);
    assert_int_equal(far_cas_logged(cas, "second"), 0);
}

/* The connections are not opened, for REASON. */
static void fail_open(struct far_cas *cas, const char *reason)
{
    struct err err;
    assert_int_equal(cas_connections_open(&cas->conf, "near", cas->queue, &cas->connections, &err),
                     -ERR_PRECONDITION);
    if (strstr(err.msg, reason) == NULL)
        fail_msg("\"%s\" is not in: %s", reason, err.msg);
    if (strstr(err.msg, cas->scratch.path) == NULL)
        fail_msg("the file is not in: %s", err.msg);
}

static void files_without_a_token_are_refused(void **state)
{
    struct far_cas *cas = *state;
    char path[PATH_MAX];
    cas->conf.token_file = path_of(cas, "token", path);
    fail_open(cas, "No such file");
    replace(cas, "token", " \n");
    fail_open(cas, "is empty");
    replace(cas, "token", "Bearer abc");
    fail_open(cas, "without \"Bearer\"");
    replace(cas, "token", "caf\xc3\xa9");
    fail_open(cas, "printable ASCII");
    cas->conf.token_file = cas->scratch.path;
    fail_open(cas, "no regular file");
}

/* --- TLS --- */

/* A pair for NAME in NAME.crt and NAME.key below the folder. */
static void make_pair(const struct far_cas *cas, enum pair_use use, const char *name)
{
    struct text key = {.bytes = NULL}, certificate = {.bytes = NULL};
    char file[64];
    struct err err;
    if (pair_make(use, &name, 1, 2, &key, &certificate, &err) != 0)
        fail_msg("%s", err.msg);
    text_add(&key, "", 1);
    text_add(&certificate, "", 1);
    (void)snprintf(file, sizeof(file), "%s.crt", name);
    replace(cas, file, certificate.bytes);
    (void)snprintf(file, sizeof(file), "%s.key", name);
    replace(cas, file, key.bytes);
    text_fini(&key);
    text_fini(&certificate);
}

static char *read_text(const struct far_cas *cas, const char *file)
{
    char path[PATH_MAX];
    char *text = calloc(1, 8192);
    FILE *stream = fopen(path_of(cas, file, path), "r");
    assert_true(text != NULL && stream != NULL);
    assert_true(fread(text, 1, 8191, stream) > 0);
    (void)fclose(stream);
    return text;
}

/* Files for TLS, and the address. */
struct tls {
    char ca[PATH_MAX];
    char certificate[PATH_MAX];
    char key[PATH_MAX];
    char address[64];
};

/*
 * Serves by TLS as localhost, to those who have the certificate of "friend" if WANTS_CLIENT. The
 * configuration is one that has all of it right.
 */
static void serve_tls(struct far_cas *cas, bool wants_client, struct tls *tls)
{
    make_pair(cas, PAIR_SERVER, "localhost");
    make_pair(cas, PAIR_CLIENT, "friend");
    char *certificate = read_text(cas, "localhost.crt"), *key = read_text(cas, "localhost.key");
    char *friends = read_text(cas, "friend.crt");
    grpc_ssl_pem_key_cert_pair pair = {.private_key = key, .cert_chain = certificate};
    int port = far_cas_serve_at(cas, "127.0.0.1:0",
                                grpc_ssl_server_credentials_create_ex(
                                    friends, &pair, 1,
                                    wants_client
                                        ? GRPC_SSL_REQUEST_AND_REQUIRE_CLIENT_CERTIFICATE_AND_VERIFY
                                        : GRPC_SSL_DONT_REQUEST_CLIENT_CERTIFICATE,
                                    NULL));
    free(certificate);
    free(key);
    free(friends);
    (void)snprintf(tls->address, sizeof(tls->address), "grpcs://localhost:%d", port);
    cas->conf.address = tls->address;
    cas->conf.tls_ca = path_of(cas, "localhost.crt", tls->ca);
    if (wants_client) {
        cas->conf.tls_certificate = path_of(cas, "friend.crt", tls->certificate);
        cas->conf.tls_key = path_of(cas, "friend.key", tls->key);
    }
    far_cas_answer_whole(cas);
}

static void succeed(struct far_cas *cas)
{
    struct err err;
    far_cas_open(cas);
    if (far_cas_try(cas, &err) != ERR_OK)
        fail_msg("%s", err.msg);
}

/* There is no answer, for REASON, and no call has reached the server. */
static void fail_tls(struct far_cas *cas, const char *reason)
{
    struct err err;
    far_cas_open(cas);
    assert_int_equal(far_cas_try(cas, &err), ERR_UNAVAILABLE);
    far_cas_assert_says(cas, &err, reason);
    assert_int_equal(cas->requests, 0);
}

static void a_server_of_a_ca_of_its_own_is_believed(void **state)
{
    struct tls tls;
    serve_tls(*state, false, &tls);
    succeed(*state);
}

static void the_token_goes_over_tls(void **state)
{
    struct far_cas *cas = *state;
    struct tls tls;
    char path[PATH_MAX];
    serve_tls(cas, false, &tls);
    replace(cas, "token", "secret");
    cas->conf.token_file = path_of(cas, "token", path);
    succeed(cas);
    assert_string_equal(cas->authorization, "Bearer secret");
}

static void a_server_of_another_ca_is_not_believed(void **state)
{
    struct far_cas *cas = *state;
    struct tls tls;
    serve_tls(cas, false, &tls);
    make_pair(cas, PAIR_SERVER, "elsewhere");
    cas->conf.tls_ca = path_of(cas, "elsewhere.crt", tls.ca);
    fail_tls(cas, "certificate verify failed; does cas.tls.ca hold");
}

static void the_systems_cas_do_not_know_it(void **state)
{
    struct far_cas *cas = *state;
    struct tls tls;
    serve_tls(cas, false, &tls);
    cas->conf.tls_ca = NULL;
    fail_tls(cas, "certificate verify failed; does cas.tls.ca hold");
}

static void a_server_of_another_name_is_not_believed(void **state)
{
    struct far_cas *cas = *state;
    struct tls tls;
    serve_tls(cas, false, &tls);
    char *port = strrchr(tls.address, ':');
    char address[64];
    (void)snprintf(address, sizeof(address), "grpcs://127.0.0.1%s", port);
    cas->conf.address = address;
    fail_tls(cas, "not in peer certificate; write a name");
}

static void plain_calls_to_tls_are_told(void **state)
{
    struct far_cas *cas = *state;
    struct tls tls;
    serve_tls(cas, false, &tls);
    char address[64];
    (void)snprintf(address, sizeof(address), "grpc%s", tls.address + strlen("grpcs"));
    cas->conf.address = address;
    fail_tls(cas, "Socket closed; is there TLS at that port?");
}

static void tls_to_a_plain_server_is_told(void **state)
{
    struct far_cas *cas = *state;
    struct tls tls;
    serve_tls(cas, false, &tls);
    far_cas_stop(cas);
    int port = far_cas_serve_at(cas, "127.0.0.1:0", NULL);
    (void)snprintf(tls.address, sizeof(tls.address), "grpcs://localhost:%d", port);
    fail_tls(cas, "wrong version number; is there TLS at that port?");
}

static void a_client_certificate_is_shown(void **state)
{
    struct tls tls;
    serve_tls(*state, true, &tls);
    succeed(*state);
}

static void without_a_client_certificate_there_is_no_answer(void **state)
{
    struct far_cas *cas = *state;
    struct tls tls;
    serve_tls(cas, true, &tls);
    cas->conf.tls_certificate = NULL;
    cas->conf.tls_key = NULL;
    fail_tls(cas, "Socket closed; does the server ask for");
}

static void a_key_of_another_certificate_is_of_no_use(void **state)
{
    struct far_cas *cas = *state;
    struct tls tls;
    serve_tls(cas, true, &tls);
    cas->conf.tls_key = path_of(cas, "localhost.key", tls.key);
    fail_tls(cas, "TLS cannot be set up: is cas.tls.key the key");
}

/* As when a certificate is replaced that has run out. */
static void files_are_read_again_for_new_connections(void **state)
{
    struct far_cas *cas = *state;
    struct tls tls;
    serve_tls(cas, true, &tls);
    char *certificate = read_text(cas, "friend.crt"), *key = read_text(cas, "friend.key");
    make_pair(cas, PAIR_CLIENT, "friend");
    far_cas_open(cas);
    far_cas_lose(cas);
    replace(cas, "friend.crt", certificate);
    replace(cas, "friend.key", key);
    far_cas_await(cas);
    free(certificate);
    free(key);
}

static void files_that_are_gone_fail_the_try(void **state)
{
    struct far_cas *cas = *state;
    struct tls tls;
    struct err err;
    serve_tls(cas, true, &tls);
    char *key = read_text(cas, "friend.key");
    far_cas_open(cas);
    far_cas_answer(cas, GRPC_STATUS_UNAVAILABLE, "not now");
    far_cas_lose(cas);
    far_cas_answer_whole(cas);
    assert_int_equal(unlink(tls.key), 0);
    enum err_code code;
    do
        code = far_cas_try(cas, &err);
    while (code == ERR_AWAY);
    assert_int_equal(code, ERR_UNAVAILABLE);
    far_cas_assert_says(cas, &err, "friend.key: No such file");
    assert_int_equal(far_cas_logged(cas, "event=cas-lost"), 1);
    replace(cas, "friend.key", key);
    far_cas_await(cas);
    free(key);
}

static void files_that_are_no_pem_are_refused(void **state)
{
    struct far_cas *cas = *state;
    struct tls tls;
    serve_tls(cas, true, &tls);
    cas->conf.tls_certificate = tls.key;
    fail_open(cas, "no certificate in PEM form");
    cas->conf.tls_certificate = tls.certificate;
    cas->conf.tls_key = tls.certificate;
    fail_open(cas, "no private key in PEM form");
    cas->conf.tls_key = tls.key;
    replace(cas, "friend.key",
            "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAA==\n-----END ENCRYPTED PRIVATE KEY-----\n");
    fail_open(cas, "take the passphrase off");
    replace(cas, "localhost.crt", "");
    fail_open(cas, "no certificate in PEM form");
    assert_int_equal(unlink(tls.ca), 0);
    fail_open(cas, "No such file");
}

/* What looks like a certificate and is none. */
static void broken_certificates_make_no_connection(void **state)
{
    struct far_cas *cas = *state;
    struct tls tls;
    serve_tls(cas, false, &tls);
    replace(cas, "localhost.crt", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n");
    fail_tls(cas, "TLS cannot be set up");
}

static void without_the_systems_cas_it_is_told_what_to_install(void **state)
{
    struct far_cas *cas = *state;
    grpc_channel_credentials *credentials;
    char path[PATH_MAX];
    struct err err;
    cas->conf.address = "grpcs://localhost:1";
    assert_int_equal(
        cas_credentials_make(&cas->conf, path_of(cas, "none", path), &credentials, &err),
        -ERR_PRECONDITION);
    assert_non_null(strstr(err.msg, "apt install ca-certificates"));
    scratch_write(&cas->scratch, "none", "");
    assert_int_equal(cas_credentials_make(&cas->conf, path, &credentials, &err), -ERR_PRECONDITION);
    assert_non_null(strstr(err.msg, "apt install ca-certificates"));
}

#define WITH_CAS(test) cmocka_unit_test_setup_teardown(test, far_cas_set_up, far_cas_tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        WITH_CAS(without_a_token_there_is_no_authorization),
        WITH_CAS(the_token_is_read_again_when_it_has_changed),
        WITH_CAS(the_last_token_is_used_while_there_is_none),
        WITH_CAS(files_without_a_token_are_refused),
        WITH_CAS(a_server_of_a_ca_of_its_own_is_believed),
        WITH_CAS(the_token_goes_over_tls),
        WITH_CAS(a_server_of_another_ca_is_not_believed),
        WITH_CAS(the_systems_cas_do_not_know_it),
        WITH_CAS(a_server_of_another_name_is_not_believed),
        WITH_CAS(plain_calls_to_tls_are_told),
        WITH_CAS(tls_to_a_plain_server_is_told),
        WITH_CAS(a_client_certificate_is_shown),
        WITH_CAS(without_a_client_certificate_there_is_no_answer),
        WITH_CAS(a_key_of_another_certificate_is_of_no_use),
        WITH_CAS(files_are_read_again_for_new_connections),
        WITH_CAS(files_that_are_gone_fail_the_try),
        WITH_CAS(files_that_are_no_pem_are_refused),
        WITH_CAS(broken_certificates_make_no_connection),
        WITH_CAS(without_the_systems_cas_it_is_told_what_to_install),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
