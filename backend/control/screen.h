/* SPDX-License-Identifier: Apache-2.0 */
/* What long commands show: how far they are, on stderr, and texts that somebody else chose. */
#ifndef ASSETD_CONTROL_SCREEN_H
#define ASSETD_CONTROL_SCREEN_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

/* Where a command is: a line that is rewritten on a terminal, else a new one now and then. */
struct screen {
    const char *subject; /* begins the line */
    bool is_silent;      /* shows nothing */
    bool is_terminal;
    const char *what; /* is counted; NULL to begin anew */
    bool are_bytes;
    int64_t begun_at;
    int64_t shown_at;
    uint64_t shown_tenth;
};

void screen_init(struct screen *screen, const char *subject);

/*
 * DONE of TOTAL are done; a TOTAL of 0 is not known. WHAT: what they are, such as "assets"; "bytes"
 * are bytes. Shown if it is time for that.
 */
void screen_show(struct screen *screen, const char *what, uint64_t done, uint64_t total);

/* Makes way for something else on the terminal. */
void screen_clear(const struct screen *screen);

/* Writes a text to FILE so that nothing in it does anything to a terminal, or begins a line. */
void screen_put_text(FILE *file, const char *text);

#endif
