/* SPDX-License-Identifier: Apache-2.0 */
/* TLS of a listener in a configuration file. */
#include "conf/conf_private.h"

static const struct schema_word client_words[] = {
    {"request", CONF_CLIENT_REQUEST},
    {"require", CONF_CLIENT_REQUIRE},
    {NULL, 0},
};

static int check_file(const char *path, struct err *err)
{
    return conf_check_path(path, "/etc/assetd/direct/server.crt", err);
}

static void read_client(const struct schema_key *key, const struct yaml_node *node, void *field,
                        struct faults *faults)
{
    int value;
    (void)key;
    if (schema_word(client_words, node, &value, faults))
        *(enum conf_client *)field = (enum conf_client)value;
}

#define IN_TLS(member) offsetof(struct conf_tls, member)

/* clang-format off */
static const struct schema_key tls_keys[] = {
    {"certificate", .is_required = true, .field = IN_TLS(certificate),
     .read = schema_checked_text, .check = check_file},
    {"key", .is_required = true, .field = IN_TLS(key), .read = schema_checked_text,
     .check = check_file},
    {"client-ca", .field = IN_TLS(client_ca), .read = schema_checked_text, .check = check_file},
    {"client", .field = IN_TLS(client), .read = read_client},
    {.name = NULL},
};
/* clang-format on */

void conf_tls_set_defaults(struct conf_tls *tls)
{
    if (tls->client_ca != NULL && tls->client == CONF_CLIENT_ANYONE)
        tls->client = CONF_CLIENT_REQUIRE;
}

void conf_read_tls(const struct schema_key *key, const struct yaml_node *node, void *field,
                   struct faults *faults)
{
    (void)key;
    struct conf_tls *tls = arena_calloc(faults->arena, 1, sizeof(*tls));
    if (tls == NULL) {
        faults->no_memory = true;
        return;
    }
    schema_read(tls_keys, node, tls, faults);
    conf_tls_set_defaults(tls);
    *(const struct conf_tls **)field = tls;
}

bool conf_keep_tls(const struct conf_tls **tls, struct arena *arena)
{
    if (*tls == NULL)
        return true;
    struct conf_tls *copy = arena_alloc(arena, sizeof(*copy));
    if (copy == NULL)
        return false;
    *copy = **tls;
    *tls = copy;
    return conf_keep_text(&copy->certificate, arena) && conf_keep_text(&copy->key, arena) &&
           conf_keep_text(&copy->client_ca, arena);
}
