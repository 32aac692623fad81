/* SPDX-License-Identifier: Apache-2.0 */
/* What a recording for simulated power cuts remembers. */
#ifndef ASSETD_TESTS_POWER_CUT_PRIVATE_H
#define ASSETD_TESTS_POWER_CUT_PRIVATE_H

#include <limits.h>
#include <pthread.h>
#include <sys/stat.h>

#include "power_cut.h"
#include "store/disk.h"

enum { POWER_CUT_SECTOR = 512, POWER_CUT_NONE = -1 };

/* A file or a directory, whatever its name. */
struct node {
    struct node *next; /* of all */
    bool is_directory;
    bool is_mapped;
    mode_t mode;
    uint8_t *base; /* what it held when it was first met, durable */
    size_t base_size;
    uint8_t *seen; /* if it is mapped: what was taken last */
    size_t seen_size;
    ssize_t last; /* index of its last event, or POWER_CUT_NONE */
};

enum event_kind {
    EVENT_WRITE,
    EVENT_MAPPED, /* bytes that were stored through a mapping */
    EVENT_RESIZE,
    EVENT_GROW,
    EVENT_NAME,
    EVENT_SYNC,
    EVENT_SYNC_ALL,
};

struct event {
    enum event_kind kind;
    struct node *node;   /* the file; NAME: the directory; SYNC_ALL: NULL */
    ssize_t previous;    /* event of the same node */
    size_t begun;        /* the events that had completed when it began */
    int64_t offset;      /* WRITE, MAPPED */
    int64_t size;        /* of BYTES, or of the file */
    uint8_t *bytes;      /* heap */
    char *name;          /* NAME; heap */
    struct node *target; /* NAME: what has the name now; NULL: nothing */
    ssize_t twin;        /* NAME: the other half of the rename, before this one */
    bool is_durable;     /* NAME: was met, not made */
    bool has_failed;     /* a sync */
};

/* Who has a name now. */
struct name {
    struct node *directory;
    char *name; /* heap */
    struct node *node;
};

struct open_file {
    int fd;
    dev_t device;
    ino_t inode;
    struct node *node;
};

struct power_cut {
    pthread_mutex_t lock; /* of all below */
    struct disk real;
    bool (*is_mapped)(const char *path);
    char root_path[PATH_MAX];
    struct node *root;
    struct node *nodes;
    struct event *events;
    size_t event_count, event_capacity;
    size_t first; /* events that stand for what there was at the beginning */
    struct name *names;
    size_t name_count, name_capacity;
    struct open_file *files;
    size_t file_count, file_capacity;
};

/* Room for one more of COUNT elements of SIZE bytes at the end of ARRAY, zeroed. */
void *power_cut_grow(void *array, size_t count, size_t *capacity, size_t size);

/* Changes who has a name in a list; NODE NULL: nobody. */
void power_cut_set_name(struct name **names, size_t *count, size_t *capacity,
                        struct node *directory, const char *name, struct node *node);

#endif
