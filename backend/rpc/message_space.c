/* SPDX-License-Identifier: Apache-2.0 */
/* Blocks of one size for the slices of large messages, and a list of those that are not in use. */
#include "rpc/message_space.h"

#include <pthread.h>
#include <stdint.h>
#include <stdlib.h>

struct block {
    struct message_space *space;
    struct block *next; /* of the spare ones */
    uint8_t bytes[MESSAGE_SPACE_MOST];
};

/* It is there until message_space_free was called and no block is in use. */
struct message_space {
    pthread_mutex_t lock;
    struct block *spare;
    size_t spare_count;
    size_t used_count; /* blocks that slices have */
    bool is_over;
};

struct message_space *message_space_new(void)
{
    struct message_space *space = calloc(1, sizeof(*space));
    if (space != NULL)
        (void)pthread_mutex_init(&space->lock, NULL);
    return space;
}

static void end(struct message_space *space)
{
    (void)pthread_mutex_destroy(&space->lock);
    free(space);
}

void message_space_free(struct message_space *space)
{
    if (space == NULL)
        return;
    (void)pthread_mutex_lock(&space->lock);
    struct block *spare = space->spare;
    bool is_last = space->used_count == 0;
    space->is_over = true;
    (void)pthread_mutex_unlock(&space->lock);
    while (spare != NULL) {
        struct block *next = spare->next;
        free(spare);
        spare = next;
    }
    if (is_last)
        end(space);
}

/* The last reference to a slice is gone. */
static void give_back(void *argument)
{
    struct block *block = argument;
    struct message_space *space = block->space;
    (void)pthread_mutex_lock(&space->lock);
    space->used_count--;
    bool is_last = space->is_over && space->used_count == 0;
    bool is_kept = !space->is_over && space->spare_count < MESSAGE_SPACE_SPARE;
    if (is_kept) {
        block->next = space->spare;
        space->spare = block;
        space->spare_count++;
    }
    (void)pthread_mutex_unlock(&space->lock);
    if (!is_kept)
        free(block);
    if (is_last)
        end(space);
}

/* The block that was used last, as the processor may have it yet; or a new one. */
static struct block *take_block(struct message_space *space)
{
    (void)pthread_mutex_lock(&space->lock);
    struct block *block = space->spare;
    if (block != NULL) {
        space->spare = block->next;
        space->spare_count--;
    }
    space->used_count++;
    (void)pthread_mutex_unlock(&space->lock);
    if (block != NULL)
        return block;
    block = malloc(sizeof(*block));
    if (block != NULL) {
        block->space = space;
        return block;
    }
    (void)pthread_mutex_lock(&space->lock);
    space->used_count--;
    (void)pthread_mutex_unlock(&space->lock);
    return NULL;
}

bool message_space_make(struct message_space *space, size_t size, grpc_slice *slice)
{
    if (size < MESSAGE_SPACE_LEAST || size > MESSAGE_SPACE_MOST) {
        void *memory = malloc(size);
        if (memory == NULL)
            return false;
        *slice = grpc_slice_new(memory, size, free);
        return true;
    }
    struct block *block = take_block(space);
    if (block == NULL)
        return false;
    *slice = grpc_slice_new_with_user_data(block->bytes, size, give_back, block);
    return true;
}

size_t message_space_spare(struct message_space *space)
{
    (void)pthread_mutex_lock(&space->lock);
    size_t count = space->spare_count;
    (void)pthread_mutex_unlock(&space->lock);
    return count;
}
