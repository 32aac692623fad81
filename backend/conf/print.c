/* SPDX-License-Identifier: Apache-2.0 */
/* Printing of a configuration as YAML. */
#include "conf/print.h"

#include <inttypes.h>
#include <stdint.h>
#include <string.h>
#include <strings.h>

#include "conf/units.h"

/* --- texts --- */

static const char plain_first[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ/";
static const char plain_rest[] =
    "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ/0123456789.-_@:";

/* Whether some reader of YAML takes TEXT, unquoted, for something else than a text. */
static bool is_word(const char *text)
{
    static const char *const words[] = {"null", "true", "false", "yes", "no",
                                        "on",   "off",  "y",     "n"};
    for (size_t i = 0; i < sizeof(words) / sizeof(words[0]); i++)
        if (strcasecmp(text, words[i]) == 0)
            return true;
    return false;
}

static bool is_plain(const char *text)
{
    size_t length = strlen(text);
    return strspn(text, plain_first) > 0 && strspn(text, plain_rest) == length &&
           text[length - 1] != ':' && !is_word(text);
}

/* Takes one character of valid UTF-8 from TEXT. */
static uint32_t take_character(const char **text)
{
    const unsigned char *byte = (const unsigned char *)*text;
    int more = *byte < 0x80 ? 0 : *byte < 0xe0 ? 1 : *byte < 0xf0 ? 2 : 3;
    uint32_t character = more == 0 ? *byte : *byte & (0x3fU >> more);
    int taken = 1;
    for (; taken <= more && byte[taken] != '\0'; taken++)
        character = character << 6 | (byte[taken] & 0x3f);
    *text += taken;
    return character;
}

/* YAML 1.1, 5.1: what is not printable, or would end a line, or stand for the order of bytes. */
static bool must_be_escaped(uint32_t character)
{
    return (character >= 0x7f && character < 0xa0) || character == 0x2028 || character == 0x2029 ||
           character == 0xfeff || character == 0xfffe || character == 0xffff;
}

static void print_text(const char *text, FILE *file)
{
    if (is_plain(text)) {
        (void)fputs(text, file);
        return;
    }
    (void)fputc('"', file);
    while (*text != '\0') {
        const char *begin = text;
        uint32_t character = take_character(&text);
        if (character == '"' || character == '\\')
            (void)fprintf(file, "\\%c", (int)character);
        else if (must_be_escaped(character))
            (void)fprintf(file, "\\u%04" PRIX32, character);
        else
            (void)fwrite(begin, 1, (size_t)(text - begin), file);
    }
    (void)fputc('"', file);
}

/* One line, if there is a text. INDENT has the blanks, and the dash of a list. */
static void print_key(const char *indent, const char *key, const char *text, FILE *file)
{
    if (text == NULL)
        return;
    (void)fprintf(file, "%s%s: ", indent, key);
    print_text(text, file);
    (void)fputc('\n', file);
}

/* One line, if these are not just any. */
static void print_names(const char *key, const struct conf_names *names, FILE *file)
{
    if (names->any)
        return;
    (void)fprintf(file, "    %s: [", key);
    for (size_t i = 0; i < names->count; i++) {
        (void)fputs(i > 0 ? ", " : "", file);
        print_text(names->names[i], file);
    }
    (void)fputs("]\n", file);
}

static void print_size(const char *indent, const char *key, int64_t bytes, FILE *file)
{
    char text[UNITS_TEXT_MAX];
    (void)fprintf(file, "%s%s: %s\n", indent, key, units_print_size(bytes, text));
}

static void print_time(const char *indent, const char *key, int64_t milliseconds, FILE *file)
{
    char text[UNITS_TEXT_MAX];
    (void)fprintf(file, "%s%s: %s\n", indent, key, units_print_time(milliseconds, text));
}

/* --- listeners --- */

static void print_tls(const struct conf_tls *tls, FILE *file)
{
    static const char indent[] = "      ";
    if (tls == NULL)
        return;
    (void)fputs("    tls:\n", file);
    print_key(indent, "certificate", tls->certificate, file);
    print_key(indent, "key", tls->key, file);
    print_key(indent, "client-ca", tls->client_ca, file);
    print_key(indent, "client", conf_client_name(tls->client), file);
}

static void print_listener(const struct conf_listener *listener, FILE *file)
{
    struct conf_listener defaults;
    conf_listener_set_defaults(&defaults);
    print_key("  - ", "address", listener->address, file);
    print_key("    ", "access", conf_access_name(listener->access), file);
    print_names("instances", &listener->instances, file);
    if (listener->socket_mode != defaults.socket_mode)
        (void)fprintf(file, "    socket-mode: \"%04o\"\n", (unsigned)listener->socket_mode);
    print_key("    ", "socket-group", listener->socket_group, file);
    print_key("    ", "identity", listener->identity, file);
    print_tls(listener->tls, file);
}

/* --- instances --- */

static void print_cas(const struct conf_cas *cas, FILE *file)
{
    static const char indent[] = "      ";
    static const char *const words[] = {
        [CONF_ON_UNAVAILABLE_FAIL] = "fail", [CONF_ON_UNAVAILABLE_SERVE] = "serve"};
    if (cas == NULL)
        return;
    (void)fputs("    cas:\n", file);
    print_key(indent, "address", cas->address, file);
    print_key(indent, "instance-name", cas->instance_name, file);
    if (cas->tls_ca != NULL || cas->tls_certificate != NULL) {
        (void)fputs("      tls:\n", file);
        print_key("        ", "ca", cas->tls_ca, file);
        print_key("        ", "certificate", cas->tls_certificate, file);
        print_key("        ", "key", cas->tls_key, file);
    }
    print_key(indent, "token-file", cas->token_file, file);
    print_time(indent, "trust", cas->trust, file);
    print_time(indent, "timeout", cas->timeout, file);
    (void)fprintf(file, "%sconnections: %u\n", indent, cas->connections);
    print_key(indent, "on-unavailable", words[cas->on_unavailable], file);
}

static void print_functions(const struct conf_instance *instance, FILE *file)
{
    if (instance->digest_function_count == 1 && instance->digest_functions[0] == DIGEST_SHA256)
        return;
    (void)fputs("    digest-functions: [", file);
    for (size_t i = 0; i < instance->digest_function_count; i++)
        (void)fprintf(file, "%s%s", i > 0 ? ", " : "",
                      digest_function_name(instance->digest_functions[i]));
    (void)fputs("]\n", file);
}

static void print_instance(const struct conf_instance *instance, FILE *file)
{
    struct conf_instance defaults;
    conf_instance_set_defaults(&defaults);
    print_key("  - ", "name", instance->name, file);
    print_key("    ", "storage", instance->storage, file);
    if (instance->index_only)
        (void)fputs("    index-only: true\n", file);
    else
        print_size("    ", "quota", instance->quota, file);
    if (instance->index_quota != defaults.index_quota)
        print_size("    ", "index-quota", instance->index_quota, file);
    if (instance->expire_after != defaults.expire_after)
        print_time("    ", "expire-after", instance->expire_after, file);
    print_functions(instance, file);
    print_cas(instance->cas, file);
    print_names("push", &instance->push, file);
    print_names("pull", &instance->pull, file);
}

/* --- the whole --- */

/* The heading comes before the first of its keys that is there. */
static void print_number(const char *heading, const char *key, unsigned number, FILE *file)
{
    (void)fprintf(file, "%s  %s: %u\n", heading, key, number);
}

static void print_rest(const struct conf *conf, FILE *file)
{
    struct conf defaults;
    conf_set_defaults(&defaults);
    bool has_message = conf->message_limit != defaults.message_limit;
    bool has_pollers = conf->pollers != defaults.pollers;
    if (has_message)
        print_size("limits:\n  ", "message", conf->message_limit, file);
    if (conf->stream_limit != defaults.stream_limit)
        print_number(has_message ? "" : "limits:\n", "streams", conf->stream_limit, file);
    if (has_pollers)
        print_number("threads:\n", "pollers", conf->pollers, file);
    if (conf->workers != defaults.workers)
        print_number(has_pollers ? "" : "threads:\n", "workers", conf->workers, file);
    if (conf->shutdown_grace != defaults.shutdown_grace)
        print_time("", "shutdown-grace", conf->shutdown_grace, file);
    print_key("metrics:\n  ", "address", conf->metrics_address, file);
    print_key("log:\n  ", "level", log_level_name(conf->log_level), file);
}

void conf_print(const struct conf *conf, FILE *file)
{
    (void)fputs("# Printed by assetd " ASSETD_VERSION ", to be used as `assetd --config FILE`.\n"
                "# Keys that are not here have their default; assetd.yaml(5) explains them all.\n"
                "listeners:\n",
                file);
    for (size_t i = 0; i < conf->listener_count; i++)
        print_listener(&conf->listeners[i], file);
    (void)fputs("instances:\n", file);
    for (size_t i = 0; i < conf->instance_count; i++)
        print_instance(&conf->instances[i], file);
    print_rest(conf, file);
}
