/* SPDX-License-Identifier: Apache-2.0 */
/* Errors: one code and one sentence, set where the fault is found and wrapped on the way out. */
#ifndef ASSETD_BASE_ERR_H
#define ASSETD_BASE_ERR_H

#include <stddef.h>

/*
 * What went wrong, as far as a caller can act on it. Functions that can fail return 0, or the code
 * negated. A miss is ERR_NOT_FOUND and is never logged as an error; a fault that may pass is
 * ERR_UNAVAILABLE; neither stands for the other. ERR_AWAY is logged no more than a miss.
 */
enum err_code {
    ERR_OK = 0,
    ERR_CANCELLED,
    ERR_INVALID,         /* the caller's input can never work */
    ERR_NOT_FOUND,       /* a miss */
    ERR_DENIED,          /* the caller lacks the right */
    ERR_UNAUTHENTICATED, /* the caller shows a credential that nobody knows */
    ERR_EXHAUSTED,       /* no room: quota, full disk */
    ERR_PRECONDITION,    /* something else must be done first, such as an upload */
    ERR_ABORTED,
    ERR_OUT_OF_RANGE, /* an offset outside a blob */
    ERR_UNIMPLEMENTED,
    ERR_INTERNAL, /* our mistake */
    ERR_UNAVAILABLE,
    ERR_AWAY,      /* so is a server that we rely on; the log told when it was lost */
    ERR_DATA_LOSS, /* stored bytes are not what was stored */
    ERR_NO_MEMORY,
    ERR_IO,
    ERR_CODES /* how many there are */
};

/* Room for a path of common length and what went wrong with it; longer texts are cut. */
enum { ERR_MESSAGE_SIZE = 512 };

/*
 * Owned by the caller, who need not initialise it: it is written only when a function fails. The
 * message is valid UTF-8, whatever was put into it and wherever it was cut.
 */
struct err {
    enum err_code code;
    char msg[ERR_MESSAGE_SIZE];
};

/* Sets code and message; returns -code, so that `return err_set(...)` reads well. */
int err_set(struct err *err, enum err_code code, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

/*
 * Sets the code that fits the errno value ERRNUM and "message: what errno says". ENOSPC and EDQUOT
 * become ERR_EXHAUSTED, ENOMEM ERR_NO_MEMORY, ENOENT ERR_NOT_FOUND, EACCES and EPERM ERR_DENIED,
 * EIO and all others ERR_IO.
 */
int err_errno(struct err *err, int errnum, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

/* Puts "message: " before the message that ERR holds; the code stays. Returns -code. */
int err_wrap(struct err *err, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* Puts a text, such as what to do, behind the message that ERR holds. Returns -code. */
int err_append(struct err *err, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* Out of memory, with what it was wanted for. */
int err_no_memory(struct err *err, const char *what);

/* A short lower-case name of the code, for logs. */
const char *err_name(enum err_code code);

/*
 * The gRPC status number that a client gets for the code (the numbers of google.rpc.Code). Memory
 * that ran out and disk errors are UNAVAILABLE (14): they may pass, and a client may try again.
 */
int err_grpc_status(enum err_code code);

#endif
