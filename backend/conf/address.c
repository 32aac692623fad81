/* SPDX-License-Identifier: Apache-2.0 */
/* Parsing and comparing of addresses. */
#include "conf/address.h"

#include <arpa/inet.h>
#include <string.h>
#include <strings.h>
#include <sys/socket.h>
#include <sys/un.h>

/* unix(7): the path has its NUL within sun_path. */
enum { PATH_LENGTH_MAX = sizeof(((struct sockaddr_un *)NULL)->sun_path) - 1 };

static const uint8_t ipv4_prefix[12] = {0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff};

static const char name_characters[] = "abcdefghijklmnopqrstuvwxyz"
                                      "ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.-_";

static int parse_unix(const char *path, struct address *address, struct err *err)
{
    size_t length = strlen(path);
    if (path[0] != '/')
        return err_set(err, ERR_INVALID,
                       "the path of a unix socket begins with /, as in unix:/run/assetd/pull.sock");
    if (length > PATH_LENGTH_MAX)
        return err_set(err, ERR_INVALID,
                       "the path of a unix socket has at most %d bytes, this has %zu",
                       PATH_LENGTH_MAX, length);
    if (path[length - 1] == '/')
        return err_set(err, ERR_INVALID,
                       "the path of a unix socket names a file, as in unix:/run/assetd/pull.sock");
    address->path = path;
    address->is_loopback = true;
    return 0;
}

static int parse_port(const char *text, unsigned *port, struct err *err)
{
    unsigned number = 0;
    size_t digits = strspn(text, "0123456789");
    if (digits > 0 && digits <= 5 && text[digits] == '\0')
        for (size_t i = 0; i < digits; i++)
            number = number * 10 + (unsigned)(text[i] - '0');
    if (number < 1 || number > 65535)
        return err_set(err, ERR_INVALID, "\"%.80s\" is no port; write a number from 1 to 65535",
                       text);
    *port = number;
    return 0;
}

/* Sets what is known of a host without asking anyone. */
static int parse_host(bool in_brackets, struct address *address, struct err *err)
{
    const char *host = address->host;
    if (inet_pton(AF_INET6, host, address->ip) == 1) {
        if (!in_brackets)
            return err_set(err, ERR_INVALID, "an IPv6 address is written [%s]:%u", host,
                           address->port);
        address->has_ip = true;
    } else if (in_brackets) {
        return err_set(err, ERR_INVALID, "\"%s\" is no IPv6 address; only these are in brackets",
                       host);
    } else if (inet_pton(AF_INET, host, address->ip + sizeof(ipv4_prefix)) == 1) {
        memcpy(address->ip, ipv4_prefix, sizeof(ipv4_prefix));
        address->has_ip = true;
    } else if (strspn(host, "0123456789.") == strlen(host)) {
        return err_set(err, ERR_INVALID, "\"%s\" is no IPv4 address", host);
    } else if (host[strspn(host, name_characters)] != '\0') {
        return err_set(err, ERR_INVALID,
                       "\"%s\" is no host; write unix:/PATH, HOST:PORT or [HOST]:PORT", host);
    }
    if (!address->has_ip)
        address->is_loopback = strcasecmp(host, "localhost") == 0;
    else if (memcmp(address->ip, ipv4_prefix, sizeof(ipv4_prefix)) == 0)
        address->is_loopback = address->ip[12] == 127;
    else
        address->is_loopback = memcmp(address->ip, &in6addr_loopback, sizeof(address->ip)) == 0;
    return 0;
}

int address_parse(const char *text, struct address *address, struct err *err)
{
    static const char unix_prefix[] = "unix:";
    memset(address, 0, sizeof(*address));
    if (strncmp(text, unix_prefix, strlen(unix_prefix)) == 0)
        return parse_unix(text + strlen(unix_prefix), address, err);
    const char *colon = strrchr(text, ':');
    if (colon == NULL)
        return err_set(err, ERR_INVALID,
                       "\"%.80s\" is no address; write unix:/PATH, HOST:PORT or [HOST]:PORT", text);
    const char *host = text;
    size_t length = (size_t)(colon - text);
    bool in_brackets = length >= 2 && host[0] == '[' && host[length - 1] == ']';
    if (in_brackets) {
        host++;
        length -= 2;
    }
    if (length == 0 || (length == 1 && *host == '*'))
        return err_set(err, ERR_INVALID, "has no host; write [::]%.8s for all addresses", colon);
    if (length > ADDRESS_HOST_MAX)
        return err_set(err, ERR_INVALID, "the host has more than %d bytes", ADDRESS_HOST_MAX);
    memcpy(address->host, host, length);
    int rc = parse_port(colon + 1, &address->port, err);
    if (rc != 0)
        return rc;
    return parse_host(in_brackets, address, err);
}

static bool is_ipv4(const struct address *address)
{
    return address->has_ip && memcmp(address->ip, ipv4_prefix, sizeof(ipv4_prefix)) == 0;
}

/* Whether A stands for all addresses, of IPv4 or of both kinds. */
static bool is_all(const struct address *a)
{
    static const uint8_t none[16];
    return a->has_ip && (memcmp(a->ip, none, sizeof(none)) == 0 ||
                         (is_ipv4(a) && memcmp(a->ip + sizeof(ipv4_prefix), none, 4) == 0));
}

static bool has_prefix(const char *text, const char *prefix)
{
    return strncmp(text, prefix, strlen(prefix)) == 0;
}

static int parse_server_socket(const char *path, struct address *address, struct err *err)
{
    if (path[0] != '/' || path[strlen(path) - 1] == '/')
        return err_set(err, ERR_INVALID,
                       "\"%.80s\" is no whole path of a socket; write one as in "
                       "unix:/run/cas/cas.sock",
                       path);
    return parse_unix(path, address, err);
}

/* Finds what is wrong with a HOST:PORT that address_parse would tell as if it were a listener's. */
static int check_host_port(const char *text, struct err *err)
{
    size_t length = strcspn(text, "/?#");
    size_t name_length = strspn(text, name_characters);
    bool in_brackets = *text == '[' && strchr(text, ']') != NULL;
    if (text[length] != '\0')
        return err_set(
            err, ERR_INVALID,
            "nothing follows the port; remove \"%.80s\" (instance-name is for the name of "
            "an instance)",
            text + length);
    if (!in_brackets && strchr(text, ':') != strrchr(text, ':'))
        return err_set(err, ERR_INVALID,
                       "an IPv6 address is in brackets; write it as in grpc://[::1]:8980");
    if (in_brackets ? text[length - 1] == ']' : name_length > 0 && text[name_length] == '\0')
        return err_set(err, ERR_INVALID, "has no port; write one, as in %.80s:8980", text);
    if (!in_brackets && (name_length == 0 || text[name_length] != ':'))
        return err_set(err, ERR_INVALID, "\"%.80s\" names no host and port; write HOST:PORT", text);
    return 0;
}

int address_parse_server(const char *text, struct address *address, bool *is_tls, struct err *err)
{
    static const char unix_scheme[] = "unix:", plain[] = "grpc://", tls[] = "grpcs://";
    memset(address, 0, sizeof(*address));
    *is_tls = has_prefix(text, tls);
    if (has_prefix(text, unix_scheme))
        return parse_server_socket(text + strlen(unix_scheme), address, err);
    if (!*is_tls && !has_prefix(text, plain))
        return err_set(err, ERR_INVALID,
                       "\"%.80s\" is no address of a server; write grpc://HOST:PORT, "
                       "grpcs://HOST:PORT for TLS, or unix:/PATH",
                       text);
    text += strlen(*is_tls ? tls : plain);
    int rc = check_host_port(text, err);
    if (rc == 0)
        rc = address_parse(text, address, err);
    if (rc == 0 && is_all(address))
        rc = err_set(err, ERR_INVALID,
                     "%s is to listen at, and leads to no server; on this machine write 127.0.0.1",
                     address->host);
    return rc;
}

/* Whether A stands for all addresses, B included: [::] is for IPv4 as well. */
static bool includes(const struct address *a, const struct address *b)
{
    return is_all(a) && (!is_ipv4(a) || !b->has_ip || is_ipv4(b));
}

/* localhost is 127.0.0.1 and ::1. */
static bool is_localhost_ip(const struct address *address)
{
    static const uint8_t ipv4_localhost[4] = {127, 0, 0, 1};
    if (is_ipv4(address))
        return memcmp(address->ip + 12, ipv4_localhost, sizeof(ipv4_localhost)) == 0;
    return address->has_ip && address->is_loopback;
}

bool address_overlaps(const struct address *a, const struct address *b)
{
    if (a->path != NULL || b->path != NULL || a->port != b->port)
        return false;
    if (includes(a, b) || includes(b, a))
        return true;
    if (a->has_ip && b->has_ip)
        return memcmp(a->ip, b->ip, sizeof(a->ip)) == 0;
    if (!a->has_ip && !b->has_ip)
        return strcasecmp(a->host, b->host) == 0;
    const struct address *name = a->has_ip ? b : a;
    return name->is_loopback && is_localhost_ip(a->has_ip ? a : b);
}

bool address_reaches(const struct address *server, const struct address *listener)
{
    /* Which other addresses and names are those of this machine is not known. */
    return address_overlaps(server, listener) && (server->is_loopback || !is_all(listener));
}
