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
    static const char name_characters[] = "abcdefghijklmnopqrstuvwxyz"
                                          "ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.-_";
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

/* Whether A is the address that stands for all, B included: [::] is for IPv4 as well. */
static bool includes(const struct address *a, const struct address *b)
{
    static const uint8_t all[16];
    if (!a->has_ip)
        return false;
    if (memcmp(a->ip, all, sizeof(all)) == 0)
        return true;
    return is_ipv4(a) && memcmp(a->ip + 12, all, 4) == 0 && (!b->has_ip || is_ipv4(b));
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
