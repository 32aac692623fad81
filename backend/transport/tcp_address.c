/* SPDX-License-Identifier: Apache-2.0 */
/* Looking up; from a port to a socket's inode by /proc/net/tcp, from there to a process by its open
 * files. */
#include "transport/tcp_address.h"

#include <dirent.h>
#include <netinet/in.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { TCP_STATE_LISTEN = 0x0a }; /* include/net/tcp_states.h of Linux */

int tcp_address_resolve(const char *address, struct addrinfo **found, struct err *err)
{
    char host[256];
    const char *colon = strrchr(address, ':'); /* the configuration has checked it */
    size_t length = (size_t)(colon - address);
    const char *start = address;
    if (*start == '[') {
        start++;
        length -= 2;
    }
    if (length >= sizeof(host))
        return err_set(err, ERR_INVALID, "%s: the host name is too long", address);
    memcpy(host, start, length);
    host[length] = '\0';
    struct addrinfo hints = {.ai_flags = AI_PASSIVE, .ai_socktype = SOCK_STREAM};
    int rc = getaddrinfo(host, colon + 1, &hints, found);
    return rc == 0 ? 0 : err_set(err, ERR_INVALID, "%s: %s", address, gai_strerror(rc));
}

static unsigned port_of(const struct sockaddr *sockaddr)
{
    if (sockaddr->sa_family == AF_INET6)
        return ntohs(((const struct sockaddr_in6 *)(const void *)sockaddr)->sin6_port);
    return ntohs(((const struct sockaddr_in *)(const void *)sockaddr)->sin_port);
}

/* The inode of a socket that listens at PORT, from a table of proc(5); 0 if there is none. */
static unsigned long inode_in_table(const char *table, unsigned port)
{
    FILE *file = fopen(table, "re");
    if (file == NULL)
        return 0;
    char line[512];
    unsigned long inode = 0;
    while (inode == 0 && fgets(line, sizeof(line), file) != NULL) {
        unsigned local_port, state;
        unsigned long found;
        /* sl: local:port remote:port state queues timer retransmits uid timeout inode */
        if (sscanf(line, " %*d: %*[0-9A-Fa-f]:%x %*s %x %*s %*s %*s %*s %*s %lu", &local_port,
                   &state, &found) == 3 &&
            local_port == port && state == TCP_STATE_LISTEN)
            inode = found;
    }
    (void)fclose(file);
    return inode;
}

static bool process_has_socket(int pid, const char *wanted)
{
    char path[64];
    (void)snprintf(path, sizeof(path), "/proc/%d/fd", pid);
    DIR *directory = opendir(path);
    if (directory == NULL)
        return false;
    bool found = false;
    for (struct dirent *entry; !found && (entry = readdir(directory)) != NULL;) {
        char link[64];
        ssize_t size = readlinkat(dirfd(directory), entry->d_name, link, sizeof(link) - 1);
        if (size > 0) {
            link[size] = '\0';
            found = strcmp(link, wanted) == 0;
        }
    }
    (void)closedir(directory);
    return found;
}

/* The pid of a process that has the socket INODE open; 0 if none can be seen. */
static int find_process(unsigned long inode)
{
    char wanted[64];
    (void)snprintf(wanted, sizeof(wanted), "socket:[%lu]", inode);
    DIR *directory = opendir("/proc");
    if (directory == NULL)
        return 0;
    int found = 0;
    for (struct dirent *entry; found == 0 && (entry = readdir(directory)) != NULL;) {
        int pid = atoi(entry->d_name); /* 0 for what is no process */
        if (pid > 0 && process_has_socket(pid, wanted))
            found = pid;
    }
    (void)closedir(directory);
    return found;
}

static void read_name(int pid, char *name, int size)
{
    char path[64];
    (void)snprintf(path, sizeof(path), "/proc/%d/comm", pid);
    name[0] = '\0';
    FILE *file = fopen(path, "re");
    if (file == NULL)
        return;
    if (fgets(name, size, file) != NULL)
        name[strcspn(name, "\n")] = '\0';
    (void)fclose(file);
}

int tcp_address_in_use(const char *address, const struct sockaddr *sockaddr, struct err *err)
{
    char name[64];
    unsigned long inode = inode_in_table("/proc/net/tcp", port_of(sockaddr));
    if (inode == 0)
        inode = inode_in_table("/proc/net/tcp6", port_of(sockaddr));
    int pid = inode != 0 ? find_process(inode) : 0;
    if (pid == 0)
        return err_set(err, ERR_UNAVAILABLE, "%s: another process listens there already", address);
    read_name(pid, name, sizeof(name));
    return err_set(err, ERR_UNAVAILABLE, "%s: process %d (%s) listens there already", address, pid,
                   name);
}
