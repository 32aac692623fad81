/* SPDX-License-Identifier: Apache-2.0 */
/* Progress by tenths and by time. */
#include "control/screen.h"

#include <inttypes.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"

/* Milliseconds. */
enum { UPDATE_TERMINAL = 100, UPDATE_LINE = 10 * 1000 };

void screen_init(struct screen *screen, const char *subject)
{
    *screen = (struct screen){.subject = subject, .is_terminal = isatty(STDERR_FILENO) != 0};
}

void screen_clear(const struct screen *screen)
{
    if (screen->is_terminal && !screen->is_silent)
        (void)fputs("\r\033[K", stderr);
}

static void show(struct screen *screen, uint64_t done, uint64_t total, int64_t now)
{
    static const double mib = 1024.0 * 1024;
    const char *end = screen->is_terminal ? "" : "\n";
    unsigned percent = total != 0 ? (unsigned)((double)done / (double)total * 100) : 0;
    int64_t elapsed = now - screen->begun_at;
    double speed = elapsed > 0 ? (double)done / mib / (double)elapsed * 1000 : 0;
    screen_clear(screen);
    if (total == 0)
        (void)fprintf(stderr, "%s: %" PRIu64 " %s%s", screen->subject, done, screen->what, end);
    else if (screen->are_bytes)
        (void)fprintf(stderr, "%s: %u %% of %.1f MiB, %.0f MiB/s%s", screen->subject, percent,
                      (double)total / mib, speed, end);
    else
        (void)fprintf(stderr, "%s: %u %% of %" PRIu64 " %s%s", screen->subject, percent, total,
                      screen->what, end);
    screen->shown_at = now;
}

/* A line for each tenth of the bytes: all else is soon done. */
void screen_show(struct screen *screen, const char *what, uint64_t done, uint64_t total)
{
    int64_t now = clock_steady();
    if (screen->is_silent)
        return;
    if (screen->what == NULL || strcmp(screen->what, what) != 0) {
        screen->what = what;
        screen->are_bytes = strcmp(what, "bytes") == 0;
        screen->begun_at = now;
        screen->shown_at = now;
        screen->shown_tenth = 0;
    }
    uint64_t tenth = total != 0 ? (uint64_t)((double)done / (double)total * 10) : 0;
    bool is_due = now - screen->shown_at >= (screen->is_terminal ? UPDATE_TERMINAL : UPDATE_LINE);
    bool is_tenth = tenth != screen->shown_tenth && (screen->is_terminal || screen->are_bytes);
    if (!is_due && !is_tenth)
        return;
    screen->shown_tenth = tenth;
    show(screen, done, total, now);
}

void screen_put_text(FILE *file, const char *text)
{
    for (const unsigned char *next = (const unsigned char *)text; *next != '\0'; next++) {
        bool is_c1 = next[0] == 0xc2 && next[1] >= 0x80 && next[1] <= 0x9f;
        if (*next >= ' ' && *next != 0x7f && *next != '\\' && !is_c1) {
            (void)fputc(*next, file);
            continue;
        }
        (void)fprintf(file, "\\x%02x", *next);
        if (is_c1)
            (void)fprintf(file, "\\x%02x", *++next);
    }
}
