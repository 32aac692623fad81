/* SPDX-License-Identifier: Apache-2.0 */
/* Directories as they are remembered: packed, in the memory of those that were used last. */
#include "store/tree_directory.h"

#include <stdlib.h>
#include <string.h>

/* --- the memory --- */

static bool has_digest(const struct tree_entry *entry, const void *key)
{
    return digest_equal(&((const struct tree_directory *)entry)->digest, key);
}

int tree_directories_init(struct tree_directories *directories, size_t limit, struct err *err)
{
    int rc = digest_keys_init(&directories->keys, err);
    return rc == 0 ? tree_memory_init(&directories->memory, limit, has_digest, err) : rc;
}

void tree_directories_fini(struct tree_directories *directories)
{
    tree_memory_fini(&directories->memory);
}

static uint32_t hash_of(const struct tree_directories *directories, const struct digest *digest)
{
    size_t hash_size = digest_hash_size(digest->function);
    return digest_keys_hash(&directories->keys, digest->hash, hash_size, digest->size);
}

struct tree_directory *tree_directories_get(struct tree_directories *directories,
                                            const struct digest *digest)
{
    return (struct tree_directory *)tree_memory_get(&directories->memory,
                                                    hash_of(directories, digest), digest);
}

void tree_directories_add(struct tree_directories *directories, struct tree_directory *directory)
{
    directory->entry.hash = hash_of(directories, &directory->digest);
    tree_memory_add(&directories->memory, &directory->entry, &directory->digest);
}

void tree_directories_unpin(struct tree_directories *directories, struct tree_directory *directory)
{
    tree_memory_unpin(&directories->memory, &directory->entry);
}

/* --- one directory --- */

static size_t child_size(const struct digest *parent)
{
    return sizeof(int64_t) + digest_hash_size(parent->function);
}

static struct tree_directory *make(const struct digest *digest, size_t directory_count,
                                   size_t file_count)
{
    size_t bytes =
        sizeof(struct tree_directory) + (directory_count + file_count) * child_size(digest);
    struct tree_directory *directory = malloc(bytes);
    if (directory == NULL)
        return NULL;
    *directory = (struct tree_directory){.entry = {.pins = 1, .bytes = bytes},
                                         .digest = *digest,
                                         .directory_count = directory_count,
                                         .file_count = file_count};
    return directory;
}

static void set_child(struct tree_directory *directory, size_t index, const struct digest *child)
{
    size_t size = child_size(&directory->digest);
    uint8_t *bytes = directory->children + index * size;
    memcpy(bytes, &child->size, sizeof(child->size));
    memcpy(bytes + sizeof(child->size), child->hash, size - sizeof(child->size));
}

void tree_directory_child(const struct tree_directory *directory, size_t index,
                          struct digest *child)
{
    size_t size = child_size(&directory->digest);
    const uint8_t *bytes = directory->children + index * size;
    memset(child, 0, sizeof(*child));
    child->function = directory->digest.function;
    memcpy(&child->size, bytes, sizeof(child->size));
    memcpy(child->hash, bytes + sizeof(child->size), size - sizeof(child->size));
}

/* The children of a message: counted first, then kept. */
struct children {
    struct tree_directory *directory; /* NULL: counting */
    size_t directories;
    size_t files; /* while keeping, these follow the directories */
};

static void add_child(struct children *children, size_t *position, const struct digest *digest)
{
    if (digest_is_empty(digest))
        return;
    if (children->directory != NULL)
        set_child(children->directory, *position, digest);
    ++*position;
}

static bool add_file(void *context, const struct digest *digest)
{
    struct children *children = context;
    add_child(children, &children->files, digest);
    return true;
}

static bool add_directory(void *context, const struct digest *digest)
{
    struct children *children = context;
    add_child(children, &children->directories, digest);
    return true;
}

int tree_directory_parse(const struct digest *digest, struct span message,
                         struct tree_directory **out, struct err *err)
{
    struct children counted = {.directory = NULL};
    struct tree_visitor visitor = {add_file, add_directory, &counted};
    int rc = tree_scan(digest->function, message, &visitor, err);
    if (rc != 0) {
        char text[DIGEST_TEXT_MAX];
        return err_wrap(err, "directory %s", digest_text(digest, text));
    }
    *out = make(digest, counted.directories, counted.files);
    if (*out == NULL)
        return err_no_memory(err, "a directory");
    struct children kept = {.directory = *out, .files = counted.directories};
    visitor.context = &kept;
    return tree_scan(digest->function, message, &visitor, err);
}
