/* SPDX-License-Identifier: Apache-2.0 */
/* Directory messages for tests of trees. */
#ifndef ASSETD_TESTS_TEST_TREE_MESSAGES_H
#define ASSETD_TESTS_TEST_TREE_MESSAGES_H

#include "base/wire.h"
#include "store_blobs.h"

/* A message that grows. */
struct message {
    uint8_t *data;
    size_t size;
    size_t capacity;
};

static inline void add_bytes(struct message *message, const void *data, size_t size)
{
    if (message->capacity - message->size < size) {
        message->capacity = 2 * (message->capacity + size);
        message->data = realloc(message->data, message->capacity);
        assert_non_null(message->data);
    }
    memcpy(message->data + message->size, data, size);
    message->size += size;
}

static inline void add_varint(struct message *message, uint64_t value)
{
    uint8_t bytes[10];
    add_bytes(message, bytes, wire_put_varint(bytes, value));
}

static inline void add_field(struct message *message, unsigned number, const void *data,
                             size_t size)
{
    add_varint(message, number << 3 | WIRE_BYTES);
    add_varint(message, size);
    if (size != 0)
        add_bytes(message, data, size);
}

/* A FileNode (list 1) or DirectoryNode (list 2). */
static inline void add_node(struct message *directory, unsigned list, const char *name,
                            const struct digest *digest)
{
    char hex[2 * DIGEST_HASH_MAX + 1];
    struct message sub = {0};
    struct message node = {0};
    add_field(&sub, 1, digest_hex(digest, hex), strlen(digest_hex(digest, hex)));
    add_varint(&sub, 2 << 3 | WIRE_VARINT);
    add_varint(&sub, (uint64_t)digest->size);
    add_field(&node, 1, name, strlen(name));
    add_field(&node, 2, sub.data, sub.size);
    add_field(directory, list, node.data, node.size);
    free(sub.data);
    free(node.data);
}

static inline void add_file(struct message *directory, const char *name,
                            const struct digest *digest)
{
    add_node(directory, 1, name, digest);
}

static inline void add_directory(struct message *directory, const char *name,
                                 const struct digest *digest)
{
    add_node(directory, 2, name, digest);
}

/* Stores MESSAGE, frees it, and gives its digest. */
static inline struct digest store_message(struct store *store, struct message *message)
{
    struct digest digest;
    struct err err;
    assert_int_equal(digest_compute(DIGEST_SHA256, message->data, message->size, &digest, &err), 0);
    assert_int_equal(put_bytes(store->cas, NULL, &digest, message->data, message->size), ERR_OK);
    free(message->data);
    return digest;
}

#endif
