/* SPDX-License-Identifier: Apache-2.0 */
/* Taking resource names apart. */
#include "service/resource_name.h"

#include <stdint.h>
#include <string.h>

#include "base/utf8.h"
#include "service/request.h"

/*
 * REAPI has names omit the functions that a hash's length tells; naming one is let pass. All others
 * must be named: these are known and not served.
 */
static const char *const unserved_functions[] = {"md5",        "vso",    "murmur3",
                                                 "sha256tree", "blake3", "gitsha1"};

static const char *const forms[] = {
    [RESOURCE_READ] = "[INSTANCE/]blobs/HASH/SIZE",
    [RESOURCE_WRITE] = "[INSTANCE/]uploads/UUID/blobs/HASH/SIZE",
};

static int bad_form(enum resource_use use, struct err *err)
{
    return err_set(err, ERR_INVALID, "the resource name is not of the form %s", forms[use]);
}

/* Cuts the first segment off REST, which is NULL behind the last one. */
static char *next_segment(char **rest)
{
    char *segment = *rest;
    if (segment == NULL)
        return NULL;
    char *slash = strchr(segment, '/');
    if (slash != NULL)
        *slash = '\0';
    *rest = slash != NULL ? slash + 1 : NULL;
    return segment;
}

static bool is_blobs(const char *segment, bool *is_compressed)
{
    *is_compressed = strcmp(segment, "compressed-blobs") == 0;
    return *is_compressed || strcmp(segment, "blobs") == 0;
}

/* REAPI keeps these words out of instance names, so that the first of them is where one ends. */
static bool ends_instance(enum resource_use use, const char *segment)
{
    bool is_compressed;
    return use == RESOURCE_WRITE ? strcmp(segment, "uploads") == 0
                                 : is_blobs(segment, &is_compressed);
}

int resource_name_split(enum resource_use use, struct span text, struct arena *arena,
                        struct resource_name *name, struct err *err)
{
    if (text.size == 0)
        return err_set(err, ERR_INVALID, "the resource name is empty, it must be of the form %s",
                       forms[use]);
    if (text.size > RESOURCE_NAME_MAX)
        return err_set(err, ERR_INVALID, "the resource name has %zu bytes, %d are allowed",
                       text.size, RESOURCE_NAME_MAX);
    if (!utf8_is_text(text.data, text.size))
        return err_set(err, ERR_INVALID, "the resource name is not UTF-8 text");
    char *instance = arena_copy(arena, text.data, text.size);
    if (instance == NULL)
        return err_no_memory(err, "a resource name");

    char *rest = instance;
    char *segment = next_segment(&rest);
    while (segment != NULL && !ends_instance(use, segment)) {
        if (rest != NULL)
            rest[-1] = '/'; /* back again: it belongs to the instance's name */
        segment = next_segment(&rest);
    }
    if (segment == NULL || instance[0] == '/')
        return bad_form(use, err);
    if (segment != instance)
        segment[-1] = '\0';
    *name = (struct resource_name){.use = use, .instance = segment != instance ? instance : ""};
    if (use == RESOURCE_WRITE) {
        const char *uuid = next_segment(&rest);
        segment = next_segment(&rest);
        if (segment == NULL || uuid[0] == '\0')
            return bad_form(use, err);
    }
    if (!is_blobs(segment, &name->is_compressed) || rest == NULL)
        return bad_form(use, err);
    name->blob = rest;
    return 0;
}

static bool is_unserved_function(const char *word)
{
    for (size_t i = 0; i < sizeof(unserved_functions) / sizeof(unserved_functions[0]); i++)
        if (strcmp(word, unserved_functions[i]) == 0)
            return true;
    return false;
}

/* Decimal digits without sign or leading zeros. */
static bool parse_size(const char *text, int64_t *size)
{
    int64_t value = 0;
    if (text[0] == '\0' || (text[0] == '0' && text[1] != '\0'))
        return false;
    for (; *text != '\0'; text++) {
        int digit = *text - '0';
        if (digit < 0 || digit > 9 || value > (INT64_MAX - digit) / 10)
            return false;
        value = value * 10 + digit;
    }
    *size = value;
    return true;
}

int resource_name_digest(struct resource_name *name, const struct instance *instance,
                         struct digest *digest, struct err *err)
{
    if (name->is_compressed)
        return err_set(err, ERR_INVALID,
                       "compressed blobs are not served: use a name of the form %s",
                       forms[name->use]);
    char *rest = name->blob;
    const char *hash = next_segment(&rest);
    enum digest_function named = digest_function_by_name(hash);
    if (is_unserved_function(hash))
        return err_set(err, ERR_INVALID, "digest function %s is not served", hash);
    if (named != DIGEST_UNKNOWN)
        hash = next_segment(&rest);
    const char *size_text = next_segment(&rest);
    if (hash == NULL || size_text == NULL || (rest != NULL && name->use == RESOURCE_READ))
        return bad_form(name->use, err);

    enum digest_function function;
    int64_t size;
    if (request_digest_function(instance, (REAPI(DigestFunction__Value))named, hash, &function,
                                err) != 0)
        return -(int)err->code;
    if (!parse_size(size_text, &size))
        return err_set(err, ERR_INVALID, "the size in the resource name is no decimal number");
    return digest_parse(function, hash, strlen(hash), size, digest, err);
}
