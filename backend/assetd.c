/* SPDX-License-Identifier: Apache-2.0 */
/* assetd: arguments, start, wait for signals, reload, stop. */
#include <errno.h>
#include <malloc.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

#include "base/log.h"
#include "base/notify.h"
#include "conf/carry.h"
#include "conf/conf.h"
#include "conf/print.h"
#include "rpc/queue.h"
#include "service/handlers.h"
#include "service/services.h"
#include "transport/server.h"
#include "transport/tls.h"

enum { EXIT_USAGE = 2 };

/*
 * What serves by one configuration that was taken over while the server ran. Kept to the end: calls
 * may point into it for as long, and so may the configurations that followed.
 */
struct generation {
    struct conf conf;
    struct services services;
    struct generation *former;
};

/* What runs. */
struct parts {
    struct services first;          /* those of the start */
    const struct services *current; /* those that new calls are served by */
    struct generation *reloaded;    /* newest first; NULL: none yet */
    struct server *server;
};

/* In the reverse order of the start. */
static void stop(struct parts *parts)
{
    const struct services *services = parts->current;
    if (services->health != NULL)
        health_stop(services->health);
    server_stop(parts->server, services->conf->shutdown_grace);
    remotes_close(services->remotes);
    pool_free(services->workers);
    instances_close(services->instances);
    health_free(services->health);
    while (parts->reloaded != NULL) {
        struct generation *former = parts->reloaded->former;
        conf_fini(&parts->reloaded->conf);
        free(parts->reloaded);
        parts->reloaded = former;
    }
}

static int start(const struct conf *conf, struct parts *parts, struct err *err)
{
    struct services *first = &parts->first;
    first->conf = conf;
    parts->current = first;
    int rc = pool_new("worker", conf->workers, &first->workers, err);
    if (rc == 0)
        rc = instances_open(conf, first->workers, &first->instances, err);
    if (rc == 0)
        rc = remotes_open(conf, &first->remotes, err);
    if (rc == 0)
        rc = health_new(&first->health, err);
    if (rc == 0)
        rc = server_start(first, notify_watchdog_interval(), &parts->server, err);
    return rc;
}

static void log_serving(const struct parts *parts, const char *event)
{
    const struct conf *conf = parts->current->conf;
    log_info(event, log_str("version", ASSETD_VERSION),
             log_num("instances", (int64_t)conf->instance_count),
             log_num("listeners", (int64_t)conf->listener_count));
}

/* MORE goes behind what is served. */
static void tell_ready(const struct parts *parts, const char *more)
{
    const struct conf *conf = parts->current->conf;
    char status[128];
    (void)snprintf(status, sizeof(status), "%zu instance%s at %zu address%s%s",
                   conf->instance_count, conf->instance_count == 1 ? "" : "s", conf->listener_count,
                   conf->listener_count == 1 ? "" : "es", more);
    notify_ready(status);
}

/* --- reload --- */

/* Remotes go first, as they can be taken back. */
static int follow_instances(const struct services *running, struct conf *conf,
                            struct conf_kept_list *kept, struct services *next, struct err *err)
{
    int rc = remotes_follow(running->remotes, conf, &next->remotes, err);
    if (rc != 0)
        return rc;
    rc = instances_follow(running->instances, conf, kept, &next->instances, err);
    if (rc != 0)
        remotes_unfollow(next->remotes);
    return rc;
}

/*
 * Makes GENERATION, which is zeroed, from the file, and serves by it. On failure nothing has
 * changed, and its configuration is the caller's to give back.
 */
static int follow(struct parts *parts, struct generation *generation, struct err *err)
{
    struct conf_kept_list kept;
    struct conf *conf = &generation->conf;
    const struct services *running = parts->current;
    generation->services = *running;
    generation->services.conf = conf;
    int rc = conf_load_logged(running->conf->file, conf, err);
    conf_kept_init(&kept, &conf->arena);
    if (rc == 0)
        rc = conf_carry(running->conf, conf, &kept, err);
    if (rc == 0)
        rc = follow_instances(running, conf, &kept, &generation->services, err);
    if (rc != 0)
        return rc;
    server_follow(parts->server, &generation->services);
    parts->current = &generation->services;
    log_set_level(conf->log_level);
    for (const struct conf_kept *one = kept.first; one != NULL; one = one->next)
        log_warning("reload-needs-restart", log_str("key", one->key),
                    log_str("running", one->running), log_str("file", one->wanted));
    return 0;
}

static int reload(struct parts *parts, struct err *err)
{
    struct generation *generation = calloc(1, sizeof(*generation));
    if (generation == NULL)
        return err_no_memory(err, "the configuration");
    int rc = follow(parts, generation, err);
    if (rc != 0) {
        conf_fini(&generation->conf);
        free(generation);
        return rc;
    }
    generation->former = parts->reloaded;
    parts->reloaded = generation;
    return 0;
}

/*
 * SIGHUP. Certificates are looked at whatever becomes of the configuration. The service manager is
 * always told that it is over, or it would wait.
 */
static void on_hangup(struct parts *parts)
{
    struct err err;
    notify_reloading();
    server_refresh(parts->server);
    if (parts->current->conf->file == NULL) {
        log_warning("reload-ignored",
                    log_str("reason",
                            "started without --config: there is no file to read again; "
                            "certificates are read again by themselves when they change"));
        tell_ready(parts, "");
    } else if (reload(parts, &err) == 0) {
        log_serving(parts, "reloaded");
        tell_ready(parts, "");
    } else {
        log_error("reload-failed", log_str("reason", err.msg),
                  log_str("answer", "the former configuration is kept"));
        tell_ready(parts, "; the last reload failed, see the log");
    }
}

/* --- signals, and all that is done from start to stop --- */

/*
 * Signals are taken by sigwait in the main thread alone: blocked before there is another thread,
 * they stay blocked in all of them, those of the core included.
 */
static void block_signals(sigset_t *waited)
{
    (void)sigemptyset(waited);
    (void)sigaddset(waited, SIGTERM);
    (void)sigaddset(waited, SIGINT);
    (void)sigaddset(waited, SIGHUP);
    (void)pthread_sigmask(SIG_BLOCK, waited, NULL);
    (void)signal(SIGPIPE, SIG_IGN);
}

/*
 * Each connection and each blob under way takes a descriptor, and a listener of the core's that
 * runs out of them takes no connection ever again: as many as the system lets us have.
 */
static void raise_descriptors(void)
{
    struct rlimit limit;
    if (getrlimit(RLIMIT_NOFILE, &limit) != 0)
        return;
    limit.rlim_cur = limit.rlim_max;
    (void)setrlimit(RLIMIT_NOFILE, &limit);
}

/*
 * Large requests come and go: their memory is the system's again at once, however many threads had
 * a part in them. What is smaller comes from the allocator's arenas, which keep what they once had:
 * with one for each thread, as it would make them, together several times what is in use.
 */
static void bound_memory(void)
{
    (void)mallopt(M_MMAP_THRESHOLD, 256 << 10);
    (void)mallopt(M_ARENA_MAX, 2);
}

static int serve(const struct conf *conf)
{
    struct parts parts = {.server = NULL};
    struct err err;
    sigset_t waited;
    int number;
    log_set_level(conf->log_level);
    raise_descriptors();
    bound_memory();
    rpc_prepare();
    block_signals(&waited);
    if (start(conf, &parts, &err) != 0) {
        log_error("start-failed", log_str("reason", err.msg));
        stop(&parts);
        return EXIT_FAILURE;
    }
    log_serving(&parts, "ready");
    tell_ready(&parts, "");
    while (sigwait(&waited, &number) == 0 && number == SIGHUP)
        on_hangup(&parts);
    log_info("stopping", log_str("signal", strsignal(number)),
             log_num("grace_ms", parts.current->conf->shutdown_grace));
    notify_stopping();
    stop(&parts);
    log_info("stopped", log_str("version", ASSETD_VERSION));
    return rpc_has_lost_listener() ? EXIT_FAILURE : EXIT_SUCCESS;
}

static int refuse(const char *program, const struct err *err)
{
    (void)fprintf(stderr, "%s%s: %s\n", log_priority(LOG_LEVEL_ERROR), program, err->msg);
    return err->code == ERR_INVALID ? EXIT_USAGE : EXIT_FAILURE;
}

static int check(const char *program, const struct conf *conf)
{
    struct err err;
    int rc = remotes_check(conf, &err);
    if (rc == 0)
        rc = tls_check(conf, &err);
    if (rc == 0)
        return EXIT_SUCCESS;
    (void)refuse(program, &err); /* the program was called well, whatever is wrong with a file */
    return EXIT_FAILURE;
}

static int print(const char *program, const struct conf *conf)
{
    struct err err;
    conf_print(conf, stdout);
    if (fflush(stdout) == 0 && ferror(stdout) == 0)
        return EXIT_SUCCESS;
    (void)err_errno(&err, errno, "print the configuration");
    return refuse(program, &err);
}

static int act(const char *program, enum conf_action action, const struct conf *conf)
{
    switch (action) {
    case CONF_HELP:
        conf_print_usage(program);
        return EXIT_SUCCESS;
    case CONF_VERSION:
        (void)printf("assetd %s\n", ASSETD_VERSION);
        return EXIT_SUCCESS;
    case CONF_CHECK:
        return check(program, conf);
    case CONF_PRINT:
        return print(program, conf);
    case CONF_SERVE:
        return serve(conf);
    }
    return EXIT_FAILURE;
}

int main(int argc, char **argv)
{
    struct conf conf = {.listener_count = 0};
    struct err err;
    enum conf_action action;
    const char *program = argc > 0 ? argv[0] : "assetd";
    int rc = conf_from_arguments(argc, argv, &conf, &action, &err);
    int status = rc == 0 ? act(program, action, &conf) : refuse(program, &err);
    conf_fini(&conf);
    return status;
}
