/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Simulated power cuts: remembers what the stores do to the files below one directory by way of
 * `disk`, and writes what a power cut at any moment of it could have left.
 *
 * Of what was done before the cut, all that a completed sync covers is there: fsync and fdatasync
 * of a file cover its bytes and its size, fsync of a directory the names in it, syncfs both; each
 * only what had completed before it began. Everything else is, by the seed and each by itself:
 *
 *     a write     there, not there, or torn at multiples of 512 bytes; where it made the file
 *                 longer and is not all there, the size is the old one or the new one, and bytes
 *                 that were not written read as zeros
 *     a size      (ftruncate, fallocate) the old one or the new one
 *     a name      (a file made, unlinked, renamed) old or new; a rename within a directory is both
 *                 of its names
 *
 * A call that was under way when the cut fell counts as not covered. What a sync that failed should
 * have covered is covered by no later one: the kernel may have dropped it, and does not tell twice.
 *
 * What is stored through a mapping is not seen when it happens. For the files that are mapped, what
 * they hold is taken when a sync of theirs begins, which covers it as above, and by
 * power_cut_capture; of what differs and is not covered, each block of 512 bytes is old or new.
 *
 * What was done without `disk` (mkdir, files of others) counts as durable, in the state in which
 * it is first met: when the recording begins, or when something there is first named to `disk`.
 */
#ifndef ASSETD_TESTS_POWER_CUT_H
#define ASSETD_TESTS_POWER_CUT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct power_cut;

/*
 * Begins to record what happens below DIRECTORY, one recording at a time; before there are threads
 * that use `disk`, which it changes. What is put into `disk` before is called by the recording,
 * such as faults; what is put there afterwards is above it, such as a sync that only pretends.
 * IS_MAPPED tells by a path below DIRECTORY whether a file that ever has it is mapped; NULL:
 * none.
 */
struct power_cut *power_cut_begin(const char *directory, bool (*is_mapped)(const char *path));

/* After all threads that use `disk`. */
void power_cut_end(struct power_cut *cut);

/*
 * How many events there were until now. A call is one event, when it has completed (but for a
 * rename, which is two): whatever returned before is among them. Any thread.
 */
size_t power_cut_events(struct power_cut *cut);

/* Takes what the mapped files hold now; returns the events until then. Any thread. */
size_t power_cut_capture(struct power_cut *cut);

/*
 * Writes into the empty directory TARGET, which is not below the recorded one, what a power cut
 * after AT events could have left. The same for the same SEED and AT. Any thread.
 */
void power_cut_materialise(struct power_cut *cut, const char *target, uint64_t seed, size_t at);

#endif
