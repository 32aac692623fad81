/* SPDX-License-Identifier: Apache-2.0 */
/* Rights in a storage directory, and what is said when it cannot be read. */
#include "control/storage.h"

#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "control/command.h"
#include "credential/owner.h"
#include "credential/way.h"
#include "store/directory.h"

/* --- rights --- */

static int become_owner(const struct way *way, const char *path, struct err *err)
{
    struct owner owner;
    int rc = owner_find(way, &owner, err);
    if (rc == 0 && owner.is_other)
        rc = owner_become(&owner, path, err);
    return rc;
}

int storage_enter(const char *path, struct err *err)
{
    struct way way;
    int rc = way_begin(&way, path, err);
    if (rc != 0)
        return rc;
    rc = way_walk(&way, err);
    if (rc == 0)
        rc = become_owner(&way, path, err);
    way_end(&way);
    return rc;
}

int storage_enter_new(const char *path, struct err *err)
{
    struct way way;
    int rc = way_begin(&way, path, err);
    if (rc != 0)
        return rc;
    rc = way_walk(&way, err);
    if (rc == 0 || rc == -ERR_NOT_FOUND)
        rc = become_owner(&way, path, err);
    way_end(&way);
    if (rc == 0 && geteuid() == 0)
        return err_set(err, ERR_PRECONDITION,
                       "%s is not there yet, and would be root's: make it for the user that the "
                       "server runs as, such as by install -d -o assetd -g assetd -m 750 %s",
                       path, path);
    return rc;
}

int storage_find(const char *storage, const char *name, char path[PATH_MAX], struct err *err)
{
    const struct store_kind kind = {.name = name};
    int rc = store_directory_find(storage, &kind, path, err);
    if (rc == 0)
        return storage_enter(path, err);
    path[0] = '\0';
    return rc == -ERR_NOT_FOUND ? 0 : rc;
}

/* --- faults --- */

int storage_fail(const struct err *err)
{
    static const char *const advices[ERR_CODES] = {
        [ERR_DENIED] = "run it as root, or as the user that the server runs as",
        [ERR_DATA_LOSS] = "stop the server, move the directory away, and have its content pushed "
                          "again",
        [ERR_IO] = "run it as the user that the server runs as, who may write there; if that is "
                   "not it, look for faults of the disk in the system's log",
        [ERR_NO_MEMORY] = "run it when there is more memory",
    };
    return command_fail(err, (unsigned)err->code < ERR_CODES ? advices[err->code] : NULL);
}

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

void storage_guard_begin(const char *path)
{
    struct sigaction action = {.sa_handler = on_bad_memory};
    mapped = path;
    (void)sigemptyset(&action.sa_mask);
    for (size_t i = 0; i < BAD_SIGNALS; i++)
        (void)sigaction(bad_signals[i], &action, &former[i]);
}

void storage_guard_end(void)
{
    for (size_t i = 0; i < BAD_SIGNALS; i++)
        (void)sigaction(bad_signals[i], &former[i], NULL);
}
