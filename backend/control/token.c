/* SPDX-License-Identifier: Apache-2.0 */
/* assetctl token: makes tokens, and keeps the list of those that may log in. */
#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "control/credentials.h"
#include "control/groups.h"
#include "credential/authorized.h"
#include "credential/certificate.h"
#include "credential/tokens.h"

/* --- what all have in common --- */

static int open_tokens(struct folder *folder, struct tokens *tokens, const char *path,
                       enum folder_use use, struct err *err)
{
    int rc = credentials_open(folder, path, use, err);
    if (rc == 0 && (rc = tokens_load(tokens, folder, err)) != 0) {
        if (rc == -ERR_INVALID)
            (void)err_wrap(err, "%s", path);
        tokens_fini(tokens);
        folder_close(folder);
    }
    return rc;
}

static void close_tokens(struct folder *folder, struct tokens *tokens)
{
    tokens_fini(tokens);
    folder_close(folder);
}

/* Makes the lists that nginx would miss, and then writes this one: a token that is in it counts. */
static int store(const struct tokens *tokens, const struct folder *folder, struct err *err)
{
    struct authorized authorized;
    if (folder_has(folder, AUTHORIZED_FILE) && folder_has(folder, AUTHORIZED_MAP))
        return tokens_store(tokens, folder, err);
    int rc = authorized_load(&authorized, folder, err);
    if (rc == 0)
        rc = authorized_store(&authorized, folder, err);
    authorized_fini(&authorized);
    return rc == 0 ? tokens_store(tokens, folder, err) : rc;
}

/* --- token add --- */

/* By no buffer of the C library, which nobody wipes. */
static int print_digits(const char *digits, struct err *err)
{
    char line[TOKEN_DIGITS + 1];
    memcpy(line, digits, TOKEN_DIGITS);
    line[TOKEN_DIGITS] = '\n';
    ssize_t size = write(STDOUT_FILENO, line, sizeof(line));
    int failed = size < 0 ? errno : EIO;
    text_wipe(line, sizeof(line));
    return size == sizeof(line) ? 0 : err_errno(err, failed, "write to stdout");
}

/* What to do with it, and what with the former ones of the name. */
static void print_advice(const struct tokens *tokens, const char *path)
{
    const struct token *added = &tokens->tokens[tokens->count - 1];
    const char *dir = strcmp(path, CREDENTIALS_FOLDER) == 0 ? "" : " --dir ";
    (void)fprintf(stderr,
                  "%s, who may %s, is registered by this token, %s in the list. It is shown this "
                  "once.\n"
                  "  BuildStream: put it into a file (mode 0600); auth: access-token: FILE\n"
                  "  Bazel:       --remote_header=\"authorization=Bearer TOKEN\", in a .bazelrc of "
                  "mode 0600\n"
                  "  HTTP basic:  user %s, the token as password\n"
                  "%s\n",
                  added->name, added->role == ROLE_WRITE ? "read and write" : "read", added->hash,
                  added->name, credentials_reload);
    for (const struct token *token = tokens->tokens; token < added; token++)
        if (strcmp(token->name, added->name) == 0)
            (void)fprintf(stderr,
                          "%s has another, of %s; when that is out of use: assetctl token revoke "
                          "%s%s%s\n",
                          token->name, token->added, token->hash, dir, *dir != '\0' ? path : "");
}

static int add(const char *path, const char *name, enum role role, struct err *err)
{
    struct folder folder;
    struct tokens tokens;
    char date[16];
    int rc = open_tokens(&folder, &tokens, path, FOLDER_WRITE, err);
    if (rc != 0)
        return rc;
    rc = tokens_add(&tokens, name, role, credentials_date(certificate_now(), date), err);
    if (rc == 0)
        rc = store(&tokens, &folder, err);
    if (rc == 0) {
        const struct token *token = &tokens.tokens[tokens.count - 1];
        rc = print_digits(token->digits, err);
        if (rc == 0)
            print_advice(&tokens, path);
        else
            (void)err_wrap(err,
                           "the token is registered, but nobody has seen it: assetctl token revoke "
                           "%s",
                           token->hash);
    }
    close_tokens(&folder, &tokens);
    return rc;
}

static int run_add(int argc, char **argv)
{
    const char *path = CREDENTIALS_FOLDER, *role_text = NULL;
    const struct command_option options[] = {CREDENTIALS_DIR(&path),
                                             {.name = "--role", .value = &role_text}};
    enum role role = ROLE_READ;
    size_t words;
    struct err err;
    int status = command_options("token add", options, 2, argc, argv, &words);
    if (status != 0 || (status = credentials_role(role_text, &role)) != 0)
        return status;
    if (words != 1)
        return command_refuse("token add needs one NAME: assetctl token add ci --role write");
    if (role_text == NULL)
        return command_refuse("token add needs --role read or --role write");
    if ((status = credentials_name(argv[0])) != 0)
        return status;
    /* Who reads the token may be gone: that is to be said, as the token is registered by then. */
    (void)signal(SIGPIPE, SIG_IGN);
    return add(path, argv[0], role, &err) != 0 ? credentials_fail(&err) : EXIT_SUCCESS;
}

/* --- token revoke --- */

static int take_away(const char *path, const char *word, size_t *count, struct err *err)
{
    struct folder folder;
    struct tokens tokens;
    int rc = open_tokens(&folder, &tokens, path, FOLDER_WRITE, err);
    if (rc != 0)
        return rc;
    rc = tokens_remove(&tokens, word, count, err);
    if (rc == 0 && *count == 0)
        rc = err_set(err, ERR_NOT_FOUND,
                     "%s/" TOKENS_FILE " has no token of the name or hash %s: `assetctl token "
                     "list` shows which there are",
                     path, word);
    if (rc == 0)
        rc = store(&tokens, &folder, err);
    close_tokens(&folder, &tokens);
    return rc;
}

static int run_revoke(int argc, char **argv)
{
    return credentials_revoke("token", "token", "NAME or HASH", argc, argv, take_away);
}

/* --- token list --- */

static int run_list(int argc, char **argv)
{
    const char *path;
    struct folder folder;
    struct tokens tokens;
    int width = 4;
    struct err err;
    int status = credentials_no_words("token list", argc, argv, &path);
    if (status != 0)
        return status;
    if (open_tokens(&folder, &tokens, path, FOLDER_READ, &err) != 0)
        return credentials_fail(&err);
    for (size_t i = 0; i < tokens.count; i++) {
        int length = (int)strlen(tokens.tokens[i].name);
        width = length > width ? length : width;
    }
    (void)printf("%-*s  %-5s  %-10s  %s\n", width, "NAME", "ROLE", "ADDED", "HASH");
    for (size_t i = 0; i < tokens.count; i++) {
        const struct token *token = &tokens.tokens[i];
        (void)printf("%-*s  %-5s  %-10s  %s\n", width, token->name, role_name(token->role),
                     token->added, token->hash);
    }
    if (tokens.count == 0)
        command_note("no token is registered in %s", path);
    close_tokens(&folder, &tokens);
    return command_end(EXIT_SUCCESS);
}

static const struct command commands[] = {
    {"add", "NAME --role read|write", "make a token, and print it this once", run_add},
    {"revoke", "NAME|HASH", "let in no more by all tokens of a name, or by one", run_revoke},
    {"list", "", "show names, roles and when they were added", run_list},
};

static const struct command_table table = {
    .name = "assetctl token",
    .commands = commands,
    .count = sizeof(commands) / sizeof(commands[0]),
    .helps_with_all = true,
    .more =
        "All take --dir DIR, the folder with the files that nginx reads (" CREDENTIALS_FOLDER ").\n"
        "Links in it are not followed. Called as root for another user's folder, it works as\n"
        "that user.\n"
        "\n"
        "  NAME         the client's identity: " IDENTITY_RULE "\n"
        "  HASH         tells the tokens of a name apart: `token list` shows it\n"
        "  --role ROLE  read, or write (which reads as well)\n"
        "\n"
        "A name may have several tokens: add the new one, hand it out, revoke the old one by\n"
        "its hash. After each change: nginx -t && systemctl reload nginx\n"};

int group_token(int argc, char **argv)
{
    return command_run(&table, argc, argv);
}
