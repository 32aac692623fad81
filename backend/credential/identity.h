/* SPDX-License-Identifier: Apache-2.0 */
/* The names under which credentials are registered, and what their holders may do. */
#ifndef ASSETD_CREDENTIAL_IDENTITY_H
#define ASSETD_CREDENTIAL_IDENTITY_H

#include <stdbool.h>
#include <stddef.h>

enum { IDENTITY_MAX = 64 }; /* bytes of a name */

/* What a name is, for people. */
#define IDENTITY_RULE "1 to 64 of A-Z a-z 0-9 . _ @ -"

enum role { ROLE_READ, ROLE_WRITE, ROLES };

/* "read", "write". */
const char *role_name(enum role role);

/* Whether TEXT of LENGTH bytes is a role, which goes to *ROLE. */
bool role_parse(const char *text, size_t length, enum role *role);

/* Whether TEXT of LENGTH bytes is a name by IDENTITY_RULE. */
bool identity_is_valid(const char *text, size_t length);

#endif
