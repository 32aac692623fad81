/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A CAS for which each allocation of memory fails in turn. The sanitizers bring their own
 * allocators: under them nothing fails, and only the script is run.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/log.h"
#include "cas_script.h"
#include "disk_faults.h"
#include "failing_memory.h"

/* --- tests --- */

enum { SAMPLES = 150, FEW_SAMPLES = 20, SOME = 3, MANY = 1000000 };

/* What was to be synced, or rests on what could not be, may pass. */
static const unsigned codes = CAS_SCRIPT_CODE(ERR_NO_MEMORY) | CAS_SCRIPT_CODE(ERR_UNAVAILABLE);

/* Returns how many allocations there were. */
static unsigned do_once(void (*begin)(struct cas_script *script, unsigned accepted),
                        void (*go_on)(struct cas_script *script), unsigned nth, unsigned times)
{
    /* Who waits for room while nothing can be carried for want of memory is told of the room. */
    unsigned more = times == MANY ? CAS_SCRIPT_CODE(ERR_EXHAUSTED) : 0;
    static struct cas_script script;
    int before = cas_script_silence(-1);
    begin(&script, nth != 0 ? codes | more : 0);
    fail_memory(nth, times);
    go_on(&script);
    unsigned count = restore_memory();
    const char *fault = cas_script_end(&script);
    (void)close(cas_script_silence(before));
    if (fault != NULL)
        fail_msg("allocation %u, %u times: %s", nth, times, fault);
    return count;
}

static void sweep(void (*begin)(struct cas_script *script, unsigned accepted),
                  void (*go_on)(struct cas_script *script), unsigned times, unsigned samples)
{
    unsigned count = do_once(begin, go_on, 0, 0);
    unsigned step = count / samples + 1;
    for (unsigned nth = 1; nth <= count; nth += step)
        (void)do_once(begin, go_on, nth, times);
}

static void test_an_allocation_that_fails(void **state)
{
    (void)state;
    sweep(cas_script_begin, cas_script_work, 1, SAMPLES);
    sweep(cas_script_begin, cas_script_work, SOME, FEW_SAMPLES);
}

static void test_memory_that_stays_short(void **state)
{
    (void)state;
    sweep(cas_script_begin, cas_script_work, MANY, FEW_SAMPLES);
}

static void test_a_start_without_memory(void **state)
{
    (void)state;
    sweep(cas_script_begin_empty, cas_script_start, 1, FEW_SAMPLES);
    sweep(cas_script_begin_cut, cas_script_start, 1, FEW_SAMPLES);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_an_allocation_that_fails),
        cmocka_unit_test(test_memory_that_stays_short),
        cmocka_unit_test(test_a_start_without_memory),
    };
    log_set_level(LOG_LEVEL_ERROR);
    disk_faults_skip_syncs();
    cas_script_init();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
