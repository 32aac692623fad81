/* SPDX-License-Identifier: Apache-2.0 */
/* assetctl export: the index of an instance, as lines of JSON on stdout. */
#include <errno.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/err.h"
#include "control/asset_json.h"
#include "control/command.h"
#include "control/configured.h"
#include "control/groups.h"
#include "control/screen.h"
#include "control/storage.h"
#include "store/asset_index.h"

static void print_usage(void)
{
    (void)printf("usage: assetctl export [--config FILE] INSTANCE\n"
                 "\n"
                 "Writes the index of an instance to stdout, an asset a line, as JSON, for "
                 "assetctl import.\n"
                 "The one used longest ago comes first. Content is not part of it. A server may be "
                 "running.\n"
                 "\n"
                 "INSTANCE is its name in FILE, \"\" for the one without a name.\n"
                 "\n"
                 "  --config FILE  the server's configuration, by default " CONFIGURED_FILE "\n"
                 "  --help         print this text\n"
                 "\n"
                 "Exit status: 0 all was written; 1 not all could be read or written; 2 usage.\n");
}

struct export
{
    struct screen screen;
    uint64_t assets;
    uint64_t total; /* about */
    struct err err; /* of a write that failed */
    bool has_failed;
};

static bool write_asset(void *context, const struct asset_key *key, const struct asset *asset)
{
    struct export *export = context;
    export->has_failed = asset_json_write(key, asset, stdout, &export->err) != 0;
    if (export->has_failed)
        return false;
    export->assets++;
    uint64_t total = export->assets > export->total ? export->assets : export->total;
    screen_show(&export->screen, "assets", export->assets, total);
    return true;
}

/* A file on a disk may be full no sooner than it is written out to that. */
static int finish_stdout(struct err *err)
{
    if (fflush(stdout) != 0)
        return err_errno(err, errno, "write to stdout");
    if (fsync(STDOUT_FILENO) != 0 && errno != EINVAL && errno != EROFS && errno != ENOTSUP)
        return err_errno(err, errno, "write to stdout");
    return 0;
}

static int write_all(struct asset_index *index, struct export *export, uint64_t *damaged)
{
    struct err err;
    struct asset_index_stats stats;
    asset_index_stats(index, &stats);
    export->total = stats.assets;
    int rc = asset_index_each(index, write_asset, export, damaged, &err);
    screen_clear(&export->screen);
    if (rc != 0)
        return storage_fail(&err);
    if (export->has_failed)
        return command_fail(&export->err, NULL);
    return finish_stdout(&err) == 0 ? EXIT_SUCCESS : command_fail(&err, NULL);
}

static int export_index(const struct conf_instance *instance, const char *path)
{
    const struct asset_index_options options = {.path = instance->storage,
                                                .quota = instance->index_quota,
                                                .expire_after = instance->expire_after};
    struct asset_index *index;
    struct err err;
    struct export export = {.assets = 0};
    uint64_t damaged = 0;
    screen_init(&export.screen, "export");
    export.screen.is_silent = isatty(STDOUT_FILENO) != 0;
    storage_guard_begin(path);
    int rc = asset_index_open(&options, &index, &err);
    int status = rc == 0 ? write_all(index, &export, &damaged) : storage_fail(&err);
    if (rc == 0)
        asset_index_close(index);
    storage_guard_end();
    if (rc == 0)
        command_note("%" PRIu64 " assets exported%s", export.assets,
                     status == EXIT_SUCCESS ? "" : ", which are not all");
    if (damaged == 0)
        return status;
    command_note("%" PRIu64 " assets are damaged, and are not among them: see assetctl check %s",
                 damaged, instance->storage);
    return EXIT_FAILURE;
}

static int run_export(const struct conf_instance *instance)
{
    static char buffer[1 << 16];
    char path[PATH_MAX];
    struct err err;
    if (storage_enter(instance->storage, &err) != 0 ||
        storage_find(instance->storage, "index", path, &err) != 0)
        return storage_fail(&err);
    if (path[0] == '\0') {
        (void)err_set(&err, ERR_NOT_FOUND,
                      "%s, the storage of \"%s\", holds no index: no server has served it yet",
                      instance->storage, instance->name);
        return storage_fail(&err);
    }
    /* Who reads may go away: that is an error of writing. */
    (void)signal(SIGPIPE, SIG_IGN);
    (void)setvbuf(stdout, buffer, _IOFBF, sizeof(buffer));
    return export_index(instance, path);
}

int group_export(int argc, char **argv)
{
    const char *file = CONFIGURED_FILE;
    const struct command_option options[] = {{.name = "--config", .value = &file}};
    struct conf conf;
    const struct conf_instance *instance;
    size_t words;
    if (command_wants_help(argc, argv)) {
        print_usage();
        return command_end(EXIT_SUCCESS);
    }
    int status = command_options("export", options, 1, argc, argv, &words);
    if (status != 0)
        return status;
    status = configured_instance("export", words, argv, file, &conf, &instance);
    if (status == 0)
        status = run_export(instance);
    conf_fini(&conf);
    return status;
}
