/* SPDX-License-Identifier: Apache-2.0 */
/* A token is a comment and two lines of nginx's map, for Bearer and for Basic. */
#include "credential/tokens.h"

#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <openssl/evp.h>
#include <openssl/rand.h>

#include "credential/openssl.h"

enum { MODE = 0600, TOKEN_BYTES = TOKEN_DIGITS / 2 };

/* The longest of a token's lines: a name with a token in base64, and another name. */
enum { LINE_MAX_SIZE = 512 };

static const char mark[] = "# token:";
static const char head[] =
    "# Written by assetctl: use `assetctl token add`, `token revoke` and `token list`.\n";

/* --- a token's text --- */

static int hash_of(const char *digits, char hash[TOKEN_HASH_DIGITS + 1], struct err *err)
{
    uint8_t bytes[EVP_MAX_MD_SIZE];
    int rc = openssl_begin(err);
    if (rc != 0)
        return rc;
    if (EVP_Digest(digits, TOKEN_DIGITS, bytes, NULL, EVP_sha256(), NULL) != 1)
        return openssl_fault(err, ERR_INTERNAL, "hash a token");
    for (size_t i = 0; i < TOKEN_HASH_DIGITS / 2; i++)
        (void)snprintf(hash + 2 * i, 3, "%02x", bytes[i]);
    return 0;
}

static void print_token(struct text *text, const struct token *token)
{
    enum { PLAIN_MAX = IDENTITY_MAX + 1 + TOKEN_DIGITS };
    char plain[PLAIN_MAX + 1], base64[PLAIN_MAX / 3 * 4 + 8];
    const char *role = role_name(token->role);
    int length = snprintf(plain, sizeof(plain), "%s:%s", token->name, token->digits);
    (void)EVP_EncodeBlock((unsigned char *)base64, (const unsigned char *)plain, length);
    text_print(text, "%s %s %s %s\n", mark, token->name, role, token->added);
    text_print(text, "\"Bearer %s\" \"%s:%s\";\n", token->digits, role, token->name);
    text_print(text, "\"Basic %s\" \"%s:%s\";\n", base64, role, token->name);
    text_wipe(plain, sizeof(plain));
    text_wipe(base64, sizeof(base64));
}

/* --- reading --- */

/* A copy of a line without its end. False: it is too long to be ours. */
static bool copy_line(const struct text *text, size_t at, char line[LINE_MAX_SIZE], size_t *next)
{
    const char *begin = text->bytes + at;
    const char *newline = memchr(begin, '\n', text->size - at);
    size_t length = newline != NULL ? (size_t)(newline - begin) : text->size - at;
    *next = at + length + (newline != NULL);
    if (length >= LINE_MAX_SIZE || memchr(begin, '\0', length) != NULL)
        return false;
    memcpy(line, begin, length);
    line[length] = '\0';
    return true;
}

static bool is_date(const char *text)
{
    unsigned year, month, day;
    int used = 0;
    return sscanf(text, "%4u-%2u-%2u%n", &year, &month, &day, &used) == 3 &&
           used == TOKEN_DATE_LENGTH && text[used] == '\0';
}

/* `# token: NAME ROLE DATE` */
static bool read_comment(const char *line, struct token *token)
{
    char role[8], date[16];
    int used = 0;
    if (strncmp(line, mark, sizeof(mark) - 1) != 0 ||
        sscanf(line + sizeof(mark) - 1, " %64s %7s %15s%n", token->name, role, date, &used) != 3 ||
        line[sizeof(mark) - 1 + (size_t)used] != '\0' || !is_date(date) ||
        !role_parse(role, strlen(role), &token->role))
        return false;
    memcpy(token->added, date, sizeof(token->added));
    return identity_is_valid(token->name, strlen(token->name));
}

/* `"Bearer DIGITS" "..."`; the rest is compared with what it should be. */
static bool read_digits(const char *line, struct token *token)
{
    static const char start[] = "\"Bearer ";
    if (strncmp(line, start, sizeof(start) - 1) != 0 ||
        strspn(line + sizeof(start) - 1, "0123456789abcdef") != TOKEN_DIGITS)
        return false;
    memcpy(token->digits, line + sizeof(start) - 1, TOKEN_DIGITS);
    token->digits[TOKEN_DIGITS] = '\0';
    return true;
}

/* Whether nothing but the text's last line follows AT. */
static bool is_in_last_line(const struct text *text, size_t at)
{
    const char *newline = memchr(text->bytes + at, '\n', text->size - at);
    return newline == text->bytes + text->size - 1;
}

/*
 * Reads the token whose comment is the line at *AT, and goes behind it; *NUMBER counts lines.
 * False: the line *NUMBER is not ours.
 */
static bool read_token(const struct text *text, size_t *at, unsigned *number, struct token *token)
{
    struct text expected = {.bytes = NULL};
    char line[LINE_MAX_SIZE];
    size_t next, same = 0, left = text->size - *at;
    bool is_ours = false;
    if (copy_line(text, *at, line, &next) && read_comment(line, token)) {
        ++*number;
        is_ours =
            next < text->size && copy_line(text, next, line, &next) && read_digits(line, token);
    }
    text_wipe(line, sizeof(line));
    if (!is_ours)
        return false;
    print_token(&expected, token);
    while (same < left && same < expected.size && expected.bytes[same] == text->bytes[*at + same])
        same++;
    /* The file may lack its last newline. */
    is_ours =
        !expected.failed && (same == expected.size || (same + 1 == expected.size && same == left));
    if (is_ours || (same < expected.size && is_in_last_line(&expected, same)))
        ++*number;
    text_fini(&expected);
    token->begin = *at;
    *at = token->end = *at + same;
    return is_ours;
}

static const struct token *find_digits(const struct tokens *tokens, const char *digits)
{
    for (size_t i = 0; i < tokens->count; i++)
        if (strcmp(tokens->tokens[i].digits, digits) == 0)
            return &tokens->tokens[i];
    return NULL;
}

static int keep(struct tokens *tokens, const struct token *token, struct err *err)
{
    if (tokens->count == tokens->room) {
        /* By hand, so that nothing stays in freed memory. */
        size_t room = tokens->room != 0 ? 2 * tokens->room : 16;
        struct token *grown = calloc(room, sizeof(*grown));
        if (grown == NULL)
            return err_no_memory(err, TOKENS_FILE);
        if (tokens->count != 0)
            memcpy(grown, tokens->tokens, tokens->count * sizeof(*grown));
        text_wipe(tokens->tokens, tokens->room * sizeof(*grown));
        free(tokens->tokens);
        tokens->tokens = grown;
        tokens->room = room;
    }
    tokens->tokens[tokens->count] = *token;
    return hash_of(token->digits, tokens->tokens[tokens->count++].hash, err);
}

static int parse(struct tokens *tokens, struct err *err)
{
    const struct text *text = &tokens->text;
    unsigned number = 0;
    int rc = 0;
    for (size_t at = 0; at < text->size && rc == 0;) {
        struct token token = {.role = ROLE_READ};
        const char *line = text->bytes + at, *newline = memchr(line, '\n', text->size - at);
        size_t length = newline != NULL ? (size_t)(newline - line) : text->size - at;
        number++;
        bool is_token = length >= sizeof(mark) - 1 && memcmp(line, mark, sizeof(mark) - 1) == 0;
        if (length == 0 || (line[0] == '#' && !is_token)) {
            at += length + (newline != NULL);
            continue;
        }
        if (!is_token || !read_token(text, &at, &number, &token))
            rc = err_set(err, ERR_INVALID,
                         TOKENS_FILE ":%u: this line is not as assetctl writes it: mend or remove "
                                     "it (a token is a line `# token: NAME ROLE DATE` and the two "
                                     "below it)",
                         number);
        else if (find_digits(tokens, token.digits) != NULL)
            rc = err_set(err, ERR_INVALID,
                         TOKENS_FILE ":%u: the same token is above: remove one of the two", number);
        else
            rc = keep(tokens, &token, err);
        text_wipe(&token, sizeof(token));
    }
    return rc;
}

int tokens_load(struct tokens *tokens, const struct folder *folder, struct err *err)
{
    *tokens = (struct tokens){.count = 0};
    int rc = folder_read(folder, TOKENS_FILE, &tokens->text, err);
    if (rc == -ERR_NOT_FOUND) {
        text_print(&tokens->text, "%s", head);
        rc = 0;
    }
    return rc == 0 ? parse(tokens, err) : rc;
}

void tokens_fini(struct tokens *tokens)
{
    text_fini(&tokens->text);
    if (tokens->tokens != NULL)
        text_wipe(tokens->tokens, tokens->room * sizeof(*tokens->tokens));
    free(tokens->tokens);
    *tokens = (struct tokens){.count = 0};
}

/* --- changing and writing --- */

int tokens_add(struct tokens *tokens, const char *name, enum role role, const char *date,
               struct err *err)
{
    struct token token = {.role = role};
    uint8_t bytes[TOKEN_BYTES];
    struct text *text = &tokens->text;
    int rc = openssl_begin(err);
    if (rc != 0)
        return rc;
    if (RAND_priv_bytes(bytes, sizeof(bytes)) != 1)
        return openssl_fault(err, ERR_INTERNAL, "make a token");
    for (size_t i = 0; i < sizeof(bytes); i++)
        (void)snprintf(token.digits + 2 * i, 3, "%02x", bytes[i]);
    (void)snprintf(token.name, sizeof(token.name), "%s", name);
    (void)snprintf(token.added, sizeof(token.added), "%s", date);
    if (text->size != 0 && text->bytes[text->size - 1] != '\n')
        text_add(text, "\n", 1);
    token.begin = text->size;
    print_token(text, &token);
    token.end = text->size;
    rc = text->failed ? err_no_memory(err, TOKENS_FILE) : keep(tokens, &token, err);
    text_wipe(bytes, sizeof(bytes));
    text_wipe(&token, sizeof(token));
    return rc;
}

int tokens_remove(struct tokens *tokens, const char *word, size_t *count, struct err *err)
{
    struct text *text = &tokens->text;
    *count = 0;
    for (size_t i = tokens->count; i-- > 0;) {
        const struct token *token = &tokens->tokens[i];
        if (strcmp(token->name, word) != 0 && strcmp(token->hash, word) != 0)
            continue;
        text_cut(text, token->begin, token->end);
        ++*count;
    }
    text_wipe(tokens->tokens, tokens->room * sizeof(*tokens->tokens));
    tokens->count = 0;
    return parse(tokens, err);
}

int tokens_store(const struct tokens *tokens, const struct folder *folder, struct err *err)
{
    return folder_replace(folder, TOKENS_FILE, &tokens->text, MODE, err);
}

int tokens_ensure(const struct folder *folder, struct err *err)
{
    struct text text = {.bytes = NULL};
    if (folder_has(folder, TOKENS_FILE))
        return 0;
    text_print(&text, "%s", head);
    int rc = folder_replace(folder, TOKENS_FILE, &text, MODE, err);
    text_fini(&text);
    return rc;
}
