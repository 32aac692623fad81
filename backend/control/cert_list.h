/* SPDX-License-Identifier: Apache-2.0 */
/* What is said about certificates that are registered. */
#ifndef ASSETD_CONTROL_CERT_LIST_H
#define ASSETD_CONTROL_CERT_LIST_H

#include "credential/authorized.h"

#define CERT_SERVER "server.crt"

/*
 * Says on stderr what is wrong with the lists. Returns an exit status: EXIT_FAILURE if nginx
 * refuses the file.
 */
int cert_note_faults(const struct authorized *authorized);

/* Prints the certificates of the folder PATH, a line for each; returns the exit status. */
int cert_list(const char *path);

#endif
