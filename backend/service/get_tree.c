/* SPDX-License-Identifier: Apache-2.0 */
/*
 * ContentAddressableStorage.GetTree: each distinct directory once, breadth first, in pages.
 *
 * The order depends on the content alone, so that a page token needs no memory of the call that
 * gave it: it is a position in that order, and a check that the same tree has the same directory
 * there now.
 */
#include <stdio.h>
#include <string.h>

#include "base/digest_set.h"
#include "base/wire.h"
#include "service/handlers.h"
#include "service/messages.h"
#include "service/request.h"
#include "store/tree.h"

enum {
    PAGE_ROOM = 1 << 20,               /* bytes of a page; one directory alone may have more */
    DIRECTORY_MAX = REQUEST_BATCH_MAX, /* bytes of a directory: what clients can receive */
    TOKEN_POSITION = 8,                /* hexadecimal digits */
    TOKEN_CHECK = 32,                  /* hexadecimal digits */
    TOKEN_SIZE = TOKEN_POSITION + TOKEN_CHECK,
    FIELD_DIRECTORIES = 1, /* of GetTreeResponse */
    FIELD_TOKEN = 2,       /* of GetTreeResponse: next_page_token */
    TOKEN_ROOM = 2 + TOKEN_SIZE,
};

/* A GetTree under way. */
struct walk {
    struct instance *instance;
    struct digest_set found; /* in the order of the walk; the first is the root */
    size_t next;             /* the position of the next one to look at */
    size_t first;            /* the position where the answer begins */
    const char *token;       /* of the request; "" if none */
    size_t page_size;        /* directories of a page at most */
    int found_rc;            /* of adding what a scan finds */
    struct err *found_err;
};

/* The message being filled. */
struct page {
    uint8_t *bytes;
    size_t room; /* without that of the token */
    size_t used;
    size_t count; /* directories */
};

/* --- page tokens --- */

/* The token of the page that begins at POSITION, which has been found. */
static int make_token(const struct walk *walk, size_t position, char token[TOKEN_SIZE + 1],
                      struct err *err)
{
    char root[DIGEST_TEXT_MAX], next[DIGEST_TEXT_MAX], hex[2 * DIGEST_HASH_MAX + 1];
    char text[2 * DIGEST_TEXT_MAX + 64];
    struct digest check;
    int length = snprintf(text, sizeof(text), "GetTree 1 %s %zu %s",
                          digest_text(&walk->found.digests[0], root), position,
                          digest_text(&walk->found.digests[position], next));
    int rc = digest_compute(DIGEST_SHA256, text, (size_t)length, &check, err);
    if (rc == 0)
        (void)snprintf(token, TOKEN_SIZE + 1, "%0*zx%.*s", TOKEN_POSITION, position, TOKEN_CHECK,
                       digest_hex(&check, hex));
    return rc;
}

static int bad_token(struct err *err)
{
    return err_set(err, ERR_INVALID,
                   "the page_token is none that was given for this tree as it is now: leave it "
                   "empty to begin again");
}

/* The position in a token; whether the rest is right shows when the walk gets there. */
static int parse_token(const char *token, size_t *position, struct err *err)
{
    size_t value = 0;
    *position = 0;
    if (token[0] == '\0')
        return 0;
    if (strlen(token) != TOKEN_SIZE)
        return bad_token(err);
    for (size_t i = 0; i < TOKEN_POSITION; i++) {
        const char *digits = "0123456789abcdef";
        const char *digit = strchr(digits, token[i]);
        if (digit == NULL)
            return bad_token(err);
        value = value << 4 | (size_t)(digit - digits);
    }
    if (value == 0 || value >= TREE_DIRECTORIES_MAX)
        return bad_token(err);
    *position = value;
    return 0;
}

static int check_token(const struct walk *walk, struct err *err)
{
    char token[TOKEN_SIZE + 1];
    int rc = make_token(walk, walk->first, token, err);
    if (rc == 0 && strcmp(token, walk->token) != 0)
        return bad_token(err);
    return rc;
}

/* --- the walk --- */

static bool on_directory(void *context, const struct digest *digest)
{
    struct walk *walk = context;
    bool is_new;
    walk->found_rc = digest_set_add(&walk->found, digest, &is_new, walk->found_err);
    if (walk->found_rc == 0 && walk->found.count > TREE_DIRECTORIES_MAX)
        walk->found_rc = err_set(walk->found_err, ERR_INVALID,
                                 "the tree has more than %d directories", TREE_DIRECTORIES_MAX);
    return walk->found_rc == 0;
}

/*
 * Finds the directories in the message of one. Content that is none makes the root's digest an
 * argument that can never work: ERR_INVALID, as tree_scan has it.
 */
static int scan(struct walk *walk, const struct digest *digest, struct span message,
                struct err *err)
{
    const struct tree_visitor visitor = {.directory = on_directory, .context = walk};
    struct err found_err;
    char text[DIGEST_TEXT_MAX];
    walk->found_rc = 0;
    walk->found_err = &found_err;
    int rc = tree_scan(digest->function, message, &visitor, err);
    if (walk->found_rc != 0) {
        *err = found_err;
        return walk->found_rc;
    }
    return rc != 0 ? err_wrap(err, "directory %s", digest_text(digest, text)) : 0;
}

/* Makes room for a directory of SIZE bytes; false if it has to wait for the next page. */
static int make_room(struct call *call, struct page *page, size_t size, bool *has_room,
                     struct err *err)
{
    size_t needed = wire_bytes_size(size);
    *has_room = page->bytes != NULL && needed <= page->room - page->used;
    if (*has_room || page->used != 0)
        return 0;
    page->room = needed > PAGE_ROOM ? needed : PAGE_ROOM;
    page->bytes = call_message_space(call, page->room + TOKEN_ROOM);
    *has_room = true;
    return page->bytes != NULL ? 0 : err_no_memory(err, "a page");
}

static int refuse_large(struct walk *walk, const struct digest *digest, struct err *err)
{
    enum cas_presence presence;
    char text[DIGEST_TEXT_MAX];
    cas_find_verified(walk->instance->cas, NULL, digest, 1, &presence);
    if (presence == CAS_ABSENT)
        return 0;
    if (presence == CAS_UNVERIFIED)
        return err_set(err, ERR_UNAVAILABLE, "directory %s cannot be read right now",
                       digest_text(digest, text));
    return err_set(err, ERR_INVALID,
                   "directory %s is larger than the %d bytes that GetTree sends: use "
                   "ByteStream.Read",
                   digest_text(digest, text), DIRECTORY_MAX);
}

/* Reads the next directory into the page, and keeps it there if the answer has begun. */
static int take_directory(struct walk *walk, const struct digest *digest, struct page *page,
                          struct err *err)
{
    size_t size = (size_t)digest->size;
    uint8_t *bytes = wire_put_head(page->bytes + page->used, FIELD_DIRECTORIES, size);
    struct cas_blob blob = {.digest = *digest};
    cas_get(walk->instance->cas, NULL, &blob, 1, bytes);
    /* REAPI: what is missing is left out, unless it is the root. */
    if (blob.err.code == ERR_NOT_FOUND && walk->next != 0)
        return 0;
    if (blob.err.code != ERR_OK) {
        *err = blob.err;
        return -(int)err->code;
    }
    int rc = scan(walk, digest, (struct span){bytes, size}, err);
    if (rc == 0 && walk->next >= walk->first) {
        page->used += wire_bytes_size(size);
        page->count++;
    }
    return rc;
}

static int fill_page(struct call *call, struct walk *walk, struct page *page, struct err *err)
{
    int rc = 0;
    while (rc == 0 && walk->next < walk->found.count && page->count < walk->page_size) {
        struct digest digest = walk->found.digests[walk->next]; /* they move when one is added */
        bool has_room = true;
        if (atomic_load(&call->is_cancelled))
            return err_set(err, ERR_CANCELLED, "cancelled");
        if (walk->next == walk->first && walk->first != 0)
            rc = check_token(walk, err);
        if (rc == 0 && digest.size > DIRECTORY_MAX) {
            rc = refuse_large(walk, &digest, err);
        } else if (rc == 0) {
            rc = make_room(call, page, (size_t)digest.size, &has_room, err);
            if (rc == 0 && !has_room)
                return 0;
            if (rc == 0)
                rc = take_directory(walk, &digest, page, err);
        }
        walk->next++;
    }
    if (rc == 0 && walk->first != 0 && walk->next <= walk->first)
        return bad_token(err); /* the walk did not get there */
    return rc;
}

static void walk_on(struct call *call)
{
    struct walk *walk = call->state;
    struct page page = {0};
    struct err err;
    char token[TOKEN_SIZE + 1];
    int rc = fill_page(call, walk, &page, &err);
    bool is_last = walk->next == walk->found.count;
    if (rc == 0 && !is_last)
        rc = make_token(walk, walk->next, token, &err);
    if (rc != 0) {
        call_fail(call, &err);
    } else if (is_last && page.used != 0) {
        call_finish_filled(call, page.used);
    } else if (is_last) {
        /* All the rest is missing; that no more follows has to be said all the same. */
        REAPI(GetTreeResponse) response =
            BUILD__BAZEL__REMOTE__EXECUTION__V2__GET_TREE_RESPONSE__INIT;
        call_finish(call, &response.base);
    } else {
        memcpy(wire_put_head(page.bytes + page.used, FIELD_TOKEN, TOKEN_SIZE), token, TOKEN_SIZE);
        call_send_filled(call, page.used + TOKEN_ROOM);
    }
}

/* --- events --- */

static int walk_begin(struct walk *walk, const REAPI(GetTreeRequest) *request, struct err *err)
{
    enum digest_function function;
    struct digest root;
    bool is_new;
    if (request->root_digest == NULL)
        return err_set(err, ERR_INVALID, "root_digest: there is no digest");
    if (request->page_size < 0)
        return err_set(err, ERR_INVALID, "page_size %d is negative", request->page_size);
    walk->page_size = request->page_size != 0 ? (size_t)request->page_size : TREE_DIRECTORIES_MAX;
    walk->token = request->page_token;
    int rc = request_digest_function(walk->instance, request->digest_function,
                                     request->root_digest->hash, &function, err);
    if (rc == 0)
        rc = request_digest(function, request->root_digest, "root_digest", &root, err);
    if (rc == 0)
        rc = parse_token(walk->token, &walk->first, err);
    if (rc == 0)
        rc = digest_set_add(&walk->found, &root, &is_new, err);
    return rc;
}

void storage_get_tree_start(struct call *call)
{
    const REAPI(GetTreeRequest) *request = (const REAPI(GetTreeRequest) *)call->request;
    struct err err;
    struct walk *walk = arena_calloc(call->arena, 1, sizeof(*walk));
    int rc = walk != NULL ? 0 : err_no_memory(&err, "a walk");
    call->state = walk;
    if (rc == 0)
        rc = request_cas(call, request->instance_name, &walk->instance, &err);
    if (rc == 0)
        rc = walk_begin(walk, request, &err);
    if (rc != 0)
        call_fail(call, &err);
    else
        call_offload(call, walk_on);
}

void storage_get_tree_sent(struct call *call)
{
    call_offload(call, walk_on);
}

void storage_get_tree_end(struct call *call)
{
    struct walk *walk = call->state;
    if (walk != NULL)
        digest_set_fini(&walk->found);
}
