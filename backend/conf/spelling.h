/* SPDX-License-Identifier: Apache-2.0 */
/* Guessing which word was meant by one that is not known. */
#ifndef ASSETD_CONF_SPELLING_H
#define ASSETD_CONF_SPELLING_H

#include <stddef.h>

/* The best guess so far. Set word and zero the rest. */
struct spelling {
    const char *word;  /* as it was written */
    const char *guess; /* NULL: nothing is near enough */
    size_t distance;   /* letters in which the guess differs */
};

/* Looks at one word that could have been meant; it must live as long as SPELLING. */
void spelling_try(struct spelling *spelling, const char *candidate);

#endif
