/* SPDX-License-Identifier: Apache-2.0 */
/* The messages in the files of assets, and those of BuildStream that they lead to, field by field.
 */
#include "control/casd_asset.h"

#include <stdlib.h>
#include <string.h>

#include "base/utf8.h"
#include "base/wire.h"

static int malformed(struct err *err)
{
    return err_set(err, ERR_INVALID, "it is not the message that it should be");
}

/* Whether a field holds a message, a string or bytes, and has that number. */
static bool is_bytes(const struct wire_field *field, uint32_t number)
{
    return field->number == number && field->type == WIRE_BYTES;
}

static int copy_text(struct span text, size_t least, size_t most, const char *what,
                     struct arena *arena, const char **copy, struct err *err)
{
    if (text.size < least || text.size > most)
        return err_set(err, ERR_INVALID, "the %s has %zu bytes, %zu to %zu are accepted", what,
                       text.size, least, most);
    if (!utf8_is_text(text.data, text.size))
        return err_set(err, ERR_INVALID, "the %s is not valid UTF-8", what);
    *copy = arena_copy(arena, text.data, text.size);
    return *copy != NULL ? 0 : err_no_memory(err, "an asset");
}

/* build.bazel.remote.execution.v2.Digest. IS_UNSET: it is the one without a hash. */
static int read_digest(struct span message, struct digest *digest, bool *is_unset, struct err *err)
{
    struct wire_reader reader = {.message = message};
    struct wire_field field;
    struct span hash = {NULL, 0};
    uint64_t size = 0;
    while (wire_next(&reader, &field)) {
        if (is_bytes(&field, 1))
            hash = field.bytes;
        else if (field.number == 2 && field.type == WIRE_VARINT)
            size = field.value;
    }
    if (reader.malformed)
        return malformed(err);
    *is_unset = hash.size == 0 && size == 0;
    if (*is_unset)
        return 0;
    return digest_parse(DIGEST_SHA256, (const char *)hash.data, hash.size, (int64_t)size, digest,
                        err);
}

/* --- the name of a file --- */

static int compare_names(const void *a, const void *b)
{
    return strcmp(((const struct qualifier *)a)->name, ((const struct qualifier *)b)->name);
}

/* Bytes of a Qualifier: what is empty is not written. */
static size_t qualifier_size(const struct qualifier *qualifier)
{
    size_t value = strlen(qualifier->value);
    return wire_bytes_size(strlen(qualifier->name)) + (value != 0 ? wire_bytes_size(value) : 0);
}

static uint8_t *put_text(uint8_t *out, uint32_t number, const char *text)
{
    size_t size = strlen(text);
    out = wire_put_head(out, number, size);
    memcpy(out, text, size);
    return out + size;
}

/* The SHA-256 of the request, in which qualifiers have to be sorted. */
static int compute_name(const struct asset_key *key, struct arena *arena, struct digest *name,
                        struct err *err)
{
    static const char *const types[] = {
        [ASSET_BLOB] = "type.googleapis.com/build.bazel.remote.asset.v1.FetchBlobRequest",
        [ASSET_DIRECTORY] = "type.googleapis.com/build.bazel.remote.asset.v1.FetchDirectoryRequest",
    };
    const char *type = types[key->kind];
    size_t size = wire_bytes_size(strlen(key->uri));
    for (size_t i = 0; i < key->qualifier_count; i++)
        size += wire_bytes_size(qualifier_size(&key->qualifiers[i]));
    size_t total = wire_bytes_size(strlen(type)) + wire_bytes_size(size);
    uint8_t *request = arena_alloc(arena, total);
    if (request == NULL)
        return err_no_memory(err, "an asset");
    uint8_t *out = put_text(request, 1, type);
    out = wire_put_head(out, 2, size);
    out = put_text(out, 4, key->uri);
    for (size_t i = 0; i < key->qualifier_count; i++) {
        const struct qualifier *qualifier = &key->qualifiers[i];
        out = wire_put_head(out, 5, qualifier_size(qualifier));
        out = put_text(out, 1, qualifier->name);
        if (qualifier->value[0] != '\0')
            out = put_text(out, 2, qualifier->value);
    }
    return digest_compute(DIGEST_SHA256, request, (size_t)(out - request), name, err);
}

static int check_name(const struct asset_key *key, const uint8_t name[CASD_NAME_SIZE],
                      struct arena *arena, struct err *err)
{
    struct digest computed;
    int rc = compute_name(key, arena, &computed, err);
    if (rc != 0 || memcmp(computed.hash, name, CASD_NAME_SIZE) == 0)
        return rc;
    return err_set(err, ERR_INVALID, "its URI and qualifiers give it another name");
}

/* --- the file --- */

/* What stands in a response. */
struct response {
    struct span message;
    enum asset_kind kind;
};

static int read_any(struct span file, struct response *response, struct err *err)
{
    static const char *const types[] = {
        [ASSET_BLOB] = "type.googleapis.com/build.bazel.remote.asset.v1.FetchBlobResponse",
        [ASSET_DIRECTORY] =
            "type.googleapis.com/build.bazel.remote.asset.v1.FetchDirectoryResponse",
    };
    struct wire_reader reader = {.message = file};
    struct wire_field field;
    struct span type = {NULL, 0};
    response->message = (struct span){NULL, 0};
    while (wire_next(&reader, &field)) {
        if (is_bytes(&field, 1))
            type = field.bytes;
        else if (is_bytes(&field, 2))
            response->message = field.bytes;
    }
    for (size_t i = 0; !reader.malformed && i < sizeof(types) / sizeof(types[0]); i++) {
        if (!span_equal(type, span_of_text(types[i])))
            continue;
        response->kind = (enum asset_kind)i;
        return 0;
    }
    return malformed(err);
}

static int read_qualifier(struct span message, struct arena *arena, struct qualifier *qualifier,
                          struct err *err)
{
    struct wire_reader reader = {.message = message};
    struct wire_field field;
    struct span name = {(const uint8_t *)"", 0};
    struct span value = name;
    while (wire_next(&reader, &field)) {
        if (is_bytes(&field, 1))
            name = field.bytes;
        else if (is_bytes(&field, 2))
            value = field.bytes;
    }
    if (reader.malformed)
        return malformed(err);
    int rc = copy_text(name, 1, ASSET_QUALIFIER_NAME_MAX, "name of a qualifier", arena,
                       &qualifier->name, err);
    if (rc == 0)
        rc = copy_text(value, 0, ASSET_QUALIFIER_VALUE_MAX, "value of a qualifier", arena,
                       &qualifier->value, err);
    return rc;
}

static int read_qualifiers(struct span message, struct arena *arena, struct asset_key *key,
                           struct err *err)
{
    struct wire_reader reader = {.message = message};
    struct wire_field field;
    struct qualifier *all = arena_calloc(arena, ASSET_QUALIFIERS_MAX, sizeof(*all));
    if (all == NULL)
        return err_no_memory(err, "an asset");
    while (wire_next(&reader, &field)) {
        if (!is_bytes(&field, 3))
            continue;
        if (key->qualifier_count == ASSET_QUALIFIERS_MAX)
            return err_set(err, ERR_INVALID, "it has more than %d qualifiers, which is the most",
                           ASSET_QUALIFIERS_MAX);
        int rc = read_qualifier(field.bytes, arena, &all[key->qualifier_count++], err);
        if (rc != 0)
            return rc;
    }
    qsort(all, key->qualifier_count, sizeof(*all), compare_names);
    for (size_t i = 1; i < key->qualifier_count; i++)
        if (strcmp(all[i - 1].name, all[i].name) == 0)
            return err_set(err, ERR_INVALID, "qualifier \"%s\" comes twice", all[i].name);
    key->qualifiers = all;
    return 0;
}

/* google.protobuf.Timestamp, which is from the year 1 to the end of the year 9999. */
static int read_time(struct span message, int64_t *time, struct err *err)
{
    const int64_t first = -62135596800, last = 253402300799;
    struct wire_reader reader = {.message = message};
    struct wire_field field;
    int64_t seconds = 0, nanos = 0;
    while (wire_next(&reader, &field)) {
        if (field.number == 1 && field.type == WIRE_VARINT)
            seconds = (int64_t)field.value;
        else if (field.number == 2 && field.type == WIRE_VARINT)
            nanos = (int64_t)field.value;
    }
    if (reader.malformed || seconds < first || seconds > last || nanos < 0 || nanos > 999999999)
        return err_set(err, ERR_INVALID, "the time at which it expires is none");
    *time = seconds * 1000 + nanos / 1000000;
    if (*time == 0)
        *time = 1; /* 0 stands for no time at all */
    return 0;
}

static int read_response(const struct response *response, struct arena *arena,
                         struct asset_key *key, struct asset *asset, struct err *err)
{
    struct wire_reader reader = {.message = response->message};
    struct wire_field field;
    struct span uri = {(const uint8_t *)"", 0};
    bool has_no_content = true;
    int rc = 0;
    *key = (struct asset_key){.kind = response->kind, .function = DIGEST_SHA256};
    *asset = (struct asset){.pushed_at = 0};
    while (rc == 0 && wire_next(&reader, &field)) {
        if (is_bytes(&field, 2))
            uri = field.bytes;
        else if (is_bytes(&field, 4))
            rc = read_time(field.bytes, &asset->expires_at, err);
        else if (is_bytes(&field, 5))
            rc = read_digest(field.bytes, &asset->content, &has_no_content, err);
        else if (field.number == 6 && field.type == WIRE_VARINT && field.value != 0 &&
                 field.value != DIGEST_SHA256)
            rc = err_set(err, ERR_INVALID, "its digest is none of SHA-256");
    }
    if (rc == 0 && reader.malformed)
        rc = malformed(err);
    if (rc == 0)
        rc = copy_text(uri, 1, ASSET_URI_LENGTH_MAX, "URI", arena, &key->uri, err);
    if (rc == 0)
        rc = read_qualifiers(response->message, arena, key, err);
    if (rc == 0 && has_no_content)
        rc = err_set(err, ERR_INVALID, "it names no content");
    return rc;
}

int casd_asset_read(struct span file, const uint8_t name[CASD_NAME_SIZE], struct arena *arena,
                    struct asset_key *key, struct asset *asset, struct err *err)
{
    struct response response = {.kind = ASSET_BLOB};
    int rc = read_any(file, &response, err);
    if (rc == 0)
        rc = read_response(&response, arena, key, asset, err);
    if (rc == 0)
        rc = check_name(key, name, arena, err);
    return rc;
}

/* --- what BuildStream's messages reference --- */

/* A field that is a digest, or that leads to one in a message of its own. */
struct reference {
    uint32_t number;
    uint32_t inner; /* number of the digest in that message; 0: the field is the digest */
    bool is_directory;
};

/* buildstream.v2.Artifact: what a push of BuildStream's names. */
static const struct reference artifact_references[] = {
    {.number = 8, .is_directory = true},              /* files */
    {.number = 10},                                   /* public_data */
    {.number = 11, .inner = 2},                       /* logs: digest */
    {.number = 12, .is_directory = true},             /* buildtree */
    {.number = 13, .is_directory = true},             /* sources */
    {.number = 14},                                   /* low_diversity_meta */
    {.number = 15},                                   /* high_diversity_meta */
    {.number = 17, .is_directory = true},             /* buildroot */
    {.number = 18, .inner = 3, .is_directory = true}, /* buildsandbox: subsandbox_digests */
};

/* buildstream.v2.Source. */
static const struct reference source_references[] = {
    {.number = 2, .is_directory = true}, /* files */
};

/* Messages that are told by how the URI of a blob begins. */
static const struct telling {
    const char *prefix;
    const char *name;
    const struct reference *references;
    size_t count;
} tellings[] = {
    {"urn:fdc:buildstream.build:2020:artifact:", "Artifact", artifact_references,
     sizeof(artifact_references) / sizeof(artifact_references[0])},
    {"urn:fdc:buildstream.build:2020:source:", "Source", source_references,
     sizeof(source_references) / sizeof(source_references[0])},
};

static const struct telling *find_telling(const struct asset_key *key)
{
    for (size_t i = 0; key->kind == ASSET_BLOB && i < sizeof(tellings) / sizeof(tellings[0]); i++)
        if (strncmp(key->uri, tellings[i].prefix, strlen(tellings[i].prefix)) == 0)
            return &tellings[i];
    return NULL;
}

bool casd_asset_is_telling(const struct asset_key *key)
{
    return find_telling(key) != NULL;
}

/* Digests as they are found: counted first, then noted. */
struct found {
    struct digest *blobs, *directories; /* NULL while they are counted */
    size_t blob_count, directory_count;
};

static int note(struct found *found, struct span message, bool is_directory, struct err *err)
{
    struct digest *list = is_directory ? found->directories : found->blobs;
    size_t *count = is_directory ? &found->directory_count : &found->blob_count;
    struct digest digest;
    bool is_unset;
    int rc = read_digest(message, &digest, &is_unset, err);
    if (rc != 0 || is_unset)
        return rc;
    if (found->blob_count + found->directory_count == ASSET_REFERENCES_MAX)
        return err_set(err, ERR_INVALID, "there are more than %d references, which is the most",
                       ASSET_REFERENCES_MAX);
    if (list != NULL)
        list[*count] = digest;
    ++*count;
    return 0;
}

static int note_inner(struct found *found, struct span message, const struct reference *reference,
                      struct err *err)
{
    struct wire_reader reader = {.message = message};
    struct wire_field field;
    int rc = 0;
    while (rc == 0 && wire_next(&reader, &field))
        if (is_bytes(&field, reference->inner))
            rc = note(found, field.bytes, reference->is_directory, err);
    return rc == 0 && reader.malformed ? malformed(err) : rc;
}

static int find_all(const struct telling *telling, struct span content, struct found *found,
                    struct err *err)
{
    struct wire_reader reader = {.message = content};
    struct wire_field field;
    int rc = 0;
    while (rc == 0 && wire_next(&reader, &field)) {
        for (size_t i = 0; rc == 0 && i < telling->count; i++) {
            const struct reference *reference = &telling->references[i];
            if (!is_bytes(&field, reference->number))
                continue;
            rc = reference->inner != 0 ? note_inner(found, field.bytes, reference, err)
                                       : note(found, field.bytes, reference->is_directory, err);
        }
    }
    if (rc == 0 && reader.malformed)
        rc = malformed(err);
    if (rc == -ERR_INVALID)
        (void)err_wrap(err, "its content is no %s of BuildStream", telling->name);
    return rc;
}

int casd_asset_refer(const struct asset_key *key, struct span content, struct arena *arena,
                     struct asset *asset, struct err *err)
{
    const struct telling *telling = find_telling(key);
    struct found found = {.blobs = NULL};
    int rc = find_all(telling, content, &found, err);
    if (rc != 0)
        return rc;
    found.blobs = arena_calloc(arena, found.blob_count + 1, sizeof(struct digest));
    found.directories = arena_calloc(arena, found.directory_count + 1, sizeof(struct digest));
    if (found.blobs == NULL || found.directories == NULL)
        return err_no_memory(err, "references");
    found.blob_count = 0;
    found.directory_count = 0;
    rc = find_all(telling, content, &found, err);
    asset->blobs = found.blobs;
    asset->blob_count = found.blob_count;
    asset->directories = found.directories;
    asset->directory_count = found.directory_count;
    return rc;
}
