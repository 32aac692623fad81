/* SPDX-License-Identifier: Apache-2.0 */
/* Listeners against listeners and instances, instances against each other, storage on the disk. */
#include "conf/check.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/user.h"
#include "conf/address.h"
#include "conf/check_private.h"
#include "conf/path.h"

/* An address that is taken, and by whom. */
struct endpoint {
    const struct yaml_node *node; /* of the address; NULL: faulty, not looked at */
    struct address address;
    const char *real_path; /* of a unix socket */
};

/* A storage directory. */
struct storage {
    const struct yaml_node *node; /* NULL: faulty, not looked at */
    const char *real_path;
};

const struct fault_place *check_place_of(const struct yaml_node *node, const char *key)
{
    const struct yaml_node *value = yaml_find(node, key);
    return value != NULL ? &value->place : &node->place;
}

const struct conf_instance *check_find_instance(const struct conf *conf, const char *name)
{
    for (size_t i = 0; i < conf->instance_count; i++)
        if (conf->instances[i].name != NULL && strcmp(conf->instances[i].name, name) == 0)
            return &conf->instances[i];
    return NULL;
}

void check_file(const struct check *check, const struct yaml_node *node, const char *key,
                const char *path)
{
    struct faults *faults = check->faults;
    char reason[128], user[USER_TEXT_SIZE];
    struct stat status;
    if (path == NULL)
        return;
    const struct fault_place *place = check_place_of(node, key);
    int rc = stat(path, &status);
    if (rc != 0 && errno == ENOENT)
        fault_add(faults, place, "there is no file %.200s; put it there, or name another", path);
    else if (rc != 0 && errno != EACCES)
        fault_add(faults, place, "%.200s: %s", path, strerror_r(errno, reason, sizeof(reason)));
    else if (rc == 0 && !S_ISREG(status.st_mode))
        fault_add(faults, place, "%.200s is no regular file", path);
    else if (rc != 0 || faccessat(AT_FDCWD, path, R_OK, AT_EACCESS) != 0)
        fault_warn(faults, place,
                   "%s may not read %.200s; the user that assetd runs as must be able to",
                   user_text(geteuid(), user), path);
}

static void check_unix_listener(const struct check *check, const struct conf_listener *listener,
                                const struct yaml_node *node)
{
    struct stat status;
    if (stat(listener->path, &status) == 0 && !S_ISSOCK(status.st_mode))
        fault_add(check->faults, check_place_of(node, "address"),
                  "%.200s exists and is no socket; choose another path, or remove it",
                  listener->path);
}

static void check_tcp_listener(const struct check *check, const struct conf_listener *listener,
                               const struct yaml_node *node, bool is_loopback)
{
    static const char *const socket_keys[] = {"socket-mode", "socket-group"};
    for (size_t i = 0; i < sizeof(socket_keys) / sizeof(socket_keys[0]); i++) {
        const struct yaml_node *value = yaml_find(node, socket_keys[i]);
        if (value != NULL)
            fault_add(check->faults, &value->key_place,
                      "is only for unix sockets, and %.80s is none; remove it", listener->address);
    }
    if (listener->access == CONF_ACCESS_ADMIN)
        fault_add(check->faults, check_place_of(node, "access"),
                  "admin is only for unix sockets, whose mode says who may connect; change the "
                  "address to unix:/PATH");
    if (listener->identity != NULL && !is_loopback)
        fault_add(check->faults, check_place_of(node, "identity"),
                  "would be believed from anyone who can reach %.80s; listen at a unix socket or "
                  "127.0.0.1, with nginx in front",
                  listener->address);
    /* Who meant to ask for certificates, and made a mistake there, is told of that. */
    bool asks = yaml_find(yaml_find(node, "tls"), "client-ca") != NULL;
    if (listener->access == CONF_ACCESS_WRITE && !is_loopback && !asks)
        fault_warn(check->faults, check_place_of(node, "access"),
                   "anyone who can reach %.80s can write; ask for their certificates by client-ca "
                   "under tls, or listen at a unix socket or 127.0.0.1, with nginx in front",
                   listener->address);
}

static void check_listener(const struct check *check, size_t index)
{
    const struct conf_listener *listener = &check->conf->listeners[index];
    const struct yaml_node *node = yaml_at(check->listeners, index);
    struct address address;
    struct err err;
    if (listener->address != NULL && address_parse(listener->address, &address, &err) == 0) {
        if (listener->path != NULL)
            check_unix_listener(check, listener, node);
        else
            check_tcp_listener(check, listener, node, address.is_loopback);
    }
    check_tls(check, listener, node);
    const struct yaml_node *names = yaml_find(node, "instances");
    if (names == NULL || names->kind != YAML_LIST || !check->all_names_known)
        return;
    for (const struct yaml_node *name = names->first; name != NULL; name = name->next)
        if (name->kind == YAML_TEXT && !yaml_is_null(name) &&
            check_find_instance(check->conf, name->text) == NULL)
            fault_add(check->faults, &name->place,
                      "there is no instance \"%.80s\"; the list instances says which there are",
                      name->text);
}

static bool endpoints_clash(const struct endpoint *a, const struct endpoint *b)
{
    if (a->real_path != NULL && b->real_path != NULL)
        return strcmp(a->real_path, b->real_path) == 0;
    return address_overlaps(&a->address, &b->address);
}

static void add_endpoint(const struct check *check, struct endpoint *endpoint, const char *text,
                         const struct yaml_node *node)
{
    struct err err;
    if (text == NULL || address_parse(text, &endpoint->address, &err) != 0)
        return;
    endpoint->node = node;
    if (endpoint->address.path == NULL)
        return;
    endpoint->real_path = path_resolve(endpoint->address.path, check->faults->arena);
    if (endpoint->real_path == NULL)
        check->faults->no_memory = true;
}

/* No two listeners, nor a listener and the metrics, at one address. */
static void check_endpoints(const struct check *check, const struct yaml_node *root)
{
    size_t count = check->conf->listener_count + 1;
    struct endpoint *endpoints = arena_calloc(check->faults->arena, count, sizeof(*endpoints));
    if (endpoints == NULL) {
        check->faults->no_memory = true;
        return;
    }
    for (size_t i = 0; i + 1 < count; i++)
        add_endpoint(check, &endpoints[i], check->conf->listeners[i].address,
                     yaml_find(yaml_at(check->listeners, i), "address"));
    add_endpoint(check, &endpoints[count - 1], check->conf->metrics_address,
                 yaml_find(yaml_find(root, "metrics"), "address"));
    for (size_t i = 1; i < count; i++) {
        for (size_t j = 0; j < i; j++) {
            const struct yaml_node *node = endpoints[i].node, *other = endpoints[j].node;
            if (node == NULL || other == NULL || !endpoints_clash(&endpoints[i], &endpoints[j]))
                continue;
            fault_add(check->faults, &node->place,
                      "%.80s is taken by %s in line %u (%.80s); choose another address", node->text,
                      other->place.path, other->place.line, other->text);
            break;
        }
    }
}

static void check_names(struct check *check)
{
    const struct conf *conf = check->conf;
    check->all_names_known = true;
    for (size_t i = 0; i < conf->instance_count; i++) {
        const struct yaml_node *node = yaml_at(check->instances, i);
        if (conf->instances[i].name == NULL) {
            check->all_names_known = false;
            continue;
        }
        const struct conf_instance *first = check_find_instance(conf, conf->instances[i].name);
        if (first == &conf->instances[i])
            continue;
        const struct yaml_node *other =
            yaml_at(check->instances, (size_t)(first - conf->instances));
        fault_add(check->faults, check_place_of(node, "name"),
                  "\"%.80s\" is the name of %s in line %u already; choose another", first->name,
                  other->place.path, check_place_of(other, "name")->line);
    }
}

/* Storage that is there must be a directory; what is missing is made when the server starts. */
static void check_directory(const struct check *check, const struct storage *storage)
{
    struct stat status;
    if (stat(storage->node->text, &status) == 0) {
        if (!S_ISDIR(status.st_mode))
            fault_add(check->faults, &storage->node->place, "%.200s is no directory",
                      storage->node->text);
    } else if (errno == ENOTDIR) {
        fault_add(check->faults, &storage->node->place, "a part of %.200s is no directory",
                  storage->node->text);
    } else if (errno == ELOOP || errno == ENAMETOOLONG) {
        char reason[128];
        fault_add(check->faults, &storage->node->place, "%.200s: %s", storage->node->text,
                  strerror_r(errno, reason, sizeof(reason)));
    }
}

static void check_storage_pair(const struct check *check, const struct storage *storage,
                               const struct storage *other)
{
    const struct fault_place *place = &storage->node->place;
    const struct fault_place *taken = &other->node->place;
    if (strcmp(storage->real_path, other->real_path) == 0)
        fault_add(check->faults, place,
                  "%.200s is the storage of %s in line %u already; each instance needs its own",
                  storage->real_path, taken->path, taken->line);
    else if (path_is_inside(storage->real_path, other->real_path))
        fault_add(check->faults, place, "%.200s lies inside %.200s, which is %s in line %u",
                  storage->real_path, other->real_path, taken->path, taken->line);
    else if (path_is_inside(other->real_path, storage->real_path))
        fault_add(check->faults, place, "%.200s holds %.200s, which is %s in line %u",
                  storage->real_path, other->real_path, taken->path, taken->line);
}

static void check_storages(const struct check *check)
{
    size_t count = check->conf->instance_count;
    struct storage *storages = arena_calloc(check->faults->arena, count, sizeof(*storages));
    if (storages == NULL) {
        check->faults->no_memory = true;
        return;
    }
    for (size_t i = 0; i < count; i++) {
        const char *path = check->conf->instances[i].storage;
        if (path == NULL)
            continue;
        storages[i].real_path = path_resolve(path, check->faults->arena);
        if (storages[i].real_path == NULL) {
            check->faults->no_memory = true;
            return;
        }
        storages[i].node = yaml_find(yaml_at(check->instances, i), "storage");
        check_directory(check, &storages[i]);
        for (size_t j = 0; j < i; j++)
            if (storages[j].node != NULL)
                check_storage_pair(check, &storages[i], &storages[j]);
    }
}

/* Whether some listener that serves INSTANCE, with at least ACCESS, tells who its clients are. */
static bool is_served(const struct conf *conf, const struct conf_instance *instance,
                      enum conf_access access, bool with_identity)
{
    for (size_t i = 0; i < conf->listener_count; i++) {
        const struct conf_listener *listener = &conf->listeners[i];
        if (listener->access < access || (with_identity && !conf_listener_tells_identity(listener)))
            continue;
        if (conf_names_include(&listener->instances, instance->name))
            return true;
    }
    return false;
}

static void check_list(const struct check *check, const struct conf_instance *instance,
                       const struct yaml_node *node, const char *key, enum conf_access access)
{
    const struct yaml_node *list = yaml_find(node, key);
    if (list != NULL && list->count > 0 && !is_served(check->conf, instance, access, true))
        fault_warn(check->faults, &list->key_place,
                   "no listener that lets clients %s here has identity, or client-ca under tls, "
                   "so nobody is on this list and nobody can %s; set one of them on that listener, "
                   "or remove the list",
                   access == CONF_ACCESS_READ ? "read" : "write", key);
}

static void check_instance(const struct check *check, size_t index)
{
    const struct conf_instance *instance = &check->conf->instances[index];
    const struct yaml_node *node = yaml_at(check->instances, index);
    const struct yaml_node *quota = yaml_find(node, "quota");
    if (instance->index_only && quota != NULL)
        fault_add(check->faults, &quota->key_place,
                  "is that of the CAS, which an index-only instance has not; remove it, or write "
                  "index-quota");
    /* Who serves it is not known for sure while a listener is faulty. */
    if (check->faults->errors > 0)
        return;
    check_list(check, instance, node, "push", CONF_ACCESS_WRITE);
    check_list(check, instance, node, "pull", CONF_ACCESS_READ);
    if (!is_served(check->conf, instance, CONF_ACCESS_READ, false))
        fault_warn(check->faults, &node->place,
                   "no listener serves this instance; add \"%.80s\" to the instances of one",
                   instance->name);
}

void check_conf(const struct conf *conf, const struct yaml_node *root, struct faults *faults)
{
    struct check check = {.conf = conf,
                          .listeners = yaml_find(root, "listeners"),
                          .instances = yaml_find(root, "instances"),
                          .faults = faults};
    check_names(&check);
    check_storages(&check);
    check_endpoints(&check, root);
    for (size_t i = 0; i < conf->listener_count; i++)
        check_listener(&check, i);
    check.is_sound = faults->errors == 0;
    for (size_t i = 0; i < conf->instance_count; i++)
        check_cas(&check, i);
    for (size_t i = 0; i < conf->instance_count; i++)
        check_instance(&check, i);
}
