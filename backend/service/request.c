/* SPDX-License-Identifier: Apache-2.0 */
/* Instances, their lists, and digests, as requests name them. */
#include "service/request.h"
#include "base/utf8.h"

#include <stdio.h>
#include <string.h>

#include "service/services.h"

/* Bytes of a client's name that go into a message. */
enum { SHOWN_MAX = 96 };

struct shown {
    char text[SHOWN_MAX + sizeof("...")];
};

/* NAME, which is UTF-8, as a message can hold it: without control characters, long ones cut. */
static const char *show(const char *name, struct shown *shown)
{
    size_t length = utf8_cut(name, SHOWN_MAX);
    bool is_cut = name[length] != '\0';
    for (size_t i = 0; i < length; i++)
        shown->text[i] = (unsigned char)name[i] < ' ' || name[i] == 0x7f ? '?' : name[i];
    (void)snprintf(shown->text + length, sizeof(shown->text) - length, "%s", is_cut ? "..." : "");
    return shown->text;
}

static int check_list(const struct call *call, const struct instance *instance, struct err *err)
{
    const struct conf_instance *conf = instance->conf;
    bool writes = call->method->right == METHOD_WRITE;
    const struct conf_names *list = writes ? &conf->push : &conf->pull;
    if (call->listener->access == CONF_ACCESS_ADMIN || list->any)
        return 0;
    if (call->identity[0] != '\0' && conf_names_include(list, call->identity))
        return 0;

    struct shown name;
    const char *verb = writes ? "push" : "pull";
    show(conf->name, &name);
    if (call->identity[0] == '\0')
        return err_set(err, ERR_DENIED,
                       "instance \"%s\" lets only registered clients %s, and this one came without "
                       "an identity by listener %s: use the push port, with a client certificate "
                       "that the server knows",
                       name.text, verb, call->listener->address);
    return err_set(
        err, ERR_DENIED,
        "instance \"%s\" does not let %s %s: ask its operator for a place in the %s list",
        name.text, call->identity, verb, verb);
}

int request_instance(const struct call *call, const char *name, struct instance **instance,
                     struct err *err)
{
    const struct conf_listener *listener = call->listener;
    struct instance *found = NULL;
    if (conf_names_include(&listener->instances, name))
        found = instances_find(call->services->instances, name);
    if (found == NULL) {
        struct shown shown;
        return err_set(err, ERR_NOT_FOUND,
                       "instance \"%s\" is not known here: check the instance name that the client "
                       "is configured with",
                       show(name, &shown));
    }
    int rc = check_list(call, found, err);
    if (rc == 0)
        *instance = found;
    return rc;
}

int request_cas(const struct call *call, const char *name, struct instance **instance,
                struct err *err)
{
    struct instance *found;
    int rc = request_instance(call, name, &found, err);
    if (rc != 0)
        return rc;
    if (found->cas == NULL) {
        struct shown shown;
        return err_set(err, ERR_UNIMPLEMENTED,
                       "instance \"%s\" is an index only, it has no blobs: send this call to the "
                       "server that is its storage",
                       show(name, &shown));
    }
    *instance = found;
    return 0;
}

/* "sha256, sha1" */
static const char *list_functions(const struct instance *instance, char *text, size_t size)
{
    size_t used = 0;
    text[0] = '\0';
    for (size_t i = 0; i < instance->conf->digest_function_count && used < size; i++)
        used += (size_t)snprintf(text + used, size - used, "%s%s", i == 0 ? "" : ", ",
                                 digest_function_name(instance->conf->digest_functions[i]));
    return text;
}

static int not_served(const struct instance *instance, REAPI(DigestFunction__Value) function,
                      struct err *err)
{
    char served[64];
    list_functions(instance, served, sizeof(served));
    const ProtobufCEnumValue *value = protobuf_c_enum_descriptor_get_value(
        &build__bazel__remote__execution__v2__digest_function__value__descriptor, (int)function);
    if (value == NULL)
        return err_set(err, ERR_INVALID, "digest function %d is not known; served: %s",
                       (int)function, served);
    return err_set(err, ERR_INVALID, "digest function %s is not served here; served: %s",
                   value->name, served);
}

int request_digest_function(const struct instance *instance, REAPI(DigestFunction__Value) named,
                            const char *hash, enum digest_function *function, struct err *err)
{
    enum digest_function found = (enum digest_function)named;
    if (found == DIGEST_UNKNOWN && (hash == NULL || hash[0] == '\0'))
        found = conf_instance_serves(instance->conf, DIGEST_SHA256)
                    ? DIGEST_SHA256
                    : instance->conf->digest_functions[0];
    if (found == DIGEST_UNKNOWN) {
        size_t length = strlen(hash);
        found = length % 2 == 0 ? digest_function_by_size(length / 2) : DIGEST_UNKNOWN;
        if (found == DIGEST_UNKNOWN) {
            char served[64];
            return err_set(err, ERR_INVALID,
                           "a hash of %zu characters is of no digest function served here: %s",
                           length, list_functions(instance, served, sizeof(served)));
        }
    }
    if (!conf_instance_serves(instance->conf, found))
        return not_served(instance, (REAPI(DigestFunction__Value))found, err);
    *function = found;
    return 0;
}

static int parse_digest(enum digest_function function, const REAPI(Digest) *message,
                        struct digest *digest, struct err *err)
{
    if (message == NULL)
        return err_set(err, ERR_INVALID, "there is no digest");
    if (message->hash[0] == '\0')
        return err_set(err, ERR_INVALID, "the digest has no hash");
    return digest_parse(function, message->hash, strlen(message->hash), message->size_bytes, digest,
                        err);
}

int request_digest(enum digest_function function, const REAPI(Digest) *message, const char *what,
                   struct digest *digest, struct err *err)
{
    int rc = parse_digest(function, message, digest, err);
    return rc != 0 && what != NULL ? err_wrap(err, "%s", what) : rc;
}
