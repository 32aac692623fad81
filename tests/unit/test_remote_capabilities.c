/* SPDX-License-Identifier: Apache-2.0 */
/* What an external CAS can do: who is told, how old it may be, what is logged. */
#include <sys/mman.h>

#include "remote_site.h"

/* --- what the CAS can do --- */

struct inquiry {
    struct remote_capabilities capabilities; /* first */
    unsigned told;
    char text[32]; /* "-" for none */
    enum err_code code;
};

static void on_told(struct remote_capabilities *capabilities, struct span message,
                    const struct err *err)
{
    struct inquiry *inquiry = (struct inquiry *)capabilities;
    inquiry->told++;
    inquiry->code = err != NULL ? err->code : ERR_OK;
    (void)snprintf(inquiry->text, sizeof(inquiry->text), "%.*s",
                   message.data != NULL ? (int)message.size : 1,
                   message.data != NULL ? (const char *)message.data : "-");
}

static void inquire(struct inquiry *inquiry)
{
    *inquiry = (struct inquiry){.capabilities = {.cas = cas, .done = on_told}};
    remote_capabilities_start(&inquiry->capabilities);
}

static void assert_learned(const struct inquiry *inquiry, const char *text)
{
    assert_int_equal(inquiry->told, 1);
    assert_int_equal(inquiry->code, ERR_OK);
    assert_string_equal(inquiry->text, text);
}

static void test_what_the_cas_can_do_is_asked_once_a_minute(void **state)
{
    (void)state;
    struct inquiry one, other;
    /* It was asked at the opening, and did not tell. */
    inquire(&one);
    assert_learned(&one, "-");
    fake.capabilities = "first";
    atomic_fetch_add(&fake_time, REMOTE_CAPABILITIES_AGE - 1);
    inquire(&one);
    assert_learned(&one, "-");
    atomic_fetch_add(&fake_time, 1);
    inquire(&one);
    inquire(&other);
    assert_int_equal(one.told + other.told, 0);
    assert_int_equal(fake_waiting(), 1);
    atomic_fetch_add(&fake_time, REMOTE_CAPABILITIES_AGE - 1);
    fake_answer_all();
    assert_learned(&one, "first");
    assert_learned(&other, "first");
    assert_int_equal(fake_calls(FAKE_CAPABILITIES), 2);
    /* It is as old as the question. The last answer stands in for one that does not come. */
    atomic_fetch_add(&fake_time, 1);
    fake_fail_next(1);
    inquire(&one);
    fake_answer_all();
    assert_learned(&one, "first");
    fake_refuse(true);
    inquire(&one);
    assert_learned(&one, "first");
    fake_refuse(false);
    fake.capabilities = "second";
    inquire(&one);
    fake_answer_all();
    assert_learned(&one, "second");
}

static void test_a_cas_that_never_told_what_it_can_do(void **state)
{
    (void)state;
    struct inquiry one, other;
    struct digest file = put_file(1);
    struct asked asked;
    remote_cas_close(cas);
    fake_refuse(true);
    open_cas(TRUST);
    inquire(&one);
    assert_int_equal(one.told, 1);
    assert_int_equal(one.code, ERR_AWAY);
    fake_refuse(false);
    /* A check finds it answering: it is asked then, but not all the time. */
    for (unsigned i = 0; i < 2; i++) {
        start(&asked, &file, false, true);
        fake_answer_all();
        assert_told(&asked, ERR_OK);
    }
    assert_int_equal(fake_calls(FAKE_CAPABILITIES), 1);
    atomic_fetch_add(&fake_time, REMOTE_CAPABILITIES_AGE);
    fake.capabilities = "at last";
    for (unsigned i = 0; i < 2; i++) {
        start(&asked, &file, false, true);
        fake_answer_all();
    }
    assert_int_equal(fake_calls(FAKE_CAPABILITIES), 2);
    inquire(&other);
    assert_learned(&other, "at last");
}

static void test_who_asks_what_it_can_do_is_told_of_the_close(void **state)
{
    (void)state;
    struct inquiry inquiry;
    remote_cas_close(cas);
    open_cas(TRUST);
    inquire(&inquiry);
    assert_int_equal(inquiry.told, 0);
    remote_cas_close(cas);
    assert_int_equal(inquiry.told, 1);
    assert_int_equal(inquiry.code, ERR_CANCELLED);
    fake_answer_when(FAKE_AT_ONCE);
    open_cas(TRUST);
}

/* --- the log --- */

/* What stderr gets goes to a file of no name, until it is read. */
static int log_file, log_before;

static void begin_log(void)
{
    log_set_level(LOG_LEVEL_INFO);
    log_before = dup(STDERR_FILENO);
    log_file = memfd_create("log", MFD_CLOEXEC);
    assert_true(log_before >= 0 && log_file >= 0);
    assert_true(dup2(log_file, STDERR_FILENO) >= 0);
}

static void end_log(char text[4096])
{
    log_set_level(LOG_LEVEL_ERROR);
    assert_true(dup2(log_before, STDERR_FILENO) >= 0);
    (void)close(log_before);
    ssize_t size = pread(log_file, text, 4095, 0);
    assert_true(size >= 0);
    text[size] = '\0';
    (void)close(log_file);
}

static size_t count_in(const char *text, const char *part)
{
    size_t count = 0;
    while ((text = strstr(text, part)) != NULL) {
        text++;
        count++;
    }
    return count;
}

static void test_what_was_reached_is_logged_once(void **state)
{
    (void)state;
    char text[4096];
    struct inquiry inquiry;
    /* ServerCapabilities: a cache with SHA-256, SHA-1, and one that nobody knows. */
    fake.capabilities = "\x0a\x05\x0a\x03\x01\x02\x7f";
    remote_cas_close(cas);
    fake_answer_when(FAKE_AT_ONCE);
    begin_log();
    open_cas(TRUST);
    atomic_fetch_add(&fake_time, REMOTE_CAPABILITIES_AGE);
    inquire(&inquiry);
    assert_int_equal(inquiry.told, 1);
    end_log(text);
    assert_int_equal(count_in(text, "event="), 1);
    assert_non_null(strstr(text, "event=cas-paired instance=team/kernel "
                                 "address=grpc://cas.example.com:8980 cas_instance=kernel "
                                 "digest_functions=sha256,sha1 trust_ms=600000"));
}

static void test_what_a_batch_may_have_is_heeded(void **state)
{
    (void)state;
    struct inquiry inquiry;
    assert_int_equal(cas_connections_batch(NULL), CAS_BATCH_MAX);
    /* ServerCapabilities: a cache that takes 1000 bytes. */
    fake.capabilities = "\x0a\x03\x20\xe8\x07";
    fake_answer_when(FAKE_AT_ONCE);
    atomic_fetch_add(&fake_time, REMOTE_CAPABILITIES_AGE);
    inquire(&inquiry);
    assert_int_equal(inquiry.told, 1);
    assert_int_equal(cas_connections_batch(NULL), 1000);
    /* That it cannot be asked changes nothing. */
    fake_fail_next(1);
    atomic_fetch_add(&fake_time, REMOTE_CAPABILITIES_AGE);
    inquire(&inquiry);
    assert_int_equal(cas_connections_batch(NULL), 1000);
}

static void test_what_is_not_reached_is_logged_once(void **state)
{
    (void)state;
    char text[4096];
    struct inquiry inquiry;
    remote_cas_close(cas);
    fake_answer_when(FAKE_AT_ONCE);
    begin_log();
    fake_fail_next(2);
    open_cas(TRUST);
    inquire(&inquiry);
    inquire(&inquiry);
    end_log(text);
    assert_int_equal(count_in(text, "event="), 2);
    assert_int_equal(count_in(text, "level=warning event=cas-unreachable"), 1);
    assert_non_null(strstr(text, "reason=\"CAS grpc://cas.example.com:8980: it fails\""));
    assert_int_equal(count_in(text, "event=cas-paired"), 1);
    /* What is only closed is not told to be unreachable. */
    remote_cas_close(cas);
    begin_log();
    fake_answer_when(FAKE_WHEN_TOLD);
    open_cas(TRUST);
    remote_cas_close(cas);
    end_log(text);
    assert_string_equal(text, "");
    open_cas(TRUST);
    fake_answer_all();
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_what_the_cas_can_do_is_asked_once_a_minute),
        TEST(test_a_cas_that_never_told_what_it_can_do),
        TEST(test_who_asks_what_it_can_do_is_told_of_the_close),
        TEST(test_what_was_reached_is_logged_once),
        TEST(test_what_a_batch_may_have_is_heeded),
        TEST(test_what_is_not_reached_is_logged_once),
    };
    log_set_level(LOG_LEVEL_ERROR);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
