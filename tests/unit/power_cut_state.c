/* SPDX-License-Identifier: Apache-2.0 */
/* What a simulated power cut leaves: the fate of each event, and the files that come of it. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "power_cut_private.h"

enum cover { NOT_COVERED, COVERED, FORSAKEN };

struct state {
    const struct power_cut *cut;
    uint64_t seed;
    size_t at;
    uint8_t *covers; /* enum cover for each event */
    struct name *names;
    size_t name_count, name_capacity;
};

/* --- chance: each event has its own, whatever becomes of the others --- */

static uint64_t next_random(uint64_t *random)
{
    *random += 0x9e3779b97f4a7c15;
    uint64_t mixed = *random;
    mixed = (mixed ^ mixed >> 30) * 0xbf58476d1ce4e5b9;
    mixed = (mixed ^ mixed >> 27) * 0x94d049bb133111eb;
    return mixed ^ mixed >> 31;
}

static bool coin(uint64_t *random)
{
    return (next_random(random) & 1) != 0;
}

static uint64_t chance_of(const struct state *state, size_t index)
{
    uint64_t random = state->seed;
    random = next_random(&random) ^ (uint64_t)index;
    return next_random(&random);
}

/* --- what syncs cover --- */

static void settle(struct state *state, size_t index, bool has_failed)
{
    if (state->covers[index] == NOT_COVERED)
        state->covers[index] = has_failed ? FORSAKEN : COVERED;
}

static void find_covers(struct state *state)
{
    const struct event *events = state->cut->events;
    for (size_t i = 0; i < state->at && i < state->cut->event_count; i++) {
        if (events[i].kind == EVENT_SYNC_ALL)
            for (size_t j = 0; j < events[i].begun; j++)
                settle(state, j, events[i].has_failed);
        if (events[i].kind != EVENT_SYNC)
            continue;
        /* What is before an event that is settled has been settled with it. */
        for (ssize_t j = events[i].previous; j >= 0 && state->covers[j] == NOT_COVERED;
             j = events[j].previous)
            if ((size_t)j < events[i].begun)
                settle(state, (size_t)j, events[i].has_failed);
    }
}

enum presence { GONE, UNCERTAIN, CERTAIN };

static enum presence presence_of(const struct state *state, size_t index)
{
    const struct event *event = &state->cut->events[index];
    if (event->is_durable)
        return index < state->at || index < state->cut->first ? CERTAIN : GONE;
    if (index < state->at)
        return state->covers[index] == COVERED ? CERTAIN : UNCERTAIN;
    return event->begun <= state->at ? UNCERTAIN : GONE;
}

/* --- the content of a file --- */

struct image {
    uint8_t *bytes;
    size_t size;
    size_t capacity; /* bytes behind SIZE are zeros */
};

static void set_size(struct image *image, size_t size)
{
    if (size > image->capacity) {
        image->bytes = realloc(image->bytes, size);
        if (image->bytes == NULL)
            abort();
        memset(image->bytes + image->capacity, 0, size - image->capacity);
        image->capacity = size;
    }
    if (size < image->size)
        memset(image->bytes + size, 0, image->size - size);
    image->size = size;
}

static void grow_to(struct image *image, size_t size)
{
    if (size > image->size)
        set_size(image, size);
}

/* Bytes from BEGIN to END of the file, both within the event. */
static void put(struct image *image, const struct event *event, size_t begin, size_t end)
{
    if (begin >= end)
        return;
    grow_to(image, end);
    memcpy(image->bytes + begin, event->bytes + (begin - (size_t)event->offset), end - begin);
}

/* Where the sector that OFFSET is in ends, or the event. */
static size_t sector_end(size_t offset, size_t end)
{
    size_t next = (offset / POWER_CUT_SECTOR + 1) * POWER_CUT_SECTOR;
    return next < end ? next : end;
}

static void put_some_sectors(struct image *image, const struct event *event, uint64_t *random)
{
    size_t end = (size_t)(event->offset + event->size);
    for (size_t at = (size_t)event->offset, next; at < end; at = next) {
        next = sector_end(at, end);
        if (coin(random))
            put(image, event, at, next);
    }
}

static void put_torn(struct image *image, const struct event *event, uint64_t *random)
{
    size_t begin = (size_t)event->offset;
    size_t end = begin + (size_t)event->size;
    size_t old_size = image->size;
    size_t first = sector_end(begin, end); /* the first place where it can be torn */
    size_t places = (end - first + POWER_CUT_SECTOR - 1) / POWER_CUT_SECTOR;
    bool is_size_new = coin(random);
    if (places > 0) {
        size_t at = first + (size_t)(next_random(random) % places) * POWER_CUT_SECTOR;
        switch (next_random(random) % 3) {
        case 0:
            put(image, event, begin, at);
            old_size = image->size;
            break;
        case 1:
            put(image, event, at, end);
            break;
        default:
            put_some_sectors(image, event, random);
        }
    }
    if (is_size_new)
        grow_to(image, end);
    else
        set_size(image, old_size);
}

static void put_mapped(struct image *image, const struct event *event)
{
    size_t end = (size_t)(event->offset + event->size);
    put(image, event, (size_t)event->offset, end < image->size ? end : image->size);
}

static void apply(const struct state *state, size_t index, struct image *image)
{
    const struct event *event = &state->cut->events[index];
    enum presence presence = presence_of(state, index);
    uint64_t random = chance_of(state, index);
    if (presence == GONE)
        return;
    if (event->kind == EVENT_WRITE) {
        size_t end = (size_t)(event->offset + event->size);
        uint64_t fate = presence == CERTAIN ? 0 : next_random(&random) % 3;
        if (fate == 0)
            put(image, event, (size_t)event->offset, end);
        else if (fate == 1)
            put_torn(image, event, &random);
        else if (coin(&random))
            grow_to(image, end);
        return;
    }
    if (presence == UNCERTAIN && coin(&random))
        return;
    if (event->kind == EVENT_MAPPED)
        put_mapped(image, event);
    else if (event->kind == EVENT_RESIZE)
        set_size(image, (size_t)event->size);
    else if (event->kind == EVENT_GROW)
        grow_to(image, (size_t)event->size);
}

static struct image content_of(const struct state *state, const struct node *node)
{
    struct image image = {0};
    if (node->base_size > 0) {
        set_size(&image, node->base_size);
        memcpy(image.bytes, node->base, node->base_size);
    }
    size_t count = 0;
    for (ssize_t i = node->last; i >= 0; i = state->cut->events[i].previous)
        count++;
    size_t *order = calloc(count + 1, sizeof(*order));
    if (order == NULL)
        abort();
    size_t left = count;
    for (ssize_t i = node->last; i >= 0; i = state->cut->events[i].previous)
        order[--left] = (size_t)i;
    for (size_t i = 0; i < count; i++)
        apply(state, order[i], &image);
    free(order);
    return image;
}

/* --- names --- */

static void find_names(struct state *state)
{
    const struct power_cut *cut = state->cut;
    for (size_t i = 0; i < cut->event_count; i++) {
        const struct event *event = &cut->events[i];
        if (event->kind != EVENT_NAME)
            continue;
        enum presence presence = presence_of(state, i);
        uint64_t random = chance_of(state, event->twin >= 0 ? (size_t)event->twin : i);
        if (presence == GONE || (presence == UNCERTAIN && coin(&random)))
            continue;
        power_cut_set_name(&state->names, &state->name_count, &state->name_capacity, event->node,
                           event->name, event->target);
    }
}

/* --- writing it --- */

static void write_file(const struct state *state, const struct node *node, const char *path)
{
    enum { BLOCK = 4096 };
    struct image image = content_of(state, node);
    int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    if (fd < 0 || fchmod(fd, node->mode) != 0 || ftruncate(fd, (off_t)image.size) != 0)
        abort();
    /* Blocks of zeros stay holes, so that large empty files cost nothing. */
    static const uint8_t zeros[BLOCK];
    for (size_t at = 0; at < image.size; at += BLOCK) {
        size_t size = image.size - at < BLOCK ? image.size - at : BLOCK;
        if (memcmp(image.bytes + at, zeros, size) != 0 &&
            pwrite(fd, image.bytes + at, size, (off_t)at) != (ssize_t)size)
            abort();
    }
    if (close(fd) != 0)
        abort();
    free(image.bytes);
}

static void write_directory(const struct state *state, const struct node *directory,
                            const char *path)
{
    for (size_t i = 0; i < state->name_count; i++) {
        const struct name *name = &state->names[i];
        char below[PATH_MAX];
        if (name->directory != directory)
            continue;
        if (snprintf(below, sizeof(below), "%s/%s", path, name->name) >= (int)sizeof(below))
            abort();
        if (!name->node->is_directory) {
            write_file(state, name->node, below);
            continue;
        }
        if (mkdir(below, 0700) != 0 || chmod(below, name->node->mode) != 0)
            abort();
        write_directory(state, name->node, below);
    }
}

void power_cut_materialise(struct power_cut *cut, const char *target, uint64_t seed, size_t at)
{
    pthread_mutex_lock(&cut->lock);
    struct state state = {.cut = cut, .seed = seed, .at = at};
    state.covers = calloc(cut->event_count + 1, 1);
    if (state.covers == NULL)
        abort();
    find_covers(&state);
    find_names(&state);
    write_directory(&state, cut->root, target);
    for (size_t i = 0; i < state.name_count; i++)
        free(state.names[i].name);
    free(state.names);
    free(state.covers);
    pthread_mutex_unlock(&cut->lock);
}
