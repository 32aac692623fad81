/* SPDX-License-Identifier: Apache-2.0 */
/* Folders, names and roles as the command line gives them. */
#include "control/credentials.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>

const char credentials_reload[] = "nginx has to read that: nginx -t && systemctl reload nginx";

static const char revoked[] =
    "From then on new connections are let in by it no more, and open ones end when their calls "
    "have. That is enough for who has left. A connection that was made before, and had not logged "
    "in yet, still is served as before: against a stolen key or token, systemctl restart nginx, "
    "which waits up to 30 s for calls under way.\n"
    "Without nginx: an assetd that does TLS itself refuses a certificate from its next call on.";

int credentials_open(struct folder *folder, const char *path, enum folder_use use, struct err *err)
{
    int rc = folder_open(folder, path, use, err);
    if (rc == 0 && folder->works_as_owner)
        command_note("works as %s, who owns %s", folder->owner, path);
    return rc;
}

int credentials_fail(const struct err *err)
{
    static const char *const advices[ERR_CODES] = {
        [ERR_DENIED] = "run it as root, or as the user who owns that folder",
        [ERR_EXHAUSTED] = "make room, and run it again",
        [ERR_IO] = "look for what is wrong with the disk, and run it again",
        [ERR_NO_MEMORY] = "run it when there is more memory",
    };
    return command_fail(err, (unsigned)err->code < ERR_CODES ? advices[err->code] : NULL);
}

int credentials_name(const char *name)
{
    if (identity_is_valid(name, strlen(name)))
        return 0;
    return command_refuse("NAME is " IDENTITY_RULE ", not '%s'", name);
}

int credentials_role(const char *text, enum role *role)
{
    if (text == NULL || role_parse(text, strlen(text), role))
        return 0;
    return command_refuse("--role is read or write, not %s", text);
}

char *credentials_date(int64_t at, char date[16])
{
    struct tm tm;
    time_t seconds = (time_t)at;
    if (gmtime_r(&seconds, &tm) == NULL || strftime(date, 16, "%Y-%m-%d", &tm) == 0)
        memcpy(date, "?", 2);
    return date;
}

int credentials_no_words(const char *command, int argc, char **argv, const char **path)
{
    const struct command_option options[] = {CREDENTIALS_DIR(path)};
    size_t words;
    *path = CREDENTIALS_FOLDER;
    int status = command_options(command, options, 1, argc, argv, &words);
    if (status == 0 && words != 0)
        return command_refuse("%s takes no arguments: what is %s?", command, argv[0]);
    return status;
}

int credentials_revoke(const char *kind, const char *called, const char *words, int argc,
                       char **argv,
                       int (*take_away)(const char *path, const char *word, size_t *count,
                                        struct err *err))
{
    const char *path = CREDENTIALS_FOLDER;
    const struct command_option options[] = {CREDENTIALS_DIR(&path)};
    char command[32];
    size_t given, count = 0;
    struct err err;
    (void)snprintf(command, sizeof(command), "%s revoke", kind);
    int status = command_options(command, options, 1, argc, argv, &given);
    if (status != 0)
        return status;
    if (given != 1 || argv[0][0] == '\0')
        return command_refuse("%s needs one %s that is not empty", command, words);
    if (take_away(path, argv[0], &count, &err) != 0)
        return credentials_fail(&err);
    (void)printf("%zu %s%s of %s revoked\n", count, called, count == 1 ? "" : "s", argv[0]);
    (void)printf("%s\n%s\n", credentials_reload, revoked);
    return command_end(EXIT_SUCCESS);
}
