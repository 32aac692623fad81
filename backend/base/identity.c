/* SPDX-License-Identifier: Apache-2.0 */
/* What an identity is made of: nothing that means something to nginx, a shell, or HTTP basic. */
#include "base/identity.h"

#include <string.h>

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
