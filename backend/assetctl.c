/* SPDX-License-Identifier: Apache-2.0 */
/* assetctl: the operator's tool. */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "control/command.h"
#include "control/groups.h"
#include "rpc/queue.h"

static const struct command commands[] = {
    {"check", "STORAGE [--repair]", "verify what a storage directory holds", group_check},
    {"export", "INSTANCE", "write the index of an instance to stdout, as JSON", group_export},
    {"import", "INSTANCE [--check]", "take such lines from stdin into an index", group_import},
    {"import-casd", "REPO STORAGE", "take over what bst-artifact-server has stored",
     group_import_casd},
    {"cert", "COMMAND ...", "the server's key pair, and certificates of clients", group_cert},
    {"token", "COMMAND ...", "tokens of clients", group_token},
};

static const struct command_table table = {
    .name = "assetctl",
    .commands = commands,
    .count = sizeof(commands) / sizeof(commands[0]),
    .more = "  --help     print this text; assetctl COMMAND --help says more\n"
            "  --version  print the version\n",
};

int main(int argc, char **argv)
{
    (void)setvbuf(stdout, NULL, _IOLBF, 0);
    /* A file that may not become so large is an error of writing it, as a full disk is. */
    (void)signal(SIGXFSZ, SIG_IGN);
    rpc_prepare();
    log_set_level(LOG_LEVEL_WARNING);
    if (argc >= 2 && strcmp(argv[1], "--version") == 0) {
        (void)printf("assetctl %s\n", ASSETD_VERSION);
        return command_end(EXIT_SUCCESS);
    }
    return command_run(&table, argc - 1, argv + 1);
}
