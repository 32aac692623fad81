/* SPDX-License-Identifier: Apache-2.0 */
/* The recording for simulated power cuts: a layer of `disk` that writes down what completed. */
#include "power_cut.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "power_cut_private.h"

/* Set before there are threads. */
static struct power_cut *active;

static void *checked(void *memory)
{
    if (memory == NULL)
        abort();
    return memory;
}

void *power_cut_grow(void *array, size_t count, size_t *capacity, size_t size)
{
    if (count == *capacity) {
        *capacity = *capacity == 0 ? 64 : 2 * *capacity;
        array = checked(realloc(array, *capacity * size));
    }
    memset((uint8_t *)array + count * size, 0, size);
    return array;
}

void power_cut_set_name(struct name **names, size_t *count, size_t *capacity,
                        struct node *directory, const char *name, struct node *node)
{
    size_t i = 0;
    while (i < *count && ((*names)[i].directory != directory || strcmp((*names)[i].name, name)))
        i++;
    if (i < *count && node == NULL) {
        free((*names)[i].name);
        (*names)[i] = (*names)[--*count];
    } else if (i < *count) {
        (*names)[i].node = node;
    } else if (node != NULL) {
        *names = power_cut_grow(*names, *count, capacity, sizeof(**names));
        (*names)[(*count)++] = (struct name){directory, checked(strdup(name)), node};
    }
}

/* --- events; with the lock held --- */

static struct event *add_event(struct power_cut *cut, enum event_kind kind, struct node *node,
                               size_t begun)
{
    cut->events =
        power_cut_grow(cut->events, cut->event_count, &cut->event_capacity, sizeof(*cut->events));
    struct event *event = &cut->events[cut->event_count];
    event->kind = kind;
    event->node = node;
    event->begun = begun;
    event->twin = POWER_CUT_NONE;
    event->previous = POWER_CUT_NONE;
    if (node != NULL) {
        event->previous = node->last;
        node->last = (ssize_t)cut->event_count;
    }
    cut->event_count++;
    return event;
}

static struct event *add_name(struct power_cut *cut, struct node *directory, const char *name,
                              struct node *target, size_t begun)
{
    struct event *event = add_event(cut, EVENT_NAME, directory, begun);
    event->name = checked(strdup(name));
    event->target = target;
    power_cut_set_name(&cut->names, &cut->name_count, &cut->name_capacity, directory, name, target);
    return event;
}

/* --- nodes, their names and what is met; with the lock held --- */

/* A file that ever had the name of a mapped one is one. */
static void note_mapped(const struct power_cut *cut, struct node *node, const char *path)
{
    size_t skip = strlen(cut->root_path) + 1;
    if (!node->is_directory && cut->is_mapped != NULL && strlen(path) > skip &&
        cut->is_mapped(path + skip))
        node->is_mapped = true;
}

static struct node *new_node(struct power_cut *cut, const char *path, mode_t mode)
{
    struct node *node = checked(calloc(1, sizeof(*node)));
    node->is_directory = S_ISDIR(mode);
    node->mode = mode & 07777;
    node->last = POWER_CUT_NONE;
    note_mapped(cut, node, path);
    node->next = cut->nodes;
    cut->nodes = node;
    return node;
}

/* All of a file, to be freed; a file that shrinks meanwhile has zeros at its end. */
static uint8_t *read_whole(int fd, size_t *size)
{
    struct stat st;
    if (fstat(fd, &st) != 0)
        abort();
    *size = (size_t)st.st_size;
    uint8_t *bytes = checked(calloc(1, *size + 1));
    for (size_t done = 0; done < *size;) {
        ssize_t got = pread(fd, bytes + done, *size - done, (off_t)done);
        if (got == 0)
            break;
        if (got < 0 && errno != EINTR)
            abort();
        done += got > 0 ? (size_t)got : 0;
    }
    return bytes;
}

/* Takes up what is at PATH, with all below it, as something durable. */
static struct node *meet(struct power_cut *cut, struct node *directory, const char *name,
                         const char *path)
{
    struct stat st;
    if (lstat(path, &st) != 0 || (!S_ISDIR(st.st_mode) && !S_ISREG(st.st_mode)))
        return NULL;
    struct node *node = new_node(cut, path, st.st_mode);
    if (directory != NULL)
        add_name(cut, directory, name, node, cut->event_count)->is_durable = true;
    if (!node->is_directory) {
        int fd = open(path, O_RDONLY | O_CLOEXEC);
        if (fd < 0)
            abort();
        node->base = read_whole(fd, &node->base_size);
        (void)close(fd);
        return node;
    }
    DIR *stream = checked(opendir(path));
    struct dirent *entry;
    while ((entry = readdir(stream)) != NULL) {
        char below[PATH_MAX];
        if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0)
            continue;
        if (snprintf(below, sizeof(below), "%s/%s", path, entry->d_name) >= (int)sizeof(below))
            abort();
        (void)meet(cut, node, entry->d_name, below);
    }
    (void)closedir(stream);
    return node;
}

static struct node *child(struct power_cut *cut, struct node *directory, const char *name,
                          const char *path)
{
    for (size_t i = 0; i < cut->name_count; i++)
        if (cut->names[i].directory == directory && strcmp(cut->names[i].name, name) == 0)
            return cut->names[i].node;
    return meet(cut, directory, name, path);
}

/* Where a path leads: a directory below the root, and a name in it. */
struct location {
    struct node *directory; /* NULL: it is not below the root */
    char path[PATH_MAX];
    const char *name; /* in PATH */
};

static void locate_path(struct power_cut *cut, struct location *location)
{
    char parent[PATH_MAX];
    char *slash = strrchr(location->path, '/');
    size_t root_size = strlen(cut->root_path);
    location->directory = NULL;
    if (slash == NULL || slash[1] == '\0' || strcmp(slash, "/.") == 0 || strcmp(slash, "/..") == 0)
        return;
    location->name = slash + 1;
    *slash = '\0';
    bool is_there = realpath(slash == location->path ? "/" : location->path, parent) != NULL;
    *slash = '/';
    if (!is_there || strncmp(parent, cut->root_path, root_size) != 0 ||
        (parent[root_size] != '/' && parent[root_size] != '\0'))
        return;
    struct node *node = cut->root;
    for (char *at = parent + root_size; *at == '/' && node != NULL;) {
        char *name = at + 1;
        at = strchrnul(name, '/');
        char end = *at;
        *at = '\0';
        node = child(cut, node, name, parent);
        *at = end;
    }
    location->directory = node != NULL && node->is_directory ? node : NULL;
}

static bool path_of_fd(int fd, char path[PATH_MAX])
{
    char link[64];
    (void)snprintf(link, sizeof(link), "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, PATH_MAX - 1);
    path[length > 0 ? length : 0] = '\0';
    return length > 0;
}

static void locate(struct power_cut *cut, int fd, const char *name, struct location *location)
{
    char base[PATH_MAX];
    location->directory = NULL;
    if (name[0] == '/')
        base[0] = '\0';
    else if (fd == AT_FDCWD ? getcwd(base, sizeof(base)) == NULL : !path_of_fd(fd, base))
        return;
    if (snprintf(location->path, PATH_MAX, "%s%s%s", base, name[0] == '/' ? "" : "/", name) >=
        PATH_MAX)
        abort();
    locate_path(cut, location);
}

static struct node *node_at(struct power_cut *cut, const struct location *location)
{
    return location->directory != NULL
               ? child(cut, location->directory, location->name, location->path)
               : NULL;
}

/* --- open files; with the lock held --- */

static void forget_file(struct power_cut *cut, int fd)
{
    for (size_t i = 0; i < cut->file_count; i++)
        if (cut->files[i].fd == fd) {
            cut->files[i] = cut->files[--cut->file_count];
            return;
        }
}

static void note_file(struct power_cut *cut, int fd, struct node *node)
{
    struct stat st;
    if (fstat(fd, &st) != 0)
        abort();
    forget_file(cut, fd);
    cut->files =
        power_cut_grow(cut->files, cut->file_count, &cut->file_capacity, sizeof(*cut->files));
    cut->files[cut->file_count++] = (struct open_file){fd, st.st_dev, st.st_ino, node};
    node->mode = st.st_mode & 07777;
}

/* What FD is open on, also where it was not opened by way of `disk`; NULL: nothing of ours. */
static struct node *node_of_fd(struct power_cut *cut, int fd)
{
    struct location location;
    struct stat st;
    if (fstat(fd, &st) != 0)
        return NULL;
    for (size_t i = 0; i < cut->file_count; i++)
        if (cut->files[i].fd == fd && cut->files[i].device == st.st_dev &&
            cut->files[i].inode == st.st_ino)
            return cut->files[i].node;
    if (!path_of_fd(fd, location.path))
        return NULL;
    if (strcmp(location.path, cut->root_path) == 0)
        return cut->root;
    locate_path(cut, &location);
    return node_at(cut, &location);
}

/* --- mapped files; with the lock held --- */

static bool path_of_node(struct power_cut *cut, const struct node *node, char path[PATH_MAX])
{
    char parent[PATH_MAX];
    if (node == cut->root)
        return snprintf(path, PATH_MAX, "%s", cut->root_path) < PATH_MAX;
    for (size_t i = 0; i < cut->name_count; i++)
        if (cut->names[i].node == node)
            return path_of_node(cut, cut->names[i].directory, parent) &&
                   snprintf(path, PATH_MAX, "%s/%s", parent, cut->names[i].name) < PATH_MAX;
    return false;
}

/* Whether the block at OFFSET is not what was seen there; behind the end there were zeros. */
static bool is_changed(const struct node *node, const uint8_t *bytes, size_t offset, size_t size)
{
    static const uint8_t zeros[POWER_CUT_SECTOR];
    size_t known = node->seen_size > offset ? node->seen_size - offset : 0;
    if (known > size)
        known = size;
    return (known > 0 && memcmp(bytes + offset, node->seen + offset, known) != 0) ||
           memcmp(bytes + offset + known, zeros, size - known) != 0;
}

/* Writes down what has changed in a mapped file since it was seen last. */
static void capture(struct power_cut *cut, struct node *node)
{
    char path[PATH_MAX];
    int fd = path_of_node(cut, node, path) ? open(path, O_RDONLY | O_CLOEXEC) : -1;
    if (fd < 0)
        return;
    size_t size;
    uint8_t *bytes = read_whole(fd, &size);
    (void)close(fd);
    if (node->seen == NULL) {
        node->seen = checked(malloc(node->base_size + 1));
        if (node->base_size > 0)
            memcpy(node->seen, node->base, node->base_size);
        node->seen_size = node->base_size;
    }
    for (size_t offset = 0; offset < size; offset += POWER_CUT_SECTOR) {
        size_t rest = size - offset < POWER_CUT_SECTOR ? size - offset : POWER_CUT_SECTOR;
        if (!is_changed(node, bytes, offset, rest))
            continue;
        struct event *event = add_event(cut, EVENT_MAPPED, node, cut->event_count);
        event->offset = (int64_t)offset;
        event->size = (int64_t)rest;
        event->bytes = checked(malloc(rest));
        memcpy(event->bytes, bytes + offset, rest);
    }
    free(node->seen);
    node->seen = bytes;
    node->seen_size = size;
}

static void capture_all(struct power_cut *cut)
{
    for (struct node *node = cut->nodes; node != NULL; node = node->next)
        if (node->is_mapped)
            capture(cut, node);
}

/* --- the layer of `disk` --- */

static void lock_active(void)
{
    pthread_mutex_lock(&active->lock);
}

static void unlock_active(void)
{
    pthread_mutex_unlock(&active->lock);
}

/* A call on FD begins. */
static struct node *begin_call(int fd, size_t *begun)
{
    lock_active();
    struct node *node = node_of_fd(active, fd);
    *begun = active->event_count;
    unlock_active();
    return node;
}

static int cut_openat(int directory, const char *name, int flags, mode_t mode)
{
    struct power_cut *cut = active;
    struct location location;
    lock_active();
    locate(cut, directory, name, &location);
    struct node *node = node_at(cut, &location);
    size_t begun = cut->event_count;
    int fd = cut->real.openat(directory, name, flags, mode);
    int errnum = errno;
    if (fd >= 0 && location.directory != NULL) {
        if (node == NULL) {
            node = new_node(cut, location.path, S_IFREG);
            (void)add_name(cut, location.directory, location.name, node, begun);
        } else if ((flags & O_TRUNC) != 0) {
            (void)add_event(cut, EVENT_RESIZE, node, begun);
            node->seen_size = 0;
        }
        note_file(cut, fd, node);
    }
    unlock_active();
    errno = errnum;
    return fd;
}

static int cut_close(int fd)
{
    /* Before the number can be another file's. */
    lock_active();
    forget_file(active, fd);
    unlock_active();
    return active->real.close(fd);
}

static ssize_t cut_pwritev(int fd, const struct iovec *parts, int count, off_t offset)
{
    size_t begun;
    struct node *node = begin_call(fd, &begun);
    ssize_t written = active->real.pwritev(fd, parts, count, offset);
    if (node == NULL || written <= 0)
        return written;
    uint8_t *bytes = checked(malloc((size_t)written));
    size_t done = 0;
    for (int i = 0; i < count && done < (size_t)written; i++) {
        size_t rest = (size_t)written - done;
        size_t size = parts[i].iov_len < rest ? parts[i].iov_len : rest;
        if (size > 0)
            memcpy(bytes + done, parts[i].iov_base, size);
        done += size;
    }
    lock_active();
    struct event *event = add_event(active, EVENT_WRITE, node, begun);
    event->offset = offset;
    event->size = written;
    event->bytes = bytes;
    unlock_active();
    return written;
}

static int cut_ftruncate(int fd, off_t size)
{
    size_t begun;
    struct node *node = begin_call(fd, &begun);
    int rc = active->real.ftruncate(fd, size);
    if (node == NULL || rc != 0)
        return rc;
    lock_active();
    add_event(active, EVENT_RESIZE, node, begun)->size = size;
    /* What a mapped file is given back later is zeros. */
    if (node->seen_size > (size_t)size)
        node->seen_size = (size_t)size;
    unlock_active();
    return rc;
}

/* Blocks that are allocated hold zeros, as do those that are not: only the size matters. */
static int cut_fallocate(int fd, int mode, off_t offset, off_t size)
{
    size_t begun;
    struct node *node = begin_call(fd, &begun);
    int rc = active->real.fallocate(fd, mode, offset, size);
    if (node == NULL || rc != 0)
        return rc;
    if ((mode & ~FALLOC_FL_KEEP_SIZE) != 0)
        abort(); /* holes and the like are not simulated */
    if (mode == 0) {
        lock_active();
        add_event(active, EVENT_GROW, node, begun)->size = offset + size;
        unlock_active();
    }
    return rc;
}

static int sync_by(int (*call)(int fd), int fd, enum event_kind kind)
{
    lock_active();
    struct node *node = node_of_fd(active, fd);
    if (node != NULL && kind == EVENT_SYNC_ALL)
        capture_all(active);
    else if (node != NULL && node->is_mapped)
        capture(active, node);
    size_t begun = active->event_count;
    unlock_active();
    int rc = call(fd);
    int errnum = errno;
    if (node != NULL) {
        lock_active();
        add_event(active, kind, kind == EVENT_SYNC ? node : NULL, begun)->has_failed = rc != 0;
        unlock_active();
    }
    errno = errnum;
    return rc;
}

static int cut_fsync(int fd)
{
    return sync_by(active->real.fsync, fd, EVENT_SYNC);
}

static int cut_fdatasync(int fd)
{
    return sync_by(active->real.fdatasync, fd, EVENT_SYNC);
}

static int cut_syncfs(int fd)
{
    return sync_by(active->real.syncfs, fd, EVENT_SYNC_ALL);
}

static int cut_unlinkat(int directory, const char *name, int flags)
{
    struct power_cut *cut = active;
    struct location location;
    lock_active();
    locate(cut, directory, name, &location);
    const struct node *node = node_at(cut, &location);
    size_t begun = cut->event_count;
    int rc = cut->real.unlinkat(directory, name, flags);
    int errnum = errno;
    if (rc == 0 && node != NULL)
        (void)add_name(cut, location.directory, location.name, NULL, begun);
    unlock_active();
    errno = errnum;
    return rc;
}

static int cut_renameat(int from, const char *old_name, int to, const char *new_name)
{
    struct power_cut *cut = active;
    struct location source;
    struct location target;
    lock_active();
    locate(cut, from, old_name, &source);
    locate(cut, to, new_name, &target);
    struct node *node = node_at(cut, &source);
    (void)node_at(cut, &target); /* what is replaced was there */
    size_t begun = cut->event_count;
    int rc = cut->real.renameat(from, old_name, to, new_name);
    int errnum = errno;
    if (rc == 0 && (source.directory == NULL) != (target.directory == NULL))
        abort(); /* into the recorded directory or out of it is not simulated */
    if (rc == 0 && node != NULL && strcmp(source.path, target.path) != 0) {
        (void)add_name(cut, source.directory, source.name, NULL, begun);
        ssize_t first = (ssize_t)cut->event_count - 1;
        add_name(cut, target.directory, target.name, node, begun)->twin = first;
        note_mapped(cut, node, target.path);
    }
    unlock_active();
    errno = errnum;
    return rc;
}

/* --- beginning and end --- */

struct power_cut *power_cut_begin(const char *directory, bool (*is_mapped)(const char *path))
{
    struct power_cut *cut = checked(calloc(1, sizeof(*cut)));
    if (active != NULL || pthread_mutex_init(&cut->lock, NULL) != 0 ||
        realpath(directory, cut->root_path) == NULL)
        abort();
    cut->is_mapped = is_mapped;
    cut->root = checked(meet(cut, NULL, "", cut->root_path));
    cut->first = cut->event_count;
    cut->real = disk;
    active = cut;
    disk.openat = cut_openat;
    disk.close = cut_close;
    disk.pwritev = cut_pwritev;
    disk.fsync = cut_fsync;
    disk.fdatasync = cut_fdatasync;
    disk.syncfs = cut_syncfs;
    disk.fallocate = cut_fallocate;
    disk.ftruncate = cut_ftruncate;
    disk.unlinkat = cut_unlinkat;
    disk.renameat = cut_renameat;
    return cut;
}

void power_cut_end(struct power_cut *cut)
{
    disk = cut->real;
    active = NULL;
    for (size_t i = 0; i < cut->event_count; i++) {
        free(cut->events[i].bytes);
        free(cut->events[i].name);
    }
    for (size_t i = 0; i < cut->name_count; i++)
        free(cut->names[i].name);
    while (cut->nodes != NULL) {
        struct node *node = cut->nodes;
        cut->nodes = node->next;
        free(node->base);
        free(node->seen);
        free(node);
    }
    free(cut->events);
    free(cut->names);
    free(cut->files);
    pthread_mutex_destroy(&cut->lock);
    free(cut);
}

size_t power_cut_events(struct power_cut *cut)
{
    pthread_mutex_lock(&cut->lock);
    size_t count = cut->event_count;
    pthread_mutex_unlock(&cut->lock);
    return count;
}

size_t power_cut_capture(struct power_cut *cut)
{
    pthread_mutex_lock(&cut->lock);
    capture_all(cut);
    size_t count = cut->event_count;
    pthread_mutex_unlock(&cut->lock);
    return count;
}
