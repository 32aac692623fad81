/* SPDX-License-Identifier: Apache-2.0 */
/* Users by name, for messages. */
#ifndef ASSETD_BASE_USER_H
#define ASSETD_BASE_USER_H

#include <sys/types.h>

/* Room for "user NAME"; longer ones are cut. */
enum { USER_TEXT_SIZE = 72 };

/* Puts "user NAME" into TEXT, the number for a user without a name. Returns TEXT. Any thread. */
const char *user_text(uid_t user, char text[USER_TEXT_SIZE]);

#endif
