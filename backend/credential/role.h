/* SPDX-License-Identifier: Apache-2.0 */
/* What the holder of a credential may do. */
#ifndef ASSETD_CREDENTIAL_ROLE_H
#define ASSETD_CREDENTIAL_ROLE_H

#include <stdbool.h>
#include <stddef.h>

enum role { ROLE_READ, ROLE_WRITE, ROLES };

/* "read", "write". */
const char *role_name(enum role role);

/* Whether TEXT of LENGTH bytes is a role, which goes to *ROLE. */
bool role_parse(const char *text, size_t length, enum role *role);

#endif
