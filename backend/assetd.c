/* SPDX-License-Identifier: Apache-2.0 */
/* assetd: arguments, start, wait for a signal, stop. */
#include <malloc.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

#include "base/log.h"
#include "conf/conf.h"
#include "service/handlers.h"
#include "service/services.h"
#include "transport/server.h"

enum { EXIT_USAGE = 2 };

/* What runs, in the order in which it is started; stopped in the reverse one. */
struct parts {
    struct pool *workers;
    struct instances *instances;
    struct health *health;
    struct services services;
    struct server *server;
};

static void stop(struct parts *parts, int64_t grace)
{
    if (parts->health != NULL)
        health_stop(parts->health);
    server_stop(parts->server, grace);
    pool_free(parts->workers);
    instances_close(parts->instances);
    health_free(parts->health);
}

static int start(const struct conf *conf, struct parts *parts, struct err *err)
{
    int rc = pool_new("worker", conf->workers, &parts->workers, err);
    if (rc == 0)
        rc = instances_open(conf, parts->workers, &parts->instances, err);
    if (rc == 0)
        rc = health_new(&parts->health, err);
    if (rc != 0)
        return rc;
    parts->services = (struct services){.conf = conf,
                                        .instances = parts->instances,
                                        .workers = parts->workers,
                                        .health = parts->health};
    return server_start(&parts->services, &parts->server, err);
}

/*
 * Signals are taken by sigwait in the main thread alone: blocked before there is another thread,
 * they stay blocked in all of them, those of the core included.
 */
static void block_signals(sigset_t *waited)
{
    (void)sigemptyset(waited);
    (void)sigaddset(waited, SIGTERM);
    (void)sigaddset(waited, SIGINT);
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
    struct parts parts = {.workers = NULL};
    struct err err;
    sigset_t waited;
    int number;
    log_set_level(conf->log_level);
    raise_descriptors();
    bound_memory();
    block_signals(&waited);
    if (start(conf, &parts, &err) != 0) {
        log_error("start-failed", log_str("reason", err.msg));
        stop(&parts, 0);
        return EXIT_FAILURE;
    }
    log_info("ready", log_str("version", ASSETD_VERSION),
             log_num("instances", (int64_t)conf->instance_count),
             log_num("listeners", (int64_t)conf->listener_count));
    (void)sigwait(&waited, &number);
    log_info("stopping", log_str("signal", strsignal(number)),
             log_num("grace_ms", conf->shutdown_grace));
    stop(&parts, conf->shutdown_grace);
    log_info("stopped", log_str("version", ASSETD_VERSION));
    return EXIT_SUCCESS;
}

static int refuse(const char *program, const struct err *err)
{
    (void)fprintf(stderr, "%s: %s\n", program, err->msg);
    return err->code == ERR_INVALID ? EXIT_USAGE : EXIT_FAILURE;
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
        return EXIT_SUCCESS;
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
