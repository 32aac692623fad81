/* SPDX-License-Identifier: Apache-2.0 */
/* Making, recognising and locking the directory of a store. */
#include "store/directory.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <fts.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/user.h"
#include "store/disk.h"

/* The format file is one line: assetd KIND VERSION ID. */
#define FORMAT_NAME     "format"
#define FORMAT_NEW_NAME "format.new"

enum { FORMAT_SIZE_MAX = 256 };

/* How often it is tried to lock the storage directory, and how long it is waited in between. */
enum { SETUP_TRIES = 300, SETUP_PAUSE_NS = 10 * 1000 * 1000 };

/* How long a look at a foreign directory may take at start, milliseconds. */
enum { FOREIGN_WALK_MS = 1000 };

/* Where buildbox-casd, the store of bst-artifact-server, has blobs and how many bytes they are. */
#define CASD_OBJECTS "objects"
#define CASD_BYTES   "disk_usage"

/*
 * Byte 0 of the format file is locked for the open file, which keeps out other processes and a
 * second opening in this one. Byte 1 is locked for the process, only because such a lock tells the
 * pid of its holder.
 */
enum { LOCK_BYTE_FILE = 0, LOCK_BYTE_PROCESS = 1 };

static int join(char path[PATH_MAX], const char *parent, const char *name, struct err *err)
{
    int length = snprintf(path, PATH_MAX, "%s/%s", parent, name);
    if (length < 0 || length >= PATH_MAX)
        return err_set(err, ERR_INVALID, "path %s/%s is too long", parent, name);
    return 0;
}

/*
 * What is in it is durable then. Also for what is there already: who made it may have been killed
 * before it did this.
 */
static int sync_directory(const char *path, struct err *err)
{
    int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0)
        return err_errno(err, errno, "open %s", path);
    int rc = fsync(fd) == 0 ? 0 : err_errno(err, errno, "fsync %s", path);
    (void)close(fd);
    return rc;
}

/* err_errno for what is written to first: that it is read only may be the sandbox of a unit. */
static int write_fault(struct err *err, int errnum, const char *what, const char *path,
                       const char *name)
{
    int rc = err_errno(err, errnum, "%s %s%s", what, path, name);
    if (errnum == EROFS)
        (void)err_append(err, "; if systemd starts assetd: is it in the unit's ReadWritePaths=?");
    return rc;
}

static int make_directory(const char *path, const char *parent, struct err *err)
{
    if (mkdir(path, 0750) != 0 && errno != EEXIST)
        return write_fault(err, errno, "make directory", path, "");
    return sync_directory(parent, err);
}

/* Behind a denial to make a directory in PARENT. */
static int explain_parent(const char *parent, struct err *err)
{
    char self[USER_TEXT_SIZE];
    return err_append(err, "; %s may not write to %s", user_text(geteuid(), self), parent);
}

/* The last directory that was there already may be new. PATH may be nobody's of ours to open. */
static void sync_above(const char *path)
{
    struct err ignored;
    if (path[0] != '\0')
        (void)sync_directory(path, &ignored);
}

/* Makes PATH and what is missing of its parents. */
static int make_directories(const char *path, struct err *err)
{
    char prefix[PATH_MAX];
    char parent[PATH_MAX];
    char above[PATH_MAX]; /* the parent of PARENT, if that was there */
    size_t length = strlen(path);
    if (length >= sizeof(prefix))
        return err_set(err, ERR_INVALID, "path %s is too long", path);
    (void)snprintf(parent, sizeof(parent), "%s", path[0] == '/' ? "/" : ".");
    above[0] = '\0';
    for (size_t i = 1; i <= length; i++) {
        if (i < length && path[i] != '/')
            continue;
        memcpy(prefix, path, i);
        prefix[i] = '\0';
        struct stat st;
        if (stat(prefix, &st) != 0) {
            if (errno != ENOENT)
                return err_errno(err, errno, "look at %s", prefix);
            sync_above(above);
            above[0] = '\0';
            if (make_directory(prefix, parent, err) != 0)
                return err->code == ERR_DENIED ? explain_parent(parent, err) : -(int)err->code;
        } else {
            memcpy(above, parent, sizeof(above));
        }
        memcpy(parent, prefix, i + 1);
    }
    sync_above(above);
    return 0;
}

/* What a directory of a store's name may be. */
enum presence { ABSENT, EMPTY, FOREIGN, OURS };

/* A format file that was never finished and what mkfs leaves do not make a directory foreign. */
static bool is_content(const char *name)
{
    static const char *const ignored[] = {".", "..", FORMAT_NEW_NAME, "lost+found"};
    for (size_t i = 0; i < sizeof(ignored) / sizeof(ignored[0]); i++)
        if (strcmp(name, ignored[i]) == 0)
            return false;
    return true;
}

static int look_at(const char *path, enum presence *presence, struct err *err)
{
    DIR *stream = opendir(path);
    if (stream == NULL) {
        *presence = ABSENT;
        return errno == ENOENT ? 0 : err_errno(err, errno, "open %s", path);
    }
    int rc = 0;
    *presence = EMPTY;
    if (faccessat(dirfd(stream), FORMAT_NAME, F_OK, AT_EACCESS) == 0) {
        *presence = OURS;
    } else if (errno != ENOENT) {
        rc = err_errno(err, errno, "look at %s/" FORMAT_NAME, path);
    } else {
        struct dirent *entry;
        while (errno = 0, (entry = readdir(stream)) != NULL)
            if (is_content(entry->d_name))
                *presence = FOREIGN;
        if (errno != 0)
            rc = err_errno(err, errno, "read %s", path);
        /* Another process that makes it ours puts the format file there before anything else. */
        if (*presence == FOREIGN && faccessat(dirfd(stream), FORMAT_NAME, F_OK, AT_EACCESS) == 0)
            *presence = OURS;
    }
    (void)closedir(stream);
    return rc;
}

static int write_format(int fd, const char *path, const struct store_kind *kind, struct err *err)
{
    uint8_t random[16];
    char text[FORMAT_SIZE_MAX];
    char id[2 * sizeof(random) + 1];
    if (getrandom(random, sizeof(random), 0) != (ssize_t)sizeof(random))
        return err_errno(err, errno, "get random bytes");
    for (size_t i = 0; i < sizeof(random); i++)
        (void)snprintf(id + 2 * i, 3, "%02x", random[i]);
    int length = snprintf(text, sizeof(text), "assetd %s %u %s\n", kind->name, kind->version, id);
    int file = openat(fd, FORMAT_NEW_NAME, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0640);
    if (file < 0)
        return write_fault(err, errno, "make", path, "/" FORMAT_NEW_NAME);
    int rc = 0;
    errno = 0;
    if (write(file, text, (size_t)length) != length || fsync(file) != 0)
        rc = err_errno(err, errno != 0 ? errno : ENOSPC, "write %s/" FORMAT_NEW_NAME, path);
    (void)close(file);
    if (rc == 0 && renameat(fd, FORMAT_NEW_NAME, fd, FORMAT_NAME) != 0)
        rc = err_errno(err, errno, "rename %s/" FORMAT_NEW_NAME, path);
    if (rc == 0 && fsync(fd) != 0)
        rc = err_errno(err, errno, "fsync %s", path);
    return rc;
}

static int read_format(struct store_directory *directory, const struct store_kind *kind,
                       struct err *err)
{
    char text[FORMAT_SIZE_MAX];
    ssize_t size = pread(directory->lock_fd, text, sizeof(text) - 1, 0);
    if (size < 0)
        return err_errno(err, errno, "read %s/" FORMAT_NAME, directory->path);
    text[size] = '\0';
    char found_kind[32];
    unsigned found_version;
    int rest = 0;
    if (sscanf(text, "assetd %31[a-z] %9u%n", found_kind, &found_version, &rest) != 2)
        return err_set(err, ERR_PRECONDITION, "%s/" FORMAT_NAME " is not a format file of assetd",
                       directory->path);
    if (strcmp(found_kind, kind->name) != 0)
        return err_set(err, ERR_PRECONDITION, "%s holds a store of kind %s, not %s",
                       directory->path, found_kind, kind->name);
    if (found_version > kind->version)
        return err_set(err, ERR_PRECONDITION,
                       "%s has format version %u, this program knows none newer than %u",
                       directory->path, found_version, kind->version);
    if (found_version < kind->oldest)
        return err_set(
            err, ERR_PRECONDITION,
            "%s has format version %u, which this program cannot use any more: remove the "
            "directory, and its content is pushed again",
            directory->path, found_version);
    if (sscanf(text + rest, " %32[0-9a-f]", directory->id) != 1 || strlen(directory->id) != 32)
        return err_set(err, ERR_PRECONDITION, "%s/" FORMAT_NAME " has no id", directory->path);
    return 0;
}

/* Decides where the store is: PATH/KIND, or PATH/assetd/KIND if that is foreign. */
static int choose(const char *storage, const char *kind, struct store_directory *directory,
                  enum presence *presence, struct err *err)
{
    char parent[PATH_MAX];
    char beside[PATH_MAX];
    enum presence beside_presence;
    if (join(directory->path, storage, kind, err) != 0 ||
        join(parent, storage, "assetd", err) != 0 || join(beside, parent, kind, err) != 0)
        return -(int)err->code;
    if (look_at(directory->path, presence, err) != 0 || look_at(beside, &beside_presence, err) != 0)
        return -(int)err->code;
    /* Ours stays where it is after the foreign one was removed. */
    if (*presence == OURS || (*presence != FOREIGN && beside_presence != OURS))
        return 0;
    if (beside_presence == FOREIGN)
        return err_set(err, ERR_PRECONDITION,
                       "neither %s nor %s has a format file of assetd, and both have content",
                       directory->path, beside);
    (void)snprintf(directory->path, sizeof(directory->path), "%s", beside);
    *presence = beside_presence;
    return make_directory(parent, storage, err);
}

static int open_chosen(const struct store_kind *kind, enum presence presence,
                       struct store_directory *directory, struct err *err)
{
    char parent[PATH_MAX + sizeof("/..")];
    (void)snprintf(parent, sizeof(parent), "%s/..", directory->path);
    if (make_directory(directory->path, parent, err) != 0)
        return -(int)err->code;
    directory->fd = open(directory->path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (directory->fd < 0)
        return err_errno(err, errno, "open %s", directory->path);
    directory->is_new = presence != OURS;
    if (directory->is_new && write_format(directory->fd, directory->path, kind, err) != 0)
        return -(int)err->code;
    if (!directory->is_new && fsync(directory->fd) != 0)
        return err_errno(err, errno, "fsync %s", directory->path);
    directory->lock_fd = openat(directory->fd, FORMAT_NAME, O_RDWR | O_CLOEXEC);
    if (directory->lock_fd < 0)
        return write_fault(err, errno, "open", directory->path, "/" FORMAT_NAME);
    return read_format(directory, kind, err);
}

/* Others have it for moments, unless one hangs. */
static int lock_storage(int fd, const char *storage, struct err *err)
{
    const struct timespec pause = {.tv_nsec = SETUP_PAUSE_NS};
    for (unsigned tries = 1; flock(fd, LOCK_EX | LOCK_NB) != 0; tries++) {
        if (errno != EWOULDBLOCK && errno != EINTR)
            return err_errno(err, errno, "lock %s", storage);
        if (tries == SETUP_TRIES)
            return err_set(err, ERR_UNAVAILABLE, "another process is setting up %s", storage);
        (void)nanosleep(&pause, NULL);
    }
    return 0;
}

static int open_in(const char *storage, const struct store_kind *kind,
                   struct store_directory *directory, struct err *err)
{
    int rc = make_directories(storage, err);
    if (rc != 0)
        return rc;
    /* Two processes that start at the same time must not both make the format file. */
    int storage_fd = open(storage, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (storage_fd < 0)
        return err_errno(err, errno, "open %s", storage);
    enum presence presence;
    rc = lock_storage(storage_fd, storage, err);
    if (rc == 0)
        rc = choose(storage, kind->name, directory, &presence, err);
    if (rc == 0)
        rc = open_chosen(kind, presence, directory, err);
    (void)close(storage_fd);
    return rc;
}

/* Puts behind a denial whose PATH is, if that is somebody else's. Whether it is. */
static bool explain_denial(const char *path, struct err *err)
{
    struct stat st;
    char owner[USER_TEXT_SIZE], self[USER_TEXT_SIZE];
    if (path[0] == '\0' || stat(path, &st) != 0 || st.st_uid == geteuid())
        return false;
    (void)err_append(err,
                     "; %s belongs to %s, and this process runs as %s: all that use one storage "
                     "directory have to run as one user",
                     path, user_text(st.st_uid, owner), user_text(geteuid(), self));
    return true;
}

int store_directory_open(const char *storage, const struct store_kind *kind,
                         struct store_directory *directory, struct err *err)
{
    memset(directory, 0, sizeof(*directory));
    directory->fd = -1;
    directory->lock_fd = -1;
    int rc = open_in(storage, kind, directory, err);
    if (rc == -ERR_DENIED && !explain_denial(storage, err))
        (void)explain_denial(directory->path, err);
    if (rc != 0)
        store_directory_close(directory);
    return rc;
}

int store_directory_find(const char *storage, const struct store_kind *kind, char path[PATH_MAX],
                         struct err *err)
{
    static const char *const places[] = {"", "assetd/"};
    for (size_t i = 0; i < sizeof(places) / sizeof(places[0]); i++) {
        char name[sizeof("assetd/") + 16];
        enum presence presence;
        (void)snprintf(name, sizeof(name), "%s%s", places[i], kind->name);
        if (join(path, storage, name, err) != 0 || look_at(path, &presence, err) != 0)
            return -(int)err->code;
        if (presence == OURS)
            return 0;
    }
    return err_set(err, ERR_NOT_FOUND, "there is no %s of assetd in %s", kind->name, storage);
}

/* --- what is foreign --- */

/* Bytes on disk below PATH, as far as a short walk gets; false if it did not get to the end. */
static bool measure(const char *path, int64_t *bytes)
{
    char copy[PATH_MAX];
    (void)snprintf(copy, sizeof(copy), "%s", path);
    char *const paths[] = {copy, NULL};
    *bytes = 0;
    FTS *walk = fts_open(paths, FTS_PHYSICAL | FTS_NOCHDIR | FTS_XDEV, NULL);
    if (walk == NULL)
        return false;
    int64_t until = clock_steady() + FOREIGN_WALK_MS;
    bool complete = true;
    FTSENT *entry;
    while (complete && (entry = fts_read(walk)) != NULL) {
        if (entry->fts_info == FTS_F || entry->fts_info == FTS_D)
            *bytes += (int64_t)entry->fts_statp->st_blocks * 512;
        else if (entry->fts_info == FTS_DNR || entry->fts_info == FTS_NS)
            complete = false;
        if (clock_steady() > until)
            complete = false;
    }
    if (complete && errno != 0)
        complete = false;
    (void)fts_close(walk);
    return complete;
}

/* What buildbox-casd has counted in its directory PATH; 0 if it does not tell. */
static int64_t read_casd_bytes(const char *path)
{
    char name[PATH_MAX];
    struct err ignored;
    int64_t bytes = 0;
    FILE *file = join(name, path, CASD_BYTES, &ignored) == 0 ? fopen(name, "re") : NULL;
    if (file == NULL)
        return 0;
    if (fscanf(file, "%18" SCNd64, &bytes) != 1)
        bytes = 0;
    (void)fclose(file);
    return bytes;
}

static void put_size(const char *path, char *text, size_t size)
{
    int64_t bytes;
    if (measure(path, &bytes)) {
        (void)snprintf(text, size, "%" PRId64, bytes);
        return;
    }
    int64_t counted = read_casd_bytes(path);
    (void)snprintf(text, size, "%s %" PRId64, counted > bytes ? "about" : "more than",
                   counted > bytes ? counted : bytes);
}

static bool is_casd(const char *path)
{
    char name[PATH_MAX];
    struct err ignored;
    struct stat st;
    return join(name, path, CASD_OBJECTS, &ignored) == 0 && stat(name, &st) == 0 &&
           S_ISDIR(st.st_mode);
}

static void warn_of(const char *storage, const char *path, const char *instead)
{
    char size[64];
    char reason[2 * PATH_MAX + 512];
    put_size(path, size, sizeof(size));
    if (is_casd(path))
        (void)snprintf(reason, sizeof(reason),
                       "what bst-artifact-server has left there stays as it is, and is not served; "
                       "to take it over, while no assetd writes here: assetctl import-casd %s %s; "
                       "when it is not needed any more, remove it to free the disk",
                       storage, storage);
    else
        (void)snprintf(reason, sizeof(reason),
                       "it has no format file of assetd: its content stays as it is, and is not "
                       "used");
    log_warning("storage-foreign", log_str("path", path), log_str("bytes", size),
                log_str("instead", instead), log_str("reason", reason));
}

void store_directory_warn(const char *storage, const char *kind, bool may_write)
{
    char path[PATH_MAX];
    char parent[PATH_MAX];
    char beside[PATH_MAX];
    enum presence presence;
    enum presence beside_presence;
    struct err ignored;
    if (join(path, storage, kind, &ignored) != 0 ||
        join(parent, storage, "assetd", &ignored) != 0 || join(beside, parent, kind, &ignored) != 0)
        return;
    if (look_at(path, &presence, &ignored) != 0 || presence != FOREIGN ||
        look_at(beside, &beside_presence, &ignored) != 0)
        return;
    if (may_write || beside_presence != OURS)
        warn_of(storage, path, beside);
}

/* --- the rest --- */

void store_directory_close(struct store_directory *directory)
{
    if (directory->lock_fd >= 0)
        (void)close(directory->lock_fd);
    if (directory->fd >= 0)
        (void)close(directory->fd);
    directory->lock_fd = -1;
    directory->fd = -1;
}

int store_directory_lock(const struct store_directory *directory, struct err *err)
{
    struct flock lock = {
        .l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = LOCK_BYTE_FILE, .l_len = 1};
    struct flock process = {
        .l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = LOCK_BYTE_PROCESS, .l_len = 1};
    if (fcntl(directory->lock_fd, F_OFD_SETLK, &lock) == 0) {
        (void)fcntl(directory->lock_fd, F_SETLK, &process);
        return 0;
    }
    if (errno != EAGAIN && errno != EACCES)
        return disk_fault(err, errno, "lock %s/" FORMAT_NAME, directory->path);
    int holder = store_directory_holder(directory);
    if (holder != 0)
        return err_set(err, ERR_UNAVAILABLE, "%s is in use by process %d", directory->path, holder);
    return err_set(err, ERR_UNAVAILABLE, "%s is in use already", directory->path);
}

void store_directory_unlock(const struct store_directory *directory)
{
    struct flock lock = {.l_type = F_UNLCK, .l_whence = SEEK_SET, .l_len = 2};
    (void)fcntl(directory->lock_fd, F_SETLK, &lock);
    (void)fcntl(directory->lock_fd, F_OFD_SETLK, &lock);
}

int store_directory_holder(const struct store_directory *directory)
{
    struct flock process = {
        .l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = LOCK_BYTE_PROCESS, .l_len = 1};
    if (fcntl(directory->lock_fd, F_GETLK, &process) != 0 || process.l_type == F_UNLCK)
        return 0;
    return process.l_pid > 0 ? (int)process.l_pid : 0;
}
