/* SPDX-License-Identifier: Apache-2.0 */
/* Instances in a temporary folder, and shorthands for calling their methods through fake_call. */
#ifndef ASSETD_TESTS_FAKE_SERVICES_H
#define ASSETD_TESTS_FAKE_SERVICES_H

#include <stddef.h>
#include <stdint.h>

#include "fake_call.h"
#include "service/messages.h"
#include "service/services.h"

/*
 * The instances: "" (SHA-256 and SHA-1), "team/kernel" (push: ci; pull: ci, alice), "index" (index
 * only), "small" (a CAS of 1 MiB), "paired" (index only, with the external CAS of
 * fake_remote_cas.h), "read" (the same, and no listener lets writes in).
 */
enum {
    FAKE_MAIN,
    FAKE_KERNEL,
    FAKE_INDEX,
    FAKE_SMALL,
    FAKE_PAIRED,
    FAKE_READ,
    FAKE_INSTANCES,
};
extern struct services fake_services;
extern struct conf_cas fake_cas; /* of the paired ones */

/* Listeners: all instances; those of the list {"", "small"}; for administration. */
extern const struct conf_listener fake_listener, fake_narrow_listener, fake_admin_listener;

/* For cmocka_run_group_tests. */
int fake_services_set_up(void **state);
int fake_services_tear_down(void **state);

/* A unary or server-streaming call of METHOD ("Service/Method"), from its start to its end. */
void fake_run(struct fake_call *fake, const char *method, const ProtobufCMessage *request);
void fake_run_as(struct fake_call *fake, const char *method, const ProtobufCMessage *request,
                 const struct conf_listener *listener, const char *identity);

/* The call failed so, without an answer, for a reason that has REASON in it; gives it back. */
void fake_assert_failed(struct fake_call *fake, enum err_code code, const char *reason);

/* The method of that name, in methods[]. */
const struct method *fake_method(const char *name);

/* A blob and its SHA-256 digest, made until the tear-down. */
struct fake_blob {
    uint8_t *data;
    size_t size;
    char *hash;
    REAPI(Digest) digest; /* as a message */
};
struct fake_blob *fake_blob_of(const void *data, size_t size);
struct fake_blob *fake_blob_new(size_t size); /* of bytes that no other has */

/* Closes and opens all instances, by which what they keep in memory is written. */
void fake_services_reopen(void);

/* Puts BLOB into the store of an instance. */
void fake_store(unsigned instance, const struct fake_blob *blob);

/* Whether the store of an instance has it. */
bool fake_has(unsigned instance, const struct fake_blob *blob);

#endif
