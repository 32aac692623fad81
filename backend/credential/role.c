/* SPDX-License-Identifier: Apache-2.0 */
/* The words for roles. */
#include "credential/role.h"

#include <string.h>

static const char *const roles[ROLES] = {[ROLE_READ] = "read", [ROLE_WRITE] = "write"};

const char *role_name(enum role role)
{
    return roles[role];
}

bool role_parse(const char *text, size_t length, enum role *role)
{
    for (int i = 0; i < ROLES; i++) {
        if (strlen(roles[i]) == length && memcmp(roles[i], text, length) == 0) {
            *role = (enum role)i;
            return true;
        }
    }
    return false;
}
