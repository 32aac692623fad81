/* SPDX-License-Identifier: Apache-2.0 */
/* When a server that does not answer is tried again. */
#include "remote/breaker.h"

bool breaker_admit(struct breaker *breaker, int64_t now, bool *is_try)
{
    *is_try = false;
    if (!breaker->is_open)
        return true;
    if (breaker->is_trying || now < breaker->next_try)
        return false;
    breaker->is_trying = true;
    *is_try = true;
    return true;
}

bool breaker_succeed(struct breaker *breaker)
{
    bool was_open = breaker->is_open;
    *breaker = (struct breaker){.failures = 0};
    return was_open;
}

static void wait_until_next_try(struct breaker *breaker, int64_t now, int64_t pause)
{
    breaker->is_trying = false;
    breaker->pause = pause < BREAKER_PAUSE_MOST ? pause : BREAKER_PAUSE_MOST;
    breaker->next_try = now + breaker->pause;
}

bool breaker_fail(struct breaker *breaker, int64_t now, bool is_try)
{
    if (breaker->is_open) {
        if (is_try)
            wait_until_next_try(breaker, now, 2 * breaker->pause);
        return false;
    }
    if (++breaker->failures < BREAKER_FAILURES)
        return false;
    breaker->is_open = true;
    wait_until_next_try(breaker, now, BREAKER_PAUSE_FIRST);
    return true;
}

void breaker_forget(struct breaker *breaker, bool is_try)
{
    if (is_try)
        breaker->is_trying = false;
}
