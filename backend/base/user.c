/* SPDX-License-Identifier: Apache-2.0 */
/* The name of a user. */
#include "base/user.h"

#include <pwd.h>
#include <stddef.h>
#include <stdio.h>

const char *user_text(uid_t user, char text[USER_TEXT_SIZE])
{
    char buffer[4096];
    struct passwd entry, *found = NULL;
    if (getpwuid_r(user, &entry, buffer, sizeof(buffer), &found) == 0 && found != NULL)
        (void)snprintf(text, USER_TEXT_SIZE, "user %s", entry.pw_name);
    else
        (void)snprintf(text, USER_TEXT_SIZE, "user %u", (unsigned)user);
    return text;
}
