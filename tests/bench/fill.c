/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Fills a storage directory through the program's own library, as the way over the network takes
 * long for many blobs and assets:
 *
 *     fill STORAGE [KEY=NUMBER]...
 *
 * Puts BASE blobs of EXCHANGE_BLOB bytes and SMALL of EXCHANGE_SMALL, then ASSETS assets as
 * load(1) pushes them: asset N is blob N of the base, modulo BASE, and references the next
 * REFERENCES. Tells on stderr how far it is, and prints, as one line of JSON, what the records of
 * the blobs take in the log, and the seconds that blobs and assets took.
 */
#include <inttypes.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/log.h"
#include "blobs.h"
#include "exchange.h"
#include "fail.h"
#include "store/asset_index.h"
#include "store/asset_record.h"
#include "store/cas.h"
#include "store/cas_record.h"

enum {
    URI_ROOM = 160,
    IN_FLIGHT = 1 << 16, /* assets that are handed in together */
    TELL_MS = 1000,
    /*
     * The assets come in passes, each in the order of the index: so a commit changes few pages of
     * it. With one pass pages would be left half full; after this many they are as full as when
     * assets come in no order.
     */
    PASSES = 11,
};

struct options {
    uint64_t quota; /* of the CAS, bytes */
    uint64_t index_quota;
    uint64_t base;
    uint64_t small;
    uint64_t assets;
    uint64_t references;
};

static const struct key {
    const char *name;
    size_t offset;
} keys[] = {
    {"quota", offsetof(struct options, quota)},
    {"index-quota", offsetof(struct options, index_quota)},
    {"base", offsetof(struct options, base)},
    {"small", offsetof(struct options, small)},
    {"assets", offsetof(struct options, assets)},
    {"references", offsetof(struct options, references)},
};

/* --- progress --- */

struct progress {
    const char *what;
    uint64_t count; /* in all */
    int64_t begun;
    int64_t told;
};

static struct progress begin_progress(const char *what, uint64_t count)
{
    int64_t now = clock_steady();
    return (struct progress){.what = what, .count = count, .begun = now, .told = now};
}

static void tell(struct progress *progress, uint64_t done)
{
    int64_t now = clock_steady();
    if (now - progress->told < TELL_MS && done < progress->count)
        return;
    progress->told = now;
    (void)fprintf(stderr, "%" PRIu64 " of %" PRIu64 " %s, %" PRIu64 " a second\n", done,
                  progress->count, progress->what,
                  done * 1000 / (uint64_t)(now - progress->begun + 1));
}

static double seconds_of(const struct progress *progress)
{
    return (double)(clock_steady() - progress->begun) / 1000;
}

/* --- blobs --- */

static void put_blobs(struct cas *cas, enum blobs_series series, uint64_t count, size_t size,
                      struct progress *progress)
{
    struct cas_blob blobs[EXCHANGE_BATCH];
    uint8_t *bytes = blobs_memory(EXCHANGE_BATCH, size);
    for (uint64_t done = 0; done < count;) {
        size_t some = 0;
        for (; some < EXCHANGE_BATCH && done < count; some++, done++) {
            uint8_t *blob = bytes + some * size;
            blobs_fill(series, done, blob, size);
            blobs_digest(blob, size, &blobs[some].digest);
            blobs[some].data = (struct span){blob, size};
        }
        cas_put(cas, NULL, blobs, some);
        for (size_t i = 0; i < some; i++)
            if (blobs[i].err.code != ERR_OK)
                fail("%s", blobs[i].err.msg);
        tell(progress, done);
    }
    free(bytes);
}

static double fill_cas(const char *path, const struct options *options)
{
    struct err err;
    struct cas *cas;
    const struct cas_options cas_options = {
        .path = path, .quota = (int64_t)options->quota, .may_write = true, .keeps_all = true};
    if (cas_open(&cas_options, &cas, &err) != 0)
        fail("%s", err.msg);
    struct progress progress = begin_progress("large blobs", options->base);
    put_blobs(cas, BLOBS_BASE, options->base, EXCHANGE_BLOB, &progress);
    progress = begin_progress("blobs", options->small);
    put_blobs(cas, BLOBS_SMALL, options->small, EXCHANGE_SMALL, &progress);
    cas_close(cas);
    return seconds_of(&progress);
}

/* --- assets --- */

/* Where an asset is in the order of the index. */
struct place {
    uint64_t hash; /* the head of it */
    uint64_t number;
};

struct pushed {
    struct asset_write write;
    struct asset_key key;
    struct asset asset;
    char uri[URI_ROOM];
    struct group *group;
};

/* Assets that are written together, while the next ones are made. */
struct group {
    pthread_mutex_t lock;
    pthread_cond_t done;
    size_t open; /* writes that are not done */
    struct err err;
    struct pushed *pushed; /* IN_FLIGHT of them */
};

static void set_key(struct asset_key *key, char uri[URI_ROOM], uint64_t number)
{
    (void)snprintf(uri, URI_ROOM, EXCHANGE_URI "%0*" PRIx64, EXCHANGE_NUMBER, number);
    *key = (struct asset_key){.kind = ASSET_BLOB, .function = DIGEST_SHA256, .uri = uri};
}

static int compare_places(const void *a, const void *b)
{
    uint64_t left = ((const struct place *)a)->hash;
    uint64_t right = ((const struct place *)b)->hash;
    return (left > right) - (left < right);
}

/* The COUNT assets from FIRST on, sorted. */
static void sort(struct place *places, uint64_t first, uint64_t count)
{
    for (uint64_t i = 0; i < count; i++) {
        struct asset_key key;
        struct asset_name name;
        struct err err;
        char uri[URI_ROOM];
        set_key(&key, uri, first + i);
        if (asset_name_init(&name, &key, &err) != 0)
            fail("%s", err.msg);
        places[i] = (struct place){.number = first + i};
        for (size_t j = 0; j < sizeof(places[i].hash); j++)
            places[i].hash = places[i].hash << 8 | name.hash[j];
        asset_name_fini(&name);
    }
    qsort(places, count, sizeof(places[0]), compare_places);
}

static void on_written(struct asset_write *write, const struct err *err)
{
    struct group *group = ((struct pushed *)write)->group;
    (void)pthread_mutex_lock(&group->lock);
    if (err != NULL)
        group->err = *err;
    if (--group->open == 0)
        (void)pthread_cond_signal(&group->done);
    (void)pthread_mutex_unlock(&group->lock);
}

static void await(struct group *group)
{
    (void)pthread_mutex_lock(&group->lock);
    while (group->open > 0)
        (void)pthread_cond_wait(&group->done, &group->lock);
    if (group->err.code != ERR_OK)
        fail("%s", group->err.msg);
    (void)pthread_mutex_unlock(&group->lock);
}

/* BASE: the digests of the base, with the first ones again behind the last, for references. */
static void push(struct asset_index *index, struct group *group, const struct place *places,
                 size_t count, const struct digest *base, const struct options *options)
{
    int64_t now = clock_now();
    group->open = count;
    for (size_t i = 0; i < count; i++) {
        struct pushed *pushed = &group->pushed[i];
        const struct digest *content = base + places[i].number % options->base;
        set_key(&pushed->key, pushed->uri, places[i].number);
        pushed->asset = (struct asset){.content = *content,
                                       .pushed_at = now,
                                       .fetched_at = now,
                                       .blobs = content + 1,
                                       .blob_count = options->references};
        pushed->write = (struct asset_write){
            .keys = &pushed->key, .key_count = 1, .asset = &pushed->asset, .done = on_written};
        pushed->group = group;
        asset_index_write(index, &pushed->write);
    }
}

static struct digest *make_base(const struct options *options)
{
    uint8_t bytes[EXCHANGE_BLOB];
    uint64_t count = options->base + options->references;
    struct digest *base = blobs_memory(count, sizeof(*base));
    for (uint64_t i = 0; i < count; i++) {
        blobs_fill(BLOBS_BASE, i % options->base, bytes, sizeof(bytes));
        blobs_digest(bytes, sizeof(bytes), &base[i]);
    }
    return base;
}

static void put_assets(struct asset_index *index, const struct options *options,
                       struct progress *progress)
{
    struct group groups[2];
    uint64_t pass = options->assets / PASSES + 1;
    struct place *places = blobs_memory(pass, sizeof(*places));
    struct digest *base = make_base(options);
    unsigned turn = 0;
    for (unsigned i = 0; i < 2; i++) {
        groups[i] = (struct group){.pushed = blobs_memory(IN_FLIGHT, sizeof(struct pushed))};
        (void)pthread_mutex_init(&groups[i].lock, NULL);
        (void)pthread_cond_init(&groups[i].done, NULL);
    }
    for (uint64_t first = 0; first < options->assets; first += pass) {
        uint64_t end = options->assets - first < pass ? options->assets - first : pass;
        sort(places, first, end);
        for (uint64_t done = 0; done < end; done += IN_FLIGHT, turn++) {
            size_t some = end - done < IN_FLIGHT ? end - done : IN_FLIGHT;
            await(&groups[turn % 2]);
            push(index, &groups[turn % 2], places + done, some, base, options);
            tell(progress, first + done);
        }
    }
    for (unsigned i = 0; i < 2; i++) {
        await(&groups[i]);
        free(groups[i].pushed);
        (void)pthread_cond_destroy(&groups[i].done);
        (void)pthread_mutex_destroy(&groups[i].lock);
    }
    free(places);
    free(base);
}

static double fill_index(const char *path, const struct options *options)
{
    struct err err;
    struct asset_index *index;
    struct asset_index_stats stats;
    const struct asset_index_options index_options = {.path = path,
                                                      .quota = (int64_t)options->index_quota,
                                                      .may_write = true,
                                                      .writes_at_once = true,
                                                      .place = ASSET_PLACE_HERE};
    if (asset_index_open(&index_options, &index, &err) != 0)
        fail("%s", err.msg);
    struct progress progress = begin_progress("assets", options->assets);
    if (options->assets > 0)
        put_assets(index, options, &progress);
    asset_index_stats(index, &stats);
    asset_index_close(index);
    if (stats.evicted > 0)
        fail("the quota of the index is too small for the assets");
    tell(&progress, options->assets);
    return seconds_of(&progress);
}

/* --- all of it --- */

static void read_option(struct options *options, const char *argument)
{
    for (size_t i = 0; i < sizeof(keys) / sizeof(keys[0]); i++) {
        size_t length = strlen(keys[i].name);
        if (strncmp(argument, keys[i].name, length) != 0 || argument[length] != '=')
            continue;
        char *end;
        uint64_t value = strtoull(argument + length + 1, &end, 10);
        if (end == argument + length + 1 || *end != '\0')
            break;
        memcpy((char *)options + keys[i].offset, &value, sizeof(value));
        return;
    }
    fail("fill: cannot make sense of %s", argument);
}

int main(int argc, char **argv)
{
    struct options options = {.quota = (uint64_t)24 << 30,
                              .index_quota = (uint64_t)1 << 30,
                              .base = EXCHANGE_BASE,
                              .references = 3};
    if (argc < 2)
        fail("usage: fill STORAGE [KEY=NUMBER]...");
    for (int i = 2; i < argc; i++)
        read_option(&options, argv[i]);
    if (options.base == 0 && options.assets > 0)
        fail("assets need a base");
    log_set_level(LOG_LEVEL_WARNING);
    double blob_seconds = fill_cas(argv[1], &options);
    double asset_seconds = fill_index(argv[1], &options);
    int64_t records = (int64_t)options.base * cas_record_size(DIGEST_SHA256, EXCHANGE_BLOB) +
                      (int64_t)options.small * cas_record_size(DIGEST_SHA256, EXCHANGE_SMALL);
    (void)printf("{\"records\": %" PRId64 ", \"blob_seconds\": %.1f, \"asset_seconds\": %.1f}\n",
                 records, blob_seconds, asset_seconds);
    return EXIT_SUCCESS;
}
