/* SPDX-License-Identifier: Apache-2.0 */
/* Assets to JSON and back, by a table of the members that an object has. */
#include "control/asset_json.h"

#include <errno.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "conf/spelling.h"

static const char *const kinds[] = {[ASSET_BLOB] = "blob", [ASSET_DIRECTORY] = "directory"};

/* --- times --- */

enum { TIME_TEXT_SIZE = 32 };

/* From the year 1 to the end of the year 9999, in milliseconds since 1970. */
static const int64_t time_first = -62135596800000, time_last = 253402300799999;

static void print_time(int64_t at, char text[TIME_TEXT_SIZE])
{
    int64_t bounded = at < time_first ? time_first : at > time_last ? time_last : at;
    int64_t milliseconds = bounded % 1000;
    struct tm parts;
    if (milliseconds < 0)
        milliseconds += 1000;
    time_t seconds = (bounded - milliseconds) / 1000;
    (void)gmtime_r(&seconds, &parts);
    (void)snprintf(text, TIME_TEXT_SIZE, "%04u-%02u-%02uT%02u:%02u:%02u.%03uZ",
                   (unsigned)parts.tm_year + 1900U, (unsigned)parts.tm_mon + 1U,
                   (unsigned)parts.tm_mday, (unsigned)parts.tm_hour, (unsigned)parts.tm_min,
                   (unsigned)parts.tm_sec, (unsigned)milliseconds);
}

/* The number that COUNT digits are; -1: they are none. */
static int take_digits(const char **text, int count)
{
    int number = 0;
    for (int i = 0; i < count; i++) {
        char digit = *(*text)++;
        if (digit < '0' || digit > '9')
            return -1;
        number = number * 10 + (digit - '0');
    }
    return number;
}

/* A number of COUNT digits with MARK behind it. */
static bool take_part(const char **text, int count, char mark, int *number)
{
    *number = take_digits(text, count);
    return *number >= 0 && *(*text)++ == mark;
}

/* Milliseconds, from what stands behind the point. */
static bool take_fraction(const char **text, int *milliseconds)
{
    int weight = 100;
    int digits = 0;
    *milliseconds = 0;
    for (; **text >= '0' && **text <= '9'; ++*text, digits++, weight /= 10)
        *milliseconds += (**text - '0') * weight;
    return digits >= 1 && digits <= 9 && *(*text)++ == 'Z';
}

static bool parse_time(const char *text, int64_t *at)
{
    struct tm parts = {.tm_isdst = 0};
    struct tm found;
    int milliseconds = 0;
    /* Each part is taken only if the one before it was there: none is looked for behind the end. */
    if (!take_part(&text, 4, '-', &parts.tm_year) || !take_part(&text, 2, '-', &parts.tm_mon) ||
        !take_part(&text, 2, 'T', &parts.tm_mday) || !take_part(&text, 2, ':', &parts.tm_hour) ||
        !take_part(&text, 2, ':', &parts.tm_min))
        return false;
    parts.tm_sec = take_digits(&text, 2);
    if (parts.tm_sec < 0)
        return false;
    char mark = *text++;
    if (mark != 'Z' && (mark != '.' || !take_fraction(&text, &milliseconds)))
        return false;
    parts.tm_year -= 1900;
    parts.tm_mon -= 1;
    struct tm wanted = parts;
    time_t seconds = timegm(&parts);
    /* A day that there is not becomes another one. */
    if (*text != '\0' || gmtime_r(&seconds, &found) == NULL || found.tm_mday != wanted.tm_mday ||
        found.tm_mon != wanted.tm_mon || found.tm_year != wanted.tm_year ||
        found.tm_hour != wanted.tm_hour || found.tm_min != wanted.tm_min ||
        found.tm_sec != wanted.tm_sec || wanted.tm_year < 1 - 1900)
        return false;
    *at = (int64_t)seconds * 1000 + milliseconds;
    if (*at == 0)
        *at = 1; /* 0 stands for no time at all */
    return true;
}

/* --- writing --- */

/* Takes VALUE over. False: memory is out. */
static bool put(json_t *object, const char *name, json_t *value)
{
    return json_object_set_new_nocheck(object, name, value) == 0;
}

static json_t *new_digest(const struct digest *digest)
{
    char text[DIGEST_TEXT_MAX];
    return json_string_nocheck(digest_text(digest, text));
}

static bool put_time(json_t *object, const char *name, int64_t at)
{
    char text[TIME_TEXT_SIZE];
    if (at == 0)
        return true;
    print_time(at, text);
    return put(object, name, json_string_nocheck(text));
}

static bool put_references(json_t *object, const char *name, const struct digest *digests,
                           size_t count)
{
    if (count == 0)
        return true;
    json_t *list = json_array();
    bool is_made = put(object, name, list);
    for (size_t i = 0; is_made && i < count; i++)
        is_made = json_array_append_new(list, new_digest(&digests[i])) == 0;
    return is_made;
}

static bool put_qualifiers(json_t *object, const struct asset_key *key)
{
    if (key->qualifier_count == 0)
        return true;
    json_t *list = json_object();
    bool is_made = put(object, "qualifiers", list);
    for (size_t i = 0; is_made && i < key->qualifier_count; i++)
        is_made = put(list, key->qualifiers[i].name, json_string(key->qualifiers[i].value));
    return is_made;
}

/* NULL: memory is out. */
static json_t *new_object(const struct asset_key *key, const struct asset *asset)
{
    json_t *object = json_object();
    const char *function = digest_function_name(key->function);
    if (put(object, "kind", json_string_nocheck(kinds[key->kind])) &&
        put(object, "uri", json_string(key->uri)) && put_qualifiers(object, key) &&
        put(object, "digest_function", json_string_nocheck(function)) &&
        put(object, "digest", new_digest(&asset->content)) &&
        put_references(object, "references_blobs", asset->blobs, asset->blob_count) &&
        put_references(object, "references_directories", asset->directories,
                       asset->directory_count) &&
        put_time(object, "pushed_at", asset->pushed_at) &&
        put_time(object, "fetched_at", asset->fetched_at) &&
        put_time(object, "expires_at", asset->expires_at))
        return object;
    json_decref(object);
    return NULL;
}

int asset_json_write(const struct asset_key *key, const struct asset *asset, FILE *file,
                     struct err *err)
{
    json_t *object = new_object(key, asset);
    if (object == NULL)
        return err_no_memory(err, "a line");
    errno = 0;
    bool is_written =
        json_dumpf(object, file, JSON_COMPACT | JSON_ENSURE_ASCII) == 0 && fputc('\n', file) != EOF;
    int rc = is_written          ? 0
             : ferror(file) == 0 ? err_no_memory(err, "a line")
                                 : err_errno(err, errno != 0 ? errno : EIO, "write a line");
    json_decref(object);
    return rc;
}

/* --- reading --- */

/* A line that is being read. */
struct input {
    struct arena *arena;
    struct asset_key *key;
    struct asset *asset;
};

/* A string that is not empty, unless it MAY_BE_EMPTY, in the arena. */
static int read_text(const struct input *input, const json_t *value, const char *name, size_t most,
                     bool may_be_empty, const char **text, struct err *err)
{
    if (!json_is_string(value))
        return err_set(err, ERR_INVALID, "\"%s\" is not a string", name);
    size_t length = json_string_length(value);
    if (length > most || (length == 0 && !may_be_empty))
        return err_set(err, ERR_INVALID, "\"%s\" has %zu bytes, %d to %zu are accepted", name,
                       length, may_be_empty ? 0 : 1, most);
    *text = arena_copy(input->arena, json_string_value(value), length);
    return *text != NULL ? 0 : err_no_memory(err, "a line");
}

static int read_kind(struct input *input, const json_t *value, const char *name, struct err *err)
{
    const char *text = json_string_value(value);
    for (size_t i = 0; text != NULL && i < sizeof(kinds) / sizeof(kinds[0]); i++) {
        if (strcmp(text, kinds[i]) != 0)
            continue;
        input->key->kind = (enum asset_kind)i;
        return 0;
    }
    return err_set(err, ERR_INVALID, "\"%s\" is neither \"blob\" nor \"directory\"", name);
}

static int read_uri(struct input *input, const json_t *value, const char *name, struct err *err)
{
    return read_text(input, value, name, ASSET_URI_LENGTH_MAX, false, &input->key->uri, err);
}

static int read_qualifiers(struct input *input, const json_t *value, const char *name,
                           struct err *err)
{
    size_t count = json_object_size(value);
    if (!json_is_object(value))
        return err_set(err, ERR_INVALID, "\"%s\" is not an object of names and values", name);
    if (count > ASSET_QUALIFIERS_MAX)
        return err_set(err, ERR_INVALID, "there are %zu qualifiers, at most %d are accepted", count,
                       ASSET_QUALIFIERS_MAX);
    if (count == 0)
        return 0;
    struct qualifier *all = arena_calloc(input->arena, count, sizeof(*all));
    if (all == NULL)
        return err_no_memory(err, "a line");
    input->key->qualifiers = all;
    /* The interface is not const, but only looks. */
    void *at = json_object_iter((json_t *)value);
    for (; at != NULL; at = json_object_iter_next((json_t *)value, at)) {
        const char *qualifier = json_object_iter_key(at);
        size_t length = strlen(qualifier);
        if (length == 0 || length > ASSET_QUALIFIER_NAME_MAX)
            return err_set(err, ERR_INVALID,
                           "the name of a qualifier has %zu bytes, 1 to %d are accepted", length,
                           ASSET_QUALIFIER_NAME_MAX);
        struct qualifier *next = &all[input->key->qualifier_count++];
        next->name = arena_copy(input->arena, qualifier, length);
        if (next->name == NULL)
            return err_no_memory(err, "a line");
        int rc = read_text(input, json_object_iter_value(at), qualifier, ASSET_QUALIFIER_VALUE_MAX,
                           true, &next->value, err);
        if (rc != 0)
            return err_wrap(err, "qualifiers");
    }
    return 0;
}

static int read_function(struct input *input, const json_t *value, const char *name,
                         struct err *err)
{
    const char *text = json_string_value(value);
    input->key->function = text != NULL ? digest_function_by_name(text) : DIGEST_UNKNOWN;
    if (input->key->function != DIGEST_UNKNOWN)
        return 0;
    return err_set(err, ERR_INVALID,
                   "\"%s\" is none of \"sha256\", \"sha384\", \"sha512\" and \"sha1\"", name);
}

/* "HASH/SIZE" */
static int parse_digest(const struct input *input, const json_t *value, struct digest *digest,
                        struct err *err)
{
    const char *text = json_string_value(value);
    const char *slash = text != NULL ? strchr(text, '/') : NULL;
    if (slash == NULL)
        return err_set(err, ERR_INVALID, "it is not \"HASH/SIZE\"");
    size_t digits = strspn(slash + 1, "0123456789");
    errno = 0;
    long long size = strtoll(slash + 1, NULL, 10);
    if (digits == 0 || slash[1 + digits] != '\0' || errno != 0)
        return err_set(err, ERR_INVALID, "the size of \"HASH/SIZE\" is no number of bytes");
    return digest_parse(input->key->function, text, (size_t)(slash - text), size, digest, err);
}

static int read_digest(struct input *input, const json_t *value, const char *name, struct err *err)
{
    int rc = parse_digest(input, value, &input->asset->content, err);
    return rc == 0 ? 0 : err_wrap(err, "\"%s\"", name);
}

static int read_references(struct input *input, const json_t *value, const char *name,
                           const struct digest **digests, size_t *count, struct err *err)
{
    const struct asset *asset = input->asset;
    size_t size = json_array_size(value);
    if (!json_is_array(value))
        return err_set(err, ERR_INVALID, "\"%s\" is not a list of \"HASH/SIZE\"", name);
    if (size + asset->blob_count + asset->directory_count > ASSET_REFERENCES_MAX)
        return err_set(err, ERR_INVALID, "there are more than %d references, which is the most",
                       ASSET_REFERENCES_MAX);
    if (size == 0)
        return 0;
    struct digest *all = arena_calloc(input->arena, size, sizeof(*all));
    if (all == NULL)
        return err_no_memory(err, "a line");
    for (size_t i = 0; i < size; i++)
        if (parse_digest(input, json_array_get(value, i), &all[i], err) != 0)
            return err_wrap(err, "\"%s\" at %zu", name, i);
    *digests = all;
    *count = size;
    return 0;
}

static int read_blobs(struct input *input, const json_t *value, const char *name, struct err *err)
{
    struct asset *asset = input->asset;
    return read_references(input, value, name, &asset->blobs, &asset->blob_count, err);
}

static int read_directories(struct input *input, const json_t *value, const char *name,
                            struct err *err)
{
    struct asset *asset = input->asset;
    return read_references(input, value, name, &asset->directories, &asset->directory_count, err);
}

static int read_time(const json_t *value, const char *name, int64_t *at, struct err *err)
{
    const char *text = json_string_value(value);
    if (text != NULL && parse_time(text, at))
        return 0;
    return err_set(err, ERR_INVALID, "\"%s\" is no time like \"2026-11-23T10:00:00.123Z\"", name);
}

static int read_pushed_at(struct input *input, const json_t *value, const char *name,
                          struct err *err)
{
    return read_time(value, name, &input->asset->pushed_at, err);
}

static int read_fetched_at(struct input *input, const json_t *value, const char *name,
                           struct err *err)
{
    return read_time(value, name, &input->asset->fetched_at, err);
}

static int read_expires_at(struct input *input, const json_t *value, const char *name,
                           struct err *err)
{
    return read_time(value, name, &input->asset->expires_at, err);
}

/* In the order in which they are read: digests need their function. */
static const struct member {
    const char *name;
    bool is_required;
    int (*read)(struct input *input, const json_t *value, const char *name, struct err *err);
} members[] = {
    {"kind", true, read_kind},
    {"uri", true, read_uri},
    {"qualifiers", false, read_qualifiers},
    {"digest_function", true, read_function},
    {"digest", true, read_digest},
    {"references_blobs", false, read_blobs},
    {"references_directories", false, read_directories},
    {"pushed_at", false, read_pushed_at},
    {"fetched_at", false, read_fetched_at},
    {"expires_at", false, read_expires_at},
};
enum { MEMBERS = sizeof(members) / sizeof(members[0]) };

static int check_name(const char *name, struct err *err)
{
    struct spelling spelling = {.word = name};
    for (size_t i = 0; i < MEMBERS; i++) {
        if (strcmp(name, members[i].name) == 0)
            return 0;
        spelling_try(&spelling, members[i].name);
    }
    if (spelling.guess == NULL)
        return err_set(err, ERR_INVALID, "\"%.64s\" is not known", name);
    return err_set(err, ERR_INVALID, "\"%.64s\" is not known; did you mean \"%s\"?", name,
                   spelling.guess);
}

static int read_object(struct input *input, json_t *object, struct err *err)
{
    if (!json_is_object(object))
        return err_set(err, ERR_INVALID, "it is not an object");
    for (void *at = json_object_iter(object); at != NULL; at = json_object_iter_next(object, at)) {
        int rc = check_name(json_object_iter_key(at), err);
        if (rc != 0)
            return rc;
    }
    for (size_t i = 0; i < MEMBERS; i++) {
        const json_t *value = json_object_get(object, members[i].name);
        if (value == NULL && members[i].is_required)
            return err_set(err, ERR_INVALID, "\"%s\" is missing", members[i].name);
        if (value == NULL)
            continue;
        int rc = members[i].read(input, value, members[i].name, err);
        if (rc != 0)
            return rc;
    }
    return 0;
}

int asset_json_read(const char *line, size_t length, struct arena *arena, struct asset_key *key,
                    struct asset *asset, struct err *err)
{
    struct input input = {.arena = arena, .key = key, .asset = asset};
    json_error_t fault;
    *key = (struct asset_key){.uri = NULL};
    *asset = (struct asset){.pushed_at = 0};
    json_t *object = json_loadb(line, length, JSON_REJECT_DUPLICATES, &fault);
    if (object == NULL && json_error_code(&fault) == json_error_out_of_memory)
        return err_no_memory(err, "a line");
    if (object == NULL)
        return err_set(err, ERR_INVALID, "it is no JSON: %s", fault.text);
    int rc = read_object(&input, object, err);
    json_decref(object);
    return rc;
}
