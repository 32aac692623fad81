/* SPDX-License-Identifier: Apache-2.0 */
/* The files of a listener's TLS: what is good, what is not and why, and whether they have changed.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/rsa.h>

#include "credential/pair.h"
#include "credential/pair_check.h"
#include "scratch.h"
#include "transport/tls_files.h"

struct site {
    struct scratch scratch;
    char certificate[PATH_MAX];
    char key[PATH_MAX];
    char client_ca[PATH_MAX];
    struct conf_tls conf;
};

static char *make(enum pair_use use, const char *name, char **key)
{
    struct text texts[2] = {{.bytes = NULL}, {.bytes = NULL}};
    char *copies[2];
    struct err err;
    if (pair_make(use, &name, 1, 2, &texts[0], &texts[1], &err) != 0)
        fail_msg("%s", err.msg);
    for (size_t i = 0; i < 2; i++) {
        copies[i] = strndup(texts[i].bytes, texts[i].size);
        assert_non_null(copies[i]);
        text_fini(&texts[i]);
    }
    *key = copies[0];
    return copies[1];
}

static void write_pair(const struct site *site)
{
    char *key, *certificate = make(PAIR_SERVER, "localhost", &key);
    scratch_write(&site->scratch, "server.crt", certificate);
    scratch_write(&site->scratch, "server.key", key);
    free(certificate);
    free(key);
}

static int set_up(void **state)
{
    struct site *site = calloc(1, sizeof(*site));
    char *key, *certificate = make(PAIR_CLIENT, "friend", &key);
    assert_non_null(site);
    scratch_init(&site->scratch);
    site->conf = (struct conf_tls){
        .certificate = scratch_path(&site->scratch, "server.crt", site->certificate),
        .key = scratch_path(&site->scratch, "server.key", site->key),
        .client_ca = scratch_path(&site->scratch, "authorized.crt", site->client_ca),
        .client = CONF_CLIENT_REQUIRE};
    write_pair(site);
    scratch_write(&site->scratch, "authorized.crt", certificate);
    free(certificate);
    free(key);
    *state = site;
    return 0;
}

static int tear_down(void **state)
{
    struct site *site = *state;
    scratch_fini(&site->scratch);
    free(site);
    return 0;
}

static int read_all(const struct conf_tls *conf, struct tls_files *files, struct err *err)
{
    int rc = tls_files_read(conf, files, err);
    return rc == 0 ? tls_files_judge(conf, files, err) : rc;
}

/* Both ways to look at them give CODE, and say REASON. */
static void refuse(const struct conf_tls *conf, enum err_code code, const char *reason)
{
    struct tls_files files;
    struct err err = {.msg = ""}, checked = {.msg = ""};
    assert_int_equal(read_all(conf, &files, &err), -(int)code);
    if (strstr(err.msg, reason) == NULL)
        fail_msg("%s", err.msg);
    tls_files_fini(&files);
    assert_int_equal(tls_files_check(conf, &checked), -(int)code);
    assert_string_equal(checked.msg, err.msg);
}

/* --- what is good --- */

static void good_files_are_ready_for_the_core(void **state)
{
    const struct site *site = *state;
    struct tls_files files;
    struct err err;
    if (read_all(&site->conf, &files, &err) != 0)
        fail_msg("%s", err.msg);
    const struct text *texts[] = {&files.chain, &files.key, &files.leaf, &files.members.roots};
    for (size_t i = 0; i < sizeof(texts) / sizeof(texts[0]); i++)
        assert_int_equal(strlen(texts[i]->bytes) + 1, texts[i]->size);
    assert_string_equal(files.leaf.bytes, files.chain.bytes);
    assert_int_equal(files.members.count, 1);
    assert_true(files.not_after > certificate_now());
    assert_null(files.authorized.bytes);
    tls_files_fini(&files);
    assert_int_equal(tls_files_check(&site->conf, &err), 0);
}

static void the_chain_is_whole_and_the_leaf_its_first(void **state)
{
    struct site *site = *state;
    char *key, *certificate = make(PAIR_SERVER, "localhost", &key);
    char *other_key, *other = make(PAIR_SERVER, "authority", &other_key);
    char text[8192];
    struct tls_files files;
    struct err err;
    (void)snprintf(text, sizeof(text), "words\n%s\n%s%s", key, certificate, other);
    scratch_write(&site->scratch, "server.crt", text);
    scratch_write(&site->scratch, "server.key", key);
    if (read_all(&site->conf, &files, &err) != 0)
        fail_msg("%s", err.msg);
    assert_string_equal(files.chain.bytes, text);
    assert_string_equal(files.leaf.bytes, certificate);
    tls_files_fini(&files);
    /* The second is looked at as well. */
    text[strlen(text) - strlen(other) / 2] = '!';
    scratch_write(&site->scratch, "server.crt", text);
    refuse(&site->conf, ERR_INVALID, "server.crt: line ");
    free(certificate);
    free(key);
    free(other);
    free(other_key);
}

static void without_a_list_there_is_nobody(void **state)
{
    struct site *site = *state;
    struct tls_files files;
    struct err err;
    site->conf.client_ca = NULL;
    assert_int_equal(read_all(&site->conf, &files, &err), 0);
    assert_int_equal(files.members.count, 0);
    tls_files_fini(&files);
}

static void the_digest_is_that_of_all(void **state)
{
    const struct site *site = *state;
    struct tls_files files, again;
    struct err err;
    assert_int_equal(tls_files_read(&site->conf, &files, &err), 0);
    assert_int_equal(tls_files_read(&site->conf, &again, &err), 0);
    assert_true(digest_equal(&files.digest, &again.digest));
    tls_files_fini(&again);
    scratch_write(&site->scratch, "authorized.crt", "");
    assert_int_equal(tls_files_read(&site->conf, &again, &err), 0);
    assert_false(digest_equal(&files.digest, &again.digest));
    tls_files_fini(&again);
    tls_files_fini(&files);
}

/* --- what is not --- */

static void a_key_of_another_certificate_is_half_of_a_change(void **state)
{
    struct site *site = *state;
    char *key, *certificate = make(PAIR_SERVER, "localhost", &key);
    scratch_write(&site->scratch, "server.key", key);
    refuse(&site->conf, ERR_PRECONDITION, "server.key is not the key of ");
    free(certificate);
    free(key);
}

static void a_key_of_another_kind_is_too(void **state)
{
    struct site *site = *state;
    EVP_PKEY *pair = EVP_RSA_gen(2048);
    FILE *file = fopen(site->key, "w");
    assert_true(pair != NULL && file != NULL);
    assert_int_equal(PEM_write_PrivateKey(file, pair, NULL, NULL, 0, NULL, NULL), 1);
    assert_int_equal(fclose(file), 0);
    EVP_PKEY_free(pair);
    refuse(&site->conf, ERR_PRECONDITION, "server.key is not the key of ");
}

/* OpenSSL would take it for a file, but not for TLS. */
static void a_weak_certificate_is_refused_before_the_core_meets_it(void **state)
{
    struct site *site = *state;
    EVP_PKEY *pair = EVP_RSA_gen(512);
    X509 *x509 = X509_new();
    FILE *file = fopen(site->certificate, "w");
    assert_true(pair != NULL && x509 != NULL && file != NULL);
    assert_true(X509_set_pubkey(x509, pair) == 1 &&
                X509_gmtime_adj(X509_getm_notBefore(x509), 0) != NULL &&
                X509_gmtime_adj(X509_getm_notAfter(x509), 1000) != NULL &&
                X509_sign(x509, pair, EVP_sha256()) != 0);
    assert_int_equal(PEM_write_X509(file, x509), 1);
    assert_int_equal(fclose(file), 0);
    X509_free(x509);
    EVP_PKEY_free(pair);
    refuse(&site->conf, ERR_INVALID, "ee key too small");
}

static void what_is_wrong_is_told_with_the_file(void **state)
{
    struct site *site = *state;
    static const struct {
        const char *file;
        const char *text;
        const char *reason;
    } cases[] = {
        {"server.crt", "", "server.crt: it holds no certificate in PEM form"},
        {"server.crt", "-----BEGIN CERTIFICATE-----\n", "server.crt: line 1: it has no line"},
        {"server.crt", "-----BEGIN PRIVATE KEY-----\n",
         "server.crt: it holds a private key, and no certificate; key and certificate may be the "
         "wrong way round"},
        {"server.key", "", "server.key: it holds no private key in PEM form"},
        {"server.key", "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n",
         "server.key: this key cannot be read"},
        {"server.key", "-----BEGIN ENCRYPTED PRIVATE KEY-----\n", "openssl pkey -in"},
        {"server.key", "-----BEGIN EC PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\n",
         "openssl pkey -in"},
        {"authorized.crt", "words\n", "authorized.crt holds no certificate"},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        char path[PATH_MAX], saved[PATH_MAX];
        (void)scratch_path(&site->scratch, cases[i].file, path);
        (void)scratch_path(&site->scratch, "saved", saved);
        assert_int_equal(rename(path, saved), 0);
        scratch_write(&site->scratch, cases[i].file, cases[i].text);
        refuse(&site->conf, ERR_INVALID, cases[i].reason);
        assert_int_equal(rename(saved, path), 0);
    }
}

static void what_is_no_file_is_told_and_holds_up_nobody(void **state)
{
    struct site *site = *state;
    assert_int_equal(unlink(site->client_ca), 0);
    refuse(&site->conf, ERR_NOT_FOUND, "; an empty one lets nobody in");
    assert_int_equal(mkfifo(site->client_ca, 0600), 0);
    refuse(&site->conf, ERR_PRECONDITION, "authorized.crt is no regular file");
    assert_int_equal(unlink(site->key), 0);
    assert_int_equal(mkdir(site->key, 0700), 0);
    refuse(&site->conf, ERR_PRECONDITION, "server.key is no regular file");
}

static void a_nul_is_refused(void **state)
{
    struct site *site = *state;
    FILE *file = fopen(site->client_ca, "a");
    assert_non_null(file);
    assert_int_equal(fputc('\0', file), 0);
    assert_int_equal(fclose(file), 0);
    refuse(&site->conf, ERR_INVALID, "it has a NUL in it");
}

/* --- looks --- */

static struct tls_look look_at(const struct site *site)
{
    struct tls_look look;
    tls_look_take(&look, &site->conf);
    return look;
}

static void a_look_tells_what_has_changed(void **state)
{
    struct site *site = *state;
    struct tls_look none = {.errors = {0}}, before = look_at(site), after = look_at(site);
    char other[PATH_MAX];
    assert_true(tls_look_is_same(&before, &after));
    assert_false(tls_look_is_same(&before, &none));
    scratch_write(&site->scratch, "authorized.crt", "x");
    after = look_at(site);
    assert_false(tls_look_is_same(&before, &after));
    before = after;
    assert_int_equal(unlink(site->key), 0);
    after = look_at(site);
    assert_false(tls_look_is_same(&before, &after));
    assert_int_equal(symlink(scratch_path(&site->scratch, "server.crt", other), site->key), 0);
    before = look_at(site);
    assert_false(tls_look_is_same(&before, &after));
}

static void a_file_is_fresh_for_a_while(void **state)
{
    struct site *site = *state;
    struct tls_look look = look_at(site);
    assert_true(tls_look_is_fresh(&look, INT64_MAX));
    assert_false(tls_look_is_fresh(&look, 0));
    /* The clock was set back: nobody waits for it. */
    for (size_t i = 0; i < TLS_FILES; i++)
        look.files[i].st_ctim.tv_sec += 3600;
    assert_false(tls_look_is_fresh(&look, INT64_MAX));
}

int main(void)
{
#define test(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)
    const struct CMUnitTest tests[] = {
        test(good_files_are_ready_for_the_core),
        test(the_chain_is_whole_and_the_leaf_its_first),
        test(without_a_list_there_is_nobody),
        test(the_digest_is_that_of_all),
        test(a_key_of_another_certificate_is_half_of_a_change),
        test(a_key_of_another_kind_is_too),
        test(a_weak_certificate_is_refused_before_the_core_meets_it),
        test(what_is_wrong_is_told_with_the_file),
        test(what_is_no_file_is_told_and_holds_up_nobody),
        test(a_nul_is_refused),
        test(a_look_tells_what_has_changed),
        test(a_file_is_fresh_for_a_while),
    };
    pair_check_begin();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
