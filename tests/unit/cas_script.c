/* SPDX-License-Identifier: Apache-2.0 */
/* The work on a CAS whose disk or memory fails, and what has to be true after it. */
#include "cas_script.h"

#include <semaphore.h>
#include <stddef.h>
#include <stdio.h>

#include "store/cas_private.h"
#include "store/cas_space_private.h"

enum {
    QUOTA = 11 << 18,       /* less than is stored, but more than is not FILLER */
    LARGE_QUOTA = 16 << 20, /* of stores that are only looked at */
    PATIENCE = 300,         /* milliseconds that an upload waits for room */
    SECONDS_MAX = 60,       /* until the tables are made anew */
    PIECE = 70000,          /* bytes of a stream */
};

/* What is stored, by its index. */
enum {
    USED = 0,        /* long ago; some of them twice, so that they are carried forward */
    USED_COUNT = 70, /* these fill a segment */
    TWICE_COUNT = 5,
    FILLER = USED + USED_COUNT, /* used long ago */
    FILLER_COUNT = 44,
    BASE = FILLER + FILLER_COUNT, /* pushed before anything fails, and held */
    BASE_COUNT = 12,
    BATCH = BASE + BASE_COUNT,
    BATCH_COUNT = 20,
    STREAM = BATCH + BATCH_COUNT, /* a large one, and one that is not */
    STREAM_COUNT = 2,
    ABORTED = STREAM + STREAM_COUNT,
    LATE, /* which there is room for only when others go */
    LATE_COUNT = 10,
    EXTRA = LATE + LATE_COUNT, /* after the next start */
    LAST,                      /* when nothing fails any more */
    COUNT,
};

_Static_assert((int)COUNT <= (int)CAS_SCRIPT_BLOBS, "there is a mark for each");

static struct {
    struct digest digest;
    size_t size;
    uint8_t *bytes;
} blobs[COUNT];

static uint8_t buffer[512 * 1024];

static size_t size_of(size_t index)
{
    if (index >= FILLER && index < BASE)
        return 30000;
    if (index == STREAM || index == ABORTED)
        return 300000;
    if (index == STREAM + 1 || index == BASE)
        return 40000;
    return index >= LATE && index < EXTRA ? 25000 : 1000 + index;
}

int cas_script_silence(int before)
{
    (void)fflush(stderr);
    int now = dup(STDERR_FILENO);
    int to = before >= 0 ? before : open("/dev/null", O_WRONLY | O_CLOEXEC);
    if (now < 0 || to < 0 || dup2(to, STDERR_FILENO) < 0)
        abort();
    (void)close(to);
    return now;
}

void cas_script_init(void)
{
    struct err err;
    for (size_t i = 0; i < COUNT; i++) {
        uint64_t random = i + 1;
        blobs[i].size = size_of(i);
        blobs[i].bytes = calloc(1, blobs[i].size + sizeof(random));
        if (blobs[i].bytes == NULL)
            abort();
        for (size_t at = 0; at < blobs[i].size; at += sizeof(random)) {
            random = random * 6364136223846793005u + 1442695040888963407u;
            memcpy(blobs[i].bytes + at, &random, sizeof(random));
        }
        if (digest_compute(DIGEST_SHA256, blobs[i].bytes, blobs[i].size, &blobs[i].digest, &err) !=
            0)
            abort();
    }
}

/* --- what may be --- */

static void note(struct cas_script *script, const char *what, size_t index, const char *why)
{
    if (script->fault[0] == '\0')
        (void)snprintf(script->fault, sizeof(script->fault), "%s of blob %zu: %.400s", what, index,
                       why);
}

/* Whether it worked; MORE: codes that may be besides. */
static bool worked(struct cas_script *script, const char *what, size_t index, const struct err *err,
                   unsigned more)
{
    char why[480];
    if (err->code == ERR_OK)
        return true;
    if ((CAS_SCRIPT_CODE(err->code) & (script->accepted | more)) == 0) {
        (void)snprintf(why, sizeof(why), "%s: %.400s", err_name(err->code), err->msg);
        note(script, what, index, why);
    }
    return false;
}

/* --- steps --- */

static bool open_store(struct cas_script *script, int64_t quota)
{
    struct err err = {.code = ERR_OK};
    const struct cas_options options = {
        .path = script->scratch.path, .quota = quota, .may_write = true};
    if (cas_open(&options, &script->cas, &err) != 0) {
        script->cas = NULL;
        return worked(script, "open", 0, &err, 0);
    }
    atomic_store(&script->cas->space->patience, PATIENCE);
    script->failures = cas_log_failures(script->cas->log);
    return true;
}

static void close_store(struct cas_script *script)
{
    if (script->has_hold)
        cas_hold_end(&script->hold);
    script->has_hold = false;
    memset(script->is_stored, 0, sizeof(script->is_stored));
    cas_close(script->cas);
    script->cas = NULL;
}

static void begin_hold(struct cas_script *script)
{
    cas_hold_begin(script->cas, &script->hold);
    script->has_hold = true;
}

static struct cas_hold *hold_of(struct cas_script *script)
{
    return script->has_hold ? &script->hold : NULL;
}

static void put(struct cas_script *script, size_t first, size_t count)
{
    struct cas_blob batch[CAS_SCRIPT_BLOBS];
    for (size_t i = 0; i < count; i++)
        batch[i] = (struct cas_blob){.digest = blobs[first + i].digest,
                                     .data = {blobs[first + i].bytes, blobs[first + i].size}};
    cas_put(script->cas, hold_of(script), batch, count);
    for (size_t i = 0; i < count; i++)
        script->is_stored[first + i] =
            worked(script, "put", first + i, &batch[i].err, 0) && script->has_hold;
}

/* Gives up after SIZE bytes, if that is not all. */
static void stream(struct cas_script *script, size_t index, size_t size)
{
    struct cas_writer *writer;
    struct err err = {.code = ERR_OK};
    if (cas_writer_open(script->cas, &blobs[index].digest, &writer, &err) != 0) {
        (void)worked(script, "begin a stream", index, &err, 0);
        return;
    }
    for (size_t at = 0; at < size; at += PIECE) {
        if (cas_writer_append(writer, blobs[index].bytes + at,
                              size - at < PIECE ? size - at : PIECE, &err) == 0)
            continue;
        (void)worked(script, "stream", index, &err, 0);
        cas_writer_abort(writer);
        return;
    }
    if (size < blobs[index].size)
        cas_writer_abort(writer);
    else if (cas_writer_commit(writer, &err) != 0)
        (void)worked(script, "end a stream", index, &err, 0);
    else
        script->is_stored[index] = script->has_hold;
}

struct waiting {
    struct cas_sync sync;
    struct err err;
    sem_t done;
};

static void on_synced(struct cas_sync *sync, const struct err *err)
{
    struct waiting *waiting = (struct waiting *)sync;
    waiting->err.code = ERR_OK;
    if (err != NULL)
        waiting->err = *err;
    (void)sem_post(&waiting->done);
}

/* Under the hold. What is found is pushed, if it can be made durable. */
static void push(struct cas_script *script, size_t first, size_t count)
{
    struct digest digests[CAS_SCRIPT_BLOBS] = {{.size = 0}};
    enum cas_presence presence[CAS_SCRIPT_BLOBS];
    struct waiting waiting = {.sync = {.hold = &script->hold, .done = on_synced}};
    for (size_t i = 0; i < count; i++)
        digests[i] = blobs[first + i].digest;
    cas_find_verified(script->cas, &script->hold, digests, count, presence);
    for (size_t i = 0; i < count; i++)
        if (script->is_pushed[first + i] && presence[i] == CAS_ABSENT)
            note(script, "find", first + i, "it was pushed and is missing");
    (void)sem_init(&waiting.done, 0, 0);
    cas_sync(script->cas, &waiting.sync);
    while (sem_wait(&waiting.done) != 0)
        continue;
    (void)sem_destroy(&waiting.done);
    if (!worked(script, "push", first, &waiting.err, CAS_SCRIPT_CODE(ERR_UNAVAILABLE)))
        return;
    for (size_t i = 0; i < count; i++)
        if (presence[i] == CAS_PRESENT)
            script->is_pushed[first + i] = true;
}

/*
 * The code of a miss, where there may be one: a sync that failed takes what was stored, but not
 * what was pushed.
 */
static unsigned miss_of(const struct cas_script *script, size_t index)
{
    bool is_there =
        script->is_pushed[index] ||
        (script->is_stored[index] && cas_log_failures(script->cas->log) == script->failures);
    return is_there ? 0 : CAS_SCRIPT_CODE(ERR_NOT_FOUND);
}

/* Returns how many are there. */
static size_t get(struct cas_script *script, size_t first, size_t count)
{
    size_t there = 0;
    for (size_t i = first; i < first + count; i++) {
        struct cas_blob blob = {.digest = blobs[i].digest};
        cas_get(script->cas, hold_of(script), &blob, 1, buffer);
        if (!worked(script, "get", i, &blob.err, miss_of(script, i)))
            continue;
        there++;
        if (blob.data.size != blobs[i].size ||
            memcmp(blob.data.data, blobs[i].bytes, blobs[i].size) != 0)
            note(script, "get", i, "wrong bytes");
    }
    return there;
}

static void read_parts(struct cas_script *script, size_t index)
{
    struct cas_reader *reader;
    struct err err = {.code = ERR_OK};
    unsigned more = miss_of(script, index);
    if (cas_reader_open(script->cas, &blobs[index].digest, &reader, &err) != 0) {
        (void)worked(script, "open a reader", index, &err, more);
        return;
    }
    for (size_t at = 1; at < blobs[index].size; at += PIECE) {
        size_t size = blobs[index].size - at < PIECE ? blobs[index].size - at : PIECE;
        err.code = ERR_OK;
        if (cas_reader_read(reader, (int64_t)at, buffer, size, &err) != 0)
            (void)worked(script, "read", index, &err, more);
        else if (memcmp(buffer, blobs[index].bytes + at, size) != 0)
            note(script, "read", index, "wrong bytes");
    }
    cas_reader_close(reader);
}

static void delete (struct cas_script *script, size_t index)
{
    struct err err = {.code = ERR_OK};
    unsigned more = miss_of(script, index);
    if (cas_delete(script->cas, &blobs[index].digest, &err) == 0)
        script->is_pushed[index] = script->is_stored[index] = false;
    else
        (void)worked(script, "delete", index, &err, more);
}

static int64_t counted;

static int count_one(const char *path, const struct stat *st, int type, struct FTW *position)
{
    (void)path;
    (void)type;
    (void)position;
    counted += (int64_t)st->st_blocks * 512;
    return 0;
}

static void expect_quota(struct cas_script *script, int64_t quota)
{
    char path[PATH_MAX];
    counted = 0;
    (void)nftw(scratch_path(&script->scratch, "cas", path), count_one, 16, FTW_PHYS);
    if (counted > quota)
        note(script, "quota", (size_t)counted, "more is on the disk");
}

static bool wait_until_rebuilt(struct cas_script *script)
{
    for (unsigned waited = 0; waited < SECONDS_MAX * 1000; waited++) {
        if (atomic_load(&script->cas->shared.header->rebuilding) == CAS_REBUILT)
            return true;
        (void)usleep(1000);
    }
    note(script, "start", 0, "the tables are not made anew");
    return false;
}

/* The machine has started again since, and the store had not been closed. */
static void cut_power(const struct cas_script *script)
{
    static const char boot_id[40] = "00000000-another-boot";
    const uint32_t clean = 0;
    char path[PATH_MAX];
    int fd = open(scratch_path(&script->scratch, "cas/shared", path), O_RDWR | O_CLOEXEC);
    if (fd < 0 ||
        pwrite(fd, boot_id, sizeof(boot_id), offsetof(struct cas_shared_header, boot_id)) !=
            (ssize_t)sizeof(boot_id) ||
        pwrite(fd, &clean, sizeof(clean), offsetof(struct cas_shared_header, clean)) !=
            (ssize_t)sizeof(clean) ||
        close(fd) != 0)
        abort();
}

static void note_evicted(struct cas_script *script)
{
    struct cas_stats stats;
    cas_stats(script->cas, &stats);
    script->evicted = stats.evicted;
}

/* --- scripts --- */

void cas_script_begin_empty(struct cas_script *script, unsigned accepted)
{
    memset(script, 0, sizeof(*script));
    scratch_init(&script->scratch);
    script->accepted = accepted;
}

void cas_script_begin(struct cas_script *script, unsigned accepted)
{
    cas_script_begin_empty(script, 0);
    if (!open_store(script, QUOTA))
        return;
    put(script, USED, USED_COUNT);
    (void)get(script, USED, TWICE_COUNT);
    for (size_t i = FILLER; i < BASE; i++)
        put(script, i, 1);
    begin_hold(script);
    put(script, BASE, BASE_COUNT);
    push(script, BASE, BASE_COUNT);
    script->accepted = accepted;
}

void cas_script_begin_cut(struct cas_script *script, unsigned accepted)
{
    cas_script_begin(script, 0);
    close_store(script);
    cut_power(script);
    script->accepted = accepted;
}

void cas_script_work(struct cas_script *script)
{
    put(script, BATCH, BATCH_COUNT);
    for (size_t i = STREAM; i < STREAM + STREAM_COUNT; i++)
        stream(script, i, blobs[i].size);
    stream(script, ABORTED, blobs[ABORTED].size / 2);
    push(script, BASE, BASE_COUNT + BATCH_COUNT + STREAM_COUNT);
    (void)get(script, BASE, BASE_COUNT + BATCH_COUNT);
    read_parts(script, STREAM);
    delete (script, BATCH);
    for (size_t i = LATE; i < LATE + LATE_COUNT; i++)
        put(script, i, 1);
    expect_quota(script, QUOTA);
    push(script, LATE, LATE_COUNT);
    note_evicted(script);
    for (size_t i = USED; i < USED + TWICE_COUNT; i++)
        script->carried += get(script, i, 1);
    close_store(script);
    if (!open_store(script, QUOTA))
        return;
    begin_hold(script);
    (void)get(script, BASE, BASE_COUNT);
    put(script, EXTRA, 1);
    push(script, EXTRA, 1);
    close_store(script);
}

void cas_script_start(struct cas_script *script)
{
    if (!open_store(script, LARGE_QUOTA))
        return;
    begin_hold(script);
    put(script, EXTRA, 1);
    push(script, EXTRA, 1);
    (void)wait_until_rebuilt(script);
    (void)get(script, BASE, BASE_COUNT);
    close_store(script);
}

/* All of it, where nothing fails: what was pushed is there. */
static void look_at_all(struct cas_script *script)
{
    script->accepted = 0;
    if (!open_store(script, LARGE_QUOTA))
        return;
    if (wait_until_rebuilt(script)) {
        (void)get(script, 0, COUNT);
        begin_hold(script);
        put(script, LAST, 1);
        push(script, LAST, 1);
        (void)get(script, LAST, 1);
        expect_quota(script, LARGE_QUOTA);
    }
    close_store(script);
}

const char *cas_script_end(struct cas_script *script)
{
    if (script->cas != NULL)
        close_store(script);
    look_at_all(script);
    cut_power(script);
    look_at_all(script);
    scratch_fini(&script->scratch);
    return script->fault[0] != '\0' ? script->fault : NULL;
}
