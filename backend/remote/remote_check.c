/* SPDX-License-Identifier: Apache-2.0 */
/* Checks: shared by all who ask for the same, begun in order, a bounded number at a time. */
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "remote/remote_private.h"

/* One check that is made for all who wait for it. */
struct remote_flight {
    struct remote_walk walk; /* first; once it has begun */
    struct remote_cas *cas;
    struct tree_key key;
    int64_t begun_at; /* by clock_steady */
    /* The following under the lock of the CAS: */
    bool is_begun;
    struct remote_flight *chain; /* of its bucket */
    struct remote_flight *next;  /* in the queue, as the following */
    struct remote_flight *previous;
    struct remote_check *first; /* who waits; who came late stands behind the others */
    struct remote_check *last;
};

/* --- who waits, under the lock --- */

static void append(struct remote_flight *flight, struct remote_check *check)
{
    check->flight = flight;
    check->is_late = flight->is_begun;
    atomic_store(&flight->walk.is_unwanted, false);
    check->next = NULL;
    check->previous = flight->last;
    if (flight->last != NULL)
        flight->last->next = check;
    else
        flight->first = check;
    flight->last = check;
}

static void detach(struct remote_flight *flight, struct remote_check *check)
{
    if (check->previous != NULL)
        check->previous->next = check->next;
    else
        flight->first = check->next;
    if (check->next != NULL)
        check->next->previous = check->previous;
    else
        flight->last = check->previous;
    check->flight = NULL;
}

/* Takes those out who are told how FLIGHT has ended: all, or all but who came late. */
static struct remote_check *take_told(struct remote_flight *flight, bool are_all)
{
    struct remote_check *told = flight->first;
    struct remote_check *last = NULL;
    struct remote_check *check = told;
    for (; check != NULL && (are_all || !check->is_late); check = check->next) {
        check->flight = NULL;
        last = check;
    }
    flight->first = check;
    if (check == NULL)
        flight->last = NULL;
    else
        check->previous = NULL;
    if (last == NULL)
        return NULL;
    last->next = NULL;
    return told;
}

/* --- the table and the queue, under the lock --- */

static struct remote_flight **bucket_of(struct remote_cas *cas, const struct tree_key *key)
{
    return &cas->flights[tree_key_hash(key) & (REMOTE_BUCKETS - 1)];
}

static struct remote_flight *find(struct remote_cas *cas, const struct tree_key *key)
{
    struct remote_flight *flight = *bucket_of(cas, key);
    while (flight != NULL && !tree_key_equal(&flight->key, key))
        flight = flight->chain;
    return flight;
}

static void list(struct remote_flight *flight)
{
    struct remote_flight **bucket = bucket_of(flight->cas, &flight->key);
    flight->chain = *bucket;
    *bucket = flight;
}

static void unlist(struct remote_flight *flight)
{
    struct remote_flight **link = bucket_of(flight->cas, &flight->key);
    while (*link != flight)
        link = &(*link)->chain;
    *link = flight->chain;
}

static void queue(struct remote_flight *flight)
{
    struct remote_cas *cas = flight->cas;
    flight->is_begun = false;
    flight->next = NULL;
    flight->previous = cas->last;
    if (cas->last != NULL)
        cas->last->next = flight;
    else
        cas->first = flight;
    cas->last = flight;
}

static void unqueue(struct remote_flight *flight)
{
    struct remote_cas *cas = flight->cas;
    if (flight->previous != NULL)
        flight->previous->next = flight->next;
    else
        cas->first = flight->next;
    if (flight->next != NULL)
        flight->next->previous = flight->previous;
    else
        cas->last = flight->previous;
}

/* --- the end of a check --- */

/* ERR is NULL if all is there. A check may be gone once it is told. */
static void tell(struct remote_check *told, const struct tree_missing *missing,
                 const struct err *err)
{
    while (told != NULL) {
        struct remote_check *next = told->next;
        told->missing = *missing;
        told->done(told, err);
        told = next;
    }
}

static void tell_cancelled(struct remote_check *check)
{
    struct err err;
    (void)err_set(&err, ERR_CANCELLED, "the check of an asset's content was cancelled");
    check->done(check, &err);
}

static void keep_score(struct remote_cas *cas, const struct remote_flight *flight,
                       enum err_code code)
{
    if (code == ERR_OK) {
        remote_trust_add(&cas->trust, &flight->key, flight->begun_at);
        atomic_fetch_add(&cas->whole, 1);
    } else if (code == ERR_PRECONDITION || code == ERR_INVALID) {
        remote_trust_drop(&cas->trust, &flight->key, flight->begun_at);
        atomic_fetch_add(&cas->missing, 1);
    } else if (code != ERR_CANCELLED) {
        atomic_fetch_add(&cas->failed, 1);
    }
}

/*
 * Who came late has no use for what is missing: it may have been there when they came; nor for a
 * check that was given up, as those before them had left. All of them together have the check made
 * once more. That the CAS cannot be asked is news to them as well.
 */
static void end(struct remote_flight *flight)
{
    struct remote_cas *cas = flight->cas;
    const struct err err = flight->walk.err;
    const struct tree_missing missing = flight->walk.missing;
    remote_walk_fini(&flight->walk);
    /* Before nobody can share it any more: one way or the other, it is not made twice. */
    keep_score(cas, flight, err.code);
    (void)pthread_mutex_lock(&cas->lock);
    bool is_for_late =
        err.code != ERR_PRECONDITION && err.code != ERR_INVALID && err.code != ERR_CANCELLED;
    struct remote_check *told = take_told(flight, is_for_late || cas->is_closing);
    bool is_over = flight->first == NULL;
    cas->begun--;
    if (is_over)
        unlist(flight);
    else
        queue(flight);
    for (struct remote_check *check = flight->first; check != NULL; check = check->next)
        check->is_late = false;
    (void)pthread_mutex_unlock(&cas->lock);
    if (is_over)
        free(flight);
    if (err.code == ERR_OK || err.code == ERR_PRECONDITION)
        remote_capabilities_ask_first(cas);
    tell(told, &missing, err.code != ERR_OK ? &err : NULL);
}

/* --- the beginning --- */

/*
 * The CAS whose checks this thread runs at present, and those further out. What ends at once may
 * have its user start the next check, and so on: that is left to the loop that is there already.
 */
struct turn {
    const struct remote_cas *cas;
    struct turn *outer;
};
static _Thread_local struct turn *turns;

static bool is_in_turn(const struct remote_cas *cas)
{
    const struct turn *turn = turns;
    while (turn != NULL && turn->cas != cas)
        turn = turn->outer;
    return turn != NULL;
}

static void on_answer(struct remote_walk *walk);

/* The first of the queue, if there is room for it. */
static struct remote_flight *begin_next(struct remote_cas *cas)
{
    (void)pthread_mutex_lock(&cas->lock);
    struct remote_flight *flight = cas->begun < REMOTE_CHECKS_MAX ? cas->first : NULL;
    if (flight != NULL) {
        struct remote_walk *walk = &flight->walk;
        unqueue(flight);
        cas->begun++;
        flight->is_begun = true;
        flight->begun_at = clock_steady();
        /* The lists are copied now: as soon as it is not locked, who has them may cancel. */
        remote_walk_init(walk, &cas->source, flight->first->lists, flight->first->list_count);
        walk->wake = on_answer;
    }
    (void)pthread_mutex_unlock(&cas->lock);
    return flight;
}

/* What may go on, or begin. */
static struct remote_flight *next_of(struct remote_cas *cas)
{
    struct remote_gate_wait *wait;
    while ((wait = remote_gate_next(&cas->source.large)) != NULL) {
        struct remote_walk *walk = remote_walk_admit(wait);
        if (walk != NULL)
            return (struct remote_flight *)walk;
    }
    return begin_next(cas);
}

static void run_all(struct remote_cas *cas)
{
    struct turn turn = {cas, turns};
    struct remote_flight *flight;
    if (is_in_turn(cas))
        return;
    turns = &turn;
    while ((flight = next_of(cas)) != NULL)
        if (remote_walk_run(&flight->walk))
            end(flight);
    turns = turn.outer;
}

static void on_answer(struct remote_walk *walk)
{
    struct remote_flight *flight = (struct remote_flight *)walk;
    struct remote_cas *cas = flight->cas;
    if (remote_walk_run(walk))
        end(flight);
    run_all(cas);
}

static bool is_cancelled(const struct remote_check *check)
{
    return check->is_cancelled != NULL && atomic_load(check->is_cancelled);
}

void remote_check_start(struct remote_check *check)
{
    struct remote_cas *cas = check->cas;
    struct remote_flight *flight = NULL;
    struct tree_key key;
    struct err err;
    check->missing.count = 0;
    if (tree_keys_make(&cas->keys, check->lists, check->list_count, &key, &err) != 0) {
        check->done(check, &err);
        return;
    }
    (void)pthread_mutex_lock(&cas->lock);
    bool is_refused = cas->is_closing || is_cancelled(check);
    if (!is_refused && !check->is_fresh)
        flight = find(cas, &key);
    /* It may have ended just now. */
    bool is_trusted =
        !is_refused && !check->is_fresh && flight == NULL &&
        remote_trust_has(&cas->trust, &key, cas_connections_lost_at(cas->source.connections));
    if (!is_refused && !is_trusted && flight == NULL) {
        flight = calloc(1, sizeof(*flight));
        if (flight != NULL) {
            flight->cas = cas;
            flight->key = key;
            list(flight);
            queue(flight);
        }
    }
    if (flight != NULL) {
        append(flight, check);
        cas->inside++;
    }
    (void)pthread_mutex_unlock(&cas->lock);
    if (flight != NULL) {
        run_all(cas);
        remote_cas_leave(cas);
    } else if (is_refused) {
        tell_cancelled(check);
    } else if (is_trusted) {
        atomic_fetch_add(&cas->remembered, 1);
        check->done(check, NULL);
    } else {
        (void)err_no_memory(&err, "the check of an asset's content");
        check->done(check, &err);
    }
}

void remote_check_cancel(struct remote_check *check)
{
    struct remote_cas *cas = check->cas;
    (void)pthread_mutex_lock(&cas->lock);
    struct remote_flight *flight = check->flight;
    bool is_unwanted = false;
    if (flight != NULL) {
        detach(flight, check);
        is_unwanted = flight->first == NULL && !flight->is_begun;
        if (flight->first == NULL)
            atomic_store(&flight->walk.is_unwanted, true);
    }
    if (is_unwanted) {
        unqueue(flight);
        unlist(flight);
    }
    (void)pthread_mutex_unlock(&cas->lock);
    if (is_unwanted)
        free(flight);
    if (flight != NULL)
        tell_cancelled(check);
}

void remote_checks_cancel(struct remote_cas *cas)
{
    struct remote_flight *flight;
    do {
        struct remote_check *told = NULL;
        (void)pthread_mutex_lock(&cas->lock);
        cas->is_closing = true;
        flight = cas->first;
        if (flight != NULL) {
            unqueue(flight);
            unlist(flight);
            told = take_told(flight, true);
        }
        (void)pthread_mutex_unlock(&cas->lock);
        free(flight);
        while (told != NULL) {
            struct remote_check *next = told->next;
            tell_cancelled(told);
            told = next;
        }
    } while (flight != NULL);
}
