/* SPDX-License-Identifier: Apache-2.0 */
/* The external CAS of an instance: what its keys need of each other, of the disk, of listeners. */
#include <string.h>
#include <sys/stat.h>

#include "conf/address.h"
#include "conf/check_private.h"
#include "conf/path.h"

/* The CAS that is looked at. */
struct cas_check {
    const struct check *check;
    const struct conf_instance *instance;
    const struct conf_cas *cas;
    const struct yaml_node *node;
    struct address address; /* if it is not faulty */
    bool is_tls;
};

static void check_socket(const struct cas_check *cas)
{
    struct stat status;
    if (stat(cas->address.path, &status) == 0 && !S_ISSOCK(status.st_mode))
        fault_add(cas->check->faults, check_place_of(cas->node, "address"),
                  "%.200s exists and is no socket; write that of the CAS", cas->address.path);
}

/* What goes with some kinds of addresses only. */
static void check_address(const struct cas_check *cas)
{
    struct faults *faults = cas->check->faults;
    const struct yaml_node *tls = yaml_find(cas->node, "tls");
    const struct yaml_node *token = yaml_find(cas->node, "token-file");
    if (cas->address.path != NULL)
        check_socket(cas);
    if (tls != NULL && !cas->is_tls)
        fault_add(faults, &tls->key_place,
                  "is for an address with grpcs://, and %.80s is none; change the address, or "
                  "remove tls",
                  cas->cas->address);
    if (token != NULL && !cas->is_tls && !cas->address.is_loopback)
        fault_add(faults, &token->key_place,
                  "anyone on the way to %.80s could read the token; change the address to "
                  "grpcs://HOST:PORT, or remove token-file",
                  cas->cas->address);
}

/* --- files --- */

static void check_files(const struct cas_check *cas)
{
    const struct yaml_node *tls = yaml_find(cas->node, "tls");
    const struct yaml_node *certificate = yaml_find(tls, "certificate");
    const struct yaml_node *key = yaml_find(tls, "key");
    if (certificate != NULL && key == NULL)
        fault_add(cas->check->faults, &certificate->key_place,
                  "is of no use without its key; write key as well, or remove it");
    if (key != NULL && certificate == NULL)
        fault_add(cas->check->faults, &key->key_place,
                  "is of no use without its certificate; write certificate as well, or remove it");
    check_file(cas->check, tls, "ca", cas->cas->tls_ca);
    check_file(cas->check, tls, "certificate", cas->cas->tls_certificate);
    check_file(cas->check, tls, "key", cas->cas->tls_key);
    check_file(cas->check, cas->node, "token-file", cas->cas->token_file);
}

/* --- this server as its own CAS --- */

/* Whether the CAS is what listens at LISTENER. */
static bool leads_to(const struct cas_check *cas, const struct conf_listener *listener)
{
    struct arena *arena = cas->check->faults->arena;
    struct address address;
    struct err err;
    if (address_parse(listener->address, &address, &err) != 0)
        return false;
    if (address.path == NULL || cas->address.path == NULL)
        return address_reaches(&cas->address, &address);
    const char *paths[] = {path_resolve(cas->address.path, arena),
                           path_resolve(address.path, arena)};
    if (paths[0] == NULL || paths[1] == NULL) {
        cas->check->faults->no_memory = true;
        return false;
    }
    return strcmp(paths[0], paths[1]) == 0;
}

static bool asks_for_certificates(const struct conf_listener *listener)
{
    return listener->tls != NULL && listener->tls->client != CONF_CLIENT_ANYONE;
}

static bool must_be_known(const struct conf_listener *listener)
{
    return listener->tls != NULL && listener->tls->client == CONF_CLIENT_REQUIRE;
}

/*
 * Another instance of this server may be the CAS, at a listener that serves it to anyone: an
 * instance that has one. All else cannot work, an instance that asks itself before all.
 */
static void check_listener(const struct cas_check *cas, size_t index)
{
    const struct conf *conf = cas->check->conf;
    struct faults *faults = cas->check->faults;
    const struct conf_listener *listener = &conf->listeners[index];
    const struct yaml_node *node = yaml_find(yaml_at(cas->check->listeners, index), "address");
    const char *name = cas->cas->instance_name;
    if (name == NULL)
        name = cas->instance->name;
    const struct conf_instance *asked = check_find_instance(conf, name);
    const struct fault_place *place = check_place_of(cas->node, "address");
    const char *path = node->place.path;
    unsigned line = node->place.line;
    bool is_known = cas->cas->tls_certificate != NULL && asks_for_certificates(listener);
    if (cas->is_tls != (listener->tls != NULL))
        fault_add(faults, place, "leads to %s of this server in line %u, which speaks %s; write %s",
                  path, line, cas->is_tls ? "no TLS" : "TLS", cas->is_tls ? "grpc://" : "grpcs://");
    else if (must_be_known(listener) && !is_known)
        fault_add(faults, place,
                  "leads to %s of this server in line %u, which lets in only who has a certificate "
                  "of its client-ca; write certificate and key under tls",
                  path, line);
    else if (asked == NULL || !conf_names_include(&listener->instances, name))
        fault_add(faults, place,
                  "leads to %s of this server in line %u, which serves no instance \"%.80s\"; name "
                  "one that has a CAS as instance-name, or write the address of the CAS",
                  path, line, name);
    else if (asked->index_only)
        fault_add(faults, place,
                  "leads to %s of this server in line %u, whose instance \"%.80s\" is index-only "
                  "and has no CAS; name another as instance-name, or write the address of the CAS",
                  path, line, name);
    else if (!asked->pull.any && listener->access < CONF_ACCESS_ADMIN && !is_known)
        fault_add(faults, place,
                  "leads to %s of this server in line %u, where the pull list of \"%.80s\" refuses "
                  "callers without an identity, as this would be; remove that list, or write the "
                  "address of another CAS",
                  path, line, name);
}

static void check_listeners(const struct cas_check *cas)
{
    /* What is served where is not known for sure while something is faulty. */
    if (!cas->check->is_sound)
        return;
    for (size_t i = 0; i < cas->check->conf->listener_count; i++)
        if (leads_to(cas, &cas->check->conf->listeners[i]))
            check_listener(cas, i);
}

void check_cas(const struct check *check, size_t index)
{
    const struct conf_instance *instance = &check->conf->instances[index];
    const struct yaml_node *node = yaml_at(check->instances, index);
    const struct yaml_node *index_only = yaml_find(node, "index-only");
    struct cas_check cas = {
        .check = check, .instance = instance, .cas = instance->cas, .node = yaml_find(node, "cas")};
    struct err err;
    if (cas.node == NULL)
        return;
    bool is_faulty = index_only != NULL &&
                     (index_only->kind != YAML_TEXT || strcmp(index_only->text, "false") != 0);
    if (!instance->index_only && !is_faulty)
        fault_add(check->faults, &cas.node->key_place,
                  "is for instances without a CAS of their own; write index-only: true as well, or "
                  "remove it");
    if (cas.cas == NULL)
        return;
    check_files(&cas);
    if (cas.cas->address == NULL ||
        address_parse_server(cas.cas->address, &cas.address, &cas.is_tls, &err) != 0)
        return;
    check_address(&cas);
    check_listeners(&cas);
}
