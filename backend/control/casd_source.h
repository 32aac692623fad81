/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The folder of a buildbox-casd, which is only read: the blobs in cas/objects, and the assets in
 * assets/objects, each in a file XX/REST, where XXREST is a SHA-256 in hexadecimal. When it was
 * used last is the time of its last change.
 *
 * A casd may be running on it: files come and go.
 */
#ifndef ASSETD_CONTROL_CASD_SOURCE_H
#define ASSETD_CONTROL_CASD_SOURCE_H

#include <limits.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/err.h"
#include "control/casd_asset.h"

enum casd_part { CASD_OBJECTS, CASD_ASSETS, CASD_PARTS };

/* Embedded. Zeroed to begin. */
struct casd_source {
    const char *path;    /* the caller's */
    int fds[CASD_PARTS]; /* of the folders; -1: there is none of that kind */
    bool is_privileged;  /* root's right to read is used, and only here */
};

/*
 * Called by root before it takes the rights of another user for good: it keeps those that it takes
 * to read files of others. Nothing for others than root.
 */
void casd_source_keep_rights(void);

/*
 * Opens the folder PATH, after root has taken other rights. ERR_NOT_FOUND: it has no cas/objects.
 */
int casd_source_open(const char *path, struct casd_source *source, struct err *err);
void casd_source_close(struct casd_source *source);

struct casd_file {
    uint8_t name[CASD_NAME_SIZE];
    int64_t size;
    int64_t used_at; /* milliseconds since 1970 */
};

struct casd_files {
    struct casd_file *files; /* heap; the one that was used last comes first */
    size_t count;
    size_t capacity;
    uint64_t bytes; /* of all of them */
};

/* Whom is told what is not as casd makes it, or cannot be read; NAME begins below the folder. */
struct casd_listener {
    void (*tell)(void *context, const char *name, const struct err *err);
    void (*progress)(void *context, uint64_t files);
    void *context;
};

/* Lists all files of PART. What is told is not in FILES. ERR_NO_MEMORY. */
int casd_source_list(const struct casd_source *source, enum casd_part part,
                     const struct casd_listener *listener, struct casd_files *files,
                     struct err *err);
void casd_files_fini(struct casd_files *files);

/* What was read when a file was opened. */
struct casd_opened {
    int fd;
    int64_t size;
    int64_t used_at;
    int64_t made_at; /* casd makes an asset's file anew with each push; at most used_at */
};

/*
 * Opens a file to read it, without a trace if the system lets us. ERR_NOT_FOUND: it is gone.
 * ERR_INVALID: it is no file. The caller closes the fd.
 */
int casd_source_open_file(const struct casd_source *source, enum casd_part part,
                          const struct casd_file *file, struct casd_opened *opened,
                          struct err *err);

/*
 * Reads on in an opened file, up to MOST bytes. Returns how many; fewer: it has ended; negative: an
 * error.
 */
ssize_t casd_source_read(int fd, uint8_t *buffer, size_t most, struct err *err);

/* Bytes of a file's name below the folder, with its NUL. */
enum { CASD_FILE_TEXT_MAX = 96 };

/* "cas/objects/XX/REST". Returns TEXT. */
char *casd_file_text(enum casd_part part, const struct casd_file *file,
                     char text[CASD_FILE_TEXT_MAX]);

#endif
