/* SPDX-License-Identifier: Apache-2.0 */
/* The common mistakes in a configuration, by what the core says of them. */
#include "remote/cas_hint.h"

#include <stddef.h>
#include <string.h>

static const struct {
    const char *scheme;  /* the address begins so */
    const char *said[2]; /* both are in the text */
    const char *hint;
} hints[] = {
    {"grpcs://",
     {"empty address list", ""},
     "TLS cannot be set up: is cas.tls.key the key of cas.tls.certificate, and are the "
     "certificates of all files whole?"},
    {"grpcs://",
     {"failed to connect", "certificate verify failed"},
     "; does cas.tls.ca hold the authority of the server's certificate, and is that still valid?"},
    {"grpcs://",
     {"failed to connect", "is not in peer certificate"},
     "; write a name into cas.address that the server's certificate has"},
    {"grpcs://",
     {"failed to connect", "wrong version number"},
     "; is there TLS at that port? Without it the address begins with grpc://"},
    {"grpcs://",
     {"failed to connect", "Socket closed"},
     "; does the server ask for another cas.tls.certificate, or for one at all?"},
    {"grpc://",
     {"failed to connect", "Socket closed"},
     "; is there TLS at that port? Then the address begins with grpcs://"},
    {"grpc://",
     {"failed to connect", "http1.x server"},
     "; is that the port of the CAS? With TLS, as nginx has it, the address begins with grpcs://"},
};

const char *cas_hint(const char *address, const char *text)
{
    for (size_t i = 0; i < sizeof(hints) / sizeof(hints[0]); i++)
        if (strncmp(address, hints[i].scheme, strlen(hints[i].scheme)) == 0 &&
            strstr(text, hints[i].said[0]) != NULL && strstr(text, hints[i].said[1]) != NULL)
            return hints[i].hint;
    return "";
}
