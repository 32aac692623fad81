/* SPDX-License-Identifier: Apache-2.0 */
/* Checks of asset requests. */
#include "service/asset_request.h"

#include <string.h>

int asset_request_uris(char *const *uris, size_t count, struct err *err)
{
    if (count == 0)
        return err_set(err, ERR_INVALID, "the request names no URI: at least one is needed");
    if (count > ASSET_URIS_MAX)
        return err_set(err, ERR_INVALID, "the request names %zu URIs, at most %d are accepted",
                       count, ASSET_URIS_MAX);
    for (size_t i = 0; i < count; i++) {
        size_t length = strlen(uris[i]);
        if (length == 0 || length > ASSET_URI_LENGTH_MAX)
            return err_set(err, ERR_INVALID, "uris[%zu] has %zu bytes, 1 to %d are accepted", i,
                           length, ASSET_URI_LENGTH_MAX);
    }
    return 0;
}

static int check_qualifier(const ASSET(Qualifier) *qualifier, size_t i, struct err *err)
{
    size_t name = strlen(qualifier->name);
    size_t value = strlen(qualifier->value);
    if (name == 0 || name > ASSET_QUALIFIER_NAME_MAX)
        return err_set(err, ERR_INVALID, "qualifiers[%zu].name has %zu bytes, 1 to %d are accepted",
                       i, name, ASSET_QUALIFIER_NAME_MAX);
    if (value > ASSET_QUALIFIER_VALUE_MAX)
        return err_set(err, ERR_INVALID,
                       "qualifiers[%zu].value has %zu bytes, at most %d are "
                       "accepted",
                       i, value, ASSET_QUALIFIER_VALUE_MAX);
    return 0;
}

int asset_request_qualifiers(ASSET(Qualifier) *const *messages, size_t count, struct arena *arena,
                             const struct qualifier **qualifiers, struct err *err)
{
    *qualifiers = NULL;
    if (count == 0)
        return 0;
    if (count > ASSET_QUALIFIERS_MAX)
        return err_set(err, ERR_INVALID, "the request has %zu qualifiers, at most %d are accepted",
                       count, ASSET_QUALIFIERS_MAX);
    struct qualifier *all = arena_calloc(arena, count, sizeof(*all));
    if (all == NULL)
        return err_no_memory(err, "the qualifiers");
    for (size_t i = 0; i < count; i++) {
        int rc = check_qualifier(messages[i], i, err);
        if (rc != 0)
            return rc;
        all[i] = (struct qualifier){messages[i]->name, messages[i]->value};
        for (size_t j = 0; j < i; j++)
            if (strcmp(all[j].name, all[i].name) == 0)
                return err_set(err, ERR_INVALID, "qualifier \"%s\" comes twice", all[i].name);
    }
    *qualifiers = all;
    return 0;
}

int asset_request_time(const Google__Protobuf__Timestamp *message, const char *field, int64_t *time,
                       struct err *err)
{
    /* google.protobuf.Timestamp: from the year 1 to the end of the year 9999. */
    const int64_t first = -62135596800, last = 253402300799;
    *time = 0;
    if (message == NULL)
        return 0;
    if (message->seconds < first || message->seconds > last || message->nanos < 0 ||
        message->nanos > 999999999)
        return err_set(err, ERR_INVALID, "%s is not a valid Timestamp", field);
    *time = message->seconds * 1000 + message->nanos / 1000000;
    if (*time == 0)
        *time = 1; /* 0 stands for no time at all */
    return 0;
}

/* The length of "SCHEME:" with the slashes behind it (RFC 3986, 3.1); 0 if there is no scheme. */
static size_t scheme_length(const char *uri)
{
    static const char others[] = "0123456789+-.";
    size_t length = 0;
    while ((uri[length] >= 'a' && uri[length] <= 'z') ||
           (uri[length] >= 'A' && uri[length] <= 'Z') ||
           (length > 0 && uri[length] != '\0' && strchr(others, uri[length]) != NULL))
        length++;
    if (length == 0 || uri[length] != ':')
        return 0;
    return length + 1 + strspn(uri + length + 1, "/");
}

/*
 * User and password end at an '@', but a password that is not escaped may hold anything, '@', '/'
 * and '#' included: what stands before the last '@' is left out, at the price of a path with one.
 */
const char *asset_request_loggable(const char *uri, struct arena *arena)
{
    char *copy = arena_strdup(arena, uri);
    if (copy == NULL)
        return "";
    char *at = strrchr(copy, '@');
    char *rest = copy + scheme_length(copy);
    if (at != NULL && at >= rest)
        memmove(rest, at + 1, strlen(at + 1) + 1);
    copy[strcspn(copy, "?#")] = '\0';
    return copy;
}
