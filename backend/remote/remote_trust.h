/* SPDX-License-Identifier: Apache-2.0 */
/* What was found whole in an external CAS, and when, within a bound of memory. */
#ifndef ASSETD_REMOTE_REMOTE_TRUST_H
#define ASSETD_REMOTE_REMOTE_TRUST_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"
#include "store/tree_key.h"
#include "store/tree_memory.h"

/* Embedded. Any thread. Times are those of clock_steady. */
struct remote_trust {
    int64_t span; /* milliseconds that it is remembered; 0: not at all */
    struct tree_memory memory;
};

/* LIMIT: bytes of memory that it may take. */
int remote_trust_init(struct remote_trust *trust, int64_t span, size_t limit, struct err *err);

/* A zeroed one is fine. */
void remote_trust_fini(struct remote_trust *trust);

/*
 * Whether the check of what KEY stands for that found it whole has begun less than SPAN ago, and
 * not before SINCE.
 */
bool remote_trust_has(struct remote_trust *trust, const struct tree_key *key, int64_t since);

/* A check that began at BEGUN_AT has found it whole. Without memory that is not remembered. */
void remote_trust_add(struct remote_trust *trust, const struct tree_key *key, int64_t begun_at);

/* A check that began at BEGUN_AT has found that it is not, whatever was found before. */
void remote_trust_drop(struct remote_trust *trust, const struct tree_key *key, int64_t begun_at);

#endif
