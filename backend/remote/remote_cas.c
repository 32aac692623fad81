/* SPDX-License-Identifier: Apache-2.0 */
/* An external CAS: opening and closing, what is trusted, figures. */
#include "remote/remote_cas.h"

#include <assert.h>
#include <stdlib.h>

#include "remote/remote_private.h"

/* Bytes of memory for what is known of the content of one CAS. */
enum { MEMORY_LIMIT = 16 << 20 };

static void free_cas(struct remote_cas *cas)
{
    assert(cas->begun == 0);
    remote_capabilities_fini(cas);
    tree_directories_fini(&cas->source.directories);
    remote_trust_fini(&cas->trust);
    remote_gate_fini(&cas->source.large);
    (void)pthread_cond_destroy(&cas->left);
    (void)pthread_mutex_destroy(&cas->lock);
    free(cas);
}

int remote_cas_open(const struct conf_cas *conf, const char *label, struct rpc_queue *queue,
                    struct remote_cas **out, struct err *err)
{
    struct remote_cas *cas = calloc(1, sizeof(*cas));
    if (cas == NULL)
        return err_no_memory(err, "an external CAS");
    cas->conf = conf;
    cas->label = label;
    cas->waiting_end = &cas->waiting;
    (void)pthread_mutex_init(&cas->lock, NULL);
    (void)pthread_cond_init(&cas->left, NULL);
    remote_gate_init(&cas->source.large);
    int rc = tree_keys_init(&cas->keys, err);
    if (rc == 0)
        rc = remote_trust_init(&cas->trust, conf->trust, MEMORY_LIMIT / 2, err);
    if (rc == 0)
        rc = tree_directories_init(&cas->source.directories, MEMORY_LIMIT / 2, err);
    if (rc == 0)
        rc = cas_connections_open(conf, label, queue, &cas->source.connections, err);
    if (rc != 0) {
        free_cas(cas);
        return rc;
    }
    remote_capabilities_ask_first(cas);
    *out = cas;
    return 0;
}

void remote_cas_close(struct remote_cas *cas)
{
    if (cas == NULL)
        return;
    remote_checks_cancel(cas);
    cas_connections_cancel(cas->source.connections);
    /* Who was told on one thread may call this while another has not returned from the start. */
    (void)pthread_mutex_lock(&cas->lock);
    while (cas->inside != 0)
        (void)pthread_cond_wait(&cas->left, &cas->lock);
    (void)pthread_mutex_unlock(&cas->lock);
    cas_connections_close(cas->source.connections);
    free_cas(cas);
}

void remote_cas_leave(struct remote_cas *cas)
{
    (void)pthread_mutex_lock(&cas->lock);
    if (--cas->inside == 0)
        (void)pthread_cond_broadcast(&cas->left);
    (void)pthread_mutex_unlock(&cas->lock);
}

bool remote_cas_trusts(struct remote_cas *cas, const struct tree_list *lists, size_t list_count)
{
    struct tree_key key;
    struct err ignored;
    if (cas->conf->trust == 0 ||
        tree_keys_make(&cas->keys, lists, list_count, &key, &ignored) != 0 ||
        !remote_trust_has(&cas->trust, &key, cas_connections_lost_at(cas->source.connections)))
        return false;
    atomic_fetch_add(&cas->remembered, 1);
    return true;
}

void remote_cas_stats(struct remote_cas *cas, struct remote_cas_stats *stats)
{
    *stats = (struct remote_cas_stats){
        .remembered = atomic_load(&cas->remembered),
        .whole = atomic_load(&cas->whole),
        .missing = atomic_load(&cas->missing),
        .failed = atomic_load(&cas->failed),
        .calls = cas_connections_calls(cas->source.connections),
        .is_up = cas_connections_are_up(cas->source.connections),
    };
}
