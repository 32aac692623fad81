/* SPDX-License-Identifier: Apache-2.0 */
/* What the command line means: of assetd with a file, of bst-artifact-server without one. */
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "conf/address.h"
#include "conf/conf_private.h"
#include "conf/options.h"
#include "conf/units.h"
#include "conf/yaml.h"

static void warn(const char *option, const char *reason)
{
    (void)fprintf(stderr, "%s--%s: warning: %s\n", log_priority(LOG_LEVEL_WARNING), option, reason);
}

/* --- what goes together --- */

/* Refuses what is for a command line without a file. */
static int check_with_file(const struct arguments *arguments, struct err *err)
{
    const char *given = options_find_given(arguments, OPTION_SERVER);
    if (given != NULL)
        return err_set(err, ERR_INVALID, "--%s cannot go with --config; write it in the file",
                       given);
    if (arguments->repo != NULL)
        return err_set(err, ERR_INVALID,
                       "%.100s: REPO cannot go with --config; name it as storage in the file",
                       arguments->repo);
    if (arguments->check != NULL && arguments->print_config != NULL)
        return err_set(err, ERR_INVALID,
                       "--check and --print-config cannot go together; --print-config says what "
                       "is wrong as well");
    return 0;
}

static int check_tls(const struct arguments *arguments, struct err *err)
{
    if ((arguments->server_key == NULL) != (arguments->server_cert == NULL))
        return err_set(err, ERR_INVALID,
                       "--server-key and --server-cert are both needed for TLS; give --server-%s "
                       "FILE as well",
                       arguments->server_key == NULL ? "key" : "cert");
    if (arguments->client_certs != NULL && arguments->server_key == NULL)
        return err_set(err, ERR_INVALID,
                       "--client-certs is for TLS; give --server-key FILE and --server-cert FILE "
                       "as well");
    return 0;
}

/* Refuses what does not go together, and what is not there but must be. */
static int check_combination(const struct arguments *arguments, struct err *err)
{
    if (arguments->config != NULL)
        return check_with_file(arguments, err);
    if (arguments->check != NULL)
        return err_set(err, ERR_INVALID, "--check needs the file to check: --config FILE --check");
    if (options_find_given(arguments, OPTION_SERVER) == NULL && arguments->repo == NULL)
        return err_set(err, ERR_INVALID, "nothing to serve; give --config FILE, or --port N REPO");
    if (arguments->port == NULL)
        return err_set(err, ERR_INVALID, "--port is missing; give --port N, such as --port 11001");
    if (arguments->repo == NULL || *arguments->repo == '\0')
        return err_set(err, ERR_INVALID, "REPO is missing, the directory to keep the cache in");
    return check_tls(arguments, err);
}

/* --- what it means --- */

static int set_address(const struct arguments *arguments, struct conf *conf,
                       struct address *address, struct err *err)
{
    const char *host = arguments->bind != NULL ? arguments->bind : "::";
    int64_t port;
    int rc = units_number(arguments->port, &port, err);
    if (rc == 0 && (port < 1 || port > 65535))
        rc = err_set(err, ERR_INVALID, "\"%s\" is no port; give a number from 1 to 65535",
                     arguments->port);
    if (rc != 0)
        return err_wrap(err, "--port");
    bool needs_brackets = *host != '[' && strchr(host, ':') != NULL;
    const char *text =
        arena_printf(&conf->arena, needs_brackets ? "[%s]:%d" : "%s:%d", host, (int)port);
    if (text == NULL)
        return err_no_memory(err, "the configuration");
    conf->listeners->address = text;
    if (address_parse(text, address, err) != 0 || address->path != NULL)
        return err_set(err, ERR_INVALID, "--bind: \"%.80s\" is no IP address or host name", host);
    return 0;
}

static int set_tls(const struct arguments *arguments, struct conf *conf, struct err *err)
{
    if (arguments->server_key == NULL)
        return 0;
    struct conf_tls *tls = arena_alloc(&conf->arena, sizeof(*tls));
    if (tls == NULL)
        return err_no_memory(err, "the configuration");
    *tls = (struct conf_tls){.certificate = arguments->server_cert,
                             .key = arguments->server_key,
                             .client_ca = arguments->client_certs};
    conf_tls_set_defaults(tls);
    conf->listeners->tls = tls;
    return 0;
}

static int set_listener(const struct arguments *arguments, struct conf *conf, struct err *err)
{
    struct address address;
    struct conf_listener *listener = conf->listeners;
    conf_listener_set_defaults(listener);
    int rc = set_address(arguments, conf, &address, err);
    if (rc == 0)
        rc = set_tls(arguments, conf, err);
    if (rc != 0 || arguments->enable_push == NULL)
        return rc;
    listener->access = CONF_ACCESS_WRITE;
    if (arguments->client_certs == NULL && !address.is_loopback) {
        char reason[512];
        (void)snprintf(reason, sizeof(reason),
                       "anyone who can reach %s can write; add %s, or --bind 127.0.0.1 with nginx "
                       "in front",
                       listener->address,
                       arguments->server_key != NULL
                           ? "--client-certs FILE"
                           : "--server-key, --server-cert and --client-certs");
        warn("enable-push", reason);
    }
    return 0;
}

static int set_quota(const char *text, struct conf_instance *instance, struct err *err)
{
    int64_t quota = 0;
    if (text == NULL)
        return 0;
    int rc = units_bytes(text, &quota, err);
    if (rc == 0 && quota == 0)
        rc = err_set(err, ERR_INVALID, "nothing fits in 0 bytes; write a size such as 50GiB");
    if (rc != 0)
        return err_wrap(err, "--quota");
    if (instance->index_only)
        warn("quota", "is that of the CAS, and does nothing with --index-only");
    else
        instance->quota = quota;
    return 0;
}

static int set_instance(const struct arguments *arguments, struct conf *conf, struct err *err)
{
    struct conf_instance *instance = conf->instances;
    conf_instance_set_defaults(instance);
    instance->storage = arguments->repo;
    instance->index_only = arguments->index_only != NULL;
    return set_quota(arguments->quota, instance, err);
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

/* --- paths --- */

/* Refuses a path that no file can say. */
static int check_printable(const char *path, struct err *err)
{
    return yaml_can_hold(path)
               ? 0
               : err_set(err, ERR_INVALID,
                         "--print-config: \"%.200s\" cannot stand in a file; choose a path of "
                         "UTF-8 without line breaks and other control characters",
                         path);
}

/* The directory that assetd was started in, if it can be found again by that path. */
static const char *find_directory(char directory[PATH_MAX])
{
    struct stat here, there;
    return getcwd(directory, PATH_MAX) != NULL && stat(".", &here) == 0 &&
                   stat(directory, &there) == 0 && here.st_dev == there.st_dev &&
                   here.st_ino == there.st_ino
               ? directory
               : NULL;
}

/*
 * Makes PATH one that says by itself what is meant, in the log as in a file. Links in it are left:
 * who set them may mean to turn them.
 */
static int make_whole(const char **path, const char *directory, struct conf *conf, struct err *err)
{
    while (strncmp(*path, "./", 2) == 0)
        *path += 2 + strspn(*path + 2, "/");
    bool is_here = **path == '\0' || strcmp(*path, ".") == 0;
    const char *slash = is_here || strcmp(directory, "/") == 0 ? "" : "/";
    *path = arena_printf(&conf->arena, "%s%s%s", directory, slash, is_here ? "" : *path);
    return *path != NULL ? 0 : err_no_memory(err, "the configuration");
}

/* A server can do with paths as they were given; what is printed is for anywhere. */
static int make_all_whole(struct arguments *arguments, struct conf *conf, struct err *err)
{
    const char **paths[] = {&arguments->repo, &arguments->server_key, &arguments->server_cert,
                            &arguments->client_certs};
    char buffer[PATH_MAX];
    const char *directory = find_directory(buffer);
    bool prints = arguments->print_config != NULL;
    int rc = 0;
    for (size_t i = 0; rc == 0 && i < sizeof(paths) / sizeof(paths[0]); i++) {
        if (*paths[i] == NULL)
            continue;
        if (prints && (rc = check_printable(*paths[i], err)) != 0)
            return rc;
        if (**paths[i] == '/')
            continue;
        if (directory != NULL)
            rc = make_whole(paths[i], directory, conf, err);
        else if (prints)
            rc = err_set(err, ERR_PRECONDITION,
                         "--print-config: cannot find the directory that \"%.200s\" is in; give "
                         "its whole path",
                         *paths[i]);
    }
    return rc;
}

/* --- all of it --- */

/* One listener and one instance, as the old server had. */
static int set_conf(struct arguments *arguments, struct conf *conf, struct err *err)
{
    conf->listeners = arena_calloc(&conf->arena, 1, sizeof(*conf->listeners));
    conf->instances = arena_calloc(&conf->arena, 1, sizeof(*conf->instances));
    if (conf->listeners == NULL || conf->instances == NULL)
        return err_no_memory(err, "the configuration");
    conf->listener_count = 1;
    conf->instance_count = 1;
    int rc = make_all_whole(arguments, conf, err);
    if (rc == 0)
        rc = set_log_level(arguments, conf, err);
    if (rc == 0)
        rc = set_listener(arguments, conf, err);
    if (rc == 0)
        rc = set_instance(arguments, conf, err);
    return rc;
}

static enum conf_action choose_action(const struct arguments *arguments)
{
    if (arguments->help != NULL)
        return CONF_HELP;
    if (arguments->version != NULL)
        return CONF_VERSION;
    if (arguments->print_config != NULL)
        return CONF_PRINT;
    return arguments->check != NULL ? CONF_CHECK : CONF_SERVE;
}

int conf_from_arguments(int argc, char **argv, struct conf *conf, enum conf_action *action,
                        struct err *err)
{
    struct arguments arguments = {0};
    conf_set_defaults(conf);
    int rc = options_take(argc, argv, &arguments, err);
    if (rc == 0) {
        *action = choose_action(&arguments);
        if (*action == CONF_HELP || *action == CONF_VERSION)
            return 0;
        rc = check_combination(&arguments, err);
    }
    if (rc == 0 && arguments.config != NULL)
        return conf_load(arguments.config, conf, err);
    if (rc == 0)
        rc = set_conf(&arguments, conf, err);
    if (rc == -ERR_INVALID)
        (void)err_append(err, " (see %.64s --help)",
                         argc > 0 ? options_program(argv[0]) : "assetd");
    return rc;
}
