/* SPDX-License-Identifier: Apache-2.0 */
/* assetctl cert: makes key pairs, and keeps the list of certificates that may log in. */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "control/cert_list.h"
#include "control/credentials.h"
#include "control/groups.h"
#include "credential/authorized.h"
#include "credential/pair.h"
#include "credential/tokens.h"

#define SERVER_KEY         "server.key"
#define SERVER_CERTIFICATE CERT_SERVER

enum { MODE_KEY = 0600, MODE_CERTIFICATE = 0644 };

/* Said behind credentials_reload: for certificates it is half of it. */
static const char by_itself[] =
    "An assetd that does TLS itself, without nginx, reads it by itself.";

/* --- what all that write have in common --- */

static void say_registered(const struct client *client)
{
    (void)printf("%s, who may %s, is registered by the certificate %s\n", client->name,
                 client->role == ROLE_WRITE ? "read and write" : "read", client->certificate.sha1);
}

/*
 * Writes the lists, and makes those that nginx would miss. Says who is let in now and was not in
 * the map, as whoever appended to the file may have written a name into it; and who was ADDED last.
 */
static int store(struct authorized *authorized, const struct folder *folder, bool added,
                 struct err *err)
{
    struct text before = {.bytes = NULL};
    struct err ignored;
    if (folder_read(folder, AUTHORIZED_MAP, &before, &ignored) != 0)
        text_fini(&before); /* all of them are new */
    int rc = tokens_ensure(folder, err);
    if (rc == 0)
        rc = authorized_store(authorized, folder, err);
    for (size_t i = 0; rc == 0 && i < authorized->count; i++) {
        const struct client *client = &authorized->clients[i];
        bool is_new = added && i == authorized->count - 1;
        if (client->state == CLIENT_REGISTERED && (is_new || !authorized_maps(&before, client)))
            say_registered(client);
    }
    text_fini(&before);
    return rc;
}

static int open_lists(struct folder *folder, struct authorized *authorized, const char *path,
                      struct err *err)
{
    int rc = credentials_open(folder, path, FOLDER_WRITE, err);
    if (rc == 0 && (rc = authorized_load(authorized, folder, err)) != 0) {
        authorized_fini(authorized);
        folder_close(folder);
    }
    return rc;
}

static void close_lists(struct folder *folder, struct authorized *authorized)
{
    authorized_fini(authorized);
    folder_close(folder);
}

/*
 * Looking for who signed a certificate, OpenSSL goes by the subject and, if there is one, the
 * identifier of the key: of two that nothing tells apart, it refuses one.
 */
static void note_namesakes(const struct authorized *authorized)
{
    const struct client *added = &authorized->clients[authorized->count - 1];
    for (const struct client *other = authorized->clients; other < added; other++) {
        if (!other->has_certificate || added->certificate.has_key_id ||
            other->certificate.subject != added->certificate.subject)
            continue;
        command_note("note: the certificate on line %u has the same subject, and nginx will "
                     "probably refuse one of the two: revoke the other one, or have this one made "
                     "by `assetctl cert client`, or with another subject",
                     other->line);
        return;
    }
}

/* Registers a certificate, and says so. *IS_LISTED: it is in authorized.crt, also after an error.
 */
static int enter(const char *path, const char *name, enum role role, const struct text *pem,
                 bool *is_listed, struct err *err)
{
    struct folder folder;
    struct authorized authorized;
    int rc = open_lists(&folder, &authorized, path, err);
    *is_listed = false;
    if (rc != 0)
        return rc;
    rc = authorized_add(&authorized, name, role, pem->bytes, pem->size, err);
    if (rc == 0)
        rc = store(&authorized, &folder, true, err);
    *is_listed = authorized.is_stored;
    if (rc == 0) {
        (void)cert_note_faults(&authorized);
        note_namesakes(&authorized);
        (void)printf("%s\n%s\n", credentials_reload, by_itself);
    }
    close_lists(&folder, &authorized);
    return rc;
}

static int take_days(const char *text, int *days)
{
    char *end;
    if (text == NULL)
        return 0;
    errno = 0;
    long number = strtol(text, &end, 10);
    if (errno != 0 || *end != '\0' || text[0] < '0' || text[0] > '9' || number < 1 ||
        number > PAIR_DAYS_MAX)
        return command_refuse("--days is a number from 1 to %d, not %s", PAIR_DAYS_MAX, text);
    *days = (int)number;
    return 0;
}

/* --- cert server --- */

static int refuse_pair(const struct folder *folder, struct err *err)
{
    bool has_key = folder_has(folder, SERVER_KEY);
    bool has_certificate = folder_has(folder, SERVER_CERTIFICATE);
    if (!has_key && !has_certificate)
        return 0;
    if (has_key && has_certificate)
        return err_set(err, ERR_PRECONDITION,
                       "%s has a " SERVER_CERTIFICATE " and " SERVER_KEY " already: --replace puts "
                       "new ones in their place, which clients then have to be given",
                       folder->path);
    return err_set(err, ERR_PRECONDITION,
                   "%s has a %s without its %s: put that back, or make both anew by --replace",
                   folder->path, has_key ? SERVER_KEY : SERVER_CERTIFICATE,
                   has_key ? SERVER_CERTIFICATE : SERVER_KEY);
}

/*
 * Both are on the disk before the first of them is in its place. In between there is the new key
 * and the old certificate: an nginx that is running has both of the old, and refuses to reload.
 */
static int write_server_pair(const struct folder *folder, const struct text *key,
                             const struct text *certificate, struct err *err)
{
    int rc = folder_stage(folder, SERVER_KEY, key, MODE_KEY, err);
    if (rc != 0)
        return rc;
    rc = folder_stage(folder, SERVER_CERTIFICATE, certificate, MODE_CERTIFICATE, err);
    if (rc != 0) {
        folder_unstage(folder, SERVER_KEY);
        return rc;
    }
    if ((rc = folder_publish(folder, SERVER_KEY, err)) != 0) {
        folder_unstage(folder, SERVER_CERTIFICATE);
        return rc;
    }
    if ((rc = folder_publish(folder, SERVER_CERTIFICATE, err)) != 0)
        (void)err_wrap(err, "the new " SERVER_KEY " has no certificate: run the command again "
                            "with --replace");
    return rc;
}

static int keep_old(const struct folder *folder, const char *name, const char *old, mode_t mode,
                    struct err *err)
{
    struct text text = {.bytes = NULL};
    int rc = folder_read(folder, name, &text, err);
    if (rc == 0)
        rc = folder_replace(folder, old, &text, mode, err);
    text_fini(&text);
    if (rc == 0)
        (void)printf("%s/%s, which did not sign itself, is kept as %s\n", folder->path, name, old);
    return rc == -ERR_NOT_FOUND ? 0 : rc;
}

/* Keeps a pair that is replaced, unless it is one that this command could make again. */
static int keep_old_pair(const struct folder *folder, struct err *err)
{
    struct text pem = {.bytes = NULL};
    struct certificate certificate;
    struct err ignored;
    int rc = folder_read(folder, SERVER_CERTIFICATE, &pem, err);
    bool is_own = rc == 0 && certificate_read(pem.bytes, pem.size, &certificate, &ignored) == 0 &&
                  certificate.is_own_issuer;
    text_fini(&pem);
    if (rc != 0)
        return rc == -ERR_NOT_FOUND ? 0 : rc;
    if (is_own)
        return 0;
    rc = keep_old(folder, SERVER_KEY, SERVER_KEY ".old", MODE_KEY, err);
    return rc != 0 ? rc
                   : keep_old(folder, SERVER_CERTIFICATE, SERVER_CERTIFICATE ".old",
                              MODE_CERTIFICATE, err);
}

static int make_server_pair(const char *path, const char *const *hosts, size_t count, int days,
                            bool replaces, struct err *err)
{
    struct folder folder;
    struct authorized authorized;
    struct text key = {.bytes = NULL}, certificate = {.bytes = NULL};
    int rc = open_lists(&folder, &authorized, path, err);
    if (rc != 0)
        return rc;
    if (!replaces)
        rc = refuse_pair(&folder, err);
    if (rc == 0)
        rc = pair_make(PAIR_SERVER, hosts, count, days, &key, &certificate, err);
    if (rc == 0)
        rc = keep_old_pair(&folder, err);
    if (rc == 0)
        rc = write_server_pair(&folder, &key, &certificate, err);
    if (rc == 0)
        rc = store(&authorized, &folder, false, err);
    text_fini(&key);
    text_fini(&certificate);
    close_lists(&folder, &authorized);
    return rc;
}

static int run_server(int argc, char **argv)
{
    const char *path = CREDENTIALS_FOLDER, *days_text = NULL;
    bool replaces = false;
    const struct command_option options[] = {CREDENTIALS_DIR(&path),
                                             {.name = "--days", .value = &days_text},
                                             {.name = "--replace", .is_set = &replaces}};
    size_t words;
    int days = PAIR_DAYS;
    struct err err;
    int status = command_options("cert server", options, 3, argc, argv, &words);
    if (status != 0 || (status = take_days(days_text, &days)) != 0)
        return status;
    if (words == 0)
        return command_refuse("cert server needs the host names and IP addresses that clients ask "
                              "for: assetctl cert server cache.example.com");
    for (size_t i = 0; i < words; i++)
        if (pair_check_host(argv[i], &err) != 0)
            return command_refuse("%s", err.msg);
    if (make_server_pair(path, (const char *const *)argv, words, days, replaces, &err) != 0)
        return credentials_fail(&err);
    (void)printf("%s/" SERVER_CERTIFICATE " is for %s%s, and its key is " SERVER_KEY "\n", path,
                 argv[0], words > 1 ? " and the others" : "");
    (void)printf("Give clients a copy of " SERVER_CERTIFICATE
                 ", which they trust the server by.\n");
    (void)printf("%s\n%s\n", credentials_reload, by_itself);
    return command_end(EXIT_SUCCESS);
}

/* --- cert client --- */

/* The names of a client's files. */
struct pair_files {
    char key[NAME_MAX + 1];
    char certificate[NAME_MAX + 1];
};

static int write_client_pair(const char *path, const struct pair_files *files,
                             const struct text *key, const struct text *certificate,
                             struct err *err)
{
    struct folder folder;
    struct err ignored;
    int rc = credentials_open(&folder, path, FOLDER_FILL, err);
    if (rc == -ERR_NOT_FOUND)
        return err_append(err, ": make it first, by mkdir -p");
    if (rc != 0)
        return rc;
    if (folder_has(&folder, files->certificate))
        rc = err_set(err, ERR_PRECONDITION, "%s/%s exists already", path, files->certificate);
    if (rc == 0)
        rc = folder_create(&folder, files->key, key, MODE_KEY, err);
    if (rc == 0 &&
        (rc = folder_create(&folder, files->certificate, certificate, MODE_CERTIFICATE, err)) != 0)
        (void)folder_remove(&folder, files->key, &ignored);
    folder_close(&folder);
    if (rc == -ERR_PRECONDITION)
        (void)err_wrap(err, "no file is overwritten; remove it, or choose another folder by --out");
    return rc;
}

/* A pair that could not be registered is of no use, and in the way of the next attempt. */
static void remove_client_pair(const char *path, const struct pair_files *files)
{
    struct folder folder;
    struct err err;
    if (folder_open(&folder, path, FOLDER_FILL, &err) != 0)
        return;
    (void)folder_remove(&folder, files->certificate, &err);
    (void)folder_remove(&folder, files->key, &err);
    folder_close(&folder);
}

static int make_client_pair(const char *path, const char *out, const char *name, enum role role,
                            int days, struct err *err)
{
    struct text key = {.bytes = NULL}, certificate = {.bytes = NULL};
    struct pair_files files;
    bool is_listed = false;
    (void)snprintf(files.key, sizeof(files.key), "%s.key", name);
    (void)snprintf(files.certificate, sizeof(files.certificate), "%s.crt", name);
    int rc = pair_make(PAIR_CLIENT, &name, 1, days, &key, &certificate, err);
    if (rc == 0)
        rc = write_client_pair(out, &files, &key, &certificate, err);
    if (rc == 0) {
        rc = enter(path, name, role, &certificate, &is_listed, err);
        if (rc != 0 && is_listed)
            (void)err_append(err, "; the pair is kept, %s/%s and %s", out, files.certificate,
                             files.key);
        else if (rc != 0)
            remove_client_pair(out, &files);
    }
    text_fini(&key);
    text_fini(&certificate);
    return rc;
}

static int run_client(int argc, char **argv)
{
    const char *path = CREDENTIALS_FOLDER, *out = ".", *days_text = NULL, *role_text = NULL;
    const struct command_option options[] = {CREDENTIALS_DIR(&path),
                                             {.name = "--out", .value = &out, .is_folder = true},
                                             {.name = "--days", .value = &days_text},
                                             {.name = "--role", .value = &role_text}};
    enum role role = ROLE_WRITE;
    size_t words;
    int days = PAIR_DAYS;
    struct err err;
    int status = command_options("cert client", options, 4, argc, argv, &words);
    if (status != 0 || (status = take_days(days_text, &days)) != 0 ||
        (status = credentials_role(role_text, &role)) != 0)
        return status;
    if (words != 1)
        return command_refuse("cert client needs one NAME: assetctl cert client ci");
    if ((status = credentials_name(argv[0])) != 0)
        return status;
    if (argv[0][0] == '.' || argv[0][0] == '-')
        return command_refuse("NAME becomes the name of files here, and must not begin with a dot "
                              "or a dash: %s",
                              argv[0]);
    if (make_client_pair(path, out, argv[0], role, days, &err) != 0)
        return credentials_fail(&err);
    (void)printf("Give the client %s/%s.crt and %s.key, by a way on which nobody else reads the "
                 "key.\n",
                 out, argv[0], argv[0]);
    return command_end(EXIT_SUCCESS);
}

/* --- cert add --- */

/* Reads a certificate as the caller may, links and pipes included. */
static int read_input(const char *path, struct text *text, struct err *err)
{
    enum { INPUT_MAX = 1 << 20 };
    char bytes[4096];
    ssize_t size;
    bool is_stdin = strcmp(path, "-") == 0;
    const char *shown = is_stdin ? "stdin" : path;
    int rc = 0, fd = is_stdin ? STDIN_FILENO : open(path, O_RDONLY | O_NOCTTY | O_CLOEXEC);
    if (fd < 0)
        return err_errno(err, errno, "cannot read %s", path);
    while (rc == 0 && (size = read(fd, bytes, sizeof(bytes))) != 0) {
        if (size > 0)
            text_add(text, bytes, (size_t)size);
        else if (errno != EINTR)
            rc = err_errno(err, errno, "cannot read %s", shown);
        if (rc == 0 && text->size > INPUT_MAX)
            rc = err_set(err, ERR_INVALID, "%s does not hold one certificate: it is too large",
                         shown);
    }
    if (!is_stdin)
        (void)close(fd);
    return rc == 0 && text->failed ? err_no_memory(err, shown) : rc;
}

/* What is registered is one certificate that is valid, and no key: that is the client's alone. */
static int check_input(const struct authorized *input, const char *path, struct err *err)
{
    const struct client *client = input->clients;
    const char *shown = strcmp(path, "-") == 0 ? "stdin" : path;
    static const char key_mark[] = "PRIVATE KEY-----";
    if (input->text.size != 0 &&
        memmem(input->text.bytes, input->text.size, key_mark, sizeof(key_mark) - 1) != NULL)
        return err_set(err, ERR_INVALID,
                       "%s does not hold one certificate alone: there is a private key in it, "
                       "which nobody but the client should have",
                       shown);
    if (input->count != 1 || !client->has_certificate)
        return err_set(err, ERR_INVALID, "%s does not hold one certificate in PEM form%s%s", shown,
                       input->count == 1 ? ": " : "", input->count == 1 ? client->why : "");
    if (client->certificate.not_after <= certificate_now())
        return err_set(err, ERR_INVALID, "the certificate in %s has expired", shown);
    return 0;
}

static int add_input(const char *path, const char *name, const char *file, enum role role,
                     struct err *err)
{
    struct text text = {.bytes = NULL}, pem = {.bytes = NULL};
    struct authorized input = {.count = 0};
    int rc = read_input(file, &text, err);
    if (rc == 0)
        rc = authorized_parse(&input, &text, err);
    if (rc == 0)
        rc = check_input(&input, file, err);
    if (rc == 0) {
        const struct client *client = input.clients;
        if (client->certificate.can_sign)
            command_note("note: %s can sign certificates for others (CA:TRUE); those are let in by "
                         "nobody, as they are not registered",
                         name);
        if (client->certificate.not_before > certificate_now())
            command_note("note: the certificate of %s is not valid yet", name);
        bool is_listed;
        text_add(&pem, input.text.bytes + client->pem, client->end - client->pem);
        rc = enter(path, name, role, &pem, &is_listed, err);
    }
    text_fini(&text);
    text_fini(&pem);
    authorized_fini(&input);
    return rc;
}

static int run_add(int argc, char **argv)
{
    const char *path = CREDENTIALS_FOLDER, *role_text = NULL;
    const struct command_option options[] = {CREDENTIALS_DIR(&path),
                                             {.name = "--role", .value = &role_text}};
    enum role role = ROLE_WRITE;
    size_t words;
    struct err err;
    int status = command_options("cert add", options, 2, argc, argv, &words);
    if (status != 0 || (status = credentials_role(role_text, &role)) != 0)
        return status;
    if (words != 2)
        return command_refuse("cert add needs a NAME and a FILE with a certificate: assetctl cert "
                              "add ci client.crt");
    if ((status = credentials_name(argv[0])) != 0)
        return status;
    if (add_input(path, argv[0], argv[1], role, &err) != 0)
        return credentials_fail(&err);
    return command_end(EXIT_SUCCESS);
}

/* --- cert revoke --- */

static int take_away(const char *path, const char *word, size_t *count, struct err *err)
{
    struct folder folder;
    struct authorized authorized;
    int rc = open_lists(&folder, &authorized, path, err);
    if (rc != 0)
        return rc;
    rc = authorized_remove(&authorized, word, count, err);
    if (rc == 0 && *count == 0)
        rc = err_set(err, ERR_NOT_FOUND,
                     "%s/" AUTHORIZED_FILE " has no certificate of the name or fingerprint %s: "
                     "`assetctl cert list` shows which there are",
                     path, word);
    if (rc == 0)
        rc = store(&authorized, &folder, false, err);
    if (rc == 0)
        (void)cert_note_faults(&authorized);
    close_lists(&folder, &authorized);
    return rc;
}

static int run_revoke(int argc, char **argv)
{
    return credentials_revoke("cert", "certificate", "NAME or FINGERPRINT", argc, argv, take_away);
}

/* --- cert list, cert update --- */

static int run_list(int argc, char **argv)
{
    const char *path;
    int status = credentials_no_words("cert list", argc, argv, &path);
    if (status != 0)
        return status;
    return cert_list(path);
}

static int run_update(int argc, char **argv)
{
    const char *path;
    struct folder folder;
    struct authorized authorized;
    size_t count = 0;
    struct err err;
    int status = credentials_no_words("cert update", argc, argv, &path);
    if (status != 0)
        return status;
    if (open_lists(&folder, &authorized, path, &err) != 0)
        return credentials_fail(&err);
    int rc = store(&authorized, &folder, false, &err);
    status = cert_note_faults(&authorized);
    for (size_t i = 0; i < authorized.count; i++)
        count += authorized.clients[i].state == CLIENT_REGISTERED;
    close_lists(&folder, &authorized);
    if (rc != 0)
        return credentials_fail(&err);
    (void)printf("%zu certificate%s in %s/" AUTHORIZED_MAP "\n", count, count == 1 ? "" : "s",
                 path);
    (void)printf("%s\n%s\n", credentials_reload, by_itself);
    return command_end(status);
}

static const struct command commands[] = {
    {"server", "HOST... [--days N] [--replace]", "make server.crt and server.key", run_server},
    {"client", "NAME [--role ROLE] [--out DIR] [--days N]",
     "make NAME.crt and NAME.key, and register them", run_client},
    {"add", "NAME FILE [--role ROLE]", "register a certificate that the client made", run_add},
    {"revoke", "NAME|FINGERPRINT", "let a client in no more", run_revoke},
    {"list", "", "show all, and when they expire", run_list},
    {"update", "", "read authorized.crt anew, after it was edited", run_update},
};

static const struct command_table table = {
    .name = "assetctl cert",
    .commands = commands,
    .count = sizeof(commands) / sizeof(commands[0]),
    .helps_with_all = true,
    .more =
        "All take --dir DIR, the folder with the files that nginx reads (" CREDENTIALS_FOLDER ").\n"
        "Links in it are not followed. Called as root for another user's folder, it works as\n"
        "that user.\n"
        "\n"
        "  HOST         a host name, *.DOMAIN, or an IP address, as clients write it\n"
        "  NAME         the client's identity: " IDENTITY_RULE "\n"
        "  FILE         a certificate in PEM form; - for stdin\n"
        "  FINGERPRINT  SHA-1 or SHA-256 of one certificate, in hex\n"
        "  --role ROLE  read, or write (which reads as well; the default)\n"
        "  --out DIR    where the client's pair goes: the working directory\n"
        "  --days N     how long it is valid: 3650\n"
        "  --replace    put a new pair in the place of the server's\n"
        "\n"
        "In authorized.crt a line `# client: NAME` or `# client: NAME read` above a\n"
        "certificate names it; one without is named cert- and 16 digits of its fingerprint,\n"
        "and may write. After each change: nginx -t && systemctl reload nginx. An assetd that\n"
        "does TLS itself, without nginx, reads it by itself.\n"};

int group_cert(int argc, char **argv)
{
    return command_run(&table, argc, argv);
}
