/* SPDX-License-Identifier: Apache-2.0 */
/* CRC-32C (Castagnoli, RFC 3720 appendix B.4): tells bytes that a disk changed. */
#ifndef ASSETD_BASE_CRC32C_H
#define ASSETD_BASE_CRC32C_H

#include <stddef.h>
#include <stdint.h>

/*
 * The sum over what gave SUM (0 for nothing) and the SIZE bytes behind it, so that a sum can be
 * taken piece by piece. By the processor's instruction where it has one. Any thread.
 */
uint32_t crc32c(uint32_t sum, const void *data, size_t size);

/* The same by tables, on any processor. */
uint32_t crc32c_by_tables(uint32_t sum, const void *data, size_t size);

#endif
