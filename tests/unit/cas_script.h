/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Some work on a CAS, to be done again and again while each of its calls on the disk or on memory
 * fails in turn: uploads in batches and streams, pushes, reads, a removal, evictions, a close and
 * another start. Whatever fails, each call has to end with an error that says so, what was pushed
 * has to be there, and nothing wrong may be served.
 */
#ifndef ASSETD_TESTS_CAS_SCRIPT_H
#define ASSETD_TESTS_CAS_SCRIPT_H

#include <stdbool.h>

#include "base/err.h"
#include "scratch.h"
#include "store/cas.h"

/* A set of codes of err.h, OK left aside. */
#define CAS_SCRIPT_CODE(code) (1u << (code))

enum { CAS_SCRIPT_BLOBS = 192 };

struct cas_script {
    struct scratch scratch;
    struct cas *cas;   /* NULL: closed */
    unsigned accepted; /* codes with which calls may fail */
    bool has_hold;
    struct cas_hold hold;
    uint64_t evicted;  /* blobs, by the end of the work */
    size_t carried;    /* of five that had been used twice long ago, those that are still there */
    uint64_t failures; /* of syncs, when it was opened */
    bool is_stored[CAS_SCRIPT_BLOBS]; /* since then, under the hold */
    bool is_pushed[CAS_SCRIPT_BLOBS];
    char fault[512]; /* the first thing that was wrong; "": nothing */
};

/*
 * What fails is told of in thousands of lines: with -1 stderr goes nowhere, and what is returned is
 * given back to it by a second call. That one's answer is to be closed.
 */
int cas_script_silence(int before);

/* Makes what all scripts store; once, before the first. */
void cas_script_init(void);

/* A store with much that nobody has used for long, and a push that goes on to be held. */
void cas_script_begin(struct cas_script *script, unsigned accepted);

/* One that is empty and closed. */
void cas_script_begin_empty(struct cas_script *script, unsigned accepted);

/* The same as the first, but closed by a power cut. */
void cas_script_begin_cut(struct cas_script *script, unsigned accepted);

/* The work, with faults. Allocates nothing itself. */
void cas_script_work(struct cas_script *script);

/* Opens it, if it can be, stores something and waits until all is known, with faults. */
void cas_script_start(struct cas_script *script);

/*
 * Without faults: looks for all that was pushed, after a close and after a power cut, and removes
 * the store. Returns what was wrong, or NULL.
 */
const char *cas_script_end(struct cas_script *script);

#endif
