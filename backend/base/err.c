/* SPDX-License-Identifier: Apache-2.0 */
/* The table of error codes, and setting and wrapping of messages. */
#include "base/err.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "base/utf8.h"

static const struct {
    const char *name;
    int grpc_status; /* google.rpc.Code */
} codes[ERR_CODES] = {
    [ERR_OK] = {"ok", 0},
    [ERR_CANCELLED] = {"cancelled", 1},
    [ERR_INVALID] = {"invalid-argument", 3},
    [ERR_NOT_FOUND] = {"not-found", 5},
    [ERR_DENIED] = {"permission-denied", 7},
    [ERR_UNAUTHENTICATED] = {"unauthenticated", 16},
    [ERR_EXHAUSTED] = {"resource-exhausted", 8},
    [ERR_PRECONDITION] = {"failed-precondition", 9},
    [ERR_ABORTED] = {"aborted", 10},
    [ERR_OUT_OF_RANGE] = {"out-of-range", 11},
    [ERR_UNIMPLEMENTED] = {"unimplemented", 12},
    [ERR_INTERNAL] = {"internal", 13},
    [ERR_UNAVAILABLE] = {"unavailable", 14},
    [ERR_AWAY] = {"away", 14},
    [ERR_DATA_LOSS] = {"data-loss", 15},
    [ERR_NO_MEMORY] = {"out-of-memory", 14},
    [ERR_IO] = {"io-error", 14},
};

const char *err_name(enum err_code code)
{
    return (unsigned)code < ERR_CODES ? codes[code].name : "unknown";
}

int err_grpc_status(enum err_code code)
{
    return (unsigned)code < ERR_CODES ? codes[code].grpc_status : codes[ERR_INTERNAL].grpc_status;
}

static enum err_code code_of_errno(int errnum)
{
    switch (errnum) {
    case ENOSPC:
    case EDQUOT:
        return ERR_EXHAUSTED;
    case ENOMEM:
        return ERR_NO_MEMORY;
    case ENOENT:
        return ERR_NOT_FOUND;
    case EACCES:
    case EPERM:
        return ERR_DENIED;
    default:
        return ERR_IO;
    }
}

static int set_va(struct err *err, enum err_code code, const char *format, va_list args)
{
    err->code = code;
    (void)vsnprintf(err->msg, sizeof(err->msg), format, args);
    utf8_mend(err->msg);
    return -(int)code;
}

int err_set(struct err *err, enum err_code code, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    int rc = set_va(err, code, format, args);
    va_end(args);
    return rc;
}

int err_errno(struct err *err, int errnum, const char *format, ...)
{
    char reason[128];
    va_list args;
    va_start(args, format);
    int rc = set_va(err, code_of_errno(errnum), format, args);
    va_end(args);
    size_t used = strlen(err->msg);
    (void)snprintf(err->msg + used, sizeof(err->msg) - used, ": %s",
                   strerror_r(errnum, reason, sizeof(reason)));
    return rc;
}

int err_wrap(struct err *err, const char *format, ...)
{
    char inner[ERR_MESSAGE_SIZE];
    memcpy(inner, err->msg, sizeof(inner));
    va_list args;
    va_start(args, format);
    int rc = set_va(err, err->code, format, args);
    va_end(args);
    size_t used = strlen(err->msg);
    (void)snprintf(err->msg + used, sizeof(err->msg) - used, ": %s", inner);
    utf8_mend(err->msg);
    return rc;
}

int err_append(struct err *err, const char *format, ...)
{
    size_t used = strlen(err->msg);
    va_list args;
    va_start(args, format);
    (void)vsnprintf(err->msg + used, sizeof(err->msg) - used, format, args);
    va_end(args);
    utf8_mend(err->msg);
    return -(int)err->code;
}

int err_no_memory(struct err *err, const char *what)
{
    return err_set(err, ERR_NO_MEMORY, "out of memory for %s", what);
}
