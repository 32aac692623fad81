/* SPDX-License-Identifier: Apache-2.0 */
/* The table of options, how they are taken from the command line, and the text of --help. */
#include "conf/options.h"

#include <stdio.h>
#include <string.h>

#include "conf/conf.h"
#include "conf/spelling.h"

struct option {
    const char *name;
    char letter;       /* '\0': none */
    const char *value; /* what the value is called; NULL: takes none */
    enum option_group group;
    size_t field; /* in struct arguments */
    const char *help;
};

#define IN_ARGUMENTS(member) offsetof(struct arguments, member)

static const struct option options[] = {
    {"port", 'p', "N", OPTION_SERVER, IN_ARGUMENTS(port), "listen at this TCP port (required)"},
    {"server-key", '\0', "FILE", OPTION_SERVER, IN_ARGUMENTS(server_key),
     "serve TLS, with this private key (default: no TLS)"},
    {"server-cert", '\0', "FILE", OPTION_SERVER, IN_ARGUMENTS(server_cert),
     "the certificate for that key, with its chain"},
    {"client-certs", '\0', "FILE", OPTION_SERVER, IN_ARGUMENTS(client_certs),
     "let in only who has one of these certificates"},
    {"enable-push", '\0', NULL, OPTION_SERVER, IN_ARGUMENTS(enable_push),
     "let clients write (default: read only)"},
    {"quota", '\0', "BYTES", OPTION_SERVER, IN_ARGUMENTS(quota),
     "room for content, also as 50GiB (default: 10GB)"},
    {"index-only", '\0', NULL, OPTION_SERVER, IN_ARGUMENTS(index_only),
     "keep the index only, the content is elsewhere"},
    {"log-level", '\0', "LEVEL", OPTION_SERVER, IN_ARGUMENTS(log_level),
     "warning, info or trace (default: warning)"},
    {"bind", '\0', "ADDRESS", OPTION_SERVER, IN_ARGUMENTS(bind),
     "listen at this address only (default: all)"},
    {"config", '\0', "FILE", OPTION_FILE, IN_ARGUMENTS(config), "take everything from this file"},
    {"check", '\0', NULL, OPTION_FILE, IN_ARGUMENTS(check),
     "say what is wrong with the file, and exit"},
    {"print-config", '\0', NULL, OPTION_ANY, IN_ARGUMENTS(print_config),
     "print what all this means as YAML, and exit"},
    {"help", '\0', NULL, OPTION_ANY, IN_ARGUMENTS(help), "print this text"},
    {"version", '\0', NULL, OPTION_ANY, IN_ARGUMENTS(version), "print the version"},
};

enum { OPTIONS = sizeof(options) / sizeof(options[0]) };

/* --- taking them --- */

static const char **value_of(struct arguments *arguments, const struct option *option)
{
    return (const char **)(void *)((char *)arguments + option->field);
}

static const struct option *find_option(const char *name, size_t length)
{
    for (size_t i = 0; i < OPTIONS; i++)
        if (strlen(options[i].name) == length && memcmp(options[i].name, name, length) == 0)
            return &options[i];
    return NULL;
}

static const struct option *find_letter(char letter)
{
    for (size_t i = 0; i < OPTIONS; i++)
        if (options[i].letter != '\0' && options[i].letter == letter)
            return &options[i];
    return NULL;
}

static int report_unknown(const char *name, size_t length, struct err *err)
{
    char word[64];
    (void)snprintf(word, sizeof(word), "%.*s", (int)(length < 63 ? length : 63), name);
    struct spelling spelling = {.word = word};
    for (size_t i = 0; i < OPTIONS; i++)
        spelling_try(&spelling, options[i].name);
    if (spelling.guess != NULL)
        return err_set(err, ERR_INVALID, "there is no option --%s; did you mean --%s?", word,
                       spelling.guess);
    return err_set(err, ERR_INVALID, "there is no option --%s", word);
}

/* Takes the option at ARGV[*INDEX] with its value, which may be the next argument. */
static int take_option(int argc, char **argv, int *index, struct arguments *arguments,
                       struct err *err)
{
    const struct option *option;
    const char *argument = argv[*index];
    const char *value = NULL;
    if (argument[1] == '-') {
        size_t length = strcspn(argument + 2, "=");
        option = find_option(argument + 2, length);
        if (option == NULL)
            return report_unknown(argument + 2, length, err);
        if (argument[2 + length] == '=')
            value = argument + 2 + length + 1;
    } else {
        option = find_letter(argument[1]);
        if (option == NULL)
            return err_set(err, ERR_INVALID, "there is no option -%.1s", argument + 1);
        if (argument[2] != '\0')
            value = argument + 2;
    }
    if (option->value == NULL && value != NULL)
        return err_set(err, ERR_INVALID, "--%s takes no value", option->name);
    if (option->value != NULL && value == NULL) {
        if (*index + 1 >= argc)
            return err_set(err, ERR_INVALID, "--%s needs a value: --%s %s", option->name,
                           option->name, option->value);
        value = argv[++*index];
    }
    if (value != NULL && *value == '\0')
        return err_set(err, ERR_INVALID, "--%s has an empty value; write --%s %s", option->name,
                       option->name, option->value);
    *value_of(arguments, option) = value != NULL ? value : "";
    return 0;
}

int options_take(int argc, char **argv, struct arguments *arguments, struct err *err)
{
    bool options_ended = false;
    for (int i = 1; i < argc; i++) {
        if (!options_ended && strcmp(argv[i], "--") == 0) {
            options_ended = true;
        } else if (!options_ended && argv[i][0] == '-' && argv[i][1] != '\0') {
            int rc = take_option(argc, argv, &i, arguments, err);
            if (rc != 0)
                return rc;
        } else if (arguments->repo != NULL) {
            return err_set(err, ERR_INVALID, "%.100s: there can be one REPO only, and it is %.100s",
                           argv[i], arguments->repo);
        } else {
            arguments->repo = argv[i];
        }
    }
    return 0;
}

const char *options_find_given(const struct arguments *arguments, enum option_group group)
{
    struct arguments copy = *arguments;
    for (size_t i = 0; i < OPTIONS; i++)
        if (options[i].group == group && *value_of(&copy, &options[i]) != NULL)
            return options[i].name;
    return NULL;
}

/* --- telling of them --- */

const char *options_program(const char *program)
{
    const char *slash = strrchr(program, '/');
    return slash != NULL ? slash + 1 : program;
}

static void print_options(enum option_group group)
{
    for (size_t i = 0; i < OPTIONS; i++) {
        char left[32], letter[8] = "    ";
        const struct option *option = &options[i];
        if (option->group != group)
            continue;
        if (option->letter != '\0')
            (void)snprintf(letter, sizeof(letter), "-%c, ", option->letter);
        (void)snprintf(left, sizeof(left), "--%s%s%s", option->name,
                       option->value != NULL ? " " : "",
                       option->value != NULL ? option->value : "");
        (void)printf("  %s%-20s  %s\n", letter, left, option->help);
    }
}

/* Under the old name its own form comes first. */
void conf_print_usage(const char *program)
{
    static const char *const forms[] = {
        [OPTION_SERVER] = "--port N [OPTION]... REPO",
        [OPTION_FILE] = "--config FILE [--check]",
    };
    static const char *const headings[] = {
        [OPTION_SERVER] = "Everything by options (REPO is the directory to keep the cache in):",
        [OPTION_FILE] = "Everything from a file:",
    };
    const char *name = options_program(program);
    bool is_old = strcmp(name, "bst-artifact-server") == 0;
    enum option_group first = is_old ? OPTION_SERVER : OPTION_FILE;
    enum option_group second = is_old ? OPTION_FILE : OPTION_SERVER;
    (void)printf("usage: %s %s\n"
                 "       %s %s\n"
                 "\n"
                 "%s\n"
                 "\n"
                 "%s\n",
                 name, forms[first], name, forms[second],
                 is_old
                     ? "The cache server of BuildStream, as assetd has it: a Remote Asset index\n"
                       "with a content-addressable store. The other form is that of assetd."
                     : "A Remote Asset index with a content-addressable store. The second form is\n"
                       "that of bst-artifact-server.",
                 headings[first]);
    print_options(first);
    (void)printf("\n%s\n", headings[second]);
    print_options(second);
    (void)printf("\nWith either:\n");
    print_options(OPTION_ANY);
    (void)printf("\n"
                 "Keys and certificates are PEM, and read again when they change.\n"
                 "Exit status: 0 stopped, or nothing wrong; 1 could not start, or the file is\n"
                 "faulty; 2 wrong usage. More is in %s(8), the file in\n"
                 "assetd.yaml(5).\n",
                 is_old ? name : "assetd");
}
