/* SPDX-License-Identifier: Apache-2.0 */
/* The state file of a CAS: how the last one to use the store has left it. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "store/cas_private.h"

static void read_boot_id(char *id, size_t size)
{
    id[0] = '\0';
    int fd = open("/proc/sys/kernel/random/boot_id", O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return;
    ssize_t got = read(fd, id, size - 1);
    (void)close(fd);
    id[got > 0 ? got : 0] = '\0';
    id[strcspn(id, " \n")] = '\0';
}

static int write_state(const struct cas *cas, bool clean, struct err *err)
{
    char text[128];
    int dir = cas->directory.fd;
    int length = snprintf(text, sizeof(text), "%s %s\n", cas->boot_id, clean ? "clean" : "running");
    int fd = openat(dir, CAS_STATE_NEW, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0640);
    if (fd < 0)
        return cas_file_errno(err, errno, "make the state file");
    int rc = cas_file_write(fd, text, (size_t)length, 0, err);
    if (rc == 0 &&
        (fsync(fd) != 0 || renameat(dir, CAS_STATE_NEW, dir, CAS_STATE) != 0 || fsync(dir) != 0))
        rc = cas_file_errno(err, errno, "write the state file");
    (void)close(fd);
    return rc;
}

int cas_state_write(struct cas *cas, bool clean, struct err *err)
{
    int rc = write_state(cas, clean, err);
    if (rc == -ERR_EXHAUSTED && cas_room_relieve(cas, cas->block))
        rc = write_state(cas, clean, err);
    return rc;
}

/* Without a boot id on either side nothing tells a kill from a power cut. */
enum cas_ending cas_state_read(struct cas *cas)
{
    read_boot_id(cas->boot_id, sizeof(cas->boot_id));
    char text[128] = "";
    char boot_id[64] = "";
    char word[16] = "";
    int fd = openat(cas->directory.fd, CAS_STATE, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return CAS_ENDED_POWER_CUT;
    ssize_t got = read(fd, text, sizeof(text) - 1);
    (void)close(fd);
    text[got > 0 ? got : 0] = '\0';
    const char *blank = strchr(text, ' ');
    if (blank == NULL || (size_t)(blank - text) >= sizeof(boot_id))
        return CAS_ENDED_POWER_CUT;
    memcpy(boot_id, text, (size_t)(blank - text));
    if (sscanf(blank, " %15s", word) == 1 && strcmp(word, "clean") == 0)
        return CAS_ENDED_CLEAN;
    return boot_id[0] != '\0' && strcmp(boot_id, cas->boot_id) == 0 ? CAS_ENDED_KILLED
                                                                    : CAS_ENDED_POWER_CUT;
}

int cas_state_remove(struct cas *cas, struct err *err)
{
    int rc = cas_file_unlink(cas->directory.fd, CAS_STATE, err);
    if (rc == 0 && fsync(cas->directory.fd) != 0)
        rc = cas_file_errno(err, errno, "remove the state file");
    return rc;
}
