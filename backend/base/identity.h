/* SPDX-License-Identifier: Apache-2.0 */
/* The names under which clients are known. */
#ifndef ASSETD_BASE_IDENTITY_H
#define ASSETD_BASE_IDENTITY_H

#include <stdbool.h>
#include <stddef.h>

enum { IDENTITY_MAX = 64 }; /* bytes of an identity */

/* What an identity is, for people. */
#define IDENTITY_RULE "1 to 64 of A-Z a-z 0-9 . _ @ -"

/* Whether the LENGTH bytes at TEXT are an identity by IDENTITY_RULE. */
bool identity_is_valid(const char *text, size_t length);

#endif
