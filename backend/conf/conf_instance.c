/* SPDX-License-Identifier: Apache-2.0 */
/* The instances of a configuration file. */
#include <string.h>

#include "base/identity.h"
#include "conf/conf_private.h"

#define DAYS INT64_C(86400000)  /* in milliseconds */
#define MIBS (INT64_C(1) << 20) /* in bytes */
#define GIBS (INT64_C(1) << 30)

enum { INSTANCE_NAME_MAX = 256 }; /* bytes */

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

int conf_check_instance_name(const char *name, struct err *err)
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

static int check_identity(const char *name, struct err *err)
{
    if (!identity_is_valid(name, strlen(name)))
        return err_set(err, ERR_INVALID, "\"%.80s\" is no identity; it is " IDENTITY_RULE, name);
    return 0;
}

static int check_storage(const char *path, struct err *err)
{
    return conf_check_path(path, "/var/lib/assetd/main", err);
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

#define IN_INSTANCE(member) offsetof(struct conf_instance, member)

/* clang-format off */
static const struct schema_key instance_keys[] = {
    {"name", .field = IN_INSTANCE(name), .read = conf_read_name,
     .check = conf_check_instance_name},
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
    {"cas", .field = IN_INSTANCE(cas), .read = conf_read_cas},
    {"push", .field = IN_INSTANCE(push), .read = schema_names, .check = check_identity},
    {"pull", .field = IN_INSTANCE(pull), .read = schema_names, .check = check_identity},
    {.name = NULL},
};
/* clang-format on */

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

void conf_read_instances(const struct schema_key *key, const struct yaml_node *node, void *target,
                         struct faults *faults)
{
    struct conf *conf = target;
    const struct yaml_node *member;
    (void)key;
    conf->instances = conf_read_members(node, sizeof(*conf->instances), &member, faults);
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

bool conf_keep_instance(struct conf_instance *instance, struct arena *arena)
{
    return conf_keep_text(&instance->name, arena) && conf_keep_text(&instance->storage, arena) &&
           conf_keep_cas(&instance->cas, instance->name, arena) &&
           conf_keep_names(&instance->push, arena) && conf_keep_names(&instance->pull, arena);
}
