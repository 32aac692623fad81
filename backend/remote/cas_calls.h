/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The calls that are made to an external CAS, over its connections. All are asynchronous: the
 * caller keeps the structure and what it points to until DONE is called, once, on a poller of the
 * queue, with no lock held; it must not block. A function that returns an error has not begun, and
 * DONE is not called.
 *
 * Every failure of the server, of the way to it, or of its answers is ERR_UNAVAILABLE with a
 * message that names the address, and what the server said; or ERR_AWAY, the same while the breaker
 * is open, unless it is that of a try. ERR_CANCELLED after cas_connections_cancel. What cannot be
 * begun fails so as well, or with ERR_NO_MEMORY.
 */
#ifndef ASSETD_REMOTE_CAS_CALLS_H
#define ASSETD_REMOTE_CAS_CALLS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/digest.h"
#include "base/err.h"
#include "base/span.h"
#include "conf/conf.h"
#include "rpc/queue.h"

/* The connections to one CAS, with the credentials that it wants. Any thread. */
struct cas_connections;

/*
 * Makes the connections, none of which is waited for. CONF is borrowed until the close, QUEUE as
 * well; LABEL is the instance, for the log. ERR_PRECONDITION: a file that CONF names cannot be
 * read, or is not what it must be.
 *
 * The files are read again whenever connections are made anew, which is when the breaker lets
 * a call try again; the token file when it has changed.
 */
int cas_connections_open(const struct conf_cas *conf, const char *label, struct rpc_queue *queue,
                         struct cas_connections **connections, struct err *err);

/* Ends the calls under way with ERR_CANCELLED, soon; new ones are refused with it at once. */
void cas_connections_cancel(struct cas_connections *connections);

/* Waits until no call is under way, and closes. NULL is fine. Not on a poller. */
void cas_connections_close(struct cas_connections *connections);

/*
 * Whether the breaker lets calls through at present. What opens it is what another call would meet
 * as well: no connection, no answer, no right, a server that fails; not what is said of one call.
 */
bool cas_connections_are_up(struct cas_connections *connections);

/*
 * When, by clock_steady, the CAS was lost that is back by now, the last time; 0: never. What it had
 * before that may have gone with what kept it from answering.
 */
int64_t cas_connections_lost_at(struct cas_connections *connections);

/* Calls that were begun since the opening. */
uint64_t cas_connections_calls(struct cas_connections *connections);

/* Bytes of content that one BatchReadBlobs asks for: safe with message limits down to 2 MiB. */
enum { CAS_BATCH_MAX = 1 << 20 };

/*
 * Bytes of content that one BatchReadBlobs may ask for at present: CAS_BATCH_MAX, or what the CAS
 * takes if that is less (REAPI, max_batch_total_size_bytes), as it was set last. 0 sets no bound.
 */
int64_t cas_connections_batch(struct cas_connections *connections);
void cas_connections_set_batch(struct cas_connections *connections, int64_t bytes);

/* --- the calls --- */

/*
 * Digests in one FindMissingBlobs: with hashes of SHA-256 well below 1 MiB, the smallest message
 * limit in the field.
 */
enum { CAS_FIND_MAX = 8192 };

/* FindMissingBlobs. An answer that names what was not asked for is a failure. */
struct cas_find {
    const struct digest *digests; /* 1 to CAS_FIND_MAX, of one function, distinct */
    size_t count;
    bool *is_missing; /* COUNT of them; written before DONE */
    void (*done)(struct cas_find *find, const struct err *err); /* ERR NULL: it was answered */
};
int cas_find_missing(struct cas_connections *connections, struct cas_find *find, struct err *err);

/*
 * BatchReadBlobs or, for one blob that is larger than a batch, ByteStream.Read. What is read is
 * verified: content that is not what its digest says is absent, and told in the log.
 */
struct cas_read {
    const struct digest *digests; /* distinct, of one function, none of 0 bytes; either one, or */
    size_t count;                 /* several, together at most cas_connections_batch, and so few
                                     that the request is well below 4 MiB: some thousand */
    /*
     * For each blob once, in any order, before DONE; on a poller. NULL data: it is not there.
     * Where DONE gets an error, for some at most.
     */
    void (*blob)(struct cas_read *read, size_t index, struct span data);
    void (*done)(struct cas_read *read, const struct err *err);
};
int cas_read_blobs(struct cas_connections *connections, struct cas_read *read, struct err *err);

/* GetCapabilities. */
struct cas_capabilities {
    /* MESSAGE: the bytes of ServerCapabilities, until DONE returns; NULL data: UNIMPLEMENTED. */
    void (*done)(struct cas_capabilities *capabilities, struct span message, const struct err *err);
};
int cas_get_capabilities(struct cas_connections *connections, struct cas_capabilities *capabilities,
                         struct err *err);

#endif
