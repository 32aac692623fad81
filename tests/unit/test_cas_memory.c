/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A CAS for which each allocation of memory fails in turn. The sanitizers bring their own
 * allocators: under them nothing fails, and only the script is run.
 */
#include <errno.h>
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

static atomic_uint seen;   /* allocations since it began */
static atomic_uint first;  /* the one that fails, from 1; 0: none */
static atomic_uint last;   /* and those up to this one */
static atomic_uint failed; /* of them */

static void fail_memory(unsigned nth, unsigned times)
{
    atomic_store(&seen, 0);
    atomic_store(&failed, 0);
    atomic_store(&last, nth + times - 1);
    atomic_store(&first, nth);
}

#if HAS_OWN_ALLOCATOR

/* Of the C library, where its own are replaced. */
void *__libc_malloc(size_t size);
void *__libc_calloc(size_t count, size_t size);
void *__libc_realloc(void *memory, size_t size);

static bool fails(void)
{
    unsigned number = atomic_fetch_add(&seen, 1) + 1;
    unsigned begin = atomic_load(&first);
    if (begin == 0 || number < begin || number > atomic_load(&last))
        return false;
    (void)atomic_fetch_add(&failed, 1);
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
    unsigned count = atomic_load(&seen);
    atomic_store(&first, 0);
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
