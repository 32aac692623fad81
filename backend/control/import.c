/* SPDX-License-Identifier: Apache-2.0 */
/*
 * assetctl import: lines of JSON from stdin into the index of an instance. Lines are read one by
 * one, and many are on their way at the same time: the index writes all that wait at once.
 */
#include <inttypes.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/err.h"
#include "control/asset_json.h"
#include "control/command.h"
#include "control/configured.h"
#include "control/groups.h"
#include "control/import_check.h"
#include "control/lines.h"
#include "control/screen.h"
#include "control/storage.h"
#include "store/asset_index.h"
#include "store/checksum.h"

enum {
    LINES_MAX = 4096,     /* on their way, */
    BYTES_MAX = 64 << 20, /* and what they may take in memory */
    ARENA_KEPT = 16 << 10,
    TOLD_MAX = 16, /* assets that are not whole, one by one */
};

static void print_usage(void)
{
    (void)printf(
        "usage: assetctl import [--config FILE] [--check] INSTANCE < LINES\n"
        "\n"
        "Takes the lines that assetctl export wrote into the index of an instance. No server may\n"
        "write to it meanwhile. What is there already, and was pushed as late or later, stays; so\n"
        "an import can be repeated, and goes on where another one has ended.\n"
        "\n"
        "INSTANCE is its name in FILE, \"\" for the one without a name.\n"
        "\n"
        "  --config FILE  the server's configuration, by default " CONFIGURED_FILE "\n"
        "  --check        import only what is whole in the CAS: that of the instance, or the one\n"
        "                 that its configuration names\n"
        "  --help         print this text\n"
        "\n"
        "Exit status: 0 every line was read and taken, or had no need to; 1 some were bad, or the\n"
        "import ended before all were read; 2 usage.\n");
}

/* --- what is counted, and told --- */

struct import {
    const struct conf_instance *instance;
    struct asset_index *index;
    struct import_checks *checks; /* NULL: nothing is checked */
    struct lines lines;
    uint64_t total;       /* bytes of all lines; 0: not known */
    int64_t begun_at;     /* what has no time of its own was pushed then */
    atomic_bool is_over;  /* no more lines are wanted */
    pthread_mutex_t lock; /* of all that follows, and of stderr */
    pthread_cond_t changed;
    struct screen screen;
    struct line *idle;
    size_t under_way;
    size_t bytes; /* that these have in memory */
    size_t checking;
    uint64_t imported;
    uint64_t older;
    uint64_t expired;
    uint64_t incomplete;
    uint64_t bad;
    struct err err;     /* why it is over, */
    uint64_t failed_at; /* with which line; 0: it is not */
};

/* A line that is on its way. */
struct line {
    struct asset_write write; /* first, so that one is found from the other */
    struct import_check check;
    struct import *import;
    struct line *next;
    uint64_t number;
    struct asset_key key;
    struct asset asset;
    struct arena arena;
};

/* With the lock held. */
static void tell(struct import *import, uint64_t number, const char *what, const char *reason)
{
    screen_clear(&import->screen);
    (void)fprintf(stderr, "assetctl: line %" PRIu64 "%s: ", number, what);
    screen_put_text(stderr, reason);
    (void)fputc('\n', stderr);
}

static void tell_bad(struct import *import, uint64_t number, const struct err *err)
{
    (void)pthread_mutex_lock(&import->lock);
    import->bad++;
    tell(import, number, "", err->msg);
    (void)pthread_mutex_unlock(&import->lock);
}

static void tell_incomplete(struct line *line, const struct err *err)
{
    struct import *import = line->import;
    const struct tree_missing *missing = &line->check.missing;
    char digest[DIGEST_TEXT_MAX];
    struct err text = *err;
    if (missing->count != 0)
        (void)err_set(&text, err->code, "%zu missing, such as %s", missing->count,
                      digest_text(&missing->digests[0], digest));
    (void)pthread_mutex_lock(&import->lock);
    if (++import->incomplete <= TOLD_MAX)
        tell(import, line->number, " is not whole", text.msg);
    if (import->incomplete == TOLD_MAX + 1)
        command_note("more that are not whole are counted only");
    (void)pthread_mutex_unlock(&import->lock);
}

/* Ends the import, for the first reason there is. */
static void fail(struct import *import, uint64_t number, const struct err *err)
{
    (void)pthread_mutex_lock(&import->lock);
    if (import->failed_at == 0) {
        import->err = *err;
        import->failed_at = number;
    }
    atomic_store(&import->is_over, true);
    (void)pthread_mutex_unlock(&import->lock);
}

/* --- lines on their way --- */

/* Waits until there is room for one more. NULL: memory is out. */
static struct line *take_line(struct import *import)
{
    (void)pthread_mutex_lock(&import->lock);
    while (import->under_way >= LINES_MAX || import->bytes >= BYTES_MAX)
        (void)pthread_cond_wait(&import->changed, &import->lock);
    struct line *line = import->idle;
    if (line != NULL)
        import->idle = line->next;
    else
        line = calloc(1, sizeof(*line));
    if (line != NULL) {
        line->import = import;
        import->under_way++;
        import->bytes += line->arena.total;
    }
    (void)pthread_mutex_unlock(&import->lock);
    return line;
}

/* With the lock held. */
static void give_back(struct line *line)
{
    struct import *import = line->import;
    import->bytes -= line->arena.total;
    if (line->arena.total > ARENA_KEPT)
        arena_fini(&line->arena);
    else
        arena_reset(&line->arena);
    line->next = import->idle;
    import->idle = line;
    import->under_way--;
    (void)pthread_cond_signal(&import->changed);
}

/* One more of COUNT. */
static void end_line(struct line *line, uint64_t *count)
{
    struct import *import = line->import;
    (void)pthread_mutex_lock(&import->lock);
    ++*count;
    give_back(line);
    (void)pthread_mutex_unlock(&import->lock);
}

static void drop_line(struct line *line)
{
    uint64_t nothing = 0;
    end_line(line, &nothing);
}

static void on_written(struct asset_write *write, const struct err *err)
{
    struct line *line = (struct line *)write;
    struct import *import = line->import;
    if (err != NULL) {
        fail(import, line->number, err);
        drop_line(line);
    } else {
        end_line(line, write->kept != 0 ? &import->older : &import->imported);
    }
}

static void write_line(struct line *line)
{
    line->write = (struct asset_write){.keys = &line->key,
                                       .key_count = 1,
                                       .asset = &line->asset,
                                       .keeps_later = true,
                                       .done = on_written};
    asset_index_write(line->import->index, &line->write);
}

static void on_checked(struct import_check *check, const struct err *err)
{
    struct line *line = (struct line *)((char *)check - offsetof(struct line, check));
    struct import *import = line->import;
    (void)pthread_mutex_lock(&import->lock);
    import->checking--;
    (void)pthread_cond_signal(&import->changed);
    (void)pthread_mutex_unlock(&import->lock);
    if (err == NULL) {
        write_line(line);
        return;
    }
    if (err->code == ERR_PRECONDITION || err->code == ERR_INVALID)
        tell_incomplete(line, err);
    else
        fail(import, line->number, err);
    drop_line(line);
}

/* Whether what is there was pushed no earlier: then nothing needs to be checked. */
static bool is_older(const struct line *line)
{
    struct arena arena;
    struct asset found;
    struct err err;
    arena_init(&arena);
    bool is_there = asset_index_get(line->import->index, &line->key, &arena, &found, &err) == 0 &&
                    found.pushed_at >= line->asset.pushed_at;
    arena_fini(&arena);
    return is_there;
}

static void check_line(struct line *line)
{
    struct import *import = line->import;
    (void)pthread_mutex_lock(&import->lock);
    while (import->checking >= IMPORT_CHECKS)
        (void)pthread_cond_wait(&import->changed, &import->lock);
    import->checking++;
    (void)pthread_mutex_unlock(&import->lock);
    line->check.done = on_checked;
    import_check_start(import->checks, &line->check, line->key.kind, &line->asset);
}

/* --- a line that was read --- */

static int check_function(const struct conf_instance *instance, enum digest_function function,
                          struct err *err)
{
    if (conf_instance_serves(instance, function))
        return 0;
    return err_set(err, ERR_INVALID, "%s is not among the digest-functions of the instance",
                   digest_function_name(function));
}

/* One of another function was checked when the asset was pushed, and is believed. */
static int check_checksum(const struct asset_key *key, const struct asset *asset, struct err *err)
{
    struct checksum checksum;
    int rc = checksum_parse(key->qualifiers, key->qualifier_count, &checksum, err);
    if (rc != 0 || checksum.count == 0 || key->kind != ASSET_BLOB ||
        checksum.function != asset->content.function ||
        checksum_matches(&checksum, &asset->content))
        return rc;
    return err_set(err, ERR_INVALID, "checksum.sri is not the checksum of the blob");
}

/* What has no time, or one that is yet to come, gets that of now. */
static void set_times(struct asset *asset, int64_t now)
{
    if (asset->pushed_at == 0 || asset->pushed_at > now)
        asset->pushed_at = now;
    if (asset->fetched_at < asset->pushed_at)
        asset->fetched_at = asset->pushed_at;
    if (asset->fetched_at > now)
        asset->fetched_at = now;
}

static bool is_expired(const struct import *import, const struct asset *asset)
{
    int64_t after = import->instance->expire_after;
    if (asset->expires_at != 0 && asset->expires_at <= import->begun_at)
        return true;
    return after != 0 && import->begun_at - asset->fetched_at >= after;
}

static int read_line(struct line *line, struct span text, struct err *err)
{
    struct import *import = line->import;
    int rc = asset_json_read((const char *)text.data, text.size, &line->arena, &line->key,
                             &line->asset, err);
    if (rc == 0)
        rc = check_function(import->instance, line->key.function, err);
    if (rc == 0)
        rc = check_checksum(&line->key, &line->asset, err);
    if (rc == 0)
        rc = asset_index_check_size(import->index, &line->key, &line->asset, err);
    return rc;
}

static void take_text(struct import *import, struct span text)
{
    struct err err;
    struct line *line = take_line(import);
    if (line == NULL) {
        (void)err_no_memory(&err, "a line");
        fail(import, import->lines.count, &err);
        return;
    }
    size_t before = line->arena.total;
    line->number = import->lines.count;
    int rc = read_line(line, text, &err);
    (void)pthread_mutex_lock(&import->lock);
    import->bytes += line->arena.total - before;
    (void)pthread_mutex_unlock(&import->lock);
    set_times(&line->asset, import->begun_at);
    if (rc == -ERR_NO_MEMORY) {
        fail(import, line->number, &err);
        drop_line(line);
    } else if (rc != 0) {
        tell_bad(import, line->number, &err);
        drop_line(line);
    } else if (is_expired(import, &line->asset)) {
        end_line(line, &import->expired);
    } else if (import->checks == NULL) {
        write_line(line);
    } else if (is_older(line)) {
        end_line(line, &import->older);
    } else {
        check_line(line);
    }
}

static bool is_blank(struct span text)
{
    size_t blanks = 0;
    while (blanks < text.size && memchr(" \t\r", text.data[blanks], 3) != NULL)
        blanks++;
    return blanks == text.size;
}

/* False: there is no more, or no more is wanted. */
static bool take_next(struct import *import)
{
    struct span text;
    bool is_there;
    struct err err;
    int rc = lines_next(&import->lines, &text, &is_there, &err);
    if (rc != 0 && is_there)
        tell_bad(import, import->lines.count, &err);
    else if (rc != 0)
        fail(import, import->lines.count + 1, &err);
    else if (is_there && !is_blank(text))
        take_text(import, text);
    (void)pthread_mutex_lock(&import->lock);
    if (import->total != 0)
        screen_show(&import->screen, "bytes", import->lines.bytes, import->total);
    else
        screen_show(&import->screen, "lines", import->lines.count, 0);
    (void)pthread_mutex_unlock(&import->lock);
    return is_there && !atomic_load(&import->is_over);
}

/* --- all of it --- */

static void take_all(struct import *import)
{
    while (take_next(import))
        continue;
    (void)pthread_mutex_lock(&import->lock);
    while (import->under_way > 0)
        (void)pthread_cond_wait(&import->changed, &import->lock);
    (void)pthread_mutex_unlock(&import->lock);
    while (import->idle != NULL) {
        struct line *line = import->idle;
        import->idle = line->next;
        arena_fini(&line->arena);
        free(line);
    }
}

static int print_outcome(const struct import *import, const char *file)
{
    struct asset_index_stats stats;
    asset_index_stats(import->index, &stats);
    screen_clear(&import->screen);
    (void)printf("\"%s\": %" PRIu64 " imported, %" PRIu64 " there already, %" PRIu64
                 " expired, %" PRIu64 " not whole, %" PRIu64 " bad\n",
                 import->instance->name, import->imported, import->older, import->expired,
                 import->incomplete, import->bad);
    if (stats.evicted != 0)
        command_note("%" PRIu64 " assets, those used longest ago, had to go: the index-quota of "
                     "\"%s\" in %s has no room for all",
                     stats.evicted, import->instance->name, file);
    if (import->failed_at == 0)
        return import->bad == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
    command_note("it ended with line %" PRIu64 ": %s", import->failed_at, import->err.msg);
    command_note("what was imported stays; when that is mended, import the same lines again: what "
                 "is there already is passed over");
    return EXIT_FAILURE;
}

static void on_progress(void *context, const char *what, uint64_t done, uint64_t total)
{
    screen_show(context, what, done, total);
}

static int open_all(struct import *import, const struct conf *conf, bool checks, struct err *err)
{
    const struct conf_instance *instance = import->instance;
    const struct asset_index_options options = {.path = instance->storage,
                                                .quota = instance->index_quota,
                                                .expire_after = instance->expire_after,
                                                .may_write = true,
                                                .writes_at_once = true};
    const struct store_check told = {.progress = on_progress, .context = &import->screen};
    int rc = asset_index_open(&options, &import->index, err);
    if (rc == -ERR_UNAVAILABLE)
        return err_append(err, ": stop that process first, such as by systemctl stop assetd, and "
                               "start it when the import is done");
    if (rc == 0 && checks)
        rc = import_checks_open(conf, instance, &told, &import->checks, err);
    return rc;
}

static int import_lines(const struct conf *conf, const struct conf_instance *instance, bool checks)
{
    struct import import = {.instance = instance,
                            .lines = {.fd = STDIN_FILENO, .longest = ASSET_JSON_LINE_MAX},
                            .begun_at = clock_now()};
    struct stat st;
    struct err err;
    int status;
    screen_init(&import.screen, "import");
    (void)pthread_mutex_init(&import.lock, NULL);
    (void)pthread_cond_init(&import.changed, NULL);
    off_t begin = lseek(STDIN_FILENO, 0, SEEK_CUR);
    if (fstat(STDIN_FILENO, &st) == 0 && S_ISREG(st.st_mode) && st.st_size > begin)
        import.total = (uint64_t)(st.st_size - begin);
    if (open_all(&import, conf, checks, &err) == 0) {
        take_all(&import);
        status = print_outcome(&import, conf->file);
    } else {
        screen_clear(&import.screen);
        status = storage_fail(&err);
    }
    lines_fini(&import.lines);
    import_checks_close(import.checks);
    asset_index_close(import.index);
    (void)pthread_cond_destroy(&import.changed);
    (void)pthread_mutex_destroy(&import.lock);
    return command_end(status);
}

static int run_import(const struct conf *conf, const struct conf_instance *instance, bool checks)
{
    char path[PATH_MAX] = "";
    struct stat st;
    struct err err;
    int rc = stat(instance->storage, &st) == 0 ? storage_enter(instance->storage, &err)
                                               : storage_enter_new(instance->storage, &err);
    if (rc == 0)
        rc = storage_find(instance->storage, "index", path, &err);
    if (rc != 0)
        return storage_fail(&err);
    storage_guard_begin(path[0] != '\0' ? path : instance->storage);
    int status = import_lines(conf, instance, checks);
    storage_guard_end();
    return status;
}

int group_import(int argc, char **argv)
{
    const char *file = CONFIGURED_FILE;
    bool checks = false;
    const struct command_option options[] = {{.name = "--config", .value = &file},
                                             {.name = "--check", .is_set = &checks}};
    struct conf conf;
    const struct conf_instance *instance;
    size_t words;
    if (command_wants_help(argc, argv)) {
        print_usage();
        return command_end(EXIT_SUCCESS);
    }
    int status = command_options("import", options, 2, argc, argv, &words);
    if (status != 0)
        return status;
    status = configured_instance("import", words, argv, file, &conf, &instance);
    if (status == 0)
        status = run_import(&conf, instance, checks);
    conf_fini(&conf);
    return status;
}
