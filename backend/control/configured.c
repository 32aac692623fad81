/* SPDX-License-Identifier: Apache-2.0 */
/* Reading the configuration, whose warnings are for who starts a server. */
#include "control/configured.h"

#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "control/command.h"

int configured_load(const char *file, struct conf *conf)
{
    struct err err;
    char *faults = NULL;
    size_t size;
    FILE *out = open_memstream(&faults, &size);
    if (out == NULL) {
        (void)err_errno(&err, errno, "read %s", file);
        return command_fail(&err, NULL);
    }
    int rc = conf_load_to(file, out, conf, &err);
    if (fclose(out) == 0 && rc != 0)
        (void)fputs(faults, stderr);
    free(faults);
    if (rc == 0)
        return 0;
    bool is_read = err.code == ERR_PRECONDITION;
    return command_fail(&err, is_read ? NULL : "give the server's configuration by --config FILE");
}

static int refuse(const char *name, const char *file, const struct conf *conf)
{
    struct err err;
    (void)err_set(&err, ERR_NOT_FOUND, "%s has no instance \"%s\"; there %s", file, name,
                  conf->instance_count == 1 ? "is" : "are");
    for (size_t i = 0; i < conf->instance_count; i++)
        (void)err_append(&err, "%s\"%s\"", i == 0 ? " " : ", ", conf->instances[i].name);
    return command_fail(&err, NULL);
}

int configured_instance(const char *command, size_t words, char **argv, const char *file,
                        struct conf *conf, const struct conf_instance **instance)
{
    *conf = (struct conf){.file = NULL};
    if (words == 0)
        return command_refuse("%s needs the name of an instance, \"\" for the one without a name: "
                              "see assetctl %s --help",
                              command, command);
    if (words > 1)
        return command_refuse("%s takes one instance: what is %s?", command, argv[1]);
    int status = configured_load(file, conf);
    if (status != 0)
        return status;
    for (size_t i = 0; i < conf->instance_count; i++) {
        if (strcmp(conf->instances[i].name, argv[0]) != 0)
            continue;
        *instance = &conf->instances[i];
        return 0;
    }
    return refuse(argv[0], file, conf);
}
