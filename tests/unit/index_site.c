/* SPDX-License-Identifier: Apache-2.0 */
/* Opening, filling and asking the index of a test. */
#include "index_site.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "store/asset_file.h"
#include "store/asset_record.h"

atomic_int_fast64_t site_clock;

int64_t site_now(void)
{
    return atomic_load(&site_clock);
}

int site_set_up(void **state)
{
    struct site *site = calloc(1, sizeof(*site));
    assert_non_null(site);
    scratch_init(&site->scratch);
    arena_init(&site->arena);
    atomic_store(&site_clock, INT64_C(1800000000000));
    *state = site;
    return 0;
}

int site_tear_down(void **state)
{
    struct site *site = *state;
    asset_index_close(site->index);
    arena_fini(&site->arena);
    scratch_fini(&site->scratch);
    free(site);
    return 0;
}

int site_try_open(struct site *site, int64_t quota, int64_t expire_after)
{
    struct asset_index_options options = {.path = site->scratch.path,
                                          .quota = quota,
                                          .expire_after = expire_after,
                                          .now = site_now,
                                          .may_write = true};
    return asset_index_open(&options, &site->index, &site->err);
}

void site_open(struct site *site, int64_t quota, int64_t expire_after)
{
    if (site_try_open(site, quota, expire_after) != 0)
        fail_msg("%s", site->err.msg);
}

void site_close(struct site *site)
{
    asset_index_close(site->index);
    site->index = NULL;
}

struct asset_index_stats site_stats(struct site *site)
{
    struct asset_index_stats stats;
    asset_index_stats(site->index, &stats);
    return stats;
}

uint64_t site_file_number(struct site *site)
{
    char path[PATH_MAX];
    uint64_t number;
    int fd = open(scratch_path(&site->scratch, "index", path), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    assert_true(fd >= 0);
    assert_int_equal(asset_file_newest(fd, &number, &site->err), 0);
    (void)close(fd);
    return number;
}

int64_t site_file_size(struct site *site)
{
    char name[ASSET_FILE_NAME_SIZE];
    char path[PATH_MAX];
    struct stat st;
    asset_file_name(site_file_number(site), name);
    scratch_path(&site->scratch, "index/", path);
    assert_true(strlen(path) + strlen(name) < sizeof(path));
    (void)strcat(path, name);
    assert_int_equal(stat(path, &st), 0);
    return st.st_size;
}

/* --- assets --- */

struct digest site_digest(uint64_t number)
{
    struct digest digest;
    struct err err;
    assert_int_equal(digest_compute(DIGEST_SHA256, &number, sizeof(number), &digest, &err), 0);
    digest.size = (int64_t)number;
    return digest;
}

struct asset site_asset(uint64_t number)
{
    return (struct asset){
        .content = site_digest(number), .pushed_at = site_now(), .fetched_at = site_now()};
}

struct asset_key site_key(const char *uri)
{
    return (struct asset_key){.kind = ASSET_BLOB, .function = DIGEST_SHA256, .uri = uri};
}

struct asset_key site_numbered_key(char text[64], uint64_t number)
{
    (void)snprintf(text, 64, "urn:test:%llu", (unsigned long long)number);
    return site_key(text);
}

static void on_done(struct asset_write *write, const struct err *err)
{
    struct pending *pending = (struct pending *)write;
    sem_t *block = pending->block;
    pending->code = err != NULL ? err->code : ERR_OK;
    (void)sem_post(&pending->done);
    if (block != NULL)
        (void)sem_wait(block);
}

static void begin_write(struct site *site, struct pending *pending, const struct asset_key *keys,
                        size_t key_count, const struct asset *asset, bool keeps_later)
{
    pending->write = (struct asset_write){.keys = keys,
                                          .key_count = key_count,
                                          .asset = asset,
                                          .keeps_later = keeps_later,
                                          .done = on_done};
    pending->code = ERR_CODES;
    pending->block = NULL;
    (void)sem_init(&pending->done, 0, 0);
    asset_index_write(site->index, &pending->write);
}

void site_begin_write(struct site *site, struct pending *pending, const struct asset_key *keys,
                      size_t key_count, const struct asset *asset)
{
    begin_write(site, pending, keys, key_count, asset, false);
}

void site_begin_keeping_write(struct site *site, struct pending *pending,
                              const struct asset_key *keys, size_t key_count,
                              const struct asset *asset)
{
    begin_write(site, pending, keys, key_count, asset, true);
}

enum err_code site_end_write(struct pending *pending)
{
    while (sem_wait(&pending->done) != 0)
        continue;
    (void)sem_destroy(&pending->done);
    return pending->code;
}

enum err_code site_write(struct site *site, const struct asset_key *keys, size_t key_count,
                         const struct asset *asset)
{
    struct pending pending;
    site_begin_write(site, &pending, keys, key_count, asset);
    return site_end_write(&pending);
}

void site_put(struct site *site, const struct asset_key *key, const struct asset *asset)
{
    assert_int_equal(site_write(site, key, 1, asset), ERR_OK);
}

void site_put_number(struct site *site, uint64_t number)
{
    char text[64];
    struct asset_key key = site_numbered_key(text, number);
    struct asset asset = site_asset(number);
    site_put(site, &key, &asset);
}

int site_get(struct site *site, const struct asset_key *key, struct asset *asset)
{
    arena_reset(&site->arena);
    return asset_index_get(site->index, key, &site->arena, asset, &site->err);
}

bool site_has(struct site *site, const struct asset_key *key)
{
    struct asset asset;
    int rc = site_get(site, key, &asset);
    if (rc != 0)
        assert_int_equal(rc, -ERR_NOT_FOUND);
    return rc == 0;
}

bool site_has_number(struct site *site, uint64_t number)
{
    char text[64];
    struct asset_key key = site_numbered_key(text, number);
    struct asset asset;
    if (!site_has(site, &key))
        return false;
    assert_int_equal(site_get(site, &key, &asset), 0);
    struct digest expected = site_digest(number);
    assert_true(digest_equal(&asset.content, &expected));
    return true;
}

void site_touch(struct site *site, uint64_t number)
{
    char text[64];
    struct asset_key key = site_numbered_key(text, number);
    struct asset_name name;
    struct asset asset;
    assert_int_equal(asset_name_init(&name, &key, &site->err), 0);
    memcpy(asset.id, name.hash, sizeof(asset.id));
    asset_name_fini(&name);
    asset_index_touch(site->index, &asset);
}

void site_block(struct site *site, struct blocker *blocker)
{
    (void)sem_init(&blocker->go_on, 0, 0);
    (void)sem_init(&blocker->pending.done, 0, 0);
    blocker->key = site_numbered_key(blocker->text, UINT64_MAX);
    blocker->asset = site_asset(1);
    blocker->pending.write = (struct asset_write){
        .keys = &blocker->key, .key_count = 1, .asset = &blocker->asset, .done = on_done};
    blocker->pending.block = &blocker->go_on;
    asset_index_write(site->index, &blocker->pending.write);
    assert_int_equal(site_end_write(&blocker->pending), ERR_OK);
}

void site_unblock(struct blocker *blocker)
{
    (void)sem_post(&blocker->go_on);
}

void site_fill_until(struct site *site, uint64_t first, uint64_t end, int64_t expires_at)
{
    enum { GROUP = 256 };
    static struct pending writes[GROUP];
    static char texts[GROUP][64];
    struct asset_key keys[GROUP];
    struct asset assets[GROUP];
    while (first < end) {
        int count = 0;
        for (; count < GROUP && first < end; count++, first++) {
            keys[count] = site_numbered_key(texts[count], first);
            assets[count] = site_asset(first);
            assets[count].expires_at = expires_at;
            site_begin_write(site, &writes[count], &keys[count], 1, &assets[count]);
        }
        for (int i = 0; i < count; i++)
            assert_int_equal(site_end_write(&writes[i]), ERR_OK);
    }
}

void site_fill(struct site *site, uint64_t first, uint64_t end)
{
    site_fill_until(site, first, end, 0);
}
