/* SPDX-License-Identifier: Apache-2.0 */
/* What to look at where a connection cannot be made. */
#ifndef ASSETD_REMOTE_CAS_HINT_H
#define ASSETD_REMOTE_CAS_HINT_H

/*
 * What is known to be behind TEXT, by which the core tells why a call to ADDRESS failed; to be put
 * behind it. "" if nothing is.
 */
const char *cas_hint(const char *address, const char *text);

#endif
