/* SPDX-License-Identifier: Apache-2.0 */
/* What a name may be made of: nothing that means something to nginx, a shell, or HTTP basic. */
#include "credential/identity.h"

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

bool identity_is_valid(const char *text, size_t length)
{
    static const char letters[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
                                  "0123456789._@-";
    if (length < 1 || length > IDENTITY_MAX)
        return false;
    for (size_t i = 0; i < length; i++)
        if (memchr(letters, text[i], sizeof(letters) - 1) == NULL)
            return false;
    return true;
}
