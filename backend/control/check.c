/* SPDX-License-Identifier: Apache-2.0 */
/* assetctl check: verifies what a storage directory holds. */
#include <inttypes.h>
#include <limits.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/err.h"
#include "control/command.h"
#include "control/groups.h"
#include "control/screen.h"
#include "control/storage.h"
#include "store/asset_check.h"
#include "store/cas.h"
#include "store/cas_check.h"
#include "store/store_check.h"

/* --- what it tells --- */

static void on_progress(void *context, const char *what, uint64_t done, uint64_t total)
{
    screen_show(context, what, done, total);
}

/* What is wrong, on stdout. */
static void on_fault(void *context, const struct store_fault *fault)
{
    screen_clear(context);
    (void)printf("%s ", fault->what);
    screen_put_text(stdout, fault->subject);
    if (fault->segment != 0)
        (void)printf(" in segment %016" PRIx64 " at %" PRIu64, fault->segment, fault->offset);
    (void)fputs(": ", stdout);
    screen_put_text(stdout, fault->reason);
    if (fault->answer != NULL) {
        (void)fputs("; ", stdout);
        screen_put_text(stdout, fault->answer);
    }
    (void)putchar('\n');
}

/* --- assetctl check --- */

struct check_arguments {
    const char *storage;
    bool repair;
};

static void print_check_usage(void)
{
    (void)printf(
        "usage: assetctl check STORAGE [--repair]\n"
        "\n"
        "Verifies all that the storage directory of an instance holds: the hash of every blob,\n"
        "every entry of the digest table, and every asset. A server may be running on it.\n"
        "\n"
        "What is wrong is printed on stdout, one line each, and then a summary; progress on\n"
        "stderr. An asset whose content is not there is counted, and is not wrong: content may\n"
        "have been evicted.\n"
        "\n"
        "  --repair  drop what is broken: blobs at any time, assets while no server writes\n"
        "  --help    print this text\n"
        "\n"
        "Exit status: 0 nothing is wrong, or all that was has been dropped; 1 something is wrong,\n"
        "or could not be checked; 2 usage.\n");
}

/* Which stores there are; an empty path for none. */
struct places {
    char cas[PATH_MAX];
    char index[PATH_MAX];
};

static int find_stores(const char *storage, struct places *places, struct err *err)
{
    if (storage_enter(storage, err) != 0 || storage_find(storage, "cas", places->cas, err) != 0 ||
        storage_find(storage, "index", places->index, err) != 0)
        return -(int)err->code;
    if (places->cas[0] != '\0' || places->index[0] != '\0')
        return 0;
    return err_set(err, ERR_NOT_FOUND,
                   "%s holds nothing of assetd, neither index/format nor cas/format: give the "
                   "directory that the instance has as its storage",
                   storage);
}

static int check_cas(struct cas *cas, struct store_check *check, const char *path, struct err *err)
{
    struct cas_checked checked;
    int rc = cas_check(cas, check, &checked, err);
    if (rc != 0)
        return rc;
    screen_clear(check->context);
    (void)printf("%s: %" PRIu64 " segments, %" PRIu64 " sound records of %" PRIu64
                 " bytes, %" PRIu64 " blobs in the table\n",
                 path, checked.segments, checked.records, checked.bytes, checked.entries);
    if (checked.marked != 0 || checked.dead_broken != 0)
        (void)printf("%s: %" PRIu64 " segments wait to be evacuated, with %" PRIu64
                     " damaged records in the log that nothing leads to any more\n",
                     path, checked.marked, checked.dead_broken);
    return 0;
}

static int check_index(const char *storage, struct cas *cas, struct store_check *check,
                       const char *path, struct err *err)
{
    struct asset_checked checked;
    int rc = asset_check(storage, cas, check, &checked, err);
    if (rc != 0)
        return rc;
    screen_clear(check->context);
    (void)printf("%s: %" PRIu64 " assets", path, checked.assets);
    if (cas != NULL)
        (void)printf(", %" PRIu64 " of them incomplete", checked.incomplete);
    else
        (void)printf("; whether their content is there was not looked up");
    (void)putchar('\n');
    return 0;
}

static int check_stores(const struct check_arguments *arguments, const struct places *places,
                        struct store_check *check)
{
    /* The quota is the writer's; this process only reads. */
    const struct cas_options options = {.path = arguments->storage, .quota = (int64_t)1 << 40};
    struct screen *screen = check->context;
    struct cas *cas = NULL;
    struct err err;
    int status = EXIT_SUCCESS;
    if (places->cas[0] != '\0') {
        screen->subject = "cas";
        storage_guard_begin(places->cas);
        if (cas_open(&options, &cas, &err) != 0 || check_cas(cas, check, places->cas, &err) != 0) {
            screen_clear(screen);
            status = storage_fail(&err);
        }
        storage_guard_end();
    }
    if (places->index[0] != '\0') {
        screen->subject = "index";
        screen->what = NULL;
        storage_guard_begin(places->index);
        if (check_index(arguments->storage, cas, check, places->index, &err) != 0) {
            screen_clear(screen);
            status = storage_fail(&err);
        }
        storage_guard_end();
    }
    cas_close(cas);
    return status;
}

static int run_check(const struct check_arguments *arguments)
{
    struct screen screen;
    struct store_check check = {.repairs = arguments->repair,
                                .tell = on_fault,
                                .progress = on_progress,
                                .context = &screen};
    struct places places;
    struct err err;
    screen_init(&screen, "cas");
    if (find_stores(arguments->storage, &places, &err) != 0)
        return storage_fail(&err);
    int status = check_stores(arguments, &places, &check);
    if (check.faults == 0)
        (void)printf("%s: %s\n", arguments->storage,
                     status == EXIT_SUCCESS ? "clean" : "not all could be checked");
    else
        (void)printf("%s: %" PRIu64 " wrong, %" PRIu64 " of them dropped\n", arguments->storage,
                     check.faults, check.dropped);
    if (check.faults > check.dropped)
        status = EXIT_FAILURE;
    return command_end(status);
}

int group_check(int argc, char **argv)
{
    struct check_arguments arguments = {.storage = NULL};
    const struct command_option options[] = {{.name = "--repair", .is_set = &arguments.repair}};
    size_t words;
    if (command_wants_help(argc, argv)) {
        print_check_usage();
        return command_end(EXIT_SUCCESS);
    }
    int status = command_options("check", options, 1, argc, argv, &words);
    if (status != 0)
        return status;
    if (words == 0 || argv[0][0] == '\0')
        return command_refuse("check needs a storage directory: see assetctl check --help");
    if (words > 1)
        return command_refuse("check takes one storage directory: what is %s?", argv[1]);
    arguments.storage = argv[0];
    return run_check(&arguments);
}
