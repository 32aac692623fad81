/* SPDX-License-Identifier: Apache-2.0 */
/* assetctl cert list: a table for people. */
#include "control/cert_list.h"

#include <stdlib.h>
#include <string.h>

#include "control/credentials.h"

enum { DAY = 24 * 60 * 60 /* seconds */, SOON = 30 /* days */ };

int cert_note_faults(const struct authorized *authorized)
{
    int status = EXIT_SUCCESS;
    for (size_t i = 0; i < authorized->count; i++) {
        const struct client *client = &authorized->clients[i];
        if (client->is_broken) {
            status = EXIT_FAILURE;
            command_note(AUTHORIZED_FILE ":%u: this certificate cannot be read; nginx will neither "
                                         "reload nor start until it is taken out",
                         client->line);
        } else if (client->state == CLIENT_LEFT_OUT) {
            command_note(AUTHORIZED_FILE ":%u: this is left out: %s", client->line, client->why);
        }
    }
    return status;
}

static void print_days(int days)
{
    (void)printf("  expires in %d day%s", days, days == 1 ? "" : "s");
}

static void print_line(const char *name, int width, const char *role,
                       const struct certificate *certificate)
{
    char date[16];
    int64_t now = certificate_now();
    (void)printf("%-*s  %-6s  %-10s  %s  %s", width, name, role,
                 credentials_date(certificate->not_after, date), certificate->sha256,
                 certificate->sha1);
    if (certificate->not_after <= now)
        (void)printf("  expired");
    else if (certificate->not_after - now < SOON * DAY)
        print_days((int)((certificate->not_after - now) / DAY));
    else if (certificate->not_before > now)
        (void)printf("  not valid yet");
    (void)printf("%s\n", certificate->can_sign ? "  CA:TRUE" : "");
}

/*
 * The server's certificate, if there is one: the first of its file. *STATUS becomes EXIT_FAILURE if
 * nginx does not take it with its key.
 */
static bool read_server(const struct folder *folder, struct certificate *certificate, int *status)
{
    struct text pem = {.bytes = NULL}, key = {.bytes = NULL};
    struct err err;
    int rc = folder_read(folder, CERT_SERVER, &pem, &err);
    if (rc == 0 && (rc = certificate_read(pem.bytes, pem.size, certificate, &err)) != 0)
        (void)err_wrap(&err, "%s/" CERT_SERVER, folder->path);
    if (rc != 0 && rc != -ERR_NOT_FOUND) {
        command_note("%s", err.msg);
        *status = EXIT_FAILURE;
    }
    /* Who may not read the key is not told of it. */
    if (rc == 0 && folder_read(folder, "server.key", &key, &err) == 0 &&
        !certificate_fits(&pem, &key)) {
        command_note("server.key is not the key of " CERT_SERVER
                     ", and nginx will not take the two: copy the pair that belongs together; "
                     "`assetctl cert server HOST... --replace` would make a self-signed one");
        *status = EXIT_FAILURE;
    }
    text_fini(&pem);
    text_fini(&key);
    return rc == 0;
}

/* Returns an exit status: EXIT_SUCCESS if the map is as it should be. */
static int note_old_map(const struct folder *folder, const struct authorized *authorized)
{
    struct text map = {.bytes = NULL}, expected = {.bytes = NULL};
    struct err err;
    int rc = folder_read(folder, AUTHORIZED_MAP, &map, &err);
    authorized_map(authorized, &expected);
    bool is_current = rc == 0 && !expected.failed && map.size == expected.size &&
                      memcmp(map.bytes, expected.bytes, expected.size) == 0;
    if (rc == -ERR_NOT_FOUND)
        command_note(AUTHORIZED_MAP " is missing, and nginx does not start without it: run "
                                    "`assetctl cert update`");
    else if (rc != 0)
        command_note("%s", err.msg);
    else if (!is_current)
        command_note("this is not what nginx goes by, as " AUTHORIZED_MAP
                     " is older than " AUTHORIZED_FILE ": run `assetctl cert update`");
    text_fini(&map);
    text_fini(&expected);
    return is_current ? EXIT_SUCCESS : EXIT_FAILURE;
}

/* Returns the exit status. */
static int print_all(const struct folder *folder, const struct authorized *authorized)
{
    struct certificate server;
    size_t count = 0;
    int status = EXIT_SUCCESS, width = (int)strlen("NAME");
    bool has_server = read_server(folder, &server, &status);
    if (has_server && (int)strlen(server.names) > width)
        width = (int)strlen(server.names);
    for (size_t i = 0; i < authorized->count; i++) {
        int length = (int)strlen(authorized->clients[i].name);
        if (authorized->clients[i].state == CLIENT_REGISTERED && length > width)
            width = length;
    }
    (void)printf("%-*s  %-6s  %-10s  %-64s  %s\n", width, "NAME", "ROLE", "EXPIRES", "SHA-256",
                 "SHA-1");
    if (has_server)
        print_line(server.names, width, "server", &server);
    for (size_t i = 0; i < authorized->count; i++) {
        const struct client *client = &authorized->clients[i];
        if (client->state != CLIENT_REGISTERED)
            continue;
        print_line(client->name, width, role_name(client->role), &client->certificate);
        count++;
    }
    if (count == 0)
        command_note("no client is registered in %s", folder->path);
    return status;
}

int cert_list(const char *path)
{
    struct folder folder;
    struct authorized authorized;
    struct err err;
    if (credentials_open(&folder, path, FOLDER_READ, &err) != 0)
        return credentials_fail(&err);
    int rc = authorized_load(&authorized, &folder, &err);
    int status = EXIT_SUCCESS;
    if (rc == 0) {
        status |= print_all(&folder, &authorized);
        status |= cert_note_faults(&authorized);
        status |= note_old_map(&folder, &authorized);
    }
    authorized_fini(&authorized);
    folder_close(&folder);
    return rc == 0 ? command_end(status) : credentials_fail(&err);
}
