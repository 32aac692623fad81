/* SPDX-License-Identifier: Apache-2.0 */
/* assetctl check: verifies what a storage directory holds. */
#include <inttypes.h>
#include <limits.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/err.h"
#include "control/command.h"
#include "control/groups.h"
#include "credential/owner.h"
#include "credential/way.h"
#include "store/asset_check.h"
#include "store/cas.h"
#include "store/cas_check.h"
#include "store/directory.h"
#include "store/store_check.h"

/* Milliseconds. */
enum { UPDATE_TERMINAL = 100, UPDATE_LINE = 10 * 1000 };

/* --- progress, on stderr --- */

/* Where a check is: a line that is rewritten on a terminal, else a new one now and then. */
struct screen {
    bool is_terminal;
    const char *store; /* "cas" or "index" */
    const char *what;  /* is counted; as store_check has it */
    bool are_bytes;
    int64_t begun_at;
    int64_t shown_at;
    uint64_t shown_tenth;
};

static int64_t milliseconds(void)
{
    struct timespec time;
    (void)clock_gettime(CLOCK_MONOTONIC, &time);
    return (int64_t)time.tv_sec * 1000 + time.tv_nsec / 1000000;
}

static void clear_line(const struct screen *screen)
{
    if (screen->is_terminal)
        (void)fputs("\r\033[K", stderr);
}

static void show_progress(struct screen *screen, uint64_t done, uint64_t total, int64_t now)
{
    static const double mib = 1024.0 * 1024;
    const char *end = screen->is_terminal ? "" : "\n";
    unsigned percent = total != 0 ? (unsigned)((double)done / (double)total * 100) : 0;
    int64_t elapsed = now - screen->begun_at;
    double speed = elapsed > 0 ? (double)done / mib / (double)elapsed * 1000 : 0;
    clear_line(screen);
    if (total == 0)
        (void)fprintf(stderr, "%s: %" PRIu64 " %s%s", screen->store, done, screen->what, end);
    else if (screen->are_bytes)
        (void)fprintf(stderr, "%s: %u %% of %.1f MiB, %.0f MiB/s%s", screen->store, percent,
                      (double)total / mib, speed, end);
    else
        (void)fprintf(stderr, "%s: %u %% of %" PRIu64 " %s%s", screen->store, percent, total,
                      screen->what, end);
    screen->shown_at = now;
}

/* A line for each tenth of the bytes: all else is soon done. */
static void on_progress(void *context, const char *what, uint64_t done, uint64_t total)
{
    struct screen *screen = context;
    int64_t now = milliseconds();
    if (screen->what == NULL || strcmp(screen->what, what) != 0) {
        screen->what = what;
        screen->are_bytes = strcmp(what, "bytes") == 0;
        screen->begun_at = now;
        screen->shown_at = now;
        screen->shown_tenth = 0;
    }
    uint64_t tenth = total != 0 ? (uint64_t)((double)done / (double)total * 10) : 0;
    bool is_due = now - screen->shown_at >= (screen->is_terminal ? UPDATE_TERMINAL : UPDATE_LINE);
    bool is_tenth = tenth != screen->shown_tenth && (screen->is_terminal || screen->are_bytes);
    if (!is_due && !is_tenth)
        return;
    screen->shown_tenth = tenth;
    show_progress(screen, done, total, now);
}

/* --- what is wrong, on stdout --- */

/* Text that clients chose: nothing in it does anything to a terminal, or begins a line. */
static void put_text(const char *text)
{
    for (const unsigned char *next = (const unsigned char *)text; *next != '\0'; next++) {
        bool is_c1 = next[0] == 0xc2 && next[1] >= 0x80 && next[1] <= 0x9f;
        if (*next >= ' ' && *next != 0x7f && *next != '\\' && !is_c1) {
            (void)putchar(*next);
            continue;
        }
        (void)printf("\\x%02x", *next);
        if (is_c1)
            (void)printf("\\x%02x", *++next);
    }
}

static void on_fault(void *context, const struct store_fault *fault)
{
    clear_line(context);
    (void)printf("%s ", fault->what);
    put_text(fault->subject);
    if (fault->segment != 0)
        (void)printf(" in segment %016" PRIx64 " at %" PRIu64, fault->segment, fault->offset);
    (void)fputs(": ", stdout);
    put_text(fault->reason);
    if (fault->answer != NULL) {
        (void)fputs("; ", stdout);
        put_text(fault->answer);
    }
    (void)putchar('\n');
}

/* --- what ends it, on stderr --- */

/* What to do about an error. */
static const char *advice(enum err_code code)
{
    static const char *const advices[ERR_CODES] = {
        [ERR_DENIED] = "run it as root, or as the user that the server runs as",
        [ERR_DATA_LOSS] = "stop the server, move the directory away, and have its content pushed "
                          "again",
        [ERR_IO] = "run it as the user that the server runs as, who may write there; if that is "
                   "not it, look for faults of the disk in the system's log",
        [ERR_NO_MEMORY] = "run it when there is more memory",
    };
    return (unsigned)code < ERR_CODES ? advices[code] : NULL;
}

static int complain(const struct err *err)
{
    return command_fail(err, advice(err->code));
}

/* Set while files are mapped that may end before they should, or hold what misleads the database.
 */
static const char *volatile mapped;

static void on_bad_memory(int number)
{
    static const char *const texts[] = {"\nassetctl: ", "",
                                        " cannot be read, as its files are damaged or the disk "
                                        "fails: stop the server, move the directory away, and have "
                                        "its content pushed again\n"};
    (void)number;
    for (size_t i = 0; i < sizeof(texts) / sizeof(texts[0]); i++) {
        const char *text = i == 1 && mapped != NULL ? mapped : texts[i];
        if (write(STDERR_FILENO, text, strlen(text)) < 0)
            break;
    }
    _exit(EXIT_FAILURE);
}

/* The database asserts what it reads, too. */
static const int bad_signals[] = {SIGBUS, SIGSEGV, SIGABRT};
enum { BAD_SIGNALS = sizeof(bad_signals) / sizeof(bad_signals[0]) };

static struct sigaction former[BAD_SIGNALS];

static void guard_begin(const char *path)
{
    struct sigaction action = {.sa_handler = on_bad_memory};
    mapped = path;
    (void)sigemptyset(&action.sa_mask);
    for (size_t i = 0; i < BAD_SIGNALS; i++)
        (void)sigaction(bad_signals[i], &action, &former[i]);
}

static void guard_end(void)
{
    for (size_t i = 0; i < BAD_SIGNALS; i++)
        (void)sigaction(bad_signals[i], &former[i], NULL);
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

/*
 * What is made on the way, such as locks, has to be the server's; and who owns PATH, or could put
 * something else in its place, may have put a link to anything there. So root becomes that user,
 * for good, before it looks at anything in PATH.
 */
static int give_up_root(const char *path, struct err *err)
{
    struct way way;
    struct owner owner;
    int rc = way_begin(&way, path, err);
    if (rc != 0)
        return rc;
    rc = way_walk(&way, err);
    if (rc == 0)
        rc = owner_find(&way, &owner, err);
    if (rc == 0 && owner.is_other)
        rc = owner_become(&owner, path, err);
    way_end(&way);
    return rc;
}

/* Which stores there are; an empty path for none. */
struct places {
    char cas[PATH_MAX];
    char index[PATH_MAX];
};

static int find_one(const char *storage, const char *name, char path[PATH_MAX], struct err *err)
{
    const struct store_kind kind = {.name = name};
    int rc = store_directory_find(storage, &kind, path, err);
    if (rc == 0)
        return give_up_root(path, err);
    path[0] = '\0';
    return rc == -ERR_NOT_FOUND ? 0 : rc;
}

static int find_stores(const char *storage, struct places *places, struct err *err)
{
    if (give_up_root(storage, err) != 0 || find_one(storage, "cas", places->cas, err) != 0 ||
        find_one(storage, "index", places->index, err) != 0)
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
    clear_line(check->context);
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
    clear_line(check->context);
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
        screen->store = "cas";
        guard_begin(places->cas);
        if (cas_open(&options, &cas, &err) != 0 || check_cas(cas, check, places->cas, &err) != 0) {
            clear_line(screen);
            status = complain(&err);
        }
        guard_end();
    }
    if (places->index[0] != '\0') {
        screen->store = "index";
        screen->what = NULL;
        guard_begin(places->index);
        if (check_index(arguments->storage, cas, check, places->index, &err) != 0) {
            clear_line(screen);
            status = complain(&err);
        }
        guard_end();
    }
    cas_close(cas);
    return status;
}

static int run_check(const struct check_arguments *arguments)
{
    struct screen screen = {.is_terminal = isatty(STDERR_FILENO) != 0};
    struct store_check check = {.repairs = arguments->repair,
                                .tell = on_fault,
                                .progress = on_progress,
                                .context = &screen};
    struct places places;
    struct err err;
    if (find_stores(arguments->storage, &places, &err) != 0)
        return complain(&err);
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
    for (int i = 0; i < argc; i++) {
        if (strcmp(argv[i], "--help") != 0)
            continue;
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
