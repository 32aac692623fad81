/* SPDX-License-Identifier: Apache-2.0 */
/* The external CAS of an instance in a configuration file. */
#include "conf/address.h"
#include "conf/conf_private.h"

#define SECONDS INT64_C(1000) /* in milliseconds */
#define MINUTES INT64_C(60000)
#define DAYS    INT64_C(86400000)

static const struct schema_word unavailable_words[] = {
    {"fail", CONF_ON_UNAVAILABLE_FAIL},
    {"serve", CONF_ON_UNAVAILABLE_SERVE},
    {NULL, 0},
};

static int check_address(const char *text, struct err *err)
{
    struct address address;
    bool is_tls;
    return address_parse_server(text, &address, &is_tls, err);
}

static int check_file(const char *path, struct err *err)
{
    return conf_check_path(path, "/etc/assetd/cas/ca.crt", err);
}

static void read_on_unavailable(const struct schema_key *key, const struct yaml_node *node,
                                void *field, struct faults *faults)
{
    int value;
    (void)key;
    if (schema_word(unavailable_words, node, &value, faults))
        *(enum conf_on_unavailable *)field = (enum conf_on_unavailable)value;
}

#define IN_CAS(member) offsetof(struct conf_cas, member)

/* clang-format off */
static const struct schema_key tls_keys[] = {
    {"ca", .field = IN_CAS(tls_ca), .read = schema_checked_text, .check = check_file},
    {"certificate", .field = IN_CAS(tls_certificate), .read = schema_checked_text,
     .check = check_file},
    {"key", .field = IN_CAS(tls_key), .read = schema_checked_text, .check = check_file},
    {.name = NULL},
};

static const struct schema_key cas_keys[] = {
    {"address", .is_required = true, .field = IN_CAS(address), .read = schema_checked_text,
     .check = check_address},
    {"instance-name", .field = IN_CAS(instance_name), .read = schema_checked_text,
     .check = conf_check_instance_name},
    {"tls", .read = schema_mapping, .keys = tls_keys},
    {"token-file", .field = IN_CAS(token_file), .read = schema_checked_text, .check = check_file},
    {"trust", .field = IN_CAS(trust), .read = schema_time,
     .least = 0, .most = 30 * DAYS, .unit = "m"},
    {"timeout", .field = IN_CAS(timeout), .read = schema_time,
     .least = SECONDS, .most = 10 * MINUTES, .unit = "s"},
    {"connections", .field = IN_CAS(connections), .read = schema_number, .least = 1, .most = 64},
    {"on-unavailable", .field = IN_CAS(on_unavailable), .read = read_on_unavailable},
    {.name = NULL},
};
/* clang-format on */

void conf_read_cas(const struct schema_key *key, const struct yaml_node *node, void *field,
                   struct faults *faults)
{
    (void)key;
    struct conf_cas *cas = arena_alloc(faults->arena, sizeof(*cas));
    if (cas == NULL) {
        faults->no_memory = true;
        return;
    }
    *cas = (struct conf_cas){.trust = 10 * MINUTES,
                             .timeout = 5 * SECONDS,
                             .connections = 1,
                             .on_unavailable = CONF_ON_UNAVAILABLE_FAIL};
    schema_read(cas_keys, node, cas, faults);
    *(const struct conf_cas **)field = cas;
}

bool conf_keep_cas(const struct conf_cas **cas, const char *instance_name, struct arena *arena)
{
    if (*cas == NULL)
        return true;
    struct conf_cas *copy = arena_alloc(arena, sizeof(*copy));
    if (copy == NULL)
        return false;
    *copy = **cas;
    *cas = copy;
    bool is_kept =
        conf_keep_text(&copy->address, arena) && conf_keep_text(&copy->instance_name, arena) &&
        conf_keep_text(&copy->tls_ca, arena) && conf_keep_text(&copy->tls_certificate, arena) &&
        conf_keep_text(&copy->tls_key, arena) && conf_keep_text(&copy->token_file, arena);
    if (copy->instance_name == NULL)
        copy->instance_name = instance_name;
    return is_kept;
}
