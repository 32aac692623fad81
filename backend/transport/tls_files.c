/* SPDX-License-Identifier: Apache-2.0 */
/* Reading of the files, which may be links: they are as a rule where certificates are renewed. */
#include "transport/tls_files.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/file.h"
#include "base/user.h"
#include "credential/pair_check.h"

enum {
    FILE_MAX = 4 << 20, /* bytes: some thousand certificates */
    READ_SIZE = 4096,
};

/* --- one file --- */

static int read_open_file(int fd, const char *path, char bytes[READ_SIZE], struct text *text,
                          struct err *err)
{
    struct stat status;
    ssize_t got;
    if (fstat(fd, &status) != 0)
        return err_errno(err, errno, "%s", path);
    if (!S_ISREG(status.st_mode))
        return err_set(err, ERR_PRECONDITION, "%s is no regular file", path);
    while ((got = read(fd, bytes, READ_SIZE)) != 0) {
        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0)
            return err_errno(err, errno, "read %s", path);
        text_add(text, bytes, (size_t)got);
        if (text->size > FILE_MAX)
            return err_set(err, ERR_PRECONDITION, "%s has more than %d bytes", path, FILE_MAX);
    }
    if (text->failed)
        return err_no_memory(err, path);
    if (text->size != 0 && memchr(text->bytes, '\0', text->size) != NULL)
        return err_set(err, ERR_INVALID, "%s is no text: it has a NUL in it", path);
    return 0;
}

static int refuse_open(const char *path, int error, struct err *err)
{
    char user[USER_TEXT_SIZE];
    (void)err_errno(err, error, "%s", path);
    return error == EACCES
               ? err_append(err,
                            "; %s must be able to read it, and no InaccessiblePaths= or "
                            "ProtectHome= of a unit may hide it",
                            user_text(geteuid(), user))
               : -(int)err->code;
}

static int read_file(const char *path, struct text *text, struct err *err)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
    if (fd < 0)
        return refuse_open(path, errno, err);
    char bytes[READ_SIZE];
    int rc = read_open_file(fd, path, bytes, text, err);
    text_wipe(bytes, sizeof(bytes));
    (void)close(fd);
    return rc;
}

/* --- all of them --- */

static void hash(struct hasher *hasher, const struct text *text)
{
    hasher_update(hasher, &text->size, sizeof(text->size));
    hasher_update(hasher, text->bytes, text->size);
}

static int compute_digest(struct tls_files *files, struct err *err)
{
    struct hasher *hasher = hasher_new(DIGEST_SHA256);
    if (hasher == NULL)
        return err_no_memory(err, "certificates");
    hash(hasher, &files->chain);
    hash(hasher, &files->key);
    hash(hasher, &files->authorized);
    hasher_digest(hasher, &files->digest);
    hasher_free(hasher);
    return 0;
}

int tls_files_read(const struct conf_tls *conf, struct tls_files *files, struct err *err)
{
    int rc = 0;
    *files = (struct tls_files){.not_after = 0};
    if (conf->certificate != NULL)
        rc = read_file(conf->certificate, &files->chain, err);
    if (rc == 0 && conf->key != NULL)
        rc = read_file(conf->key, &files->key, err);
    if (rc == 0 && conf->client_ca != NULL &&
        (rc = read_file(conf->client_ca, &files->authorized, err)) == -ERR_NOT_FOUND)
        (void)err_append(err, "; an empty one lets nobody in");
    return rc == 0 ? compute_digest(files, err) : rc;
}

static int judge_chain(const char *path, struct tls_files *files, struct err *err)
{
    struct certificate leaf;
    int rc = pair_check_chain(&files->chain, &leaf, err);
    if (rc == 0)
        rc = certificate_copy(files->chain.bytes, files->chain.size, &files->leaf, err);
    if (rc != 0)
        return err_wrap(err, "%s", path);
    files->not_after = leaf.not_after;
    return 0;
}

static int judge_key(const struct conf_tls *conf, struct tls_files *files, struct err *err)
{
    int rc = pair_check_key(conf->certificate != NULL ? &files->chain : NULL, &files->key, err);
    if (rc == -ERR_PRECONDITION)
        return err_set(err, ERR_PRECONDITION, "%s is not the key of %s", conf->key,
                       conf->certificate);
    return rc == 0 ? 0 : err_wrap(err, "%s", conf->key);
}

/* The core's texts end with a NUL. */
static int end_texts(struct tls_files *files, struct err *err)
{
    struct text *texts[] = {&files->chain, &files->key, &files->leaf};
    for (size_t i = 0; i < sizeof(texts) / sizeof(texts[0]); i++) {
        text_add(texts[i], "", 1);
        if (texts[i]->failed)
            return err_no_memory(err, "certificates");
    }
    return 0;
}

int tls_files_judge(const struct conf_tls *conf, struct tls_files *files, struct err *err)
{
    int rc = 0;
    if (conf->certificate != NULL)
        rc = judge_chain(conf->certificate, files, err);
    if (rc == 0 && conf->key != NULL)
        rc = judge_key(conf, files, err);
    if (rc == 0 && conf->client_ca != NULL)
        rc = members_parse(&files->members, conf->client_ca, &files->authorized, err);
    return rc == 0 ? end_texts(files, err) : rc;
}

void tls_files_fini(struct tls_files *files)
{
    text_fini(&files->chain);
    text_fini(&files->key);
    text_fini(&files->authorized);
    text_fini(&files->leaf);
    members_fini(&files->members);
}

/* NULL in the place of a file that only the user may be able to read whom the server runs as. */
static const char *ours(const char *path)
{
    return path == NULL || file_is_for_others(path) ? NULL : path;
}

int tls_files_check(const struct conf_tls *conf, struct err *err)
{
    struct conf_tls readable = *conf;
    struct tls_files files;
    readable.certificate = ours(conf->certificate);
    readable.key = ours(conf->key);
    readable.client_ca = ours(conf->client_ca);
    int rc = tls_files_read(&readable, &files, err);
    if (rc == 0)
        rc = tls_files_judge(&readable, &files, err);
    tls_files_fini(&files);
    return rc;
}

/* --- looks --- */

void tls_look_take(struct tls_look *look, const struct conf_tls *conf)
{
    const char *paths[TLS_FILES] = {conf->certificate, conf->key, conf->client_ca};
    memset(look, 0, sizeof(*look));
    for (size_t i = 0; i < TLS_FILES; i++)
        if (paths[i] != NULL && stat(paths[i], &look->files[i]) != 0) {
            look->errors[i] = errno;
            memset(&look->files[i], 0, sizeof(look->files[i]));
        }
}

bool tls_look_is_same(const struct tls_look *one, const struct tls_look *other)
{
    for (size_t i = 0; i < TLS_FILES; i++)
        if (one->errors[i] != other->errors[i] || !file_is_same(&one->files[i], &other->files[i]))
            return false;
    return true;
}

/* A time to come is no reason to wait for it: the clock was set. */
bool tls_look_is_fresh(const struct tls_look *look, int64_t age)
{
    int64_t now = clock_now();
    for (size_t i = 0; i < TLS_FILES; i++) {
        const struct timespec *changed = &look->files[i].st_ctim;
        int64_t at = (int64_t)changed->tv_sec * 1000 + changed->tv_nsec / 1000000;
        if (at <= now && now - at < age)
            return true;
    }
    return false;
}
