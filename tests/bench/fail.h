/* SPDX-License-Identifier: Apache-2.0 */
/* The end of a tool of the benchmark: what is not correct is not worth
 * measuring. */
#ifndef ASSETD_BENCH_FAIL_H
#define ASSETD_BENCH_FAIL_H

/* Says on stderr why it cannot go on, and ends the process with status 1. */
_Noreturn void fail(const char *format, ...) __attribute__((format(printf, 1, 2)));

#endif
