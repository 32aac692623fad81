/* SPDX-License-Identifier: Apache-2.0 */
/*
 * grpc.reflection.v1 and v1alpha.ServerReflection: the interface definitions, for clients that come
 * without them. The two packages have the same messages but for the name, so that those of v1
 * serve both.
 *
 * A call makes a list of the files from the descriptors that are built in, and of the services
 * from the method table; what its requests ask for is then looked up without memory of its own,
 * however long the stream gets. The descriptors are of our making: they are taken for well-formed.
 */
#include <string.h>

#include "base/wire.h"
#include "service/handlers.h"
#include "service/messages.h"
#include "service/services.h"

/* The alternatives of the two messages, which have long names. */
#define REQUEST(name)  GRPC__REFLECTION__V1__SERVER_REFLECTION_REQUEST__MESSAGE_REQUEST_##name
#define RESPONSE(name) GRPC__REFLECTION__V1__SERVER_REFLECTION_RESPONSE__MESSAGE_RESPONSE_##name

/* A serialized google.protobuf.FileDescriptorSet, made when the program is built. */
extern const unsigned char descriptors[];
extern const size_t descriptors_size;

/* What descriptors describe, and thus what a name can stand for. */
enum kind {
    KIND_NONE,
    KIND_FILE,
    KIND_MESSAGE,
    KIND_FIELD,
    KIND_ONEOF,
    KIND_ENUM,
    KIND_ENUM_VALUE,
    KIND_SERVICE,
    KIND_METHOD,
};

/* google/protobuf/descriptor.proto: the numbers of the fields that are read. */
enum {
    SET_FILE = 1,
    FILE_PACKAGE = 2,
    FILE_DEPENDENCY = 3,
    ANY_NAME = 1, /* of files, and of all that has a name in them */
};

/* And those of the fields that hold what is named below something named. */
static const struct member {
    enum kind outer;
    uint32_t number;
    enum kind inner;
} members[] = {
    {KIND_FILE, 4, KIND_MESSAGE},  {KIND_FILE, 5, KIND_ENUM},       {KIND_FILE, 6, KIND_SERVICE},
    {KIND_MESSAGE, 2, KIND_FIELD}, {KIND_MESSAGE, 3, KIND_MESSAGE}, {KIND_MESSAGE, 4, KIND_ENUM},
    {KIND_MESSAGE, 8, KIND_ONEOF}, {KIND_ENUM, 2, KIND_ENUM_VALUE}, {KIND_SERVICE, 2, KIND_METHOD},
};

/* One call: what there is, and room for one answer. */
struct reflection {
    struct span *files; /* each a FileDescriptorProto */
    size_t file_count;
    Grpc__Reflection__V1__ServiceResponse **services;
    size_t service_count;
    ProtobufCBinaryData *answer; /* room for every file */
    size_t answer_count;
};

/* --- descriptors --- */

/* The next field NUMBER of a message, which is bytes; false at the end. */
static bool next_bytes(struct wire_reader *reader, uint32_t number, struct span *bytes)
{
    struct wire_field field;
    while (wire_next(reader, &field)) {
        if (field.number == number && field.type == WIRE_BYTES) {
            *bytes = field.bytes;
            return true;
        }
    }
    return false;
}

/* The first field NUMBER of a message; empty if there is none. */
static struct span first_bytes(struct span message, uint32_t number)
{
    struct wire_reader reader = {.message = message};
    struct span bytes = span_of_text("");
    (void)next_bytes(&reader, number, &bytes);
    return bytes;
}

/* Takes "PREFIX." off NAME; false if it does not begin with that. */
static bool strip_prefix(struct span *name, struct span prefix)
{
    if (name->size <= prefix.size || memcmp(name->data, prefix.data, prefix.size) != 0 ||
        name->data[prefix.size] != '.')
        return false;
    name->data += prefix.size + 1;
    name->size -= prefix.size + 1;
    return true;
}

static enum kind find_kind(enum kind outer, uint32_t number)
{
    for (size_t i = 0; i < sizeof(members) / sizeof(members[0]); i++)
        if (members[i].outer == outer && members[i].number == number)
            return members[i].inner;
    return KIND_NONE;
}

/*
 * What NAME stands for within a descriptor of kind OUTER, of which it is the name relative to it;
 * KIND_NONE if nothing. As deep as our messages are nested.
 */
static enum kind find_symbol(enum kind outer, struct span descriptor, struct span name)
{
    struct wire_reader reader = {.message = descriptor};
    struct wire_field field;
    while (wire_next(&reader, &field)) {
        enum kind inner = find_kind(outer, field.number);
        if (inner == KIND_NONE || field.type != WIRE_BYTES)
            continue;
        struct span inner_name = first_bytes(field.bytes, ANY_NAME);
        if (span_equal(name, inner_name))
            return inner;
        struct span rest = name;
        enum kind found = KIND_NONE;
        if (inner == KIND_ENUM) /* its values are named beside it, not below */
            found = find_symbol(inner, field.bytes, name);
        else if (strip_prefix(&rest, inner_name))
            found = find_symbol(inner, field.bytes, rest);
        if (found != KIND_NONE)
            return found;
    }
    return KIND_NONE;
}

/* The file that defines the full name SYMBOL, and what it is there; NULL if none. */
static const struct span *find_file_of(const struct reflection *reflection, const char *symbol,
                                       enum kind *kind)
{
    for (size_t i = 0; i < reflection->file_count; i++) {
        struct span name = span_of_text(symbol);
        if (!strip_prefix(&name, first_bytes(reflection->files[i], FILE_PACKAGE)))
            continue;
        *kind = find_symbol(KIND_FILE, reflection->files[i], name);
        if (*kind != KIND_NONE)
            return &reflection->files[i];
    }
    return NULL;
}

static const struct span *find_file(const struct reflection *reflection, struct span name)
{
    for (size_t i = 0; i < reflection->file_count; i++)
        if (span_equal(first_bytes(reflection->files[i], ANY_NAME), name))
            return &reflection->files[i];
    return NULL;
}

/* --- the start of a call --- */

static int list_files(struct reflection *reflection, struct arena *arena, struct err *err)
{
    const struct span set = {descriptors, descriptors_size};
    struct wire_reader reader = {.message = set};
    struct span file;
    size_t count = 0;
    while (next_bytes(&reader, SET_FILE, &file))
        count++;
    reflection->files = arena_calloc(arena, count, sizeof(*reflection->files));
    reflection->answer = arena_calloc(arena, count, sizeof(*reflection->answer));
    if (reflection->files == NULL || reflection->answer == NULL)
        return err_no_memory(err, "the descriptors");
    reader = (struct wire_reader){.message = set};
    while (next_bytes(&reader, SET_FILE, &file))
        reflection->files[reflection->file_count++] = file;
    return 0;
}

static bool is_listed(const struct reflection *reflection, const char *service)
{
    for (size_t i = 0; i < reflection->service_count; i++)
        if (strcmp(reflection->services[i]->name, service) == 0)
            return true;
    return false;
}

static int list_services(struct reflection *reflection, struct arena *arena, struct err *err)
{
    reflection->services = arena_calloc(arena, method_count, sizeof(*reflection->services));
    if (reflection->services == NULL)
        return err_no_memory(err, "the list of services");
    for (size_t i = 0; i < method_count; i++) {
        const char *name = methods[i].path + 1;
        char *service = arena_copy(arena, name, (size_t)(strchr(name, '/') - name));
        Grpc__Reflection__V1__ServiceResponse *response = arena_alloc(arena, sizeof(*response));
        if (service == NULL || response == NULL)
            return err_no_memory(err, "the list of services");
        if (is_listed(reflection, service))
            continue;
        grpc__reflection__v1__service_response__init(response);
        response->name = service;
        reflection->services[reflection->service_count++] = response;
    }
    return 0;
}

void reflection_start(struct call *call)
{
    struct err err;
    struct reflection *reflection = arena_calloc(call->arena, 1, sizeof(*reflection));
    int rc = 0;
    if (reflection == NULL)
        rc = err_no_memory(&err, "reflection");
    if (rc == 0)
        rc = list_files(reflection, call->arena, &err);
    if (rc == 0)
        rc = list_services(reflection, call->arena, &err);
    if (rc != 0) {
        call_fail(call, &err);
        return;
    }
    call->state = reflection;
    call_receive(call);
}

/* --- answers --- */

static void answer_error(struct call *call,
                         Grpc__Reflection__V1__ServerReflectionResponse *response,
                         const struct err *err)
{
    Grpc__Reflection__V1__ErrorResponse error = GRPC__REFLECTION__V1__ERROR_RESPONSE__INIT;
    error.error_code = err_grpc_status(err->code);
    error.error_message = (char *)err->msg;
    response->message_response_case = RESPONSE(ERROR_RESPONSE);
    response->error_response = &error;
    call_send(call, &response->base);
}

/* Puts FILE into the answer, unless it is there. */
static void add_file(struct reflection *reflection, const struct span *file)
{
    for (size_t i = 0; i < reflection->answer_count; i++)
        if (reflection->answer[i].data == file->data)
            return;
    reflection->answer[reflection->answer_count++] =
        (ProtobufCBinaryData){.len = file->size, .data = (uint8_t *)file->data};
}

/*
 * Answers with FILE and what it needs, which grows the answer as it is walked over; or, if it is
 * NULL, that WANTED is not known.
 */
static void answer_files(struct call *call,
                         Grpc__Reflection__V1__ServerReflectionResponse *response,
                         const struct span *file, const char *wanted)
{
    struct err err;
    if (file == NULL) {
        (void)err_set(&err, ERR_NOT_FOUND, "%.200s is not known here", wanted);
        answer_error(call, response, &err);
        return;
    }
    struct reflection *reflection = call->state;
    reflection->answer_count = 0;
    add_file(reflection, file);
    for (size_t i = 0; i < reflection->answer_count; i++) {
        const struct span bytes = {reflection->answer[i].data, reflection->answer[i].len};
        struct wire_reader reader = {.message = bytes};
        struct span name;
        while (next_bytes(&reader, FILE_DEPENDENCY, &name)) {
            const struct span *dependency = find_file(reflection, name);
            if (dependency != NULL)
                add_file(reflection, dependency);
        }
    }
    Grpc__Reflection__V1__FileDescriptorResponse files =
        GRPC__REFLECTION__V1__FILE_DESCRIPTOR_RESPONSE__INIT;
    files.n_file_descriptor_proto = reflection->answer_count;
    files.file_descriptor_proto = reflection->answer;
    response->message_response_case = RESPONSE(FILE_DESCRIPTOR_RESPONSE);
    response->file_descriptor_response = &files;
    call_send(call, &response->base);
}

/* Messages of proto3 have no extensions. */
static void answer_extension(struct call *call,
                             Grpc__Reflection__V1__ServerReflectionResponse *response,
                             const Grpc__Reflection__V1__ExtensionRequest *extension)
{
    struct err err;
    (void)err_set(&err, ERR_NOT_FOUND, "%.200s has no extension %d", extension->containing_type,
                  extension->extension_number);
    answer_error(call, response, &err);
}

static void answer_extension_numbers(struct call *call,
                                     Grpc__Reflection__V1__ServerReflectionResponse *response,
                                     char *type)
{
    enum kind kind;
    struct err err;
    if (find_file_of(call->state, type, &kind) == NULL || kind != KIND_MESSAGE) {
        (void)err_set(&err, ERR_NOT_FOUND, "%.200s is not known here", type);
        answer_error(call, response, &err);
        return;
    }
    Grpc__Reflection__V1__ExtensionNumberResponse none =
        GRPC__REFLECTION__V1__EXTENSION_NUMBER_RESPONSE__INIT;
    none.base_type_name = type;
    response->message_response_case = RESPONSE(ALL_EXTENSION_NUMBERS_RESPONSE);
    response->all_extension_numbers_response = &none;
    call_send(call, &response->base);
}

static void answer_services(struct call *call,
                            Grpc__Reflection__V1__ServerReflectionResponse *response)
{
    const struct reflection *reflection = call->state;
    Grpc__Reflection__V1__ListServiceResponse list =
        GRPC__REFLECTION__V1__LIST_SERVICE_RESPONSE__INIT;
    list.n_service = reflection->service_count;
    list.service = reflection->services;
    response->message_response_case = RESPONSE(LIST_SERVICES_RESPONSE);
    response->list_services_response = &list;
    call_send(call, &response->base);
}

void reflection_message(struct call *call)
{
    Grpc__Reflection__V1__ServerReflectionRequest *request = (void *)call->request;
    Grpc__Reflection__V1__ServerReflectionResponse response =
        GRPC__REFLECTION__V1__SERVER_REFLECTION_RESPONSE__INIT;
    response.valid_host = request->host;
    response.original_request = request;

    enum kind kind;
    struct err err;
    switch (request->message_request_case) {
    case REQUEST(FILE_BY_FILENAME):
        answer_files(call, &response,
                     find_file(call->state, span_of_text(request->file_by_filename)),
                     request->file_by_filename);
        break;
    case REQUEST(FILE_CONTAINING_SYMBOL):
        answer_files(call, &response,
                     find_file_of(call->state, request->file_containing_symbol, &kind),
                     request->file_containing_symbol);
        break;
    case REQUEST(FILE_CONTAINING_EXTENSION):
        answer_extension(call, &response, request->file_containing_extension);
        break;
    case REQUEST(ALL_EXTENSION_NUMBERS_OF_TYPE):
        answer_extension_numbers(call, &response, request->all_extension_numbers_of_type);
        break;
    case REQUEST(LIST_SERVICES):
        answer_services(call, &response);
        break;
    default:
        (void)err_set(&err, ERR_UNIMPLEMENTED, "this request is not served here");
        answer_error(call, &response, &err);
        break;
    }
}

void reflection_sent(struct call *call)
{
    call_receive(call);
}

void reflection_half_close(struct call *call)
{
    call_finish_stream(call);
}
