/* SPDX-License-Identifier: Apache-2.0 */
/* Comparison of two configurations, key by key. */
#include "conf/carry.h"

#include <stdio.h>
#include <string.h>

#include "conf/units.h"

/* --- the list --- */

void conf_kept_init(struct conf_kept_list *kept, struct arena *arena)
{
    *kept = (struct conf_kept_list){.arena = arena, .last = &kept->first};
}

/* KEY was made in the arena, and is NULL if that failed. */
static void add(struct conf_kept_list *kept, const char *key, const char *running,
                const char *wanted)
{
    struct conf_kept *one = arena_alloc(kept->arena, sizeof(*one));
    const char *running_copy = arena_strdup(kept->arena, running != NULL ? running : "");
    const char *wanted_copy = arena_strdup(kept->arena, wanted != NULL ? wanted : "");
    if (one == NULL || key == NULL || running_copy == NULL || wanted_copy == NULL) {
        kept->no_memory = true;
        return;
    }
    *one = (struct conf_kept){.key = key, .running = running_copy, .wanted = wanted_copy};
    *kept->last = one;
    kept->last = &one->next;
}

static void add_listener(struct conf_kept_list *kept, size_t index, const char *key,
                         const char *running, const char *wanted)
{
    add(kept, arena_printf(kept->arena, "listeners[%zu].%s", index, key), running, wanted);
}

void conf_kept_add_instance(struct conf_kept_list *kept, size_t index, const char *key,
                            const char *running, const char *wanted)
{
    const char *dot = *key != '\0' ? "." : "";
    add(kept, arena_printf(kept->arena, "instances[%zu]%s%s", index, dot, key), running, wanted);
}

/* Two texts, either of which may be NULL. */
static bool is_same(const char *one, const char *other)
{
    if (one == NULL || other == NULL)
        return one == other;
    return strcmp(one, other) == 0;
}

/* --- lists --- */

/* The words in brackets, quoted where they are empty; "" if memory is out, which KEPT then says. */
static const char *print_list(const char *const *words, size_t count, struct conf_kept_list *kept)
{
    static const char empty[] = "\"\"", separator[] = ", ";
    size_t size = sizeof("[]");
    for (size_t i = 0; i < count; i++)
        size += strlen(words[i]) + sizeof(empty) + sizeof(separator);
    char *text = arena_alloc(kept->arena, size);
    if (text == NULL) {
        kept->no_memory = true;
        return "";
    }
    char *end = stpcpy(text, "[");
    for (size_t i = 0; i < count; i++) {
        end = stpcpy(end, i > 0 ? separator : "");
        end = stpcpy(end, words[i][0] != '\0' ? words[i] : empty);
    }
    (void)stpcpy(end, "]");
    return text;
}

static const char *print_names(const struct conf_names *names, struct conf_kept_list *kept)
{
    return names->any ? "any" : print_list(names->names, names->count, kept);
}

static bool is_within(const struct conf_names *some, const struct conf_names *all)
{
    if (some->any || all->any)
        return all->any;
    for (size_t i = 0; i < some->count; i++)
        if (!conf_names_include(all, some->names[i]))
            return false;
    return true;
}

static bool is_same_names(const struct conf_names *one, const struct conf_names *other)
{
    return is_within(one, other) && is_within(other, one);
}

/* --- listeners --- */

static const struct conf_listener *find_listener(const struct conf *conf, const char *address)
{
    for (size_t i = 0; i < conf->listener_count; i++)
        if (strcmp(conf->listeners[i].address, address) == 0)
            return &conf->listeners[i];
    return NULL;
}

static bool is_same_tls(const struct conf_tls *one, const struct conf_tls *other)
{
    if (one == NULL || other == NULL)
        return one == other;
    return is_same(one->certificate, other->certificate) && is_same(one->key, other->key) &&
           is_same(one->client_ca, other->client_ca) && one->client == other->client;
}

/* As it could be written in the file; "" for none, or if memory is out, which KEPT then says. */
static const char *print_tls(const struct conf_tls *tls, struct conf_kept_list *kept)
{
    const char *more = "";
    if (tls == NULL)
        return "";
    if (tls->client_ca != NULL)
        more = arena_printf(kept->arena, ", client-ca: %s, client: %s", tls->client_ca,
                            conf_client_name(tls->client));
    const char *text = more == NULL ? NULL
                                    : arena_printf(kept->arena, "{certificate: %s, key: %s%s}",
                                                   tls->certificate, tls->key, more);
    if (text == NULL)
        kept->no_memory = true;
    return text != NULL ? text : "";
}

/* Notes what of the listener INDEX needs a restart; whether any does. */
static bool note_listener(const struct conf_listener *running, const struct conf_listener *wanted,
                          size_t index, struct conf_kept_list *kept)
{
    bool is_any = false;
    if (running->access != wanted->access) {
        add_listener(kept, index, "access", conf_access_name(running->access),
                     conf_access_name(wanted->access));
        is_any = true;
    }
    if (running->socket_mode != wanted->socket_mode) {
        char modes[2][16];
        (void)snprintf(modes[0], sizeof(modes[0]), "%04o", (unsigned)running->socket_mode);
        (void)snprintf(modes[1], sizeof(modes[1]), "%04o", (unsigned)wanted->socket_mode);
        add_listener(kept, index, "socket-mode", modes[0], modes[1]);
        is_any = true;
    }
    if (!is_same(running->socket_group, wanted->socket_group)) {
        add_listener(kept, index, "socket-group", running->socket_group, wanted->socket_group);
        is_any = true;
    }
    if (!is_same_tls(running->tls, wanted->tls)) {
        add_listener(kept, index, "tls", print_tls(running->tls, kept),
                     print_tls(wanted->tls, kept));
        is_any = true;
    }
    return is_any;
}

/* Whether two lists serve the same of CONF's instances. */
static bool serves_same(const struct conf *conf, const struct conf_names *one,
                        const struct conf_names *other)
{
    for (size_t i = 0; i < conf->instance_count; i++)
        if (conf_names_include(one, conf->instances[i].name) !=
            conf_names_include(other, conf->instances[i].name))
            return false;
    return true;
}

/* Notes what else of the listener INDEX of NEXT is not taken over by what CARRIED is instead. */
static void note_rights(const struct conf_listener *carried, const struct conf *next, size_t index,
                        struct conf_kept_list *kept)
{
    const struct conf_listener *wanted = &next->listeners[index];
    if (!is_same(carried->identity, wanted->identity))
        add_listener(kept, index, "identity", carried->identity, wanted->identity);
    if (!serves_same(next, &carried->instances, &wanted->instances))
        add_listener(kept, index, "instances", print_names(&carried->instances, kept),
                     print_names(&wanted->instances, kept));
}

/* RUNNING as it is; for those it serves, that is those there are now, not those that come. */
static struct conf_listener keep_listener(const struct conf *running,
                                          const struct conf_listener *listener,
                                          struct conf_kept_list *kept)
{
    struct conf_listener copy = *listener;
    if (!copy.instances.any)
        return copy;
    const char **names =
        arena_calloc(kept->arena, running->instance_count, sizeof(copy.instances.names[0]));
    if (names == NULL) {
        kept->no_memory = true;
        return copy;
    }
    for (size_t i = 0; i < running->instance_count; i++)
        names[i] = running->instances[i].name;
    copy.instances =
        (struct conf_names){.any = false, .names = names, .count = running->instance_count};
    return copy;
}

/* Those that only one of the two has; at the same place in both it is one with a new address. */
static void note_addresses(const struct conf *running, const struct conf *next,
                           const struct conf_listener *carried, struct conf_kept_list *kept)
{
    size_t most = running->listener_count > next->listener_count ? running->listener_count
                                                                 : next->listener_count;
    for (size_t i = 0; i < most; i++) {
        const char *gone = i < running->listener_count ? running->listeners[i].address : NULL;
        const char *new = i < next->listener_count ? next->listeners[i].address : NULL;
        if (gone != NULL && find_listener(next, gone) != NULL)
            gone = NULL;
        if (new != NULL && find_listener(running, new) != NULL)
            new = NULL;
        if (new != NULL)
            add_listener(kept, i, "address", gone, new);
        else if (gone != NULL)
            add(kept, "listeners", gone, "");
        if (new != NULL && gone != NULL) {
            (void)note_listener(&carried[i], &next->listeners[i], i, kept);
            note_rights(&carried[i], next, i, kept);
        }
    }
}

static void carry_listeners(const struct conf *running, struct conf *next,
                            struct conf_kept_list *kept)
{
    struct conf_listener *carried =
        arena_calloc(kept->arena, running->listener_count, sizeof(carried[0]));
    if (carried == NULL) {
        kept->no_memory = true;
        return;
    }
    for (size_t i = 0; i < running->listener_count; i++) {
        const struct conf_listener *one = &running->listeners[i];
        const struct conf_listener *wanted = find_listener(next, one->address);
        size_t index = wanted != NULL ? (size_t)(wanted - next->listeners) : 0;
        bool stays = wanted == NULL || note_listener(one, wanted, index, kept);
        carried[i] = stays ? keep_listener(running, one, kept) : *wanted;
        if (stays && wanted != NULL)
            note_rights(&carried[i], next, index, kept);
    }
    note_addresses(running, next, carried, kept);
    next->listeners = carried;
    next->listener_count = running->listener_count;
}

/* --- instances --- */

static void note_names(const struct conf_names *running, const struct conf_names *wanted,
                       size_t index, const char *key, struct conf_kept_list *kept)
{
    if (!is_same_names(running, wanted))
        conf_kept_add_instance(kept, index, key, print_names(running, kept),
                               print_names(wanted, kept));
}

static const char *print_functions(const struct conf_instance *instance,
                                   struct conf_kept_list *kept)
{
    const char *names[sizeof(instance->digest_functions) / sizeof(instance->digest_functions[0])];
    for (size_t i = 0; i < instance->digest_function_count; i++)
        names[i] = digest_function_name(instance->digest_functions[i]);
    return print_list(names, instance->digest_function_count, kept);
}

/* No two of a list are the same. */
static bool is_same_functions(const struct conf_instance *one, const struct conf_instance *other)
{
    size_t shared = 0;
    for (size_t i = 0; i < one->digest_function_count; i++)
        for (size_t j = 0; j < other->digest_function_count; j++)
            shared += one->digest_functions[i] == other->digest_functions[j];
    return shared == one->digest_function_count && shared == other->digest_function_count;
}

/* Notes what is not taken over of WANTED, the instance INDEX, as its storage is another. */
static void note_instance(const struct conf_instance *running, const struct conf_instance *wanted,
                          size_t index, struct conf_kept_list *kept)
{
    conf_kept_add_instance(kept, index, "storage", running->storage, wanted->storage);
    note_names(&running->push, &wanted->push, index, "push", kept);
    note_names(&running->pull, &wanted->pull, index, "pull", kept);
    if (!is_same_functions(running, wanted))
        conf_kept_add_instance(kept, index, "digest-functions", print_functions(running, kept),
                               print_functions(wanted, kept));
}

static void note_cas(const struct conf_cas *running, const struct conf_cas *wanted, size_t index,
                     struct conf_kept_list *kept)
{
    conf_kept_add_instance(kept, index, "cas", running != NULL ? running->address : "",
                           wanted != NULL ? wanted->address : "");
}

static void carry_instances(const struct conf *running, struct conf *next,
                            struct conf_kept_list *kept)
{
    for (size_t i = 0; i < next->instance_count; i++) {
        struct conf_instance *wanted = &next->instances[i];
        for (size_t j = 0; j < running->instance_count; j++) {
            const struct conf_instance *one = &running->instances[j];
            bool is_same_storage = strcmp(one->storage, wanted->storage) == 0;
            if (is_same_storage && one->cas != NULL && !wanted->index_only) {
                /* It stays index-only until a restart: until then answers are still checked. */
                note_cas(one->cas, NULL, i, kept);
                wanted->cas = one->cas;
            } else if (is_same_storage && !one->index_only && wanted->cas != NULL) {
                /* Nor is that connected to which the restart brings. */
                note_cas(NULL, wanted->cas, i, kept);
                wanted->cas = NULL;
            }
            if (is_same_storage || strcmp(one->name, wanted->name) != 0)
                continue;
            note_instance(one, wanted, i, kept);
            *wanted = *one;
            break;
        }
    }
}

/* In bytes, as the log has them elsewhere. */
static void keep_size(int64_t running, int64_t *wanted, size_t index, const char *key,
                      struct conf_kept_list *kept)
{
    char texts[2][32];
    (void)snprintf(texts[0], sizeof(texts[0]), "%lldB", (long long)running);
    (void)snprintf(texts[1], sizeof(texts[1]), "%lldB", (long long)*wanted);
    if (running != *wanted)
        conf_kept_add_instance(kept, index, key, texts[0], texts[1]);
    *wanted = running;
}

void conf_carry_storage(const struct conf_instance *opened, struct conf *next, size_t index,
                        struct conf_kept_list *kept)
{
    struct conf_instance *wanted = &next->instances[index];
    bool has_quota = !opened->index_only && !wanted->index_only;
    if (opened->index_only != wanted->index_only)
        conf_kept_add_instance(kept, index, "index-only", opened->index_only ? "true" : "false",
                               wanted->index_only ? "true" : "false");
    wanted->index_only = opened->index_only;
    if (!opened->index_only && wanted->cas != NULL) {
        note_cas(NULL, wanted->cas, index, kept);
        wanted->cas = NULL;
    }
    if (has_quota)
        keep_size(opened->quota, &wanted->quota, index, "quota", kept);
    wanted->quota = opened->quota;
    keep_size(opened->index_quota, &wanted->index_quota, index, "index-quota", kept);
    if (opened->expire_after != wanted->expire_after) {
        char texts[2][UNITS_TEXT_MAX];
        conf_kept_add_instance(
            kept, index, "expire-after",
            opened->expire_after != 0 ? units_print_time(opened->expire_after, texts[0]) : "",
            wanted->expire_after != 0 ? units_print_time(wanted->expire_after, texts[1]) : "");
    }
    wanted->expire_after = opened->expire_after;
}

bool conf_cas_is_same(const struct conf_cas *one, const struct conf_cas *other)
{
    return is_same(one->address, other->address) &&
           is_same(one->instance_name, other->instance_name) &&
           is_same(one->tls_ca, other->tls_ca) &&
           is_same(one->tls_certificate, other->tls_certificate) &&
           is_same(one->tls_key, other->tls_key) && is_same(one->token_file, other->token_file) &&
           one->trust == other->trust && one->timeout == other->timeout &&
           one->connections == other->connections && one->on_unavailable == other->on_unavailable;
}

/* --- the rest --- */

static void keep_number(unsigned running, unsigned *wanted, const char *key,
                        struct conf_kept_list *kept)
{
    char texts[2][16];
    (void)snprintf(texts[0], sizeof(texts[0]), "%u", running);
    (void)snprintf(texts[1], sizeof(texts[1]), "%u", *wanted);
    if (running != *wanted)
        add(kept, key, texts[0], texts[1]);
    *wanted = running;
}

int conf_carry(const struct conf *running, struct conf *next, struct conf_kept_list *kept,
               struct err *err)
{
    carry_listeners(running, next, kept);
    carry_instances(running, next, kept);
    keep_number(running->stream_limit, &next->stream_limit, "limits.streams", kept);
    keep_number(running->pollers, &next->pollers, "threads.pollers", kept);
    keep_number(running->workers, &next->workers, "threads.workers", kept);
    if (!is_same(running->metrics_address, next->metrics_address))
        add(kept, "metrics.address", running->metrics_address, next->metrics_address);
    next->metrics_address = running->metrics_address;
    return kept->no_memory ? err_no_memory(err, "the configuration") : 0;
}
