/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Reading of credentials. They are read where a call to the CAS is begun, which may be on a poller:
 * small files on a disk of this machine, which are not worth a thread of their own.
 */
#include "remote/cas_credentials.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/file.h"
#include "base/log.h"

enum {
    PEM_FILE_MAX = 4 << 20,    /* bytes; the bundle of a system has 200 KiB */
    TOKEN_FILE_MAX = 16 << 10, /* bytes; servers take 8 to 64 KiB of metadata */
};

/* What a file held, with a NUL behind it. */
struct contents {
    char *text;
    size_t size;
};

static void contents_fini(struct contents *contents)
{
    if (contents->text != NULL)
        explicit_bzero(contents->text, contents->size);
    free(contents->text);
    *contents = (struct contents){.text = NULL};
}

/* --- files --- */

static int read_open_file(int fd, const char *path, size_t most, struct contents *contents,
                          struct err *err)
{
    struct stat status;
    if (fstat(fd, &status) != 0)
        return err_errno(err, errno, "%s", path);
    if (!S_ISREG(status.st_mode))
        return err_set(err, ERR_PRECONDITION, "%s is no regular file", path);
    if (status.st_size > (off_t)most)
        return err_set(err, ERR_PRECONDITION, "%s has more than %zu bytes", path, most);
    contents->text = malloc((size_t)status.st_size + 1);
    if (contents->text == NULL)
        return err_no_memory(err, path);
    while (contents->size < (size_t)status.st_size) {
        ssize_t got =
            read(fd, contents->text + contents->size, (size_t)status.st_size - contents->size);
        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0)
            return err_errno(err, errno, "read %s", path);
        if (got == 0)
            break;
        contents->size += (size_t)got;
    }
    contents->text[contents->size] = '\0';
    if (strlen(contents->text) != contents->size)
        return err_set(err, ERR_PRECONDITION, "%s is no text: it has a NUL in it", path);
    return 0;
}

/* Reads at most MOST bytes. Whatever goes wrong is ERR_PRECONDITION, but for memory. */
static int read_file(const char *path, size_t most, struct contents *contents, struct err *err)
{
    *contents = (struct contents){.text = NULL};
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
    int rc =
        fd >= 0 ? read_open_file(fd, path, most, contents, err) : err_errno(err, errno, "%s", path);
    if (fd >= 0)
        (void)close(fd);
    if (rc == 0)
        return 0;
    contents_fini(contents);
    if (err->code != ERR_NO_MEMORY)
        err->code = ERR_PRECONDITION;
    return -(int)err->code;
}

/* --- TLS --- */

/* Whether TEXT has a whole PEM block whose label ends in LABEL. */
static bool has_pem(const char *text, const char *label)
{
    static const char begin[] = "-----BEGIN ", end[] = "-----END ";
    size_t length = strlen(label);
    for (const char *at = text; (at = strstr(at, begin)) != NULL; at += strlen(begin)) {
        const char *name = at + strlen(begin);
        const char *dashes = strstr(name, "-----");
        if (dashes != NULL && (size_t)(dashes - name) >= length &&
            strncmp(dashes - length, label, length) == 0 && strstr(dashes, end) != NULL)
            return true;
    }
    return false;
}

static int read_certificates(const char *path, struct contents *pem, struct err *err)
{
    int rc = read_file(path, PEM_FILE_MAX, pem, err);
    if (rc != 0 || has_pem(pem->text, "CERTIFICATE"))
        return rc;
    contents_fini(pem);
    return err_set(err, ERR_PRECONDITION,
                   "%s holds no certificate in PEM form (-----BEGIN CERTIFICATE-----)", path);
}

/* Without one the core would look for files of its own choice, or end the process. */
static int read_ca(const struct conf_cas *conf, const char *system_ca, struct contents *pem,
                   struct err *err)
{
    int rc = read_certificates(conf->tls_ca != NULL ? conf->tls_ca : system_ca, pem, err);
    if (rc == 0 || conf->tls_ca != NULL)
        return rc;
    return err_append(err, "; it is to hold the authorities that this machine trusts: "
                           "`apt install ca-certificates`, or name a file as cas.tls.ca");
}

static int read_key(const char *path, struct contents *pem, struct err *err)
{
    int rc = read_file(path, PEM_FILE_MAX, pem, err);
    if (rc != 0)
        return rc;
    if (has_pem(pem->text, "ENCRYPTED PRIVATE KEY") || strstr(pem->text, "4,ENCRYPTED") != NULL)
        rc = err_set(err, ERR_PRECONDITION,
                     "%s: the key is encrypted, and nobody is asked for its passphrase; take the "
                     "passphrase off, by `openssl pkey -in FILE -out FILE`",
                     path);
    else if (!has_pem(pem->text, "PRIVATE KEY"))
        rc = err_set(err, ERR_PRECONDITION,
                     "%s holds no private key in PEM form (-----BEGIN PRIVATE KEY-----)", path);
    if (rc != 0)
        contents_fini(pem);
    return rc;
}

static bool is_tls(const struct conf_cas *conf)
{
    static const char prefix[] = "grpcs://";
    return strncmp(conf->address, prefix, strlen(prefix)) == 0;
}

int cas_credentials_make(const struct conf_cas *conf, const char *system_ca,
                         grpc_channel_credentials **credentials, struct err *err)
{
    struct contents ca = {.text = NULL}, certificate = {.text = NULL}, key = {.text = NULL};
    if (!is_tls(conf)) {
        *credentials = grpc_insecure_credentials_create();
        return 0;
    }
    int rc = read_ca(conf, system_ca, &ca, err);
    if (rc == 0 && conf->tls_certificate != NULL)
        rc = read_certificates(conf->tls_certificate, &certificate, err);
    if (rc == 0 && conf->tls_key != NULL)
        rc = read_key(conf->tls_key, &key, err);
    if (rc == 0) {
        grpc_ssl_pem_key_cert_pair pair = {.private_key = key.text, .cert_chain = certificate.text};
        *credentials =
            grpc_ssl_credentials_create_ex(ca.text, key.text != NULL ? &pair : NULL, NULL, NULL);
        if (*credentials == NULL)
            rc = err_set(err, ERR_PRECONDITION, "the files of cas.tls are of no use for TLS");
    }
    contents_fini(&ca);
    contents_fini(&certificate);
    contents_fini(&key);
    return rc;
}

/* --- the token --- */

static const char bearer[] = "Bearer ";

static void drop_authorization(struct cas_token *token)
{
    if (token->authorization != NULL)
        explicit_bzero(token->authorization, strlen(token->authorization));
    free(token->authorization);
    token->authorization = NULL;
}

/* Makes "Bearer TOKEN" of TEXT, which has a token with blanks and newlines around it. */
static int make_authorization(const char *path, const char *text, char **authorization,
                              struct err *err)
{
    static const char blanks[] = " \t\r\n";
    const char *start = text + strspn(text, blanks);
    size_t size = strcspn(start, blanks);
    if (size == 0)
        return err_set(err, ERR_PRECONDITION, "%s is empty; it is to hold a token", path);
    if (start[size + strspn(start + size, blanks)] != '\0')
        return err_set(err, ERR_PRECONDITION,
                       "%s holds several words; it is to hold a token alone, without \"Bearer\"",
                       path);
    for (size_t i = 0; i < size; i++)
        if (start[i] <= ' ' || start[i] > '~')
            return err_set(err, ERR_PRECONDITION,
                           "%s: a token consists of printable ASCII characters", path);
    size_t room = strlen(bearer) + size + 1;
    *authorization = malloc(room);
    if (*authorization == NULL)
        return err_no_memory(err, "a token");
    (void)snprintf(*authorization, room, "%s%.*s", bearer, (int)size, start);
    return 0;
}

static int read_token(struct cas_token *token, struct err *err)
{
    struct contents contents;
    char *authorization;
    int rc = read_file(token->file, TOKEN_FILE_MAX, &contents, err);
    if (rc != 0)
        return rc;
    rc = make_authorization(token->file, contents.text, &authorization, err);
    if (rc == 0) {
        drop_authorization(token);
        token->authorization = authorization;
    }
    contents_fini(&contents);
    return rc;
}

/* Whether the file is not what it was when this was asked last. */
static bool has_changed(struct cas_token *token)
{
    struct stat now, *seen = &token->seen;
    if (stat(token->file, &now) != 0)
        memset(&now, 0, sizeof(now));
    bool is_same = file_is_same(&now, seen);
    *seen = now;
    return !is_same;
}

int cas_token_init(struct cas_token *token, const char *file, struct err *err)
{
    *token = (struct cas_token){.file = file};
    if (file == NULL)
        return 0;
    (void)has_changed(token);
    return read_token(token, err);
}

void cas_token_fini(struct cas_token *token)
{
    drop_authorization(token);
}

const char *cas_token_authorization(struct cas_token *token, const char *label)
{
    struct err err;
    if (token->file != NULL && has_changed(token) && read_token(token, &err) != 0)
        log_warning("cas-token-unreadable", log_str("instance", label), log_str("reason", err.msg),
                    log_str("answer", "the last token is used until the file holds another"));
    return token->authorization;
}

void cas_token_hide(const struct cas_token *token, char *text)
{
    if (token->authorization == NULL)
        return;
    const char *secret = token->authorization + strlen(bearer);
    size_t size = strlen(secret);
    for (char *at = text; (at = strstr(at, secret)) != NULL; at += size)
        memset(at, '*', size);
}

/* --- a look ahead --- */

/* None, or one that only the user may be able to read whom the server runs as. */
static bool is_for_others(const char *path)
{
    return path == NULL || file_is_for_others(path);
}

int cas_credentials_check(const struct conf_cas *conf, const char *system_ca, struct err *err)
{
    struct contents pem = {.text = NULL};
    struct cas_token token;
    int rc = 0;
    if (is_tls(conf) && !is_for_others(conf->tls_ca != NULL ? conf->tls_ca : system_ca))
        rc = read_ca(conf, system_ca, &pem, err);
    contents_fini(&pem);
    if (rc == 0 && !is_for_others(conf->tls_certificate))
        rc = read_certificates(conf->tls_certificate, &pem, err);
    contents_fini(&pem);
    if (rc == 0 && !is_for_others(conf->tls_key))
        rc = read_key(conf->tls_key, &pem, err);
    contents_fini(&pem);
    if (rc != 0 || is_for_others(conf->token_file))
        return rc;
    rc = cas_token_init(&token, conf->token_file, err);
    cas_token_fini(&token);
    return rc;
}
