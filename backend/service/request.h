/* SPDX-License-Identifier: Apache-2.0 */
/* What the handlers of several services need of their requests: instances, digests, limits. */
#ifndef ASSETD_SERVICE_REQUEST_H
#define ASSETD_SERVICE_REQUEST_H

#include "base/digest.h"
#include "base/err.h"
#include "service/call.h"
#include "service/messages.h"
#include "store/instance.h"

enum {
    /*
     * Bytes of data in one BatchUpdateBlobs or BatchReadBlobs: 4 MiB is what most clients are set
     * to receive, and digests and framing must fit beside it.
     */
    REQUEST_BATCH_MAX = (4 << 20) - (64 << 10),
};

/*
 * The instance of that name, if the call's listener serves it and the instance's push (for
 * METHOD_WRITE methods) or pull list has the client's identity; on an admin listener lists do not
 * count. ERR_NOT_FOUND with the name for one that is not known here; ERR_DENIED with what to do.
 */
int request_instance(const struct call *call, const char *name, struct instance **instance,
                     struct err *err);

/* The same, and ERR_UNIMPLEMENTED for an instance without a CAS. */
int request_cas(const struct call *call, const char *name, struct instance **instance,
                struct err *err);

/*
 * The digest function of a request: the one it names or, where it names none, the one whose hashes
 * are as long as HASH. HASH may be NULL or empty: then SHA-256, if the instance serves it, or the
 * first of those it serves. ERR_INVALID if the instance does not serve it.
 */
int request_digest_function(const struct instance *instance, REAPI(DigestFunction__Value) named,
                            const char *hash, enum digest_function *function, struct err *err);

/*
 * A digest message. ERR_INVALID: NULL, which is one that is absent, without a hash, or malformed;
 * the message begins with WHAT unless that is NULL.
 */
int request_digest(enum digest_function function, const REAPI(Digest) *message, const char *what,
                   struct digest *digest, struct err *err);

#endif
