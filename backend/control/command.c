/* SPDX-License-Identifier: Apache-2.0 */
/* Tables of commands, and what is said about command lines that are wrong. */
#include "control/command.h"

#include <errno.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include "conf/spelling.h"

static const char program[] = "assetctl";

/* --- stderr --- */

static void say(const char *format, va_list arguments)
{
    (void)fprintf(stderr, "%s: ", program);
    (void)vfprintf(stderr, format, arguments);
    (void)fputc('\n', stderr);
}

void command_note(const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    say(format, arguments);
    va_end(arguments);
}

int command_refuse(const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    say(format, arguments);
    va_end(arguments);
    return EXIT_USAGE;
}

int command_fail(const struct err *err, const char *advice)
{
    command_note("%s%s%s", err->msg, advice != NULL ? ": " : "", advice != NULL ? advice : "");
    return EXIT_FAILURE;
}

int command_end(int status)
{
    struct err err;
    if (fflush(stdout) == 0 && ferror(stdout) == 0)
        return status;
    (void)err_errno(&err, errno, "write to stdout");
    return command_fail(&err, NULL);
}

/* --- tables --- */

void command_print_usage(const struct command_table *table, FILE *file)
{
    int widest = 0;
    for (size_t i = 0; i < table->count; i++) {
        int width = (int)(strlen(table->commands[i].name) + strlen(table->commands[i].arguments));
        widest = width > widest ? width : widest;
    }
    (void)fprintf(file, "usage: %s COMMAND ...\n\n", table->name);
    for (size_t i = 0; i < table->count; i++) {
        const struct command *command = &table->commands[i];
        (void)fprintf(file, "  %s %-*s  %s\n", command->name, widest - (int)strlen(command->name),
                      command->arguments, command->help);
    }
    (void)fprintf(file, "\n%s", table->more);
}

static int refuse_command(const struct command_table *table, const char *name)
{
    struct spelling spelling = {.word = name};
    for (size_t i = 0; i < table->count; i++)
        spelling_try(&spelling, table->commands[i].name);
    if (spelling.guess != NULL)
        return command_refuse("there is no command %s; did you mean %s? See %s --help", name,
                              spelling.guess, table->name);
    return command_refuse("there is no command %s: see %s --help", name, table->name);
}

bool command_wants_help(int argc, char **argv)
{
    for (int i = 0; i < argc; i++)
        if (strcmp(argv[i], "--help") == 0)
            return true;
    return false;
}

int command_run(const struct command_table *table, int argc, char **argv)
{
    if (argc < 1) {
        command_print_usage(table, stderr);
        return EXIT_USAGE;
    }
    if (command_wants_help(table->helps_with_all ? argc : 1, argv)) {
        command_print_usage(table, stdout);
        return command_end(EXIT_SUCCESS);
    }
    for (size_t i = 0; i < table->count; i++)
        if (strcmp(argv[0], table->commands[i].name) == 0)
            return table->commands[i].run(argc - 1, argv + 1);
    return refuse_command(table, argv[0]);
}

/* --- options --- */

static int refuse_option(const char *command, const struct command_option *options, size_t count,
                         const char *argument)
{
    struct spelling spelling = {.word = argument};
    for (size_t i = 0; i < count; i++)
        spelling_try(&spelling, options[i].name);
    if (spelling.guess != NULL)
        return command_refuse("%s has no option %s; did you mean %s?", command, argument,
                              spelling.guess);
    return command_refuse("%s has no option %s; %s --help tells which there are", command, argument,
                          program);
}

static void cut_slashes(char *path)
{
    for (size_t length = strlen(path); length > 1 && path[length - 1] == '/';)
        path[--length] = '\0';
}

/* Takes the option at ARGV[*AT], and its value. */
static int take_option(const char *command, const struct command_option *options, size_t count,
                       int argc, char **argv, int *at)
{
    const char *argument = argv[*at];
    const char *equals = strchr(argument, '=');
    size_t length = equals != NULL ? (size_t)(equals - argument) : strlen(argument);
    const struct command_option *option = options;
    while (option < options + count &&
           (strlen(option->name) != length || strncmp(option->name, argument, length) != 0))
        option++;
    if (option == options + count)
        return refuse_option(command, options, count, argument);
    if (option->value == NULL) {
        if (equals != NULL)
            return command_refuse("%s takes no value: %s", option->name, argument);
        *option->is_set = true;
        return 0;
    }
    char *value = equals != NULL ? argv[*at] + length + 1 : NULL;
    if (value == NULL && *at + 1 < argc)
        value = argv[++*at];
    if (value == NULL)
        return command_refuse("%s needs a value", option->name);
    if (value[0] == '\0')
        return command_refuse("%s needs a value that is not empty", option->name);
    if (option->is_folder)
        cut_slashes(value);
    *option->value = value;
    return 0;
}

int command_options(const char *command, const struct command_option *options, size_t count,
                    int argc, char **argv, size_t *words)
{
    bool all_words = false;
    *words = 0;
    for (int i = 0; i < argc; i++) {
        if (all_words || argv[i][0] != '-' || argv[i][1] == '\0') {
            argv[(*words)++] = argv[i];
        } else if (strcmp(argv[i], "--") == 0) {
            all_words = true;
        } else {
            int status = take_option(command, options, count, argc, argv, &i);
            if (status != 0)
                return status;
        }
    }
    return 0;
}
