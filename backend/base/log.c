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
enum { LINE_SIZE = 4096 };

/* Bytes of one value: a client's long name shall not push the others off the line. */
enum { VALUE_SIZE = 512 };

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

const char *log_level_name(enum log_level level)
{
    return levels[level].name;
}

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

const char *log_priority(enum log_level level)
{
    (void)pthread_once(&journal_once, find_journal);
    return to_journal ? levels[level].journal_prefix : "";
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

/*
 * The length of the character at TEXT if it could fool a terminal: controls of ASCII, those of
 * U+0080 to U+009F, line separators, and what turns the direction of writing; 0 if it is none.
 */
static size_t control_length(const unsigned char *text)
{
    if (text[0] < ' ' || text[0] == 0x7f)
        return 1;
    if (text[0] == 0xc2 && text[1] >= 0x80 && text[1] <= 0x9f)
        return 2;
    if (text[0] != 0xe2)
        return 0;
    if (text[1] == 0x80 && ((text[2] >= 0xa8 && text[2] <= 0xae) || (text[2] | 1) == 0x8f))
        return 3;
    return text[1] == 0x81 && text[2] >= 0xa6 && text[2] <= 0xa9 ? 3 : 0;
}

/* Printable characters other than blank, quote, backslash and '=' need no quotes. */
static bool is_plain(const char *text, size_t size)
{
    for (size_t i = 0; i < size; i++)
        if (strchr(" \"\\=", text[i]) != NULL ||
            control_length((const unsigned char *)text + i) != 0)
            return false;
    return size != 0;
}

static void line_add_escaped(struct line *line, const char *text, size_t size)
{
    for (size_t i = 0; i < size; i++) {
        char escaped[16];
        size_t controls = control_length((const unsigned char *)text + i);
        if (text[i] == '\n') {
            line_add(line, "\\n", 2);
        } else if (controls != 0) {
            for (size_t n = 0; n < controls; n++) {
                (void)snprintf(escaped, sizeof(escaped), "\\x%02x", (unsigned char)text[i + n]);
                line_add_string(line, escaped);
            }
            i += controls - 1;
        } else {
            if (text[i] == '"' || text[i] == '\\')
                line_add(line, "\\", 1);
            line_add(line, text + i, 1);
        }
    }
}

static void line_add_value(struct line *line, const char *text)
{
    size_t size = strlen(text);
    bool is_cut = size > VALUE_SIZE;
    if (is_cut)
        size = VALUE_SIZE;
    if (is_plain(text, size) && !is_cut) {
        line_add(line, text, size);
        return;
    }
    line_add(line, "\"", 1);
    line_add_escaped(line, text, size);
    line_add_string(line, is_cut ? "...\"" : "\"");
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
    } else {
        line_add_value(line, field->text);
    }
}

void log_write(enum log_level level, const char *event, const struct log_field *fields)
{
    struct line line;
    line.size = 0;
    line_add_string(&line, log_priority(level));
    if (!to_journal)
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
