/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A disk that fails on demand. A program that calls any of this has its stores' system calls go
 * through it from the start; they work until disk_faults_begin says which one does not. All of it
 * may be called from any thread, while others use the disk.
 *
 * A sweep fails each call of some work in turn, until there was none left to fail:
 *
 *     for (unsigned nth = 1;; nth++) {
 *         disk_faults_begin(DISK_FAULTS_ALL, nth, EIO, 1);
 *         ... the work ...
 *         if (disk_faults_end() == 0)
 *             break;
 *     }
 */
#ifndef ASSETD_TESTS_DISK_FAULTS_H
#define ASSETD_TESTS_DISK_FAULTS_H

/* Kinds of calls, to be combined. */
enum {
    DISK_FAULTS_OPEN = 1 << 0,
    DISK_FAULTS_READ = 1 << 1,
    DISK_FAULTS_WRITE = 1 << 2,
    DISK_FAULTS_FSYNC = 1 << 3,
    DISK_FAULTS_FDATASYNC = 1 << 4,
    DISK_FAULTS_SYNCFS = 1 << 5,
    DISK_FAULTS_FALLOCATE = 1 << 6,
    DISK_FAULTS_FTRUNCATE = 1 << 7,
    DISK_FAULTS_UNLINK = 1 << 8,
    DISK_FAULTS_RENAME = 1 << 9,
    DISK_FAULTS_MMAP = 1 << 10,
    DISK_FAULTS_KINDS = 11,
    DISK_FAULTS_SYNC = DISK_FAULTS_FSYNC | DISK_FAULTS_FDATASYNC | DISK_FAULTS_SYNCFS,
    DISK_FAULTS_ALL = (1 << DISK_FAULTS_KINDS) - 1,
    /*
     * With kinds: where a write or a read is the first to fail, it does half of its bytes and
     * returns their count, and the calls of these kinds behind it fail.
     */
    DISK_FAULTS_SHORT = 1 << 16,
};

/* For TIMES: no call works any more. */
#define DISK_FAULTS_FOR_EVER 0

/*
 * Of the calls of KINDS from now on, counted together, the NTH (from 1) and those behind it, TIMES
 * in all, fail with ERRNUM and do nothing. NTH 0: none fails, they are only counted. Takes the
 * place of what was begun before.
 */
void disk_faults_begin(unsigned kinds, unsigned nth, int errnum, unsigned times);

/* Syncs that do not fail do nothing from now on, for tests that do without what they are for. */
void disk_faults_skip_syncs(void);

/* No call fails any more. Returns how many did since disk_faults_begin, short ones included. */
unsigned disk_faults_end(void);

/* How many calls of KINDS, working or not, there were since disk_faults_begin; also after the end.
 */
unsigned disk_faults_count(unsigned kinds);

#endif
