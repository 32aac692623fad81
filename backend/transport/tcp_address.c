/* SPDX-License-Identifier: Apache-2.0 */
/* Looking up; from a port to a socket's inode by /proc/net/tcp, from there to a process by its open
 * files. */
#include "transport/tcp_address.h"

#include <dirent.h>
#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "conf/address.h"

enum { TCP_STATE_LISTEN = 0x0a }; /* include/net/tcp_states.h of Linux */

static bool has_ipv6(void)
{
    int fd = socket(AF_INET6, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return errno != EAFNOSUPPORT;
    (void)close(fd);
    return true;
}

/* Whether ADDRESS stands for all addresses, of IPv4 as well. */
static bool is_all(const struct address *address)
{
    return address->has_ip && memcmp(address->ip, &in6addr_any, sizeof(address->ip)) == 0;
}

static int resolve(const char *text, struct addrinfo **found, struct err *err)
{
    struct address address;
    int rc = address_parse(text, &address, err);
    if (rc != 0)
        return rc;
    struct addrinfo hints = {.ai_flags = AI_PASSIVE, .ai_socktype = SOCK_STREAM};
    /* All there are, then. The core does the same. */
    const char *host = is_all(&address) && !has_ipv6() ? "0.0.0.0" : address.host;
    rc = getaddrinfo(host, strrchr(text, ':') + 1, &hints, found);
    return rc == 0 ? 0 : err_set(err, ERR_INVALID, "%s: %s", text, gai_strerror(rc));
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

static int refuse_used(const char *address, const struct sockaddr *sockaddr, struct err *err)
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

int tcp_address_bind(const char *address, int *out, struct err *err)
{
    struct addrinfo *found;
    int rc = resolve(address, &found, err);
    if (rc != 0)
        return rc;
    int reuse = 1;
    int fd = socket(found->ai_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0 || setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &reuse, sizeof(reuse)) != 0)
        rc = err_errno(err, errno, "%s: make a socket", address);
    else if (bind(fd, found->ai_addr, found->ai_addrlen) != 0)
        rc = errno == EADDRINUSE ? refuse_used(address, found->ai_addr, err)
                                 : err_errno(err, errno, "%s: cannot listen there", address);
    freeaddrinfo(found);
    if (rc == 0)
        *out = fd;
    else if (fd >= 0)
        (void)close(fd);
    return rc;
}
