/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Memory of messages to send. That of large ones is kept for the next: the allocator would have
 * each of them mapped by the system and unmapped again, which costs more than to fill it.
 */
#ifndef ASSETD_RPC_MESSAGE_SPACE_H
#define ASSETD_RPC_MESSAGE_SPACE_H

#include <grpc/slice.h>
#include <stdbool.h>
#include <stddef.h>

enum {
    MESSAGE_SPACE_LEAST = 16 << 10,      /* bytes; below that the allocator is cheap enough */
    MESSAGE_SPACE_MOST = (1 << 20) + 64, /* a piece of 1 MiB with its heads; no larger is kept */
    MESSAGE_SPACE_SPARE = 8,             /* how many are kept */
};

struct message_space;

/* NULL when memory is out. */
struct message_space *message_space_new(void);

/*
 * Gives back what is kept. Slices may still be in use: each is freed with its last reference. None
 * may be made any more.
 */
void message_space_free(struct message_space *space);

/*
 * Makes a slice of SIZE bytes, whatever was in them. False when memory is out; the core's own way
 * would end the process. Any thread, as for the slice's references.
 */
bool message_space_make(struct message_space *space, size_t size, grpc_slice *slice);

/* How many are kept at present. */
size_t message_space_spare(struct message_space *space);

#endif
