/* SPDX-License-Identifier: Apache-2.0 */
/* Walks of two levels, by descriptors, in which no link is followed. */
#include "control/casd_source.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "credential/way.h"

static const char *const folders[CASD_PARTS] = {
    [CASD_OBJECTS] = "cas/objects",
    [CASD_ASSETS] = "assets/objects",
};

/* --- root's right to read --- */

/*
 * The storage is written with the rights of its owner. The source may be another user's, who lets
 * nobody else read it, so root keeps the right to read anything, and the one to open without a
 * trace, and uses them for the source alone: nobody who owns the storage can lead it by a link
 * there.
 */
enum {
    RIGHT_TO_READ = 1U << CAP_DAC_READ_SEARCH,
    RIGHT_OF_OWNERS = 1U << CAP_FOWNER,
    RIGHT_TO_ALL = 1U << CAP_DAC_OVERRIDE, /* containers have this, and often not the first */
};

void casd_source_keep_rights(void)
{
    if (geteuid() == 0)
        (void)prctl(PR_SET_KEEPCAPS, 1, 0, 0, 0);
}

static bool get_rights(struct __user_cap_data_struct rights[_LINUX_CAPABILITY_U32S_3])
{
    struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3};
    return syscall(SYS_capget, &header, rights) == 0;
}

static bool set_rights(uint32_t permitted, uint32_t effective)
{
    struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3};
    struct __user_cap_data_struct rights[_LINUX_CAPABILITY_U32S_3] = {
        {.permitted = permitted, .effective = effective}};
    return syscall(SYS_capset, &header, rights) == 0;
}

/* Of what root has kept, all but these is given back. Root itself has them without being asked. */
static bool begin_privileged(void)
{
    struct __user_cap_data_struct rights[_LINUX_CAPABILITY_U32S_3];
    if (geteuid() == 0 || prctl(PR_GET_KEEPCAPS, 0, 0, 0, 0) != 1 || !get_rights(rights))
        return false;
    uint32_t had = rights[0].permitted;
    uint32_t kept = had & ((had & RIGHT_TO_READ) != 0 ? RIGHT_TO_READ : RIGHT_TO_ALL);
    kept |= had & RIGHT_OF_OWNERS;
    return set_rights(kept, 0) && kept != 0;
}

/* Of this thread alone. errno stays. */
static void use_rights(const struct casd_source *source, bool are_used)
{
    struct __user_cap_data_struct rights[_LINUX_CAPABILITY_U32S_3];
    int saved = errno;
    if (source->is_privileged && get_rights(rights))
        (void)set_rights(rights[0].permitted, are_used ? rights[0].permitted : 0);
    errno = saved;
}

/* --- opening --- */

static int open_folder(const struct casd_source *source, int directory, const char *name, int flags)
{
    use_rights(source, true);
    int fd = openat(directory, name, flags | O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOATIME);
    if (fd < 0 && errno == EPERM)
        fd = openat(directory, name, flags | O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    use_rights(source, false);
    return fd;
}

static int open_parts(struct casd_source *source, struct err *err)
{
    const char *path = source->path;
    int fd = open_folder(source, AT_FDCWD, path, 0);
    if (fd < 0)
        return err_errno(err, errno, "open %s", path);
    int rc = 0;
    for (unsigned i = 0; rc == 0 && i < CASD_PARTS; i++) {
        source->fds[i] = open_folder(source, fd, folders[i], 0);
        bool is_missing = source->fds[i] < 0 && errno == ENOENT;
        if (is_missing && i == CASD_OBJECTS)
            rc = err_set(err, ERR_NOT_FOUND,
                         "%s is no folder of bst-artifact-server or buildbox-casd, as it has no "
                         "%s: give the one that was REPO on its command line",
                         path, folders[i]);
        else if (source->fds[i] < 0 && !is_missing)
            rc = err_errno(err, errno, "open %s/%s", path, folders[i]);
    }
    (void)close(fd);
    if (rc != 0)
        casd_source_close(source);
    return rc;
}

/*
 * Whether no user can have led root to the folder of PART, which is another's: by a link, or by
 * putting one folder in the place of another.
 */
static bool is_of_one_user(const struct casd_source *source, enum casd_part part)
{
    char path[PATH_MAX];
    struct stat opened, found;
    struct way way;
    struct err ignored;
    if (source->fds[part] < 0)
        return true;
    int length = snprintf(path, sizeof(path), "%s/%s", source->path, folders[part]);
    if (length < 0 || (size_t)length >= sizeof(path))
        return false;
    use_rights(source, true);
    bool is_found = way_begin(&way, path, &ignored) == 0 && way_walk(&way, &ignored) == 0 &&
                    fstat(way.fd, &found) == 0 && fstat(source->fds[part], &opened) == 0;
    use_rights(source, false);
    way_end(&way);
    return is_found && found.st_dev == opened.st_dev && found.st_ino == opened.st_ino &&
           way.other == 0 && (way.is_roots || found.st_uid != 0);
}

int casd_source_open(const char *path, struct casd_source *source, struct err *err)
{
    *source = (struct casd_source){.path = path, .fds = {-1, -1}};
    source->is_privileged = begin_privileged();
    int rc = open_parts(source, err);
    if (rc != 0 || !source->is_privileged ||
        (is_of_one_user(source, CASD_OBJECTS) && is_of_one_user(source, CASD_ASSETS)))
        return rc;
    casd_source_close(source);
    source->is_privileged = false;
    rc = open_parts(source, err);
    if (rc == -ERR_DENIED)
        (void)err_append(err, "; root's right to read is not used there, as one user may have led "
                              "the way to it into a folder of another: give the folder itself, by "
                              "a way that is root's and its owner's alone");
    return rc;
}

void casd_source_close(struct casd_source *source)
{
    for (unsigned i = 0; source->path != NULL && i < CASD_PARTS; i++) {
        if (source->fds[i] >= 0)
            (void)close(source->fds[i]);
        source->fds[i] = -1;
    }
}

/* --- listing --- */

/* Where a walk is. */
struct walk {
    const struct casd_source *source;
    enum casd_part part;
    const struct casd_listener *listener;
    struct casd_files *files;
};

static void tell(const struct walk *walk, const char *folder, const char *name,
                 const struct err *err)
{
    char text[NAME_MAX + CASD_FILE_TEXT_MAX];
    (void)snprintf(text, sizeof(text), "%s/%s%s%s", folders[walk->part], folder,
                   folder[0] != '\0' ? "/" : "", name);
    walk->listener->tell(walk->listener->context, text, err);
}

static bool add_file(struct casd_files *files, const struct casd_file *file)
{
    if (files->count == files->capacity) {
        size_t capacity = files->capacity == 0 ? 1024 : files->capacity + files->capacity / 2;
        struct casd_file *grown = realloc(files->files, capacity * sizeof(*grown));
        if (grown == NULL)
            return false;
        files->files = grown;
        files->capacity = capacity;
    }
    files->files[files->count++] = *file;
    files->bytes += (uint64_t)file->size;
    return true;
}

static int64_t milliseconds(int64_t seconds, int64_t nanoseconds)
{
    return seconds * 1000 + nanoseconds / 1000000;
}

static bool is_hidden(const char *name)
{
    return strcmp(name, ".") == 0 || strcmp(name, "..") == 0;
}

/* Lower-case digits, as casd writes them. */
static bool is_hexadecimal(const char *name, size_t length)
{
    return strlen(name) == length && strspn(name, "0123456789abcdef") == length;
}

/* The lengths of both were looked at. */
static void parse_name(const char *folder, const char *name, uint8_t out[CASD_NAME_SIZE])
{
    for (size_t i = 0; i < CASD_NAME_SIZE; i++) {
        const char *at = i == 0 ? folder : name + 2 * (i - 1);
        const char digits[3] = {at[0], at[1], '\0'};
        out[i] = (uint8_t)strtoul(digits, NULL, 16);
    }
}

/* One file of a folder XX. What is wrong with it is told. */
static int look_at(const struct walk *walk, int fd, const char *folder, const char *name,
                   struct err *err)
{
    struct stat st;
    struct err fault;
    struct casd_file file;
    fault.code = ERR_OK;
    use_rights(walk->source, true);
    int rc = fstatat(fd, name, &st, AT_SYMLINK_NOFOLLOW);
    use_rights(walk->source, false);
    if (rc != 0)
        (void)err_errno(&fault, errno, "look at it");
    else if (!S_ISREG(st.st_mode))
        (void)err_set(&fault, ERR_INVALID, "it is no file");
    else if (!is_hexadecimal(name, 2 * CASD_NAME_SIZE - 2))
        (void)err_set(&fault, ERR_INVALID, "its name is no SHA-256");
    if (fault.code != ERR_OK) {
        tell(walk, folder, name, &fault);
        return 0;
    }
    parse_name(folder, name, file.name);
    file.size = (int64_t)st.st_size;
    file.used_at = milliseconds(st.st_mtim.tv_sec, st.st_mtim.tv_nsec);
    return add_file(walk->files, &file) ? 0 : err_no_memory(err, "a list of files");
}

static int list_folder(const struct walk *walk, int above, const char *name, struct err *err)
{
    struct err fault;
    int fd = open_folder(walk->source, above, name, O_NOFOLLOW);
    DIR *stream = fd >= 0 ? fdopendir(fd) : NULL;
    if (stream == NULL || !is_hexadecimal(name, 2)) {
        if (fd >= 0 && stream == NULL)
            (void)close(fd);
        if (stream != NULL)
            (void)closedir(stream);
        if (stream != NULL || errno == ENOTDIR || errno == ELOOP)
            (void)err_set(&fault, ERR_INVALID, "it is no folder of buildbox-casd");
        else
            (void)err_errno(&fault, errno, "open it");
        tell(walk, "", name, &fault);
        return 0;
    }
    struct dirent *entry;
    int rc = 0;
    while (rc == 0 && (errno = 0, (entry = readdir(stream)) != NULL))
        if (!is_hidden(entry->d_name))
            rc = look_at(walk, dirfd(stream), name, entry->d_name, err);
    if (rc == 0 && errno != 0) {
        (void)err_errno(&fault, errno, "read it");
        tell(walk, "", name, &fault);
    }
    (void)closedir(stream);
    walk->listener->progress(walk->listener->context, walk->files->count);
    return rc;
}

static int compare(const void *a, const void *b)
{
    const struct casd_file *one = a, *other = b;
    if (one->used_at != other->used_at)
        return one->used_at > other->used_at ? -1 : 1;
    return memcmp(one->name, other->name, CASD_NAME_SIZE);
}

int casd_source_list(const struct casd_source *source, enum casd_part part,
                     const struct casd_listener *listener, struct casd_files *files,
                     struct err *err)
{
    struct walk walk = {.source = source, .part = part, .listener = listener, .files = files};
    *files = (struct casd_files){.count = 0};
    if (source->fds[part] < 0)
        return 0;
    int fd = open_folder(source, source->fds[part], ".", 0);
    DIR *stream = fd >= 0 ? fdopendir(fd) : NULL;
    if (stream == NULL) {
        int rc = err_errno(err, errno, "open %s/%s", source->path, folders[part]);
        if (fd >= 0)
            (void)close(fd);
        return rc;
    }
    struct dirent *entry;
    int rc = 0;
    while (rc == 0 && (errno = 0, (entry = readdir(stream)) != NULL))
        if (!is_hidden(entry->d_name))
            rc = list_folder(&walk, dirfd(stream), entry->d_name, err);
    if (rc == 0 && errno != 0)
        rc = err_errno(err, errno, "read %s/%s", source->path, folders[part]);
    (void)closedir(stream);
    if (rc == 0 && files->count > 0)
        qsort(files->files, files->count, sizeof(*files->files), compare);
    return rc;
}

void casd_files_fini(struct casd_files *files)
{
    free(files->files);
    *files = (struct casd_files){.count = 0};
}

/* --- one file --- */

/* NAME is XX/REST; neither may be a link. */
static int open_named(int directory, const char *name)
{
    enum { FLAGS = O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY };
    const char folder[] = {name[0], name[1], '\0'};
    int above = openat(directory, folder, O_PATH | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
    if (above < 0)
        return -1;
    int fd = openat(above, name + sizeof(folder), FLAGS | O_NOATIME);
    if (fd < 0 && errno == EPERM)
        fd = openat(above, name + sizeof(folder), FLAGS);
    int saved = errno;
    (void)close(above);
    errno = saved;
    return fd;
}

/* Writes XX/REST. */
static void print_name(const struct casd_file *file, char text[2 * CASD_NAME_SIZE + 2])
{
    for (size_t i = 0; i < CASD_NAME_SIZE; i++)
        (void)snprintf(text + 2 * i + (i > 0 ? 1 : 0), 3, "%02x", file->name[i]);
    text[2] = '/';
}

char *casd_file_text(enum casd_part part, const struct casd_file *file,
                     char text[CASD_FILE_TEXT_MAX])
{
    char name[2 * CASD_NAME_SIZE + 2];
    print_name(file, name);
    (void)snprintf(text, CASD_FILE_TEXT_MAX, "%s/%s", folders[part], name);
    return text;
}

static int look_at_opened(struct casd_opened *opened, struct err *err)
{
    struct statx st;
    if (statx(opened->fd, "", AT_EMPTY_PATH, STATX_BASIC_STATS | STATX_BTIME, &st) != 0)
        return err_errno(err, errno, "look at it");
    if (!S_ISREG(st.stx_mode))
        return err_set(err, ERR_INVALID, "it is no file");
    opened->size = (int64_t)st.stx_size;
    opened->used_at = milliseconds(st.stx_mtime.tv_sec, st.stx_mtime.tv_nsec);
    opened->made_at = opened->used_at;
    /* The birth of a copy is later than the times that were copied, and tells nothing. */
    if ((st.stx_mask & STATX_BTIME) != 0 &&
        milliseconds(st.stx_btime.tv_sec, st.stx_btime.tv_nsec) < opened->used_at)
        opened->made_at = milliseconds(st.stx_btime.tv_sec, st.stx_btime.tv_nsec);
    return 0;
}

int casd_source_open_file(const struct casd_source *source, enum casd_part part,
                          const struct casd_file *file, struct casd_opened *opened, struct err *err)
{
    char name[2 * CASD_NAME_SIZE + 2];
    print_name(file, name);
    use_rights(source, true);
    opened->fd = open_named(source->fds[part], name);
    use_rights(source, false);
    if (opened->fd < 0 && errno == ENOENT)
        return err_set(err, ERR_NOT_FOUND, "it is gone");
    if (opened->fd < 0)
        return err_errno(err, errno, "open it");
    int rc = look_at_opened(opened, err);
    if (rc != 0)
        (void)close(opened->fd);
    return rc;
}

ssize_t casd_source_read(int fd, uint8_t *buffer, size_t most, struct err *err)
{
    size_t size = 0;
    while (size < most) {
        ssize_t got = read(fd, buffer + size, most - size);
        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0)
            return err_errno(err, errno, "read it");
        if (got == 0)
            break;
        size += (size_t)got;
    }
    return (ssize_t)size;
}
