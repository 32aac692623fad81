/* SPDX-License-Identifier: Apache-2.0 */
/* The oldest error of OpenSSL's queue is the cause; what follows is who passed it on. */
#include "credential/openssl.h"

#include <openssl/crypto.h>
#include <openssl/err.h>

void openssl_begin(void)
{
    (void)OPENSSL_init_crypto(OPENSSL_INIT_NO_LOAD_CONFIG, NULL);
}

int openssl_fault(struct err *err, enum err_code code, const char *what)
{
    unsigned long fault = ERR_get_error();
    const char *reason = fault != 0 ? ERR_reason_error_string(fault) : NULL;
    if (fault != 0 && ERR_GET_REASON(fault) == ERR_R_MALLOC_FAILURE)
        code = ERR_NO_MEMORY;
    ERR_clear_error();
    return err_set(err, code, "%s: OpenSSL says: %s", what,
                   reason != NULL ? reason : "it gives no reason");
}
