/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One configuration after another while the server runs: what the new one says that needs a
 * restart is put back to what the running one has.
 */
#ifndef ASSETD_CONF_CARRY_H
#define ASSETD_CONF_CARRY_H

#include <stdbool.h>
#include <stddef.h>

#include "conf/conf.h"

/* One key whose new value needs a restart. */
struct conf_kept {
    struct conf_kept *next;
    const char *key;     /* such as listeners[1].address, counted as in the new file */
    const char *running; /* the value until then; "" is none */
    const char *wanted;  /* what the new file says; "" is nothing */
};

/* All of them, in the order of finding. */
struct conf_kept_list {
    struct arena *arena; /* borrowed; holds them and their texts */
    struct conf_kept *first;
    struct conf_kept **last;
    bool no_memory; /* memory ran out somewhere: what was noted is not all */
};

void conf_kept_init(struct conf_kept_list *kept, struct arena *arena);

/* Notes a key of the instance INDEX; KEY is "" for the instance itself. */
void conf_kept_add_instance(struct conf_kept_list *kept, size_t index, const char *key,
                            const char *running, const char *wanted);

/*
 * Makes NEXT, just loaded, one that can follow RUNNING, and notes in KEPT what it loses by that.
 * Its listeners are RUNNING's then, by number, order and address. NEXT points into RUNNING
 * afterwards, which must live as long.
 *
 * What belongs together stays together, so that nothing is let in that neither file lets in: a
 * listener with another access, mode, group or TLS keeps all of its keys, and so does an instance
 * with another storage. A listener that keeps its keys serves no instances that are new. Of what is
 * kept for that reason, what decides who gets in is noted too: identity and instances of a
 * listener, push, pull and digest-functions of an instance. An instance that is to be index-only
 * no longer keeps its `cas`, against which it is checked until the restart; one that is to become
 * index-only has none until then.
 *
 * ERR_NO_MEMORY is the only error.
 */
int conf_carry(const struct conf *running, struct conf *next, struct conf_kept_list *kept,
               struct err *err);

/*
 * The same for the instance INDEX of NEXT and the storage that it is to have, which is open as
 * OPENED says. One that goes on not to be index-only has no `cas`.
 */
void conf_carry_storage(const struct conf_instance *opened, struct conf *next, size_t index,
                        struct conf_kept_list *kept);

/* Whether two external CAS are the same in all of their keys: what is known of one holds. */
bool conf_cas_is_same(const struct conf_cas *one, const struct conf_cas *other);

#endif
