/* SPDX-License-Identifier: Apache-2.0 */
/* Formatting and writing of log lines. */
#include "base/log.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

/* A line is written by one write(2), which keeps the lines of all threads apart. */
enum { LINE_SIZE = 2048 };

struct line {
    char text[LINE_SIZE];
    size_t size;
};

static atomic_int threshold = LOG_LEVEL_INFO;

static pthread_once_t journal_once = PTHREAD_ONCE_INIT;
static bool to_journal;

static const struct {
    const char *name;
    const char *journal_prefix; /* sd-daemon(3) */
} levels[] = {
    [LOG_LEVEL_ERROR] = {"error", "<3>"},
    [LOG_LEVEL_WARNING] = {"warning", "<4>"},
    [LOG_LEVEL_INFO] = {"info", "<6>"},
    [LOG_LEVEL_TRACE] = {"trace", "<7>"},
};

void log_set_level(enum log_level level)
{
    atomic_store_explicit(&threshold, (int)level, memory_order_relaxed);
}

bool log_enabled(enum log_level level)
{
    return (int)level <= atomic_load_explicit(&threshold, memory_order_relaxed);
}

/* systemd.exec(5), JOURNAL_STREAM: the journal has stderr if these are its device and inode. */
static void find_journal(void)
{
    const char *stream = getenv("JOURNAL_STREAM");
    struct stat status;
    char own[64];
    if (stream == NULL || fstat(STDERR_FILENO, &status) != 0)
        return;
    (void)snprintf(own, sizeof(own), "%ju:%ju", (uintmax_t)status.st_dev, (uintmax_t)status.st_ino);
    to_journal = strcmp(stream, own) == 0;
}

/* The last byte is kept for the newline. */
static void line_add(struct line *line, const char *text, size_t size)
{
    size_t room = sizeof(line->text) - 1 - line->size;
    if (size > room)
        size = room;
    memcpy(line->text + line->size, text, size);
    line->size += size;
}

static void line_add_string(struct line *line, const char *text)
{
    line_add(line, text, strlen(text));
}

/* Printable ASCII other than blank, quote, backslash and '=' needs no quotes; nor does UTF-8. */
static bool is_plain(const char *text)
{
    if (*text == '\0')
        return false;
    for (; *text != '\0'; text++) {
        unsigned char c = (unsigned char)*text;
        if (c <= ' ' || c == '"' || c == '\\' || c == '=' || c == 0x7f)
            return false;
    }
    return true;
}

static void line_add_quoted(struct line *line, const char *text)
{
    line_add(line, "\"", 1);
    for (; *text != '\0'; text++) {
        unsigned char c = (unsigned char)*text;
        char escaped[8];
        if (c == '"' || c == '\\')
            (void)snprintf(escaped, sizeof(escaped), "\\%c", c);
        else if (c == '\n')
            (void)snprintf(escaped, sizeof(escaped), "\\n");
        else if (c < ' ' || c == 0x7f)
            (void)snprintf(escaped, sizeof(escaped), "\\x%02x", c);
        else
            (void)snprintf(escaped, sizeof(escaped), "%c", c);
        line_add_string(line, escaped);
    }
    line_add(line, "\"", 1);
}

static void line_add_time(struct line *line)
{
    struct timespec now;
    struct tm utc;
    char text[64];
    (void)clock_gettime(CLOCK_REALTIME, &now);
    (void)gmtime_r(&now.tv_sec, &utc);
    size_t size = strftime(text, sizeof(text), "ts=%Y-%m-%dT%H:%M:%S", &utc);
    (void)snprintf(text + size, sizeof(text) - size, ".%03dZ ", (int)(now.tv_nsec / 1000000));
    line_add_string(line, text);
}

static void line_add_field(struct line *line, const struct log_field *field)
{
    line_add(line, " ", 1);
    line_add_string(line, field->key);
    line_add(line, "=", 1);
    if (field->text == NULL) {
        char number[32];
        (void)snprintf(number, sizeof(number), "%lld", (long long)field->number);
        line_add_string(line, number);
    } else if (is_plain(field->text)) {
        line_add_string(line, field->text);
    } else {
        line_add_quoted(line, field->text);
    }
}

void log_write(enum log_level level, const char *event, const struct log_field *fields)
{
    struct line line;
    line.size = 0;
    (void)pthread_once(&journal_once, find_journal);
    if (to_journal)
        line_add_string(&line, levels[level].journal_prefix);
    else
        line_add_time(&line);
    line_add_string(&line, "level=");
    line_add_string(&line, levels[level].name);
    line_add_string(&line, " event=");
    line_add_string(&line, event);
    for (const struct log_field *field = fields; field->key != NULL; field++)
        line_add_field(&line, field);
    line.text[line.size++] = '\n';
    /* There is nowhere to report that the log itself cannot be written. */
    ssize_t written = write(STDERR_FILENO, line.text, line.size);
    (void)written;
}
