/* SPDX-License-Identifier: Apache-2.0 */
/* The directories that were read last, parsed, within a bound of memory. */
#ifndef ASSETD_STORE_TREE_DIRECTORY_H
#define ASSETD_STORE_TREE_DIRECTORY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/digest_set.h"
#include "base/span.h"
#include "store/tree.h"
#include "store/tree_memory.h"

/* Bytes of the largest Directory message that is looked into. */
enum { TREE_DIRECTORY_SIZE_MAX = 64 << 20 };

/*
 * What one directory names. That follows from its digest alone and never becomes wrong, whatever
 * goes out of the store; so trees that share directories share what is remembered of them.
 */
struct tree_directory {
    struct tree_entry entry; /* first */
    struct digest digest;
    bool
        has_missing; /* this and the next are tree_cache's, under its lock: of the tree below it, */
    struct digest missing; /* this one was missing when it was last checked */
    size_t directory_count;
    size_t file_count;
    uint8_t children[]; /* sizes and hashes, the directories first; no empty digests */
};

/* Embedded. Any thread. */
struct tree_directories {
    struct tree_memory memory;
    struct digest_keys keys;
};

/* LIMIT: bytes of memory that they may take. */
int tree_directories_init(struct tree_directories *directories, size_t limit, struct err *err);

/* None is pinned. A zeroed one is fine. */
void tree_directories_fini(struct tree_directories *directories);

/* The directory DIGEST, pinned; NULL if it is not remembered. */
struct tree_directory *tree_directories_get(struct tree_directories *directories,
                                            const struct digest *digest);

/* Remembers DIRECTORY, which stays pinned, unless it is too large or known already. */
void tree_directories_add(struct tree_directories *directories, struct tree_directory *directory);
void tree_directories_unpin(struct tree_directories *directories, struct tree_directory *directory);

/*
 * The directory DIGEST from MESSAGE, its bytes; pinned once, and remembered by nobody yet.
 * ERR_INVALID, with the digest: no Directory message.
 */
int tree_directory_parse(const struct digest *digest, struct span message,
                         struct tree_directory **directory, struct err *err);

/* The child INDEX of DIRECTORY: its directories first, then its files. */
void tree_directory_child(const struct tree_directory *directory, size_t index,
                          struct digest *child);

#endif
