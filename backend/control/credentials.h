/* SPDX-License-Identifier: Apache-2.0 */
/* What the commands for certificates and for tokens have in common. */
#ifndef ASSETD_CONTROL_CREDENTIALS_H
#define ASSETD_CONTROL_CREDENTIALS_H

#include <stdint.h>

#include "base/err.h"
#include "base/identity.h"
#include "control/command.h"
#include "credential/folder.h"
#include "credential/role.h"

#define CREDENTIALS_FOLDER ASSETD_SYSCONFDIR "/assetd/tls"

/* The option that all of them take, for a table of options. */
#define CREDENTIALS_DIR(place)                               \
    {                                                        \
        .name = "--dir", .value = (place), .is_folder = true \
    }

/* What is said after a change. */
extern const char credentials_reload[];

/* Opens a folder, and says so if it works there as somebody else. */
int credentials_open(struct folder *folder, const char *path, enum folder_use use, struct err *err);

/* Complains of an error, with what to do about it; returns EXIT_FAILURE. */
int credentials_fail(const struct err *err);

/* Check what the command line says; 0, or EXIT_USAGE if they have complained. ROLE stays as it is
 * where TEXT is NULL. */
int credentials_name(const char *name);
int credentials_role(const char *text, enum role *role);

/* Takes the command line of COMMAND, which has no words but --dir alone: 0 with PATH, else as
 * above. */
int credentials_no_words(const char *command, int argc, char **argv, const char **path);

/*
 * The command `KIND revoke` ("cert", "token"; what it takes away is CALLED so), of one word, WORDS
 * for people. TAKE_AWAY removes what WORD means from the lists in PATH, and counts it. The exit
 * status.
 */
int credentials_revoke(const char *kind, const char *called, const char *words, int argc,
                       char **argv,
                       int (*take_away)(const char *path, const char *word, size_t *count,
                                        struct err *err));

/* YYYY-MM-DD of a time in seconds since 1970, UTC. Returns DATE. */
char *credentials_date(int64_t at, char date[16]);

#endif
