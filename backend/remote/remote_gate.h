/* SPDX-License-Identifier: Apache-2.0 */
/* A gate that one goes through at a time, for what takes much memory; others wait in order. */
#ifndef ASSETD_REMOTE_REMOTE_GATE_H
#define ASSETD_REMOTE_REMOTE_GATE_H

#include <pthread.h>
#include <stdbool.h>

/* Who waits: embedded. */
struct remote_gate_wait {
    struct remote_gate_wait *next; /* the gate's own */
};

/* Embedded. Any thread. Nobody is called: who leaves has to ask who is next. */
struct remote_gate {
    pthread_mutex_t lock;
    bool is_taken;
    struct remote_gate_wait *first;
    struct remote_gate_wait **end;
};

void remote_gate_init(struct remote_gate *gate);
void remote_gate_fini(struct remote_gate *gate);

/* True: the caller is in. False: WAIT is kept until remote_gate_next gives it. */
bool remote_gate_enter(struct remote_gate *gate, struct remote_gate_wait *wait);

/* After it, somebody must call remote_gate_next until that gives NULL. */
void remote_gate_leave(struct remote_gate *gate);

/* Who has waited longest, and is in from now on; NULL: nobody waits, or somebody is in. */
struct remote_gate_wait *remote_gate_next(struct remote_gate *gate);

#endif
