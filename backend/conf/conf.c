/* SPDX-License-Identifier: Apache-2.0 */
/* The keys of the configuration file, their types, bounds and defaults. */
#include "conf/conf.h"

#include <errno.h>
#include <grp.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/identity.h"
#include "base/user.h"
#include "conf/address.h"
#include "conf/check.h"
#include "conf/fault.h"
#include "conf/schema.h"
#include "conf/yaml.h"

#define DAYS  INT64_C(86400000) /* in milliseconds */
#define HOURS INT64_C(3600000)
#define MIBS  (INT64_C(1) << 20) /* in bytes */
#define GIBS  (INT64_C(1) << 30)

enum {
    INSTANCE_NAME_MAX = 256, /* bytes */
    IDENTITY_KEY_MAX = 64,   /* bytes of a metadata key */
};

static const struct schema_word access_words[] = {
    {"read", CONF_ACCESS_READ},
    {"write", CONF_ACCESS_WRITE},
    {"admin", CONF_ACCESS_ADMIN},
    {NULL, 0},
};

static const struct schema_word level_words[] = {
    {"error", LOG_LEVEL_ERROR},
    {"warning", LOG_LEVEL_WARNING},
    {"info", LOG_LEVEL_INFO},
    {"trace", LOG_LEVEL_TRACE},
    {NULL, 0},
};

static const struct schema_word function_words[] = {
    {"sha256", DIGEST_SHA256},
    {"sha384", DIGEST_SHA384},
    {"sha512", DIGEST_SHA512},
    {"sha1", DIGEST_SHA1},
    {NULL, 0},
};

/* REAPI, ByteStream resource names: an instance name with one of these cannot be told apart. */
static const char *const reserved_segments[] = {
    "blobs",      "uploads",      "actions",          "actionResults",
    "operations", "capabilities", "compressed-blobs",
};

/* Checks the LENGTH bytes at SEGMENT of the instance name NAME. */
static int check_segment(const char *name, const char *segment, size_t length, struct err *err)
{
    if (length == 0)
        return err_set(err, ERR_INVALID,
                       "\"%s\" has an empty segment; single slashes go between segments only",
                       name);
    for (size_t i = 0; i < sizeof(reserved_segments) / sizeof(reserved_segments[0]); i++)
        if (strlen(reserved_segments[i]) == length &&
            memcmp(reserved_segments[i], segment, length) == 0)
            return err_set(err, ERR_INVALID,
                           "the segment \"%s\" is reserved by the Remote Execution API; choose "
                           "another",
                           reserved_segments[i]);
    return 0;
}

static int check_instance_name(const char *name, struct err *err)
{
    if (strlen(name) > INSTANCE_NAME_MAX)
        return err_set(err, ERR_INVALID, "is longer than %d bytes", INSTANCE_NAME_MAX);
    if (*name == '\0')
        return 0;
    for (const char *segment = name;; segment++) {
        size_t length = strcspn(segment, "/");
        int rc = check_segment(name, segment, length, err);
        if (rc != 0)
            return rc;
        segment += length;
        if (*segment == '\0')
            return 0;
    }
}

bool conf_names_include(const struct conf_names *names, const char *name)
{
    if (names->any)
        return true;
    for (size_t i = 0; i < names->count; i++)
        if (strcmp(names->names[i], name) == 0)
            return true;
    return false;
}

static int check_identity(const char *name, struct err *err)
{
    if (!identity_is_valid(name, strlen(name)))
        return err_set(err, ERR_INVALID, "\"%.80s\" is no identity; it is " IDENTITY_RULE, name);
    return 0;
}

/* gRPC over HTTP/2, Custom-Metadata: -bin means encoded bytes, grpc- is reserved. */
static int check_metadata_key(const char *key, struct err *err)
{
    static const char suffix[] = "-bin";
    static const char prefix[] = "grpc-";
    size_t length = strlen(key);
    if (length < 1 || length > IDENTITY_KEY_MAX ||
        strspn(key, "abcdefghijklmnopqrstuvwxyz0123456789_.-") != length)
        return err_set(err, ERR_INVALID,
                       "\"%.80s\" is no metadata key; it is 1 to %d of a-z 0-9 _ . -, such as "
                       "x-client-identity",
                       key, IDENTITY_KEY_MAX);
    if (strncmp(key, prefix, strlen(prefix)) == 0)
        return err_set(err, ERR_INVALID, "begins with grpc-, which gRPC keeps for itself");
    if (length >= strlen(suffix) && strcmp(key + length - strlen(suffix), suffix) == 0)
        return err_set(err, ERR_INVALID, "ends with -bin, which gRPC takes for encoded bytes");
    return 0;
}

static int check_storage(const char *path, struct err *err)
{
    if (*path != '/')
        return err_set(err, ERR_INVALID,
                       "\"%.200s\" is no whole path; write it from / on, such as "
                       "/var/lib/assetd/main",
                       path);
    if (strlen(path) >= PATH_MAX)
        return err_set(err, ERR_INVALID, "is longer than %d bytes", PATH_MAX - 1);
    return 0;
}

static int check_metrics_address(const char *text, struct err *err)
{
    struct address address;
    int rc = address_parse(text, &address, err);
    if (rc == 0 && address.path != NULL)
        rc = err_set(err, ERR_INVALID, "must be HOST:PORT, such as \"127.0.0.1:8982\"");
    return rc;
}

static void read_address(const struct schema_key *key, const struct yaml_node *node, void *target,
                         struct faults *faults)
{
    struct conf_listener *listener = target;
    struct address address;
    struct err err;
    (void)key;
    const char *text = schema_text(node, faults);
    if (text == NULL)
        return;
    if (address_parse(text, &address, &err) != 0) {
        fault_add(faults, &node->place, "%s", err.msg);
        return;
    }
    listener->address = text;
    listener->path = address.path;
}

static void read_access(const struct schema_key *key, const struct yaml_node *node, void *field,
                        struct faults *faults)
{
    int value;
    (void)key;
    if (schema_word(access_words, node, &value, faults))
        *(enum conf_access *)field = (enum conf_access)value;
}

static void read_served(const struct schema_key *key, const struct yaml_node *node, void *field,
                        struct faults *faults)
{
    schema_names(key, node, field, faults);
    if (node->kind == YAML_LIST && node->count == 0)
        fault_add(faults, &node->place,
                  "is empty, so that nothing is served; name instances, or remove the key to serve "
                  "all");
}

static void read_socket_mode(const struct schema_key *key, const struct yaml_node *node,
                             void *field, struct faults *faults)
{
    (void)key;
    const char *text = schema_text(node, faults);
    if (text == NULL)
        return;
    size_t length = strlen(text);
    if (length < 3 || length > 8 || strspn(text, "01234567") != length) {
        fault_add(faults, &node->place,
                  "\"%.80s\" is no mode; write three or four octal digits, such as \"0660\"", text);
        return;
    }
    unsigned long mode = strtoul(text, NULL, 8);
    if (mode > 0777)
        fault_add(faults, &node->place, "\"%s\" is more than \"0777\"; write one such as \"0660\"",
                  text);
    else
        *(mode_t *)field = (mode_t)mode;
}

static void read_socket_group(const struct schema_key *key, const struct yaml_node *node,
                              void *target, struct faults *faults)
{
    struct conf_listener *listener = target;
    struct group group, *found = NULL;
    char buffer[16384], reason[128];
    (void)key;
    const char *text = schema_text(node, faults);
    if (text == NULL)
        return;
    int rc = getgrnam_r(text, &group, buffer, sizeof(buffer), &found);
    if (found == NULL && rc != 0 && rc != ENOENT && rc != ESRCH) {
        fault_add(faults, &node->place, "look up the group \"%.80s\": %s", text,
                  strerror_r(rc, reason, sizeof(reason)));
    } else if (found == NULL) {
        fault_add(faults, &node->place,
                  "there is no group \"%.80s\"; make it (addgroup --system), or name that of the "
                  "proxy, such as www-data",
                  text);
    } else {
        listener->socket_group = text;
        listener->socket_gid = group.gr_gid;
    }
}

static void read_name(const struct schema_key *key, const struct yaml_node *node, void *field,
                      struct faults *faults)
{
    *(const char **)field = NULL;
    schema_checked_text(key, node, field, faults);
}

/* Sets FUNCTION among those of INSTANCE; false if it is one of them. */
static bool add_function(struct conf_instance *instance, enum digest_function function)
{
    for (size_t i = 0; i < instance->digest_function_count; i++)
        if (instance->digest_functions[i] == function)
            return false;
    instance->digest_functions[instance->digest_function_count++] = function;
    return true;
}

static void read_digest_functions(const struct schema_key *key, const struct yaml_node *node,
                                  void *target, struct faults *faults)
{
    struct conf_instance *instance = target;
    const struct yaml_node *member;
    (void)key;
    if (!schema_list(node, &member, faults))
        return;
    if (member == NULL)
        fault_add(faults, &node->place,
                  "is empty; name at least one, or remove the key for sha256");
    instance->digest_function_count = 0;
    for (; member != NULL; member = member->next) {
        int function;
        if (schema_word(function_words, member, &function, faults) &&
            !add_function(instance, (enum digest_function)function))
            fault_add(faults, &member->place, "\"%s\" is listed twice; remove one", member->text);
    }
}

/* An operator who wrote this expects a check that is not made: taking it would break a promise. */
static void refuse_cas(const struct schema_key *key, const struct yaml_node *node, void *target,
                       struct faults *faults)
{
    (void)key;
    (void)target;
    fault_add(faults, &node->key_place,
              "checking against an external CAS is not available in this version; remove it, and "
              "answers are given as stored, without looking whether the CAS still has the content");
}

static void read_log_level(const struct schema_key *key, const struct yaml_node *node, void *field,
                           struct faults *faults)
{
    int value;
    (void)key;
    if (schema_word(level_words, node, &value, faults))
        *(enum log_level *)field = (enum log_level)value;
}

#define IN_LISTENER(member) offsetof(struct conf_listener, member)
#define IN_INSTANCE(member) offsetof(struct conf_instance, member)
#define IN_CONF(member)     offsetof(struct conf, member)

/* clang-format off */
static const struct schema_key listener_keys[] = {
    {"address", .is_required = true, .read = read_address},
    {"access", .field = IN_LISTENER(access), .read = read_access},
    {"instances", .field = IN_LISTENER(instances), .read = read_served},
    {"socket-mode", .field = IN_LISTENER(socket_mode), .read = read_socket_mode},
    {"socket-group", .read = read_socket_group},
    {"identity", .field = IN_LISTENER(identity), .read = schema_checked_text,
     .check = check_metadata_key},
    {.name = NULL},
};

static const struct schema_key instance_keys[] = {
    {"name", .field = IN_INSTANCE(name), .read = read_name,
     .check = check_instance_name},
    {"storage", .is_required = true, .field = IN_INSTANCE(storage), .read = schema_checked_text,
     .check = check_storage},
    {"index-only", .field = IN_INSTANCE(index_only), .read = schema_boolean},
    {"quota", .field = IN_INSTANCE(quota), .read = schema_size,
     .least = 1, .most = INT64_MAX, .unit = "GiB"},
    {"index-quota", .field = IN_INSTANCE(index_quota), .read = schema_size,
     .least = MIBS, .most = INT64_MAX, .unit = "GiB"},
    {"expire-after", .field = IN_INSTANCE(expire_after), .read = schema_time,
     .least = 1000, .most = 36500 * DAYS, .unit = "d"},
    {"digest-functions", .read = read_digest_functions},
    {"cas", .read = refuse_cas},
    {"push", .field = IN_INSTANCE(push), .read = schema_names, .check = check_identity},
    {"pull", .field = IN_INSTANCE(pull), .read = schema_names, .check = check_identity},
    {.name = NULL},
};

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

static void read_listeners(const struct schema_key *key, const struct yaml_node *node,
                           void *target, struct faults *faults);
static void read_instances(const struct schema_key *key, const struct yaml_node *node,
                           void *target, struct faults *faults);

static const struct schema_key conf_keys[] = {
    {"listeners", .is_required = true, .read = read_listeners},
    {"instances", .is_required = true, .read = read_instances},
    {"limits", .read = schema_mapping, .keys = limit_keys},
    {"threads", .read = schema_mapping, .keys = thread_keys},
    {"shutdown-grace", .field = IN_CONF(shutdown_grace), .read = schema_time,
     .least = 0, .most = HOURS, .unit = "s"},
    {"metrics", .read = schema_mapping, .keys = metrics_keys},
    {"log", .read = schema_mapping, .keys = log_keys},
    {.name = NULL},
};
/* clang-format on */

/* The members of a list that must have one, and room for as many structures of SIZE bytes. */
static void *read_members(const struct yaml_node *node, size_t size, const struct yaml_node **first,
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

static void read_listeners(const struct schema_key *key, const struct yaml_node *node, void *target,
                           struct faults *faults)
{
    struct conf *conf = target;
    const struct yaml_node *member;
    (void)key;
    conf->listeners = read_members(node, sizeof(*conf->listeners), &member, faults);
    if (conf->listeners == NULL)
        return;
    for (; member != NULL; member = member->next) {
        struct conf_listener *listener = &conf->listeners[conf->listener_count++];
        conf_listener_set_defaults(listener);
        schema_read(listener_keys, member, listener, faults);
    }
}

static void read_instances(const struct schema_key *key, const struct yaml_node *node, void *target,
                           struct faults *faults)
{
    struct conf *conf = target;
    const struct yaml_node *member;
    (void)key;
    conf->instances = read_members(node, sizeof(*conf->instances), &member, faults);
    if (conf->instances == NULL)
        return;
    for (; member != NULL; member = member->next) {
        struct conf_instance *instance = &conf->instances[conf->instance_count++];
        conf_instance_set_defaults(instance);
        if (member->kind != YAML_MAPPING)
            instance->name = NULL;
        schema_read(instance_keys, member, instance, faults);
    }
}

void conf_listener_set_defaults(struct conf_listener *listener)
{
    *listener = (struct conf_listener){
        .access = CONF_ACCESS_READ, .instances = {.any = true}, .socket_mode = 0660};
}

void conf_instance_set_defaults(struct conf_instance *instance)
{
    *instance = (struct conf_instance){.name = "",
                                       .quota = INT64_C(10000000000),
                                       .index_quota = GIBS,
                                       .digest_functions = {DIGEST_SHA256},
                                       .digest_function_count = 1,
                                       .push = {.any = true},
                                       .pull = {.any = true}};
}

bool conf_instance_is_written(const struct conf *conf, const struct conf_instance *instance)
{
    for (size_t i = 0; i < conf->listener_count; i++)
        if (conf->listeners[i].access >= CONF_ACCESS_WRITE &&
            conf_names_include(&conf->listeners[i].instances, instance->name))
            return true;
    return false;
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

/* --- loading --- */

static bool keep_text(const char **text, struct arena *arena)
{
    if (*text != NULL)
        *text = arena_strdup(arena, *text);
    return *text != NULL;
}

static bool keep_names(struct conf_names *names, struct arena *arena)
{
    if (names->any)
        return true;
    const char **copies = arena_calloc(arena, names->count, sizeof(copies[0]));
    for (size_t i = 0; copies != NULL && i < names->count; i++) {
        copies[i] = names->names[i];
        if (!keep_text(&copies[i], arena))
            return false;
    }
    names->names = copies;
    return copies != NULL;
}

static bool keep_listener(struct conf_listener *listener, struct arena *arena)
{
    const char *address = listener->address;
    if (!keep_text(&listener->address, arena))
        return false;
    if (listener->path != NULL) /* a part of the address */
        listener->path = listener->address + (listener->path - address);
    return keep_names(&listener->instances, arena) &&
           (listener->socket_group == NULL || keep_text(&listener->socket_group, arena)) &&
           (listener->identity == NULL || keep_text(&listener->identity, arena));
}

static bool keep_instance(struct conf_instance *instance, struct arena *arena)
{
    return keep_text(&instance->name, arena) && keep_text(&instance->storage, arena) &&
           keep_names(&instance->push, arena) && keep_names(&instance->pull, arena);
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
        if (!keep_listener(&conf->listeners[i], arena))
            return false;
    }
    for (size_t i = 0; i < conf->instance_count; i++) {
        conf->instances[i] = read->instances[i];
        if (!keep_instance(&conf->instances[i], arena))
            return false;
    }
    return conf->metrics_address == NULL || keep_text(&conf->metrics_address, arena);
}

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
