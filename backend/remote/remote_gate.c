/* SPDX-License-Identifier: Apache-2.0 */
/* The queue before the gate. */
#include "remote/remote_gate.h"

#include <stddef.h>

void remote_gate_init(struct remote_gate *gate)
{
    *gate = (struct remote_gate){.end = &gate->first};
    (void)pthread_mutex_init(&gate->lock, NULL);
}

void remote_gate_fini(struct remote_gate *gate)
{
    (void)pthread_mutex_destroy(&gate->lock);
}

bool remote_gate_enter(struct remote_gate *gate, struct remote_gate_wait *wait)
{
    (void)pthread_mutex_lock(&gate->lock);
    bool is_in = !gate->is_taken && gate->first == NULL;
    if (is_in) {
        gate->is_taken = true;
    } else {
        wait->next = NULL;
        *gate->end = wait;
        gate->end = &wait->next;
    }
    (void)pthread_mutex_unlock(&gate->lock);
    return is_in;
}

void remote_gate_leave(struct remote_gate *gate)
{
    (void)pthread_mutex_lock(&gate->lock);
    gate->is_taken = false;
    (void)pthread_mutex_unlock(&gate->lock);
}

struct remote_gate_wait *remote_gate_next(struct remote_gate *gate)
{
    (void)pthread_mutex_lock(&gate->lock);
    struct remote_gate_wait *next = gate->is_taken ? NULL : gate->first;
    if (next != NULL) {
        gate->is_taken = true;
        gate->first = next->next;
        if (gate->first == NULL)
            gate->end = &gate->first;
    }
    (void)pthread_mutex_unlock(&gate->lock);
    return next;
}
