/* SPDX-License-Identifier: Apache-2.0 */
/* The listeners of a configuration file. */
#include <errno.h>
#include <grp.h>
#include <stdlib.h>
#include <string.h>

#include "conf/address.h"
#include "conf/conf_private.h"

enum { IDENTITY_KEY_MAX = 64 }; /* bytes of a metadata key */

static const struct schema_word access_words[] = {
    {"read", CONF_ACCESS_READ},
    {"write", CONF_ACCESS_WRITE},
    {"admin", CONF_ACCESS_ADMIN},
    {NULL, 0},
};

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

#define IN_LISTENER(member) offsetof(struct conf_listener, member)

/* clang-format off */
static const struct schema_key listener_keys[] = {
    {"address", .is_required = true, .read = read_address},
    {"access", .field = IN_LISTENER(access), .read = read_access},
    {"instances", .field = IN_LISTENER(instances), .read = read_served},
    {"socket-mode", .field = IN_LISTENER(socket_mode), .read = read_socket_mode},
    {"socket-group", .read = read_socket_group},
    {"identity", .field = IN_LISTENER(identity), .read = schema_checked_text,
     .check = check_metadata_key},
    {"tls", .field = IN_LISTENER(tls), .read = conf_read_tls},
    {.name = NULL},
};
/* clang-format on */

void conf_listener_set_defaults(struct conf_listener *listener)
{
    *listener = (struct conf_listener){
        .access = CONF_ACCESS_READ, .instances = {.any = true}, .socket_mode = 0660};
}

void conf_read_listeners(const struct schema_key *key, const struct yaml_node *node, void *target,
                         struct faults *faults)
{
    struct conf *conf = target;
    const struct yaml_node *member;
    (void)key;
    conf->listeners = conf_read_members(node, sizeof(*conf->listeners), &member, faults);
    if (conf->listeners == NULL)
        return;
    for (; member != NULL; member = member->next) {
        struct conf_listener *listener = &conf->listeners[conf->listener_count++];
        conf_listener_set_defaults(listener);
        schema_read(listener_keys, member, listener, faults);
    }
}

bool conf_keep_listener(struct conf_listener *listener, struct arena *arena)
{
    const char *address = listener->address;
    if (!conf_keep_text(&listener->address, arena))
        return false;
    if (listener->path != NULL) /* a part of the address */
        listener->path = listener->address + (listener->path - address);
    return conf_keep_names(&listener->instances, arena) &&
           conf_keep_text(&listener->socket_group, arena) &&
           conf_keep_text(&listener->identity, arena) && conf_keep_tls(&listener->tls, arena);
}
