/* SPDX-License-Identifier: Apache-2.0 */
/* The distance between words: letters added, left out, replaced, or swapped with the next. */
#include "conf/spelling.h"

#include <string.h>

enum { LENGTH_MAX = 32 }; /* longer words are not guessed */

static size_t least(size_t a, size_t b)
{
    return a < b ? a : b;
}

static size_t distance(const char *a, size_t a_length, const char *b, size_t b_length)
{
    size_t rows[3][LENGTH_MAX + 1];
    size_t *before = rows[0], *above = rows[1], *row = rows[2];
    for (size_t j = 0; j <= b_length; j++)
        above[j] = j;
    for (size_t i = 1; i <= a_length; i++) {
        row[0] = i;
        for (size_t j = 1; j <= b_length; j++) {
            row[j] = above[j - 1] + (a[i - 1] != b[j - 1]);
            row[j] = least(row[j], least(above[j], row[j - 1]) + 1);
            if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1])
                row[j] = least(row[j], before[j - 2] + 1);
        }
        size_t *oldest = before;
        before = above;
        above = row;
        row = oldest;
    }
    return above[b_length];
}

void spelling_try(struct spelling *spelling, const char *candidate)
{
    size_t length = strlen(spelling->word);
    size_t candidate_length = strlen(candidate);
    if (length > LENGTH_MAX || candidate_length > LENGTH_MAX)
        return;
    size_t found = distance(spelling->word, length, candidate, candidate_length);
    if (found > 2 || found * 2 > candidate_length)
        return;
    if (spelling->guess != NULL && found >= spelling->distance)
        return;
    spelling->guess = candidate;
    spelling->distance = found;
}
