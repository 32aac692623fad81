/* SPDX-License-Identifier: Apache-2.0 */
/* A CAS on a disk of which each call fails in turn. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/log.h"
#include "cas_script.h"
#include "disk_faults.h"

enum {
    SAMPLES = 10, /* of the calls of a kind, if there are more */
    FEW_SAMPLES = 4,
};

static const unsigned io_codes = CAS_SCRIPT_CODE(ERR_IO) | CAS_SCRIPT_CODE(ERR_UNAVAILABLE);
static const unsigned full_codes =
    CAS_SCRIPT_CODE(ERR_EXHAUSTED) | CAS_SCRIPT_CODE(ERR_IO) | CAS_SCRIPT_CODE(ERR_UNAVAILABLE);

/* How a script is begun and gone on with. */
struct work {
    void (*begin)(struct cas_script *script, unsigned accepted);
    void (*go_on)(struct cas_script *script);
};

static const struct work work = {cas_script_begin, cas_script_work};
static const struct work start_of_empty = {cas_script_begin_empty, cas_script_start};
static const struct work start_after_cut = {cas_script_begin_cut, cas_script_start};

/* Does it once. Returns how many calls of KINDS there were. */
static unsigned do_once(const struct work *what, unsigned kinds, unsigned nth, int errnum,
                        unsigned times, unsigned codes)
{
    struct cas_script script;
    char fault[sizeof(script.fault)] = "";
    int before = cas_script_silence(-1);
    what->begin(&script, codes);
    disk_faults_begin(kinds, nth, errnum, times);
    what->go_on(&script);
    (void)disk_faults_end();
    unsigned calls = disk_faults_count(kinds & DISK_FAULTS_ALL);
    if (cas_script_end(&script) != NULL)
        (void)snprintf(fault, sizeof(fault), "%s", script.fault);
    (void)close(cas_script_silence(before));
    if (fault[0] != '\0')
        fail_msg("call %u of kinds %#x, %s, %u times: %s", nth, kinds, strerror(errnum), times,
                 fault);
    return calls;
}

/* Each call of each of KINDS, or as many of them as are to be tried. */
static void sweep(const struct work *what, unsigned kinds, int errnum, unsigned times,
                  unsigned codes, unsigned samples)
{
    unsigned more = kinds & DISK_FAULTS_SHORT;
    for (unsigned i = 0; i < DISK_FAULTS_KINDS; i++) {
        unsigned kind = 1u << i;
        if ((kinds & kind) == 0)
            continue;
        unsigned calls = do_once(what, kind, 0, errnum, times, 0);
        unsigned step = calls / samples + 1;
        for (unsigned nth = 1; nth <= calls; nth += step)
            (void)do_once(what, kind | more, nth, errnum, times, codes);
    }
}

static void test_the_script(void **state)
{
    struct cas_script script;
    (void)state;
    cas_script_begin(&script, 0);
    cas_script_work(&script);
    assert_in_range(script.evicted, 65, 100);
    assert_int_equal(script.carried, 5);
    const char *fault = cas_script_end(&script);
    if (fault != NULL)
        fail_msg("%s", fault);
}

static void test_a_call_that_fails_once(void **state)
{
    (void)state;
    sweep(&work, DISK_FAULTS_ALL, EIO, 1, io_codes, SAMPLES);
}

static void test_calls_that_fail_for_ever(void **state)
{
    (void)state;
    sweep(&work, DISK_FAULTS_ALL, EIO, DISK_FAULTS_FOR_EVER, io_codes, FEW_SAMPLES);
}

static const unsigned growing = DISK_FAULTS_OPEN | DISK_FAULTS_WRITE | DISK_FAULTS_FALLOCATE |
                                DISK_FAULTS_FDATASYNC | DISK_FAULTS_FSYNC;

static void test_a_disk_that_is_full_once(void **state)
{
    (void)state;
    sweep(&work, growing, ENOSPC, 1, full_codes, SAMPLES);
}

static void test_a_disk_that_stays_full(void **state)
{
    (void)state;
    sweep(&work, growing, ENOSPC, DISK_FAULTS_FOR_EVER, full_codes, FEW_SAMPLES);
}

static void test_short_counts(void **state)
{
    (void)state;
    sweep(&work, DISK_FAULTS_READ | DISK_FAULTS_WRITE | DISK_FAULTS_SHORT, EIO, 1, io_codes,
          SAMPLES);
    sweep(&work, DISK_FAULTS_WRITE | DISK_FAULTS_SHORT, ENOSPC, 1, full_codes, SAMPLES);
}

static void test_a_start_that_fails(void **state)
{
    (void)state;
    sweep(&start_of_empty, DISK_FAULTS_ALL, EIO, 1, io_codes, SAMPLES);
    sweep(&start_of_empty, growing, ENOSPC, 1, full_codes, SAMPLES);
}

static void test_a_start_after_a_power_cut_that_fails(void **state)
{
    (void)state;
    sweep(&start_after_cut, DISK_FAULTS_ALL, EIO, 1, io_codes, FEW_SAMPLES);
    sweep(&start_after_cut, growing, ENOSPC, 1, full_codes, FEW_SAMPLES);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_the_script),
        cmocka_unit_test(test_a_call_that_fails_once),
        cmocka_unit_test(test_calls_that_fail_for_ever),
        cmocka_unit_test(test_a_disk_that_is_full_once),
        cmocka_unit_test(test_a_disk_that_stays_full),
        cmocka_unit_test(test_short_counts),
        cmocka_unit_test(test_a_start_that_fails),
        cmocka_unit_test(test_a_start_after_a_power_cut_that_fails),
    };
    log_set_level(LOG_LEVEL_ERROR);
    disk_faults_skip_syncs();
    cas_script_init();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
