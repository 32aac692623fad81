/* SPDX-License-Identifier: Apache-2.0 */
/* The configuration file as a whole: its keys at the top, and how it is loaded. */
#include "conf/conf.h"

#include <limits.h>
#include <string.h>
#include <unistd.h>

#include "base/user.h"
#include "conf/address.h"
#include "conf/check.h"
#include "conf/conf_private.h"

#define HOURS INT64_C(3600000)   /* in milliseconds */
#define MIBS  (INT64_C(1) << 20) /* in bytes */

static const struct schema_word level_words[] = {
    {"error", LOG_LEVEL_ERROR},
    {"warning", LOG_LEVEL_WARNING},
    {"info", LOG_LEVEL_INFO},
    {"trace", LOG_LEVEL_TRACE},
    {NULL, 0},
};

bool conf_names_include(const struct conf_names *names, const char *name)
{
    if (names->any)
        return true;
    for (size_t i = 0; i < names->count; i++)
        if (strcmp(names->names[i], name) == 0)
            return true;
    return false;
}

const char *conf_access_name(enum conf_access access)
{
    static const char *const names[] = {
        [CONF_ACCESS_READ] = "read", [CONF_ACCESS_WRITE] = "write", [CONF_ACCESS_ADMIN] = "admin"};
    return names[access];
}

const char *conf_client_name(enum conf_client client)
{
    static const char *const names[] = {[CONF_CLIENT_ANYONE] = NULL,
                                        [CONF_CLIENT_REQUEST] = "request",
                                        [CONF_CLIENT_REQUIRE] = "require"};
    return names[client];
}

bool conf_listener_tells_identity(const struct conf_listener *listener)
{
    return listener->identity != NULL ||
           (listener->tls != NULL && listener->tls->client != CONF_CLIENT_ANYONE);
}

bool conf_instance_serves(const struct conf_instance *instance, enum digest_function function)
{
    for (size_t i = 0; i < instance->digest_function_count; i++)
        if (instance->digest_functions[i] == function)
            return true;
    return false;
}

bool conf_instance_is_written(const struct conf *conf, const struct conf_instance *instance)
{
    for (size_t i = 0; i < conf->listener_count; i++)
        if (conf->listeners[i].access >= CONF_ACCESS_WRITE &&
            conf_names_include(&conf->listeners[i].instances, instance->name))
            return true;
    return false;
}

static int check_metrics_address(const char *text, struct err *err)
{
    struct address address;
    int rc = address_parse(text, &address, err);
    if (rc == 0 && address.path != NULL)
        rc = err_set(err, ERR_INVALID, "must be HOST:PORT, such as \"127.0.0.1:8982\"");
    return rc;
}

static void read_log_level(const struct schema_key *key, const struct yaml_node *node, void *field,
                           struct faults *faults)
{
    int value;
    (void)key;
    if (schema_word(level_words, node, &value, faults))
        *(enum log_level *)field = (enum log_level)value;
}

#define IN_CONF(member) offsetof(struct conf, member)

/* clang-format off */
static const struct schema_key limit_keys[] = {
    {"message", .field = IN_CONF(message_limit), .read = schema_size,
     .least = MIBS / 16, .most = CONF_MESSAGE_MAX, .unit = "MiB"},
    {"streams", .field = IN_CONF(stream_limit), .read = schema_number, .least = 1, .most = 65536},
    {.name = NULL},
};

static const struct schema_key thread_keys[] = {
    {"pollers", .field = IN_CONF(pollers), .read = schema_number, .least = 1, .most = 64},
    {"workers", .field = IN_CONF(workers), .read = schema_number, .least = 1, .most = 64},
    {.name = NULL},
};

static const struct schema_key metrics_keys[] = {
    {"address", .is_required = true, .field = IN_CONF(metrics_address),
     .read = schema_checked_text, .check = check_metrics_address},
    {.name = NULL},
};

static const struct schema_key log_keys[] = {
    {"level", .field = IN_CONF(log_level), .read = read_log_level},
    {.name = NULL},
};

static const struct schema_key conf_keys[] = {
    {"listeners", .is_required = true, .read = conf_read_listeners},
    {"instances", .is_required = true, .read = conf_read_instances},
    {"limits", .read = schema_mapping, .keys = limit_keys},
    {"threads", .read = schema_mapping, .keys = thread_keys},
    {"shutdown-grace", .field = IN_CONF(shutdown_grace), .read = schema_time,
     .least = 0, .most = HOURS, .unit = "s"},
    {"metrics", .read = schema_mapping, .keys = metrics_keys},
    {"log", .read = schema_mapping, .keys = log_keys},
    {.name = NULL},
};
/* clang-format on */

void *conf_read_members(const struct yaml_node *node, size_t size, const struct yaml_node **first,
                        struct faults *faults)
{
    if (!schema_list(node, first, faults))
        return NULL;
    if (node->count == 0) {
        fault_add(faults, &node->place, "is empty; it needs at least one");
        return NULL;
    }
    void *structures = arena_calloc(faults->arena, node->count, size);
    if (structures == NULL)
        faults->no_memory = true;
    return structures;
}

void conf_read_name(const struct schema_key *key, const struct yaml_node *node, void *field,
                    struct faults *faults)
{
    *(const char **)field = NULL;
    schema_checked_text(key, node, field, faults);
}

int conf_check_path(const char *path, const char *example, struct err *err)
{
    if (*path != '/')
        return err_set(err, ERR_INVALID,
                       "\"%.200s\" is no whole path; write it from / on, such as %s", path,
                       example);
    if (strlen(path) >= PATH_MAX)
        return err_set(err, ERR_INVALID, "is longer than %d bytes", PATH_MAX - 1);
    return 0;
}

void conf_set_defaults(struct conf *conf)
{
    *conf = (struct conf){.message_limit = 16 * MIBS,
                          .stream_limit = 256,
                          .pollers = 1,
                          .workers = 8,
                          .shutdown_grace = 5000,
                          .log_level = LOG_LEVEL_INFO};
    arena_init(&conf->arena);
}

/* --- what is kept --- */

bool conf_keep_text(const char **text, struct arena *arena)
{
    if (*text == NULL)
        return true;
    *text = arena_strdup(arena, *text);
    return *text != NULL;
}

bool conf_keep_names(struct conf_names *names, struct arena *arena)
{
    if (names->any)
        return true;
    const char **copies = arena_calloc(arena, names->count, sizeof(copies[0]));
    for (size_t i = 0; copies != NULL && i < names->count; i++) {
        copies[i] = names->names[i];
        if (!conf_keep_text(&copies[i], arena))
            return false;
    }
    names->names = copies;
    return copies != NULL;
}

/* Makes CONF a copy of READ, which is whole, with nothing in its arena but what it needs. */
static bool keep_conf(const struct conf *read, struct conf *conf)
{
    *conf = *read;
    arena_init(&conf->arena);
    struct arena *arena = &conf->arena;
    conf->listeners = arena_calloc(arena, conf->listener_count, sizeof(conf->listeners[0]));
    conf->instances = arena_calloc(arena, conf->instance_count, sizeof(conf->instances[0]));
    if (conf->listeners == NULL || conf->instances == NULL)
        return false;
    for (size_t i = 0; i < conf->listener_count; i++) {
        conf->listeners[i] = read->listeners[i];
        if (!conf_keep_listener(&conf->listeners[i], arena))
            return false;
    }
    for (size_t i = 0; i < conf->instance_count; i++) {
        conf->instances[i] = read->instances[i];
        if (!conf_keep_instance(&conf->instances[i], arena))
            return false;
    }
    return conf_keep_text(&conf->metrics_address, arena);
}

/* --- loading --- */

/* Reads the file into CONF, and what is wrong with it into FAULTS, all in the arena of CONF. */
static int read_conf(const char *path, struct conf *conf, struct faults *faults, struct err *err)
{
    const char *text;
    size_t size;
    char user[USER_TEXT_SIZE];
    conf->file = path;
    faults_init(faults, &conf->arena);
    int rc = yaml_read_file(path, &conf->arena, &text, &size, err);
    if (rc == -ERR_DENIED)
        (void)err_append(err, "; may %s read it?", user_text(geteuid(), user));
    const struct yaml_node *root = rc == 0 ? yaml_read(text, size, &conf->arena, faults) : NULL;
    if (root != NULL) {
        schema_read(conf_keys, root, conf, faults);
        check_conf(conf, root, faults);
    }
    return rc;
}

/* Tells what is wrong; OUT is NULL for the log. */
static int report(struct faults *faults, const char *path, FILE *out, struct err *err)
{
    if (out != NULL)
        faults_print(faults, path, out);
    else
        faults_log(faults, path);
    if (faults->no_memory)
        return err_no_memory(err, "the configuration");
    if (faults->errors > 0)
        return err_set(err, ERR_PRECONDITION, "%s has %zu fault%s", path, faults->errors,
                       faults->errors == 1 ? "" : "s");
    return 0;
}

/* What is read is given back: it is many times what is kept of it, which may stay for long. */
static int load(const char *path, FILE *out, struct conf *conf, struct err *err)
{
    struct faults faults;
    struct conf read;
    conf_set_defaults(conf);
    conf_set_defaults(&read);
    int rc = read_conf(path, &read, &faults, err);
    if (rc == 0)
        rc = report(&faults, path, out, err);
    if (rc == 0 && !keep_conf(&read, conf)) {
        conf_fini(conf);
        conf_set_defaults(conf);
        rc = err_no_memory(err, "the configuration");
    }
    conf_fini(&read);
    return rc;
}

int conf_load_to(const char *path, FILE *out, struct conf *conf, struct err *err)
{
    return load(path, out, conf, err);
}

int conf_load(const char *path, struct conf *conf, struct err *err)
{
    return load(path, stderr, conf, err);
}

int conf_load_logged(const char *path, struct conf *conf, struct err *err)
{
    return load(path, NULL, conf, err);
}

void conf_fini(struct conf *conf)
{
    arena_fini(&conf->arena);
}
