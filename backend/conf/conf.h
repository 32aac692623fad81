/* SPDX-License-Identifier: Apache-2.0 */
/* The configuration: what the YAML file, or the command line, says. */
#ifndef ASSETD_CONF_CONF_H
#define ASSETD_CONF_CONF_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/types.h>

#include "base/arena.h"
#include "base/digest.h"
#include "base/err.h"
#include "base/log.h"

/* What a listener lets in; each includes those before it. */
enum conf_access { CONF_ACCESS_READ, CONF_ACCESS_WRITE, CONF_ACCESS_ADMIN };

/* Who is meant: anyone, or those of a list. */
struct conf_names {
    bool any;
    const char **names; /* unless any */
    size_t count;
};

/* Whether NAME is meant. */
bool conf_names_include(const struct conf_names *names, const char *name);

/* What clients are asked for at a listener that does TLS itself. */
enum conf_client {
    CONF_CLIENT_ANYONE,  /* no certificate */
    CONF_CLIENT_REQUEST, /* who sends none is nobody, and may read */
    CONF_CLIENT_REQUIRE  /* who sends none is refused */
};

/* TLS of a listener without a proxy. Files of PEM, read again when they change. */
struct conf_tls {
    const char *certificate; /* the server's, with its chain behind it */
    const char *key;
    const char *client_ca; /* the certificates of clients, each itself; NULL: CONF_CLIENT_ANYONE */
    enum conf_client client; /* default with client_ca: CONF_CLIENT_REQUIRE */
};

struct conf_listener {
    const char *address; /* unix:/PATH, HOST:PORT or [HOST]:PORT, as it was written */
    const char *path;    /* what follows "unix:"; NULL: TCP */
    enum conf_access access;
    struct conf_names instances; /* default: any */
    mode_t socket_mode;          /* default 0660 */
    const char *socket_group;    /* as it was written; NULL: the group that the process has */
    gid_t socket_gid;            /* looked up */
    const char *identity;        /* metadata key in lower case that names the client; NULL: none */
    const struct conf_tls *tls;  /* NULL: in the clear */
};

/* What a fetch is answered while the external CAS cannot be asked. */
enum conf_on_unavailable { CONF_ON_UNAVAILABLE_FAIL, CONF_ON_UNAVAILABLE_SERVE };

/* The external CAS against which the answers of an index-only instance are checked. */
struct conf_cas {
    const char *address;         /* grpc://HOST:PORT, grpcs://HOST:PORT or unix:/PATH */
    const char *instance_name;   /* default: that of the instance */
    const char *tls_ca;          /* file of PEM certificates; NULL: those of the system */
    const char *tls_certificate; /* files of PEM, both or neither; NULL: none */
    const char *tls_key;
    const char *token_file; /* holds a bearer token; NULL: none */
    int64_t trust;          /* milliseconds that what was found whole is; 0: asked each time */
    int64_t timeout;        /* milliseconds for the answer to one call */
    unsigned connections;   /* over which calls are spread */
    enum conf_on_unavailable on_unavailable;
};

struct conf_instance {
    const char *name; /* may be empty, may hold slashes */
    const char *storage;
    bool index_only;
    const struct conf_cas *cas;               /* of index-only instances; NULL: none is asked */
    int64_t quota;                            /* bytes of the CAS; default 10 GB */
    int64_t index_quota;                      /* bytes of the asset index; default 1 GiB */
    int64_t expire_after;                     /* milliseconds of not being fetched; 0: never */
    enum digest_function digest_functions[4]; /* default SHA-256 */
    size_t digest_function_count;
    struct conf_names push; /* default: whoever the listener lets write */
    struct conf_names pull; /* default: whoever the listener lets read */
};

/* Bytes of the largest message that a configuration can let in. */
enum { CONF_MESSAGE_MAX = 1 << 30 };

/*
 * Owns all that it points to, in its arena, but for what it has from the one before it
 * (conf/carry.h). Read only once it is served by; any thread.
 */
struct conf {
    struct arena arena;
    const char *file; /* where it was read, in the caller's memory; NULL: the command line */
    struct conf_listener *listeners;
    size_t listener_count;
    struct conf_instance *instances;
    size_t instance_count;
    int64_t message_limit;       /* bytes of one message received; default 16 MiB */
    unsigned stream_limit;       /* concurrent streams of a connection; default 256 */
    unsigned pollers;            /* threads that serve the network; default 1 */
    unsigned workers;            /* threads that do disk work; default 8 */
    int64_t shutdown_grace;      /* milliseconds; default 5 s */
    const char *metrics_address; /* HOST:PORT; NULL: none */
    enum log_level log_level;
};

/*
 * Reads the YAML file PATH into CONF, which the caller gives to conf_fini afterwards, on failure
 * too. Every fault found is printed to stderr as FILE:LINE:COLUMN: PATH: reason, and warnings as
 * FILE:LINE:COLUMN: PATH: warning: reason, in the order of the file; the function goes on after a
 * fault, so that one run shows all of them. Where the journal has stderr, each line has its
 * priority in front. On failure ERR counts the faults, as ERR_PRECONDITION; where the file cannot
 * be read nothing is printed, and ERR says why.
 */
int conf_load(const char *path, struct conf *conf, struct err *err);

/* The same, with the faults printed to OUT. */
int conf_load_to(const char *path, FILE *out, struct conf *conf, struct err *err);

/* The same, with each fault a line of the log: `conf-fault` or `conf-warning`. */
int conf_load_logged(const char *path, struct conf *conf, struct err *err);

/* The defaults, of all but the lists; what has none is zero. */
void conf_set_defaults(struct conf *conf);
void conf_listener_set_defaults(struct conf_listener *listener);
void conf_instance_set_defaults(struct conf_instance *instance);

/* As a file has them; NULL for CONF_CLIENT_ANYONE, which it says by leaving client-ca out. */
const char *conf_access_name(enum conf_access access);
const char *conf_client_name(enum conf_client client);

/* Whether clients have an identity at LISTENER, by which they can be on lists. */
bool conf_listener_tells_identity(const struct conf_listener *listener);

/* Whether FUNCTION is among the digest functions of INSTANCE. */
bool conf_instance_serves(const struct conf_instance *instance, enum digest_function function);

/*
 * Whether a listener that serves INSTANCE, which is of CONF, lets writes in: then this process may
 * write to its storage.
 */
bool conf_instance_is_written(const struct conf *conf, const struct conf_instance *instance);

/* Gives back what CONF holds. A zeroed conf is fine. */
void conf_fini(struct conf *conf);

/* What the command line asks for. */
enum conf_action { CONF_SERVE, CONF_CHECK, CONF_PRINT, CONF_HELP, CONF_VERSION };

/*
 * Takes the command line, that of `assetd --config FILE [--check]` and that of bst-artifact-server
 * alike, and fills CONF from it (by conf_load where a file is named; CONF_HELP and CONF_VERSION
 * leave it empty; with CONF_PRINT all paths in it are whole ones). Long options take `--port 1` and
 * `--port=1`. Warnings go to stderr. The caller gives CONF to conf_fini, on failure too; its
 * strings point into ARGV as well. ERR_INVALID is a usage error (exit status 2), anything else a
 * configuration that cannot be used (exit status 1). ACTION is set unless it is a usage error.
 */
int conf_from_arguments(int argc, char **argv, struct conf *conf, enum conf_action *action,
                        struct err *err);

/* Prints the text of --help to stdout, for the name that the program was called by. */
void conf_print_usage(const char *program);

#endif
