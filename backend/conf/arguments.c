/* SPDX-License-Identifier: Apache-2.0 */
/* The command line: of assetd with a file, and of bst-artifact-server without one. */
#include <stdio.h>
#include <string.h>

#include "conf/address.h"
#include "conf/conf.h"
#include "conf/spelling.h"
#include "conf/units.h"

/* What was given: the value of each option ("" for one that takes none), NULL if it was not. */
struct arguments {
    const char *config;
    const char *check;
    const char *port;
    const char *bind;
    const char *server_key;
    const char *server_cert;
    const char *client_certs;
    const char *enable_push;
    const char *quota;
    const char *index_only;
    const char *log_level;
    const char *help;
    const char *version;
    const char *repo;
};

/* What an option goes with. */
enum option_group { OPTION_FILE, OPTION_SERVER, OPTION_TLS, OPTION_ANY };

struct option {
    const char *name;
    char letter;       /* '\0': none */
    const char *value; /* what the value is called; NULL: takes none */
    enum option_group group;
    size_t field; /* in struct arguments */
    const char *help;
};

#define IN_ARGUMENTS(member) offsetof(struct arguments, member)

static const struct option options[] = {
    {"config", '\0', "FILE", OPTION_FILE, IN_ARGUMENTS(config), "take everything from this file"},
    {"check", '\0', NULL, OPTION_FILE, IN_ARGUMENTS(check),
     "say what is wrong with the file, and exit"},
    {"port", 'p', "N", OPTION_SERVER, IN_ARGUMENTS(port), "listen at this TCP port (required)"},
    {"bind", '\0', "ADDRESS", OPTION_SERVER, IN_ARGUMENTS(bind),
     "listen at this address only (default: all)"},
    {"enable-push", '\0', NULL, OPTION_SERVER, IN_ARGUMENTS(enable_push),
     "let clients write (default: read only)"},
    {"quota", '\0', "BYTES", OPTION_SERVER, IN_ARGUMENTS(quota),
     "room for content, also as 50GiB (default: 10GB)"},
    {"index-only", '\0', NULL, OPTION_SERVER, IN_ARGUMENTS(index_only),
     "keep the index only, the content is elsewhere"},
    {"log-level", '\0', "LEVEL", OPTION_SERVER, IN_ARGUMENTS(log_level),
     "warning, info or trace (default: warning)"},
    {"server-key", '\0', "FILE", OPTION_TLS, IN_ARGUMENTS(server_key),
     "not available in this version: put nginx in front"},
    {"server-cert", '\0', "FILE", OPTION_TLS, IN_ARGUMENTS(server_cert), "likewise"},
    {"client-certs", '\0', "FILE", OPTION_TLS, IN_ARGUMENTS(client_certs), "likewise"},
    {"help", '\0', NULL, OPTION_ANY, IN_ARGUMENTS(help), "print this text"},
    {"version", '\0', NULL, OPTION_ANY, IN_ARGUMENTS(version), "print the version"},
};

enum { OPTIONS = sizeof(options) / sizeof(options[0]) };

static const char **value_of(struct arguments *arguments, const struct option *option)
{
    return (const char **)(void *)((char *)arguments + option->field);
}

static const struct option *find_option(const char *name, size_t length)
{
    for (size_t i = 0; i < OPTIONS; i++)
        if (strlen(options[i].name) == length && memcmp(options[i].name, name, length) == 0)
            return &options[i];
    return NULL;
}

static const struct option *find_letter(char letter)
{
    for (size_t i = 0; i < OPTIONS; i++)
        if (options[i].letter != '\0' && options[i].letter == letter)
            return &options[i];
    return NULL;
}

static int report_unknown(const char *name, size_t length, struct err *err)
{
    char word[64];
    (void)snprintf(word, sizeof(word), "%.*s", (int)(length < 63 ? length : 63), name);
    struct spelling spelling = {.word = word};
    for (size_t i = 0; i < OPTIONS; i++)
        spelling_try(&spelling, options[i].name);
    if (spelling.guess != NULL)
        return err_set(err, ERR_INVALID, "there is no option --%s; did you mean --%s?", word,
                       spelling.guess);
    return err_set(err, ERR_INVALID, "there is no option --%s", word);
}

/* Takes the option at ARGV[*INDEX] with its value, which may be the next argument. */
static int take_option(int argc, char **argv, int *index, struct arguments *arguments,
                       struct err *err)
{
    const struct option *option;
    const char *argument = argv[*index];
    const char *value = NULL;
    if (argument[1] == '-') {
        size_t length = strcspn(argument + 2, "=");
        option = find_option(argument + 2, length);
        if (option == NULL)
            return report_unknown(argument + 2, length, err);
        if (argument[2 + length] == '=')
            value = argument + 2 + length + 1;
    } else {
        option = find_letter(argument[1]);
        if (option == NULL)
            return err_set(err, ERR_INVALID, "there is no option -%.1s", argument + 1);
        if (argument[2] != '\0')
            value = argument + 2;
    }
    if (option->value == NULL && value != NULL)
        return err_set(err, ERR_INVALID, "--%s takes no value", option->name);
    if (option->value != NULL && value == NULL) {
        if (*index + 1 >= argc)
            return err_set(err, ERR_INVALID, "--%s needs a value: --%s %s", option->name,
                           option->name, option->value);
        value = argv[++*index];
    }
    if (value != NULL && *value == '\0')
        return err_set(err, ERR_INVALID, "--%s has an empty value; write --%s %s", option->name,
                       option->name, option->value);
    *value_of(arguments, option) = value != NULL ? value : "";
    return 0;
}

/* Sorts the command line into ARGUMENTS. An option given again replaces what was given before. */
static int take_arguments(int argc, char **argv, struct arguments *arguments, struct err *err)
{
    bool options_ended = false;
    for (int i = 1; i < argc; i++) {
        if (!options_ended && strcmp(argv[i], "--") == 0) {
            options_ended = true;
        } else if (!options_ended && argv[i][0] == '-' && argv[i][1] != '\0') {
            int rc = take_option(argc, argv, &i, arguments, err);
            if (rc != 0)
                return rc;
        } else if (arguments->repo != NULL) {
            return err_set(err, ERR_INVALID, "%.100s: there can be one REPO only, and it is %.100s",
                           argv[i], arguments->repo);
        } else {
            arguments->repo = argv[i];
        }
    }
    return 0;
}

/* The first option of GROUP that was given. */
static const struct option *find_given(struct arguments *arguments, enum option_group group)
{
    for (size_t i = 0; i < OPTIONS; i++)
        if (options[i].group == group && *value_of(arguments, &options[i]) != NULL)
            return &options[i];
    return NULL;
}

/* Refuses what does not go together, and what is not there but must be. */
static int check_combination(struct arguments *arguments, struct err *err)
{
    const struct option *tls = find_given(arguments, OPTION_TLS);
    const struct option *server = tls != NULL ? tls : find_given(arguments, OPTION_SERVER);
    if (arguments->config != NULL && server != NULL)
        return err_set(err, ERR_INVALID, "--%s cannot go with --config; write it in the file",
                       server->name);
    if (arguments->config != NULL && arguments->repo != NULL)
        return err_set(err, ERR_INVALID,
                       "%.100s: REPO cannot go with --config; name it as storage in the file",
                       arguments->repo);
    if (arguments->config != NULL)
        return 0;
    if (arguments->check != NULL)
        return err_set(err, ERR_INVALID, "--check needs the file to check: --config FILE --check");
    if (tls != NULL)
        return err_set(err, ERR_INVALID,
                       "--%s: this version has no TLS of its own, and serves nothing in the clear "
                       "where TLS was asked for; put nginx in front (see deploy/nginx) and leave "
                       "out --server-key, --server-cert and --client-certs",
                       tls->name);
    if (server == NULL && arguments->repo == NULL)
        return err_set(err, ERR_INVALID, "nothing to serve; give --config FILE, or --port N REPO");
    if (arguments->port == NULL)
        return err_set(err, ERR_INVALID, "--port is missing; give --port N, such as --port 11001");
    if (arguments->repo == NULL || *arguments->repo == '\0')
        return err_set(err, ERR_INVALID, "REPO is missing, the directory to keep the cache in");
    return 0;
}

static int set_listener(const struct arguments *arguments, struct conf *conf, struct err *err)
{
    struct address address;
    struct conf_listener *listener = conf->listeners;
    const char *host = arguments->bind != NULL ? arguments->bind : "::";
    int64_t port;
    int rc = units_number(arguments->port, &port, err);
    if (rc == 0 && (port < 1 || port > 65535))
        rc = err_set(err, ERR_INVALID, "\"%s\" is no port; give a number from 1 to 65535",
                     arguments->port);
    if (rc != 0)
        return err_wrap(err, "--port");
    bool needs_brackets = *host != '[' && strchr(host, ':') != NULL;
    conf_listener_set_defaults(listener);
    listener->address =
        arena_printf(&conf->arena, needs_brackets ? "[%s]:%d" : "%s:%d", host, (int)port);
    if (listener->address == NULL)
        return err_no_memory(err, "the configuration");
    if (address_parse(listener->address, &address, err) != 0 || address.path != NULL)
        return err_set(err, ERR_INVALID, "--bind: \"%.80s\" is no IP address or host name", host);
    if (arguments->enable_push != NULL) {
        listener->access = CONF_ACCESS_WRITE;
        if (!address.is_loopback)
            (void)fprintf(stderr,
                          "%s--enable-push: warning: anyone who can reach %s can write, without "
                          "TLS; add --bind 127.0.0.1, with nginx in front\n",
                          log_priority(LOG_LEVEL_WARNING), listener->address);
    }
    return 0;
}

static int set_instance(const struct arguments *arguments, struct conf *conf, struct err *err)
{
    struct conf_instance *instance = conf->instances;
    conf_instance_set_defaults(instance);
    instance->storage = arguments->repo;
    instance->index_only = arguments->index_only != NULL;
    if (arguments->quota == NULL)
        return 0;
    bool is_bare = arguments->quota[strspn(arguments->quota, "0123456789")] == '\0';
    int rc = is_bare ? units_number(arguments->quota, &instance->quota, err)
                     : units_size(arguments->quota, "GiB", &instance->quota, err);
    if (rc == 0 && instance->quota == 0)
        rc = err_set(err, ERR_INVALID, "nothing fits in 0 bytes; write a size such as 50GiB");
    if (rc != 0)
        return err_wrap(err, "--quota");
    if (instance->index_only)
        (void)fprintf(
            stderr, "%s--quota: warning: is that of the CAS, and does nothing with --index-only\n",
            log_priority(LOG_LEVEL_WARNING));
    return 0;
}

static int set_log_level(const struct arguments *arguments, struct conf *conf, struct err *err)
{
    static const struct {
        const char *name;
        enum log_level level;
    } levels[] = {
        {"warning", LOG_LEVEL_WARNING}, {"info", LOG_LEVEL_INFO}, {"trace", LOG_LEVEL_TRACE}};
    conf->log_level = LOG_LEVEL_WARNING;
    if (arguments->log_level == NULL)
        return 0;
    for (size_t i = 0; i < sizeof(levels) / sizeof(levels[0]); i++) {
        if (strcmp(levels[i].name, arguments->log_level) == 0) {
            conf->log_level = levels[i].level;
            return 0;
        }
    }
    return err_set(err, ERR_INVALID, "--log-level: \"%.80s\" must be warning, info or trace",
                   arguments->log_level);
}

/* One listener and one instance, as the old server had. */
static int set_conf(const struct arguments *arguments, struct conf *conf, struct err *err)
{
    conf->listeners = arena_calloc(&conf->arena, 1, sizeof(*conf->listeners));
    conf->instances = arena_calloc(&conf->arena, 1, sizeof(*conf->instances));
    if (conf->listeners == NULL || conf->instances == NULL)
        return err_no_memory(err, "the configuration");
    conf->listener_count = 1;
    conf->instance_count = 1;
    int rc = set_log_level(arguments, conf, err);
    if (rc == 0)
        rc = set_listener(arguments, conf, err);
    if (rc == 0)
        rc = set_instance(arguments, conf, err);
    return rc;
}

/* The name of the program without its directory. */
static const char *short_name(const char *program)
{
    const char *slash = strrchr(program, '/');
    return slash != NULL ? slash + 1 : program;
}

int conf_from_arguments(int argc, char **argv, struct conf *conf, enum conf_action *action,
                        struct err *err)
{
    struct arguments arguments = {0};
    conf_set_defaults(conf);
    int rc = take_arguments(argc, argv, &arguments, err);
    if (rc == 0 && (arguments.help != NULL || arguments.version != NULL)) {
        *action = arguments.help != NULL ? CONF_HELP : CONF_VERSION;
        return 0;
    }
    if (rc == 0)
        rc = check_combination(&arguments, err);
    if (rc == 0) {
        *action = arguments.check != NULL ? CONF_CHECK : CONF_SERVE;
        if (arguments.config != NULL)
            return conf_load(arguments.config, conf, err);
        rc = set_conf(&arguments, conf, err);
    }
    if (rc == -ERR_INVALID)
        (void)err_append(err, " (see %.64s --help)", argc > 0 ? short_name(argv[0]) : "assetd");
    return rc;
}

void conf_print_usage(const char *program)
{
    const char *name = short_name(program);
    (void)printf("usage: %s --config FILE [--check]\n"
                 "       %s --port N [OPTION]... REPO\n"
                 "\n"
                 "A Remote Asset index with a content-addressable store. The second form is\n"
                 "that of bst-artifact-server: REPO is the directory to keep the cache in.\n"
                 "\n",
                 name, name);
    for (size_t i = 0; i < OPTIONS; i++) {
        char left[32], letter[8] = "    ";
        const struct option *option = &options[i];
        if (option->letter != '\0')
            (void)snprintf(letter, sizeof(letter), "-%c, ", option->letter);
        (void)snprintf(left, sizeof(left), "--%s%s%s", option->name,
                       option->value != NULL ? " " : "",
                       option->value != NULL ? option->value : "");
        (void)printf("  %s%-20s  %s\n", letter, left, option->help);
    }
    (void)printf("\n"
                 "Exit status: 0 stopped, or nothing wrong; 1 could not start, or the file is\n"
                 "faulty; 2 wrong usage. More is in assetd(8), the file in assetd.yaml(5).\n");
}
