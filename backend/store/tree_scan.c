/* SPDX-License-Identifier: Apache-2.0 */
/* Reading of Directory messages (REAPI: Directory, FileNode, DirectoryNode, Digest). */
#include <string.h>

#include "base/wire.h"
#include "store/tree.h"

/* Field numbers. */
enum { DIRECTORY_FILES = 1, DIRECTORY_DIRECTORIES = 2, DIRECTORY_SYMLINKS = 3, DIRECTORY_LISTS };
enum { NODE_NAME = 1, NODE_DIGEST = 2 };
enum { DIGEST_HASH = 1, DIGEST_SIZE_BYTES = 2 };

static int no_directory(struct err *err, const char *reason)
{
    return err_set(err, ERR_INVALID, "no Directory message: %s", reason);
}

static int scan_digest(enum digest_function function, struct span message, struct digest *digest,
                       struct err *err)
{
    struct wire_reader reader = {.message = message};
    struct wire_field field;
    struct span hash = {(const uint8_t *)"", 0};
    int64_t size = 0;
    while (wire_next(&reader, &field)) {
        if (field.number == DIGEST_HASH && field.type == WIRE_BYTES)
            hash = field.bytes;
        else if (field.number == DIGEST_SIZE_BYTES && field.type == WIRE_VARINT)
            size = (int64_t)field.value;
        else if (field.number <= DIGEST_SIZE_BYTES)
            return no_directory(err, "a field of a digest has the wrong type");
    }
    if (reader.malformed)
        return no_directory(err, "a digest is malformed");
    if (digest_parse(function, (const char *)hash.data, hash.size, size, digest, err) != 0)
        return err_wrap(err, "no Directory message");
    return 0;
}

/* A FileNode, DirectoryNode or SymlinkNode; a symlink has its target where they have a digest. */
static int scan_node(enum digest_function function, uint32_t list, struct span message,
                     struct span *name, struct digest *digest, struct err *err)
{
    struct wire_reader reader = {.message = message};
    struct wire_field field;
    unsigned digests = 0;
    *name = (struct span){NULL, 0};
    while (wire_next(&reader, &field)) {
        if (field.number > NODE_DIGEST)
            continue;
        if (field.type != WIRE_BYTES)
            return no_directory(err, "a field of a node has the wrong type");
        if (field.number == NODE_NAME) {
            *name = field.bytes;
        } else if (list != DIRECTORY_SYMLINKS) {
            digests++;
            if (scan_digest(function, field.bytes, digest, err) != 0)
                return -(int)err->code;
        }
    }
    if (reader.malformed)
        return no_directory(err, "a node is malformed");
    if (name->size == 0)
        return no_directory(err, "a node has no name");
    if (list != DIRECTORY_SYMLINKS && digests != 1)
        return no_directory(err, "a node has not one digest");
    return 0;
}

int tree_scan(enum digest_function function, struct span message,
              const struct tree_visitor *visitor, struct err *err)
{
    struct wire_reader reader = {.message = message};
    struct wire_field field;
    /* Nodes are sorted by name, so that those of the same name are neighbours. */
    struct span previous[DIRECTORY_LISTS] = {{NULL, 0}};
    bool (*const visit[DIRECTORY_LISTS])(void *, const struct digest *) = {
        [DIRECTORY_FILES] = visitor->file,
        [DIRECTORY_DIRECTORIES] = visitor->directory,
    };
    while (wire_next(&reader, &field)) {
        if (field.number >= DIRECTORY_LISTS)
            continue;
        if (field.type != WIRE_BYTES)
            return no_directory(err, "a field has the wrong type");
        struct span name;
        struct digest digest;
        if (scan_node(function, field.number, field.bytes, &name, &digest, err) != 0)
            return -(int)err->code;
        if (previous[field.number].data != NULL && span_equal(name, previous[field.number]))
            return no_directory(err, "two nodes have the same name");
        previous[field.number] = name;
        if (visit[field.number] != NULL && !visit[field.number](visitor->context, &digest))
            return 0;
    }
    return reader.malformed ? no_directory(err, "it is malformed") : 0;
}
