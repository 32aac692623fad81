/* SPDX-License-Identifier: Apache-2.0 */
/*
 * An external CAS without a network, for what is built on remote/remote_cas.h: it answers what the
 * test tells it to, at once, when told to, or on a thread of its own. There is one, and it takes
 * the place of the program's.
 */
#ifndef ASSETD_TESTS_FAKE_REMOTE_CAS_H
#define ASSETD_TESTS_FAKE_REMOTE_CAS_H

#include <stdbool.h>
#include <stddef.h>

#include "base/digest.h"
#include "base/err.h"
#include "base/span.h"
#include "remote/remotes.h"

/* The remotes of a configuration: the CAS is that of the instances ONE and OTHER, no others. */
struct remotes *fake_remotes(size_t one, size_t other);

/* What a check, or the question what the CAS can do, is answered. */
struct fake_answer {
    enum err_code code;          /* ERR_OK: whole */
    const char *text;            /* of an error */
    struct tree_missing missing; /* of ERR_PRECONDITION */
};

enum fake_moment { FAKE_AT_ONCE, FAKE_WHEN_TOLD, FAKE_ON_A_THREAD };

/* As at the start of each test: whole, at once, nothing trusted, UNIMPLEMENTED, nothing counted. */
void fake_remote_reset(void);

/* The next checks are answered by ANSWERS, borrowed, in their order; the last goes on. */
void fake_remote_answers(const struct fake_answer *answers, size_t count);

/* Of capabilities: MESSAGE, borrowed, or ANSWER if that is an error. */
void fake_remote_capabilities(struct span message, struct fake_answer answer);

/* Of what is asked from now on. Ends the thread if there was one. */
void fake_remote_answer_when(enum fake_moment moment);

/* Answers all that waits, and what comes meanwhile, on this thread. */
void fake_remote_answer_waiting(void);

/* What remote_cas_trusts answers for assets of this content; NULL: false for all. */
void fake_remote_trust(const struct digest *content);

/* What was asked since the reset. */
struct fake_asked {
    size_t checks;
    size_t fresh; /* of the checks */
    size_t trusts;
    size_t capabilities;
    size_t waiting;        /* of the checks and capabilities, for an answer */
    size_t digests;        /* of the last check: in all lists, */
    size_t directories;    /* and in lists of directories */
    struct digest content; /* the first one of its first list */
    size_t stack;          /* bytes from the lowest to the highest frame that began a check */
};
struct fake_asked fake_remote_asked(void);

#endif
