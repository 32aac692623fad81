/* SPDX-License-Identifier: Apache-2.0 */
/* TLS of a listener: what its keys need of each other, of the listener, of the disk. */
#include "conf/check_private.h"

void check_tls(const struct check *check, const struct conf_listener *listener,
               const struct yaml_node *node)
{
    struct faults *faults = check->faults;
    const struct yaml_node *tls = yaml_find(node, "tls");
    const struct yaml_node *client_ca = yaml_find(tls, "client-ca");
    const struct yaml_node *client = yaml_find(tls, "client");
    const struct yaml_node *identity = yaml_find(node, "identity");
    if (tls == NULL)
        return;
    if (listener->path != NULL)
        fault_add(faults, &tls->key_place,
                  "is only for TCP addresses, and %.80s is none; remove it", listener->address);
    if (client_ca != NULL && identity != NULL)
        fault_add(faults, &identity->key_place,
                  "says who a client is, and so does its certificate, by client-ca in line %u; "
                  "remove one of them",
                  client_ca->key_place.line);
    if (client != NULL && client_ca == NULL)
        fault_add(faults, &client->key_place,
                  "needs client-ca, the file of the certificates that are let in; write it as "
                  "well, or remove client");
    if (listener->tls == NULL)
        return;
    check_file(check, tls, "certificate", listener->tls->certificate);
    check_file(check, tls, "key", listener->tls->key);
    check_file(check, tls, "client-ca", listener->tls->client_ca);
}
