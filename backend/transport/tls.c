/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The core asks for the certificates at each new connection, by a function of ours; it has no such
 * question about a client. It takes whom one of the certificates in the file has signed, as the
 * file's are its authorities. That a client's own stands there is seen when it calls.
 */
#include "transport/tls.h"

#include <assert.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/log.h"
#include "credential/certificate.h"
#include "credential/pair_check.h"
#include "transport/tls_files.h"

enum {
    LOOK_INTERVAL = 1000, /* milliseconds between looks of calls, and at what was refused */
    SETTLE = 1000,        /* milliseconds that what may be half of a change is left alone */
    FRESH = 2000,         /* milliseconds: the coarsest clock of a file system */
    TELL_INTERVAL = 1000, /* milliseconds between lines of the log about clients */
    DAY = 24 * 60 * 60,   /* seconds */
};

/* Files that are taken over together, or not. All but the configuration is under the look lock. */
struct part {
    struct conf_tls conf;   /* names these files, and no others */
    const char *stays;      /* for people: what a broken one of them leaves as it was */
    struct tls_look judged; /* what the files looked like when they were taken, or refused */
    bool is_good;           /* they were taken */
    int64_t next_try;       /* else, when they are read again: clock_steady */
    bool is_told;           /* the log has it that they are not taken */
    struct tls_look told;   /* what they looked like then */
    struct tls_files files; /* in force: changed under both locks, read under either */
};

struct tls {
    const struct conf_listener *listener;
    const struct conf_tls *conf;
    pthread_mutex_t look_lock; /* held while files are read */
    struct part pair;          /* of the server */
    struct part clients;
    bool is_handed;                /* the core has what is in force; under the look lock */
    atomic_int_fast64_t next_look; /* of calls: clock_steady */
    pthread_mutex_t lock;          /* for what calls read: never held for long */
    atomic_int_fast64_t next_tell; /* of a client that was refused: clock_steady */
    atomic_uint_fast64_t untold;   /* how many were refused since */
};

bool tls_knows_clients(const struct tls *tls)
{
    return tls->conf->client != CONF_CLIENT_ANYONE;
}

/* --- looking at the files: under the look lock --- */

static void log_pair(const struct tls *tls, const struct tls_files *files)
{
    if (files->not_after <= certificate_now())
        log_warning("tls-certificate-expired", log_str("listener", tls->listener->address),
                    log_str("file", tls->conf->certificate),
                    log_str("answer", "clients refuse it: put a new one, and its key, in place"));
}

static void log_clients(const struct tls *tls, const struct members *members)
{
    const char *address = tls->listener->address;
    if (members->left_out != 0)
        log_warning("tls-clients-left-out", log_str("listener", address),
                    log_num("count", members->left_out), log_str("first", members->note));
    if (members->count == 0 && tls->conf->client_ca != NULL)
        log_warning("tls-no-clients", log_str("listener", address),
                    log_str("file", tls->conf->client_ca),
                    log_str("answer", "no certificate is let in: add one by `assetctl cert add`"));
}

/* What is in force now that WHAT was read. */
static void log_taken(const struct tls *tls, const char *what)
{
    int64_t left = tls->pair.files.not_after - certificate_now();
    log_info("tls-files", log_str("listener", tls->listener->address), log_str("read", what),
             log_num("clients", (int64_t)tls->clients.files.members.count),
             log_num("certificate_days", left > 0 ? left / DAY : -1));
}

static void log_part(const struct tls *tls, const struct part *part)
{
    if (part == &tls->pair)
        log_pair(tls, &part->files);
    else
        log_clients(tls, &part->files.members);
}

static void log_kept(const struct tls *tls, struct part *part, const struct tls_look *look,
                     const struct err *reason)
{
    if (part->is_told && tls_look_is_same(&part->told, look))
        return;
    part->is_told = true;
    part->told = *look;
    log_warning("tls-files-kept", log_str("listener", tls->listener->address),
                log_str("reason", reason->msg), log_str("answer", part->stays));
}

static void take(struct tls *tls, struct part *part, struct tls_files *files)
{
    (void)pthread_mutex_lock(&tls->lock);
    struct tls_files former = part->files;
    part->files = *files;
    (void)pthread_mutex_unlock(&tls->lock);
    *files = (struct tls_files){.not_after = 0};
    tls_files_fini(&former);
    tls->is_handed = false;
}

/* Whether it may be half of a change: one file of two, or one that is being written in place. */
static bool is_half(const struct part *part, const struct tls_files *files, int rc)
{
    return rc != 0 || (files->members.count == 0 && part->conf.client_ca != NULL);
}

/* Of what was read while the files looked as SEEN; RC is how that went. */
static void judge(struct tls *tls, struct part *part, const struct tls_look *seen,
                  struct tls_files *files, int rc, int64_t age, struct err *err)
{
    bool is_new = rc != 0 || !digest_equal(&files->digest, &part->files.digest);
    if (rc == 0 && is_new)
        rc = tls_files_judge(&part->conf, files, err);
    if (is_new && is_half(part, files, rc) && tls_look_is_fresh(seen, age))
        return;
    /* What has just changed may change again without looking other: it is read once more. */
    if (!tls_look_is_fresh(seen, FRESH))
        part->judged = *seen;
    part->is_good = rc == 0;
    part->next_try = clock_steady() + LOOK_INTERVAL;
    if (rc != 0) {
        log_kept(tls, part, seen, err);
        return;
    }
    if (is_new)
        take(tls, part, files);
    if (is_new || part->is_told) {
        log_taken(tls, part == &tls->pair ? "certificate and key" : "clients");
        log_part(tls, part);
    }
    part->is_told = false;
}

/* AGE: milliseconds for which what may be half of a change is left alone. */
static void look_at_part(struct tls *tls, struct part *part, int64_t age)
{
    struct tls_look before, after;
    struct tls_files files;
    struct err err;
    tls_look_take(&before, &part->conf);
    /* What was refused may have been good, and memory short: OpenSSL does not always tell them. */
    if (tls_look_is_same(&before, &part->judged) &&
        (part->is_good || clock_steady() < part->next_try))
        return;
    int rc = tls_files_read(&part->conf, &files, &err);
    tls_look_take(&after, &part->conf);
    if (tls_look_is_same(&before, &after))
        judge(tls, part, &after, &files, rc, age, &err);
    tls_files_fini(&files);
}

/* A broken pair delays no revocation, nor a broken list a new pair. */
static void look(struct tls *tls, int64_t age)
{
    look_at_part(tls, &tls->clients, age);
    look_at_part(tls, &tls->pair, age);
}

void tls_refresh(struct tls *tls)
{
    (void)pthread_mutex_lock(&tls->look_lock);
    look(tls, 0);
    (void)pthread_mutex_unlock(&tls->look_lock);
}

/* For calls: one of them looks, the others go on with what is in force. */
static void look_at_times(struct tls *tls)
{
    int64_t now = clock_steady();
    int_fast64_t next = atomic_load_explicit(&tls->next_look, memory_order_relaxed);
    if (now < next || !atomic_compare_exchange_strong(&tls->next_look, &next, now + LOOK_INTERVAL))
        return;
    if (pthread_mutex_trylock(&tls->look_lock) != 0)
        return;
    look(tls, SETTLE);
    (void)pthread_mutex_unlock(&tls->look_lock);
}

/* --- for the core --- */

/*
 * What the core is to be shown next. It ends the process where there are no authorities: the
 * server's own certificate stands in for them, whose owner is nobody to the calls.
 */
static grpc_ssl_server_certificate_config *make_config(const struct tls *tls)
{
    const struct tls_files *pair = &tls->pair.files;
    const struct text *clients = &tls->clients.files.members.roots;
    const struct text *roots = clients->size > 1 ? clients : &pair->leaf;
    grpc_ssl_pem_key_cert_pair texts = {.private_key = pair->key.bytes,
                                        .cert_chain = pair->chain.bytes};
    return grpc_ssl_server_certificate_config_create(roots->bytes, &texts, 1);
}

/* Called by the core for each new connection, one at a time for each server. */
static grpc_ssl_certificate_config_reload_status fetch(void *context,
                                                       grpc_ssl_server_certificate_config **config)
{
    struct tls *tls = context;
    grpc_ssl_certificate_config_reload_status status = GRPC_SSL_CERTIFICATE_CONFIG_RELOAD_UNCHANGED;
    (void)pthread_mutex_lock(&tls->look_lock);
    look(tls, SETTLE);
    if (!tls->is_handed) {
        *config = make_config(tls);
        tls->is_handed = true;
        status = GRPC_SSL_CERTIFICATE_CONFIG_RELOAD_NEW;
    }
    (void)pthread_mutex_unlock(&tls->look_lock);
    return status;
}

grpc_server_credentials *tls_credentials(struct tls *tls)
{
    static const grpc_ssl_client_certificate_request_type requests[] = {
        [CONF_CLIENT_ANYONE] = GRPC_SSL_DONT_REQUEST_CLIENT_CERTIFICATE,
        [CONF_CLIENT_REQUEST] = GRPC_SSL_REQUEST_CLIENT_CERTIFICATE_AND_VERIFY,
        [CONF_CLIENT_REQUIRE] = GRPC_SSL_REQUEST_AND_REQUIRE_CLIENT_CERTIFICATE_AND_VERIFY,
    };
    return grpc_ssl_server_credentials_create_with_options(
        grpc_ssl_server_credentials_create_options_using_config_fetcher(requests[tls->conf->client],
                                                                        fetch, tls));
}

/* --- who calls --- */

/* One line a second at most: who is refused may go on calling. */
static void log_refused(struct tls *tls, const struct certificate *certificate, const char *reason)
{
    int64_t now = clock_steady();
    int_fast64_t next = atomic_load(&tls->next_tell);
    if (!log_enabled(LOG_LEVEL_INFO))
        return;
    if (now < next ||
        !atomic_compare_exchange_strong(&tls->next_tell, &next, now + TELL_INTERVAL)) {
        (void)atomic_fetch_add(&tls->untold, 1);
        return;
    }
    log_info("client-refused", log_str("listener", tls->listener->address),
             log_str("fingerprint", certificate->sha256), log_str("subject", certificate->names),
             log_str("reason", reason), log_num("more", (int64_t)atomic_exchange(&tls->untold, 0)));
}

static int refuse(struct tls *tls, const grpc_auth_property *pem, bool is_member, struct err *err)
{
    struct certificate certificate;
    int rc = certificate_read(pem->value, pem->value_length, &certificate, err);
    if (rc != 0)
        return rc;
    log_refused(tls, &certificate, is_member ? "expired" : "not in the file of clients");
    if (is_member)
        return err_set(err, ERR_UNAUTHENTICATED,
                       "this client certificate has expired (SHA-256 fingerprint %s): make a new "
                       "one, and have the server's operator add it to authorized.crt by `assetctl "
                       "cert add`",
                       certificate.sha256);
    return err_set(err, ERR_UNAUTHENTICATED,
                   "this client certificate is not registered here (SHA-256 fingerprint %s): it "
                   "must itself stand in authorized.crt, whoever signed it; the server's operator "
                   "can add it by `assetctl cert add`",
                   certificate.sha256);
}

/* Who has the certificate PEM. */
static int find(struct tls *tls, const grpc_auth_property *pem, struct arena *arena,
                const char **name, enum role *role, struct err *err)
{
    (void)pthread_mutex_lock(&tls->lock);
    const struct member *member =
        members_find(&tls->clients.files.members, pem->value, pem->value_length);
    bool is_member = member != NULL,
         is_current = is_member && member->not_after >= certificate_now();
    if (is_current) {
        *name = arena_strdup(arena, member->name);
        *role = member->role;
    }
    (void)pthread_mutex_unlock(&tls->lock);
    if (!is_current)
        return refuse(tls, pem, is_member, err);
    return *name != NULL ? 0 : err_no_memory(err, "a call");
}

int tls_identify(struct tls *tls, grpc_call *call, struct arena *arena, const char **name,
                 enum role *role, struct err *err)
{
    *name = "";
    *role = ROLE_READ;
    look_at_times(tls);
    grpc_auth_context *context = grpc_call_auth_context(call);
    grpc_auth_property_iterator found =
        grpc_auth_context_find_properties_by_name(context, GRPC_X509_PEM_CERT_PROPERTY_NAME);
    const grpc_auth_property *pem = grpc_auth_property_iterator_next(&found);
    int rc = 0;
    if (pem != NULL)
        rc = find(tls, pem, arena, name, role, err);
    else if (tls->conf->client == CONF_CLIENT_REQUIRE) /* the handshake saw to it */
        rc = err_set(err, ERR_UNAUTHENTICATED, "this listener takes client certificates alone");
    grpc_auth_context_release(context);
    return rc;
}

/* --- begin and end --- */

static int open_part(struct part *part, struct err *err)
{
    part->is_good = true; /* where no files are named there is nothing to look at */
    int rc = tls_files_read(&part->conf, &part->files, err);
    return rc == 0 ? tls_files_judge(&part->conf, &part->files, err) : rc;
}

int tls_open(const struct conf_listener *listener, struct tls **out, struct err *err)
{
    const struct conf_tls *conf = listener->tls;
    struct tls *tls = calloc(1, sizeof(*tls));
    if (tls == NULL)
        return err_no_memory(err, "TLS");
    pair_check_begin();
    tls->listener = listener;
    tls->conf = conf;
    tls->pair.conf = (struct conf_tls){.certificate = conf->certificate, .key = conf->key};
    tls->pair.stays = "what was read before stays in force; the list of clients is another thing: "
                      "who is taken out of it is refused";
    tls->clients.conf = (struct conf_tls){.client_ca = conf->client_ca};
    tls->clients.stays = "what was read before stays in force; nobody is revoked, not by removing "
                         "the file either";
    (void)pthread_mutex_init(&tls->look_lock, NULL);
    (void)pthread_mutex_init(&tls->lock, NULL);
    int rc = open_part(&tls->pair, err);
    if (rc == 0)
        rc = open_part(&tls->clients, err);
    if (rc != 0) {
        tls_close(tls);
        return err_wrap(err, "TLS of listener %s", listener->address);
    }
    log_taken(tls, "all");
    log_part(tls, &tls->pair);
    log_part(tls, &tls->clients);
    *out = tls;
    return 0;
}

void tls_close(struct tls *tls)
{
    if (tls == NULL)
        return;
    tls_files_fini(&tls->pair.files);
    tls_files_fini(&tls->clients.files);
    (void)pthread_mutex_destroy(&tls->lock);
    (void)pthread_mutex_destroy(&tls->look_lock);
    free(tls);
}

int tls_check(const struct conf *conf, struct err *err)
{
    pair_check_begin();
    for (size_t i = 0; i < conf->listener_count; i++) {
        const struct conf_listener *listener = &conf->listeners[i];
        int rc = listener->tls != NULL ? tls_files_check(listener->tls, err) : 0;
        if (rc != 0)
            return err_wrap(err, "TLS of listener %s", listener->address);
    }
    return 0;
}
