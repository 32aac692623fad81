/* SPDX-License-Identifier: Apache-2.0 */
/* What remote/remote_cas.h and remote/remotes.h promise, in memory. */
#include "fake_remote_cas.h"

#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <string.h>
/* cmocka needs those above. */
#include <cmocka.h>

struct remotes {
    size_t of[2]; /* instances that have the CAS */
};

/* All under the lock. */
struct remote_cas {
    pthread_mutex_t lock;
    pthread_cond_t work;
    const struct fake_answer *answers;
    size_t answer_count;
    struct span message;
    struct fake_answer capabilities_answer;
    enum fake_moment moment;
    pthread_t thread;
    const struct digest *trusted;
    struct fake_asked asked;
    uintptr_t lowest, highest; /* frames */
    struct remote_check *first, *last;
    struct remote_capabilities *inquiries;
};

/* What a check that waits is marked with. */
static const char waits;

static struct remotes remotes;
static struct remote_cas cas = {.lock = PTHREAD_MUTEX_INITIALIZER,
                                .work = PTHREAD_COND_INITIALIZER};

static void lock(void)
{
    (void)pthread_mutex_lock(&cas.lock);
}

static void unlock(void)
{
    (void)pthread_mutex_unlock(&cas.lock);
}

/* --- answers --- */

static void end_check(struct remote_check *check, const struct fake_answer *answer)
{
    struct err err;
    if (answer == NULL || answer->code == ERR_OK) {
        check->done(check, NULL);
        return;
    }
    (void)err_set(&err, answer->code, "%s", answer->text);
    if (answer->code == ERR_PRECONDITION)
        check->missing = answer->missing;
    check->done(check, &err);
}

static void cancel_check(struct remote_check *check)
{
    static const struct fake_answer cancelled = {
        ERR_CANCELLED, "the check was cancelled", {.count = 0}};
    end_check(check, &cancelled);
}

/* The lock is held. */
static const struct fake_answer *next_answer(void)
{
    const struct fake_answer *answer = cas.answers;
    if (cas.answer_count > 1) {
        cas.answers++;
        cas.answer_count--;
    }
    return answer;
}

static void end_inquiry(struct remote_capabilities *inquiry, struct span message,
                        const struct fake_answer *answer)
{
    struct err err;
    if (answer->code == ERR_OK) {
        inquiry->done(inquiry, message, NULL);
        return;
    }
    (void)err_set(&err, answer->code, "%s", answer->text);
    inquiry->done(inquiry, (struct span){.size = 0}, &err);
}

/* The lock is held, but while something is answered. False: nothing waits. */
static bool answer_one(void)
{
    struct remote_check *check = cas.first;
    struct remote_capabilities *inquiry = cas.inquiries;
    if (check == NULL && inquiry == NULL)
        return false;
    cas.asked.waiting--;
    if (check != NULL) {
        const struct fake_answer *answer = next_answer();
        cas.first = check->next;
        if (cas.first == NULL)
            cas.last = NULL;
        else
            cas.first->previous = NULL;
        check->flight = NULL;
        unlock();
        end_check(check, answer);
    } else {
        struct span message = cas.message;
        struct fake_answer answer = cas.capabilities_answer;
        cas.inquiries = inquiry->next;
        unlock();
        end_inquiry(inquiry, message, &answer);
    }
    lock();
    return true;
}

static void *answer_on_thread(void *argument)
{
    (void)argument;
    lock();
    while (cas.moment == FAKE_ON_A_THREAD)
        if (!answer_one())
            (void)pthread_cond_wait(&cas.work, &cas.lock);
    unlock();
    return NULL;
}

/* --- for tests --- */

struct remotes *fake_remotes(size_t one, size_t other)
{
    remotes = (struct remotes){{one, other}};
    return &remotes;
}

void fake_remote_answer_when(enum fake_moment moment)
{
    lock();
    enum fake_moment before = cas.moment;
    cas.moment = moment;
    (void)pthread_cond_signal(&cas.work);
    unlock();
    if (before == FAKE_ON_A_THREAD && moment != before)
        assert_int_equal(pthread_join(cas.thread, NULL), 0);
    if (moment == FAKE_ON_A_THREAD && moment != before)
        assert_int_equal(pthread_create(&cas.thread, NULL, answer_on_thread, NULL), 0);
}

void fake_remote_reset(void)
{
    fake_remote_answer_when(FAKE_AT_ONCE);
    lock();
    assert_int_equal(cas.asked.waiting, 0);
    cas.answers = NULL;
    cas.answer_count = 0;
    cas.message = (struct span){.size = 0};
    cas.capabilities_answer = (struct fake_answer){.code = ERR_OK};
    cas.trusted = NULL;
    memset(&cas.asked, 0, sizeof(cas.asked));
    cas.lowest = UINTPTR_MAX;
    cas.highest = 0;
    unlock();
}

void fake_remote_answers(const struct fake_answer *answers, size_t count)
{
    lock();
    cas.answers = answers;
    cas.answer_count = count;
    unlock();
}

void fake_remote_capabilities(struct span message, struct fake_answer answer)
{
    lock();
    cas.message = message;
    cas.capabilities_answer = answer;
    unlock();
}

void fake_remote_answer_waiting(void)
{
    lock();
    while (answer_one())
        continue;
    unlock();
}

void fake_remote_trust(const struct digest *content)
{
    lock();
    cas.trusted = content;
    unlock();
}

struct fake_asked fake_remote_asked(void)
{
    lock();
    struct fake_asked asked = cas.asked;
    asked.stack = cas.highest > cas.lowest ? cas.highest - cas.lowest : 0;
    unlock();
    return asked;
}

/* --- remote_cas.h --- */

bool remote_cas_trusts(struct remote_cas *of, const struct tree_list *lists, size_t list_count)
{
    assert_ptr_equal(of, &cas);
    assert_true(list_count >= 1);
    lock();
    cas.asked.trusts++;
    bool trusts = cas.trusted != NULL && digest_equal(cas.trusted, &lists[0].digests[0]);
    unlock();
    return trusts;
}

/* The lock is held. */
static void count_check(const struct remote_check *check, uintptr_t frame)
{
    struct fake_asked *asked = &cas.asked;
    asked->checks++;
    asked->fresh += check->is_fresh;
    asked->content = check->lists[0].digests[0];
    asked->digests = asked->directories = 0;
    for (size_t i = 0; i < check->list_count; i++) {
        asked->digests += check->lists[i].count;
        asked->directories += check->lists[i].are_directories ? check->lists[i].count : 0;
    }
    cas.lowest = frame < cas.lowest ? frame : cas.lowest;
    cas.highest = frame > cas.highest ? frame : cas.highest;
}

/* The lock is held. */
static void enqueue(struct remote_check *check)
{
    check->previous = cas.last;
    if (cas.last != NULL)
        cas.last->next = check;
    else
        cas.first = check;
    cas.last = check;
    check->flight = (struct remote_flight *)&waits;
    cas.asked.waiting++;
    (void)pthread_cond_signal(&cas.work);
}

void remote_check_start(struct remote_check *check)
{
    assert_ptr_equal(check->cas, &cas);
    assert_null(check->next);
    assert_null(check->previous);
    assert_null(check->flight);
    lock();
    count_check(check, (uintptr_t)__builtin_frame_address(0));
    if (check->is_cancelled != NULL && atomic_load(check->is_cancelled)) {
        unlock();
        cancel_check(check);
    } else if (cas.moment == FAKE_AT_ONCE) {
        const struct fake_answer *answer = next_answer();
        unlock();
        end_check(check, answer);
    } else {
        enqueue(check);
        unlock();
    }
}

void remote_check_cancel(struct remote_check *check)
{
    lock();
    bool waited = check->flight != NULL;
    if (waited) {
        *(check->previous != NULL ? &check->previous->next : &cas.first) = check->next;
        *(check->next != NULL ? &check->next->previous : &cas.last) = check->previous;
        check->flight = NULL;
        cas.asked.waiting--;
    }
    unlock();
    if (waited)
        cancel_check(check);
}

void remote_capabilities_start(struct remote_capabilities *inquiry)
{
    assert_ptr_equal(inquiry->cas, &cas);
    lock();
    cas.asked.capabilities++;
    if (cas.moment != FAKE_AT_ONCE) {
        inquiry->next = cas.inquiries;
        cas.inquiries = inquiry;
        cas.asked.waiting++;
        (void)pthread_cond_signal(&cas.work);
        unlock();
        return;
    }
    struct span message = cas.message;
    struct fake_answer answer = cas.capabilities_answer;
    unlock();
    end_inquiry(inquiry, message, &answer);
}

void remote_cas_stats(struct remote_cas *of, struct remote_cas_stats *stats)
{
    assert_ptr_equal(of, &cas);
    *stats = (struct remote_cas_stats){.is_up = 1};
}

/* --- remotes.h --- */

struct remote_cas *remotes_at(const struct remotes *of, size_t index)
{
    assert_ptr_equal(of, &remotes);
    return index == remotes.of[0] || index == remotes.of[1] ? &cas : NULL;
}
