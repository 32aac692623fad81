/* SPDX-License-Identifier: Apache-2.0 */
/* The listener's right, and what the proxy says of the client. */
#include "transport/access.h"

#include "base/identity.h"
#include "rpc/slices.h"

enum { REQUEST_ID_MAX = 64 };

int access_check(const struct conf_listener *listener, const struct method *method,
                 const char *client, enum role role, struct err *err)
{
    if (method->right == METHOD_READ)
        return 0;
    if (listener->access == CONF_ACCESS_READ)
        return err_set(err, ERR_DENIED,
                       "listener %s is for reading only: call %s at a listener with write access, "
                       "such as the push port",
                       listener->address, method->path);
    if (role == ROLE_WRITE)
        return 0;
    if (*client == '\0')
        return err_set(err, ERR_DENIED,
                       "listener %s takes writes from registered clients only, and no client "
                       "certificate was sent: set client-cert and client-key",
                       listener->address);
    return err_set(err, ERR_DENIED,
                   "client %s is registered to read only: the server's operator can change that in "
                   "authorized.crt, by `assetctl cert revoke` and `assetctl cert add`",
                   client);
}

/* The one value of KEY; NULL if there is none or more than one. */
static const grpc_slice *only_value(const grpc_metadata_array *metadata, const char *key)
{
    const grpc_slice *value = NULL;
    for (size_t i = 0; i < metadata->count; i++) {
        if (!slices_equal_string(metadata->metadata[i].key, key))
            continue;
        if (value != NULL)
            return NULL;
        value = &metadata->metadata[i].value;
    }
    return value;
}

const char *access_identity(const struct conf_listener *listener,
                            const grpc_metadata_array *metadata, struct arena *arena)
{
    if (listener->identity == NULL)
        return "";
    const grpc_slice *value = only_value(metadata, listener->identity);
    if (value == NULL ||
        !identity_is_valid((const char *)GRPC_SLICE_START_PTR(*value), GRPC_SLICE_LENGTH(*value)))
        return "";
    return slices_to_string(*value, arena);
}

const char *access_request_id(const grpc_metadata_array *metadata, struct arena *arena)
{
    const grpc_slice *value = only_value(metadata, "x-request-id");
    if (value == NULL)
        return "";
    size_t length = GRPC_SLICE_LENGTH(*value);
    return arena_copy(arena, GRPC_SLICE_START_PTR(*value),
                      length < REQUEST_ID_MAX ? length : REQUEST_ID_MAX);
}
