/* SPDX-License-Identifier: Apache-2.0 */
/* The set-up that tests of handlers share. */
#include "fake_services.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
/* cmocka needs those above. */
#include <cmocka.h>

#include "fake_remote_cas.h"
#include "scratch.h"

static const char *const ci[] = {"ci"};
static const char *const readers[] = {"ci", "alice"};
static const char *const narrow[] = {"", "small"};

static struct scratch scratch;
static pid_t scratch_owner; /* 0 while there is none */
static char paths[FAKE_INSTANCES][PATH_MAX];
static struct conf_instance instances[FAKE_INSTANCES];
static const char *const written[] = {"", "team/kernel", "index", "small", "paired"};
static struct conf_listener listeners[] = {
    {.access = CONF_ACCESS_WRITE, .instances = {.names = (const char **)written, .count = 5}}};
static struct conf conf = {.listeners = listeners,
                           .listener_count = 1,
                           .instances = instances,
                           .instance_count = FAKE_INSTANCES};
static struct arena blobs;

struct services fake_services = {.conf = &conf};
struct conf_cas fake_cas = {.address = "grpc://cas.example.com:8980"};
const struct conf_listener fake_listener = {
    .address = "unix:/all", .access = CONF_ACCESS_WRITE, .instances = {.any = true}};
const struct conf_listener fake_narrow_listener = {
    .address = "unix:/narrow",
    .access = CONF_ACCESS_WRITE,
    .instances = {.names = (const char **)narrow, .count = 2}};
const struct conf_listener fake_admin_listener = {
    .address = "unix:/admin", .access = CONF_ACCESS_ADMIN, .instances = {.any = true}};

static void configure(unsigned index, const char *name)
{
    (void)snprintf(paths[index], sizeof(paths[index]), "%s/%u", scratch.path, index);
    instances[index] = (struct conf_instance){
        .name = name,
        .storage = paths[index],
        .quota = 64 << 20,
        .index_quota = 16 << 20,
        .digest_functions = {DIGEST_SHA256, DIGEST_SHA1},
        .digest_function_count = 2,
        .push = {.any = true},
        .pull = {.any = true},
    };
}

static void remove_scratch(void)
{
    scratch_fini(&scratch);
    scratch_owner = 0;
}

/* For a set-up that fails, or a test that ends the program. */
static void remove_scratch_at_exit(void)
{
    if (scratch_owner == getpid())
        remove_scratch();
}

int fake_services_set_up(void **state)
{
    (void)state;
    struct err err;
    scratch_init(&scratch);
    scratch_owner = getpid();
    assert_int_equal(atexit(remove_scratch_at_exit), 0);
    arena_init(&blobs);
    configure(FAKE_MAIN, "");
    configure(FAKE_KERNEL, "team/kernel");
    configure(FAKE_INDEX, "index");
    configure(FAKE_SMALL, "small");
    configure(FAKE_PAIRED, "paired");
    configure(FAKE_READ, "read");
    instances[FAKE_KERNEL].digest_function_count = 1;
    instances[FAKE_KERNEL].push = (struct conf_names){.names = (const char **)ci, .count = 1};
    instances[FAKE_KERNEL].pull = (struct conf_names){.names = (const char **)readers, .count = 2};
    instances[FAKE_INDEX].index_only = true;
    instances[FAKE_SMALL].quota = 1 << 20;
    instances[FAKE_PAIRED].index_only = instances[FAKE_READ].index_only = true;
    instances[FAKE_PAIRED].cas = instances[FAKE_READ].cas = &fake_cas;
    instances[FAKE_PAIRED].expire_after = 60 * 1000;
    fake_services.remotes = fake_remotes(FAKE_PAIRED, FAKE_READ);
    log_set_level(LOG_LEVEL_WARNING);
    if (pool_new("test", 1, &fake_services.workers, &err) != 0 ||
        instances_open(&conf, fake_services.workers, &fake_services.instances, &err) != 0)
        fail_msg("%s", err.msg);
    return 0;
}

void fake_services_reopen(void)
{
    struct err err;
    instances_close(fake_services.instances);
    fake_services.instances = NULL;
    if (instances_open(&conf, fake_services.workers, &fake_services.instances, &err) != 0)
        fail_msg("%s", err.msg);
}

int fake_services_tear_down(void **state)
{
    (void)state;
    instances_close(fake_services.instances);
    pool_free(fake_services.workers);
    arena_fini(&blobs);
    remove_scratch();
    return 0;
}

const struct method *fake_method(const char *name)
{
    for (size_t i = 0; i < method_count; i++) {
        const char *path = methods[i].path;
        size_t length = strlen(path), end = strlen(name);
        if (length > end && strcmp(path + length - end, name) == 0 &&
            (path[length - end - 1] == '.' || path[length - end - 1] == '/'))
            return &methods[i];
    }
    fail_msg("there is no method %s", name);
    return NULL;
}

void fake_run_as(struct fake_call *fake, const char *method, const ProtobufCMessage *request,
                 const struct conf_listener *listener, const char *identity)
{
    fake_call_init(fake, &fake_services, fake_method(method), listener, identity);
    fake_call_start(fake, request);
    assert_true(fake->ended);
}

void fake_run(struct fake_call *fake, const char *method, const ProtobufCMessage *request)
{
    fake_run_as(fake, method, request, &fake_listener, "");
}

void fake_assert_failed(struct fake_call *fake, enum err_code code, const char *reason)
{
    assert_true(fake->ended);
    assert_int_equal(fake->status.code, code);
    assert_int_equal(fake->message_count, 0);
    assert_true(fake->status.msg[0] != '\0');
    if (strstr(fake->status.msg, reason) == NULL)
        fail_msg("\"%s\" is not in: %s", reason, fake->status.msg);
    fake_call_fini(fake);
}

static void *allocate(size_t size)
{
    void *memory = arena_alloc(&blobs, size);
    assert_non_null(memory);
    return memory;
}

static void parse(const struct fake_blob *blob, struct digest *digest)
{
    struct err err;
    assert_int_equal(digest_parse(DIGEST_SHA256, blob->hash, strlen(blob->hash),
                                  (int64_t)blob->size, digest, &err),
                     0);
}

struct fake_blob *fake_blob_of(const void *data, size_t size)
{
    struct err err;
    struct digest digest;
    char hex[2 * DIGEST_HASH_MAX + 1];
    struct fake_blob *blob = allocate(sizeof(*blob));
    blob->data = (uint8_t *)arena_copy(&blobs, data, size);
    blob->size = size;
    assert_non_null(blob->data);
    assert_int_equal(digest_compute(DIGEST_SHA256, data, size, &digest, &err), 0);
    blob->hash = arena_strdup(&blobs, digest_hex(&digest, hex));
    assert_non_null(blob->hash);
    build__bazel__remote__execution__v2__digest__init(&blob->digest);
    blob->digest.hash = blob->hash;
    blob->digest.size_bytes = (int64_t)size;
    return blob;
}

struct fake_blob *fake_blob_new(size_t size)
{
    static uint32_t last_seed = 2000;
    uint32_t seed = last_seed++;
    uint8_t *data = malloc(size + 1);
    assert_non_null(data);
    for (size_t i = 0; i < size; i++) {
        seed = seed * 1664525 + 1013904223;
        data[i] = (uint8_t)(seed >> 24);
    }
    struct fake_blob *blob = fake_blob_of(data, size);
    free(data);
    return blob;
}

void fake_store(unsigned instance, const struct fake_blob *blob)
{
    struct cas_blob stored = {.data = {blob->data, blob->size}};
    parse(blob, &stored.digest);
    cas_put(instances_at(fake_services.instances, instance)->cas, NULL, &stored, 1);
    assert_int_equal(stored.err.code, ERR_OK);
}

bool fake_has(unsigned instance, const struct fake_blob *blob)
{
    struct digest digest;
    bool present;
    parse(blob, &digest);
    cas_find(instances_at(fake_services.instances, instance)->cas, NULL, &digest, 1, &present);
    return present;
}
