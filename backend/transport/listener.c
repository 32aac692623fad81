/* SPDX-License-Identifier: Apache-2.0 */
/* Addresses: who has them already, and the files of unix sockets. */
#include "transport/listener.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/user.h"
#include "transport/tcp_address.h"

/* Where the sockets are by the configuration as shipped; made by tmpfiles.d(5). */
#define SHIPPED_DIRECTORY "/run/assetd"

/* --- unix sockets --- */

/* Who listens at the socket that FD is connected to. */
static int refuse_live(int fd, const char *path, struct err *err)
{
    struct ucred peer;
    socklen_t size = sizeof(peer);
    if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &size) != 0 || peer.pid <= 0)
        return err_set(err, ERR_UNAVAILABLE, "unix:%s: another process listens there", path);
    return err_set(err, ERR_UNAVAILABLE, "unix:%s: process %d listens there already", path,
                   (int)peer.pid);
}

/* Makes sure that PATH is free: gone, or a socket that nobody listens at and that is removed. */
static int clear_path(const char *path, struct err *err)
{
    struct stat status;
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    int rc = 0;
    assert(strlen(path) < sizeof(address.sun_path)); /* the configuration has checked it */
    memcpy(address.sun_path, path, strlen(path));
    if (lstat(path, &status) != 0)
        return errno == ENOENT ? 0 : err_errno(err, errno, "unix:%s", path);
    if (!S_ISSOCK(status.st_mode))
        return err_set(err, ERR_PRECONDITION,
                       "unix:%s: there is a file of that name which is no socket; move it away",
                       path);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0)
        return err_errno(err, errno, "make a socket");
    if (connect(fd, (const struct sockaddr *)&address, sizeof(address)) == 0 || errno == EAGAIN)
        rc = refuse_live(fd, path, err);
    else if (errno != ECONNREFUSED)
        rc = err_errno(err, errno, "unix:%s: ask who listens there", path);
    else if (unlink(path) != 0)
        rc = err_errno(err, errno, "unix:%s: remove the socket of a process that is gone", path);
    (void)close(fd);
    return rc;
}

/* The core says only that it cannot bind; mostly that is because of the directory. */
static int explain_socket(const struct conf_listener *listener, struct err *err)
{
    const char *slash = strrchr(listener->path, '/');
    int length = slash == NULL || slash == listener->path ? 1 : (int)(slash - listener->path);
    char directory[sizeof(((struct sockaddr_un *)NULL)->sun_path)];
    char user[USER_TEXT_SIZE];
    (void)snprintf(directory, sizeof(directory), "%.*s", length,
                   slash != NULL ? listener->path : ".");
    (void)user_text(geteuid(), user);
    if (faccessat(AT_FDCWD, directory, W_OK | X_OK, AT_EACCESS) == 0)
        return err_set(err, ERR_UNAVAILABLE, "%s: cannot listen there", listener->address);
    if (errno == ENOENT)
        return err_set(err, ERR_UNAVAILABLE,
                       "%s: there is no directory %s; make it, for %s to write to%s",
                       listener->address, directory, user,
                       strcmp(directory, SHIPPED_DIRECTORY) == 0
                           ? " (with systemd: `systemd-tmpfiles --create assetd.conf`)"
                           : "");
    if (errno == EROFS)
        return err_set(err, ERR_UNAVAILABLE,
                       "%s: %s is read only; if systemd starts assetd: is it in the unit's "
                       "ReadWritePaths=?",
                       listener->address, directory);
    return err_set(err, ERR_UNAVAILABLE, "%s: cannot listen there; may %s write to %s?",
                   listener->address, user, directory);
}

static int bind_unix(grpc_server *server, const struct conf_listener *listener,
                     grpc_server_credentials *credentials, struct err *err)
{
    int rc = clear_path(listener->path, err);
    if (rc != 0)
        return rc;
    mode_t mask = umask(0177); /* until group and mode are right, only our own user gets in */
    int port = grpc_server_add_http2_port(server, listener->address, credentials);
    (void)umask(mask);
    if (port == 0)
        return explain_socket(listener, err);
    if (listener->socket_group != NULL &&
        chown(listener->path, (uid_t)-1, listener->socket_gid) != 0)
        return err_errno(err, errno, "%s: give it to group %s (are you a member?)",
                         listener->address, listener->socket_group);
    if (chmod(listener->path, listener->socket_mode) != 0)
        return err_errno(err, errno, "%s: set its mode", listener->address);
    return 0;
}

/* --- TCP --- */

/*
 * The core says only that it cannot bind, so that the reason is looked for by binding once more:
 * in use, by whom, not ours, or not permitted.
 */
static int explain_port(const char *address, struct err *err)
{
    int fd;
    int rc = tcp_address_bind(address, &fd, err);
    if (rc != 0)
        return rc;
    (void)close(fd);
    return err_set(err, ERR_UNAVAILABLE, "%s: cannot listen there", address);
}

int listener_bind(grpc_server *server, const struct conf_listener *listener,
                  grpc_server_credentials *credentials, struct err *err)
{
    if (listener->path != NULL)
        return bind_unix(server, listener, credentials, err);
    return grpc_server_add_http2_port(server, listener->address, credentials) != 0
               ? 0
               : explain_port(listener->address, err);
}
