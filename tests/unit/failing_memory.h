/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Memory that runs out at will, for a test that includes this once: all that the test's process
 * allocates comes by here. The sanitizers bring their own allocators: under them nothing fails.
 */
#ifndef ASSETD_TESTS_FAILING_MEMORY_H
#define ASSETD_TESTS_FAILING_MEMORY_H

#include <errno.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdlib.h>

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

static atomic_uint seen;  /* allocations since it began */
static atomic_uint first; /* the one that fails, from 1; 0: none */
static atomic_uint last;  /* and those up to this one */

/* From now on the allocation NTH, from 1, fails, with the TIMES - 1 behind it; 0: none does. */
static void fail_memory(unsigned nth, unsigned times)
{
    atomic_store(&seen, 0);
    atomic_store(&last, nth + times - 1);
    atomic_store(&first, nth);
}

/* From now on none fails. Returns how many allocations there were since fail_memory. */
static unsigned restore_memory(void)
{
    atomic_store(&first, 0);
    return atomic_load(&seen);
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

#endif
