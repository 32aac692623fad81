/* SPDX-License-Identifier: Apache-2.0 */
/* assetctl import-casd: the folder of bst-artifact-server into the storage of an instance. */
#include "control/import_casd.h"

#include <errno.h>
#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/clock.h"
#include "conf/conf.h"
#include "conf/units.h"
#include "control/command.h"
#include "control/configured.h"
#include "control/groups.h"
#include "control/storage.h"
#include "store/cas_check.h"
#include "store/store_check.h"

enum {
    TOLD_MAX = 16,          /* what is left out, one by one */
    TREES_LIMIT = 64 << 20, /* bytes of memory for what is known of trees */
};

static void print_usage(void)
{
    (void)printf(
        "usage: assetctl import-casd [--quota SIZE] [--config FILE] REPO STORAGE\n"
        "\n"
        "Takes over what bst-artifact-server, or buildbox-casd, has stored in the folder REPO, to\n"
        "the storage directory STORAGE of an instance, which may be REPO itself. REPO is only "
        "read.\n"
        "No server may write to STORAGE meanwhile.\n"
        "\n"
        "Blobs are verified; what was used last comes first, as far as the quota has room, and\n"
        "nothing is evicted. Then come the assets of which all content is there. What is there\n"
        "already is passed over: so an import can be repeated, and goes on where another has "
        "ended.\n"
        "\n"
        "  --quota SIZE   of the CAS, such as 50GiB: by default that of the instance that has\n"
        "                 STORAGE in FILE, else 10GB, as the server's\n"
        "  --config FILE  the server's configuration, by default " CONFIGURED_FILE ",\n"
        "                 if there is one\n"
        "  --help         print this text\n"
        "\n"
        "Exit status: 0 all was taken that is whole; 1 something was broken, or had no room, or "
        "the\n"
        "import ended early; 2 usage.\n");
}

/* --- what is told --- */

void casd_import_tell(struct casd_import *import, const char *what, const char *reason)
{
    screen_clear(&import->screen);
    if (++import->told <= TOLD_MAX) {
        (void)fputs("assetctl: ", stderr);
        screen_put_text(stderr, what);
        (void)fputs(": ", stderr);
        screen_put_text(stderr, reason);
        (void)fputc('\n', stderr);
    } else if (import->told == TOLD_MAX + 1) {
        command_note("more that is left out is counted only");
    }
}

static void on_progress(void *context, const char *what, uint64_t done, uint64_t total)
{
    screen_show(context, what, done, total);
}

/* --- listing --- */

struct listing {
    struct casd_import *import;
    enum casd_part part;
    uint64_t *broken;
};

static void on_bad_file(void *context, const char *name, const struct err *err)
{
    struct listing *listing = context;
    ++*listing->broken;
    casd_import_tell(listing->import, name, err->msg);
}

static void on_listed(void *context, uint64_t files)
{
    struct listing *listing = context;
    screen_show(&listing->import->screen, listing->part == CASD_OBJECTS ? "blobs" : "assets", files,
                0);
}

int casd_import_list(struct casd_import *import, enum casd_part part, uint64_t *broken,
                     struct casd_files *files, struct err *err)
{
    struct listing listing = {.import = import, .part = part, .broken = broken};
    const struct casd_listener listener = {
        .tell = on_bad_file, .progress = on_listed, .context = &listing};
    import->screen.what = NULL;
    int rc = casd_source_list(&import->source, part, &listener, files, err);
    import->screen.what = NULL;
    return rc;
}

/* --- the storage --- */

struct arguments {
    const char *repo;
    const char *storage;
    const char *file;            /* the configuration */
    const char *quota;           /* as it was given, or NULL */
    struct conf_instance bounds; /* quotas and expire-after */
};

static int refuse_busy(struct err *err)
{
    return err_append(err, ": stop that process first, such as by systemctl stop assetd, or "
                           "bst-artifact-serve-receive, and start it when the import is done");
}

static int open_stores(struct casd_import *import, const struct arguments *arguments,
                       struct err *err)
{
    const struct asset_index_options index_options = {.path = arguments->storage,
                                                      .quota = arguments->bounds.index_quota,
                                                      .expire_after = import->expire_after,
                                                      .may_write = true,
                                                      .writes_at_once = true};
    const struct cas_options cas_options = {.path = arguments->storage,
                                            .quota = arguments->bounds.quota,
                                            .may_write = true,
                                            .keeps_all = true};
    const struct store_check told = {.progress = on_progress, .context = &import->screen};
    int rc = asset_index_open(&index_options, &import->index, err);
    if (rc == -ERR_UNAVAILABLE)
        return refuse_busy(err);
    if (rc == 0)
        rc = cas_open(&cas_options, &import->cas, err);
    if (rc == 0 && cas_is_writing(import->cas, err) != 0)
        return refuse_busy(err);
    if (rc == 0)
        rc = cas_check_wait(import->cas, &told, err);
    return rc == 0 ? tree_cache_new(import->cas, TREES_LIMIT, &import->trees, err) : rc;
}

static void close_stores(struct casd_import *import)
{
    if (import->trees != NULL)
        tree_cache_free(import->trees);
    cas_close(import->cas);
    asset_index_close(import->index);
}

/* --- the import --- */

static void print_room(const struct casd_import *import, const struct arguments *arguments)
{
    const struct casd_object_counts *objects = &import->objects;
    char quota[UNITS_TEXT_MAX];
    if (objects->without_room == 0)
        return;
    command_note("%" PRIu64 " blobs of %" PRIu64 " bytes, those used longest ago, have no room: %s",
                 objects->without_room, objects->without_room_bytes, objects->room.msg);
    command_note("to have them as well, import again with a larger --quota than %s, which the "
                 "server has to have too, or with more room on the disk",
                 units_print_size(arguments->bounds.quota, quota));
}

static void print_outcome(const struct casd_import *import, const struct arguments *arguments)
{
    const struct casd_object_counts *objects = &import->objects;
    const struct casd_asset_counts *assets = &import->assets;
    struct asset_index_stats stats;
    asset_index_stats(import->index, &stats);
    screen_clear(&import->screen);
    (void)printf("blobs: %" PRIu64 " imported, of %" PRIu64 " bytes, %" PRIu64
                 " there already, %" PRIu64 " without room, %" PRIu64 " broken\n",
                 objects->imported, objects->imported_bytes, objects->there, objects->without_room,
                 objects->broken);
    (void)printf("assets: %" PRIu64 " imported, %" PRIu64 " there already, %" PRIu64
                 " expired, %" PRIu64 " not whole, %" PRIu64 " broken\n",
                 assets->imported, assets->there, assets->expired, assets->incomplete,
                 assets->broken);
    print_room(import, arguments);
    if (import->source.fds[CASD_ASSETS] < 0)
        command_note(
            "%s has no assets/objects: blobs alone were imported, and are found there when "
            "clients push again",
            import->source.path);
    if (stats.evicted != 0)
        command_note("%" PRIu64
                     " assets, those used longest ago, had to go: the index-quota has no "
                     "room for all",
                     stats.evicted);
}

static int import_all(struct casd_import *import, const struct arguments *arguments)
{
    struct err err;
    int rc = casd_import_objects(import, &err);
    if (rc == 0)
        rc = casd_import_assets(import, &err);
    print_outcome(import, arguments);
    if (rc != 0) {
        command_note("it ended early: %s", err.msg);
        command_note("what was imported stays; when that is mended, give the same command again: "
                     "what is there already is passed over");
        return EXIT_FAILURE;
    }
    bool is_all = import->objects.broken == 0 && import->objects.without_room == 0 &&
                  import->assets.broken == 0;
    return is_all ? EXIT_SUCCESS : EXIT_FAILURE;
}

static int import_to_stores(struct casd_import *import, const struct arguments *arguments)
{
    struct err err;
    int status;
    if (open_stores(import, arguments, &err) == 0) {
        status = import_all(import, arguments);
    } else {
        screen_clear(&import->screen);
        status = storage_fail(&err);
    }
    close_stores(import);
    return status;
}

static int run_import(const struct arguments *arguments)
{
    struct casd_import import = {.begun_at = clock_now(),
                                 .expire_after = arguments->bounds.expire_after};
    struct stat st;
    struct err err;
    casd_source_keep_rights();
    bool is_there = stat(arguments->storage, &st) == 0;
    int rc = is_there ? storage_enter(arguments->storage, &err)
                      : storage_enter_new(arguments->storage, &err);
    if (rc != 0)
        return storage_fail(&err);
    if (casd_source_open(arguments->repo, &import.source, &err) != 0)
        return command_fail(&err, err.code == ERR_DENIED
                                      ? "run it as root, or as the user that bst-artifact-server "
                                        "ran as"
                                      : NULL);
    if (!is_there)
        command_note("%s is not there yet, and is made", arguments->storage);
    screen_init(&import.screen, "import-casd");
    storage_guard_begin(arguments->storage);
    int status = import_to_stores(&import, arguments);
    storage_guard_end();
    casd_source_close(&import.source);
    return command_end(status);
}

/* --- the command line --- */

static bool is_same(const char *one, const char *other)
{
    struct stat a, b;
    if (stat(one, &a) == 0 && stat(other, &b) == 0)
        return a.st_dev == b.st_dev && a.st_ino == b.st_ino;
    return strcmp(one, other) == 0;
}

static int take_instance(const struct conf_instance *instance, struct arguments *arguments)
{
    struct err err;
    if (instance->index_only || !conf_instance_serves(instance, DIGEST_SHA256)) {
        (void)err_set(&err, ERR_PRECONDITION, "instance \"%s\" in %s, whose storage this is, %s",
                      instance->name, arguments->file,
                      instance->index_only
                          ? "is index-only, and has no CAS that blobs could be imported into"
                          : "does not serve sha256, by which buildbox-casd names what it has");
        return command_fail(&err, NULL);
    }
    arguments->bounds = *instance;
    return 0;
}

/* Bounds of the instance that has the storage. A default configuration need not be there. */
static int find_bounds(struct arguments *arguments, struct conf *conf)
{
    bool is_given = arguments->file != NULL;
    int status = 0;
    conf_instance_set_defaults(&arguments->bounds);
    if (!is_given)
        arguments->file = CONFIGURED_FILE;
    if (is_given || access(arguments->file, R_OK) == 0)
        status = configured_load(arguments->file, conf);
    for (size_t i = 0; status == 0 && i < conf->instance_count; i++)
        if (is_same(conf->instances[i].storage, arguments->storage))
            return take_instance(&conf->instances[i], arguments);
    return status;
}

static int prepare(struct arguments *arguments, struct conf *conf)
{
    struct err err;
    int status = find_bounds(arguments, conf);
    if (status == 0 && arguments->quota != NULL &&
        units_bytes(arguments->quota, &arguments->bounds.quota, &err) != 0)
        return command_refuse("--quota: %s", err.msg);
    return status;
}

int group_import_casd(int argc, char **argv)
{
    struct arguments arguments = {.repo = NULL};
    const struct command_option options[] = {
        {.name = "--quota", .value = &arguments.quota},
        {.name = "--config", .value = &arguments.file},
    };
    struct conf conf = {.file = NULL};
    size_t words;
    if (command_wants_help(argc, argv)) {
        print_usage();
        return command_end(EXIT_SUCCESS);
    }
    int status = command_options("import-casd", options, 2, argc, argv, &words);
    if (status != 0)
        return status;
    if (words < 2 || argv[0][0] == '\0' || argv[1][0] == '\0')
        return command_refuse("import-casd needs the folder of bst-artifact-server and a storage "
                              "directory: see assetctl import-casd --help");
    if (words > 2)
        return command_refuse("import-casd takes two folders: what is %s?", argv[2]);
    arguments.repo = argv[0];
    arguments.storage = argv[1];
    status = prepare(&arguments, &conf);
    if (status == 0)
        status = run_import(&arguments);
    conf_fini(&conf);
    return status;
}
