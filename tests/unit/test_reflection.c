/* SPDX-License-Identifier: Apache-2.0 */
/* The method table serves what the descriptors, which reflection hands out, describe. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "base/wire.h"
#include "service/messages.h"
#include "service/services.h"

extern const unsigned char descriptors[];
extern const size_t descriptors_size;

/* google/protobuf/descriptor.proto: the numbers of the fields that are read. */
enum {
    SET_FILE = 1,
    FILE_PACKAGE = 2,
    FILE_SERVICE = 6,
    SERVICE_NAME = 1,
    SERVICE_METHOD = 2,
    METHOD_NAME = 1,
    METHOD_INPUT = 2,
    METHOD_OUTPUT = 3,
    METHOD_CLIENT_STREAMING = 5,
    METHOD_SERVER_STREAMING = 6,
};

enum { NAME_SIZE = 128 };

/* One rpc of a .proto file. */
struct described {
    char path[2 * NAME_SIZE];
    char input[NAME_SIZE]; /* full names, with a leading dot */
    char output[NAME_SIZE];
    enum method_shape shape;
};

static void copy_name(struct span bytes, char name[NAME_SIZE])
{
    assert_in_range(bytes.size, 1, NAME_SIZE - 1);
    memcpy(name, bytes.data, bytes.size);
    name[bytes.size] = '\0';
}

static void read_name(struct span message, uint32_t number, char name[NAME_SIZE])
{
    struct wire_reader reader = {.message = message};
    struct wire_field field;
    while (wire_next(&reader, &field))
        if (field.number == number)
            copy_name(field.bytes, name);
    assert_false(reader.malformed);
}

static void read_method(struct span message, struct described *method)
{
    static const enum method_shape shapes[2][2] = {{METHOD_UNARY, METHOD_SERVER_STREAM},
                                                   {METHOD_CLIENT_STREAM, METHOD_BIDI}};
    size_t client = 0;
    size_t server = 0;
    struct wire_reader reader = {.message = message};
    struct wire_field field;
    while (wire_next(&reader, &field)) {
        if (field.number == METHOD_CLIENT_STREAMING)
            client = field.value != 0;
        if (field.number == METHOD_SERVER_STREAMING)
            server = field.value != 0;
    }
    assert_false(reader.malformed);
    read_name(message, METHOD_INPUT, method->input);
    read_name(message, METHOD_OUTPUT, method->output);
    method->shape = shapes[client][server];
}

static size_t read_service(const char *package, struct span message, struct described *methods_out)
{
    char service[NAME_SIZE];
    char name[NAME_SIZE];
    size_t count = 0;
    struct wire_reader reader = {.message = message};
    struct wire_field field;
    read_name(message, SERVICE_NAME, service);
    while (wire_next(&reader, &field)) {
        if (field.number != SERVICE_METHOD)
            continue;
        read_name(field.bytes, METHOD_NAME, name);
        struct described *method = &methods_out[count++];
        int length =
            snprintf(method->path, sizeof(method->path), "/%s.%s/%s", package, service, name);
        assert_in_range(length, 1, sizeof(method->path) - 1);
        read_method(field.bytes, method);
    }
    return count;
}

/* Every rpc of every file; returns how many there are. */
static size_t read_all(struct described *methods_out, size_t room)
{
    size_t count = 0;
    struct wire_reader set = {.message = {descriptors, descriptors_size}};
    struct wire_field file;
    while (wire_next(&set, &file)) {
        assert_int_equal(file.number, SET_FILE);
        char package[NAME_SIZE];
        read_name(file.bytes, FILE_PACKAGE, package);
        struct wire_reader reader = {.message = file.bytes};
        struct wire_field field;
        while (wire_next(&reader, &field)) {
            assert_in_range(count, 0, room - 8);
            if (field.number == FILE_SERVICE)
                count += read_service(package, field.bytes, methods_out + count);
        }
        assert_false(reader.malformed);
    }
    assert_false(set.malformed);
    return count;
}

static const struct method *find_method(const char *path)
{
    for (size_t i = 0; i < method_count; i++)
        if (strcmp(methods[i].path, path) == 0)
            return &methods[i];
    return NULL;
}

static void test_table_serves_the_descriptors(void **state)
{
    (void)state;
    static struct described described[64];
    size_t count = read_all(described, sizeof(described) / sizeof(described[0]));
    assert_int_equal(count, method_count);
    for (size_t i = 0; i < count; i++) {
        const struct method *method = find_method(described[i].path);
        if (method == NULL)
            fail_msg("%s is described and not served", described[i].path);
        assert_int_equal(method->shape, described[i].shape);
        if (strncmp(method->path, "/grpc.reflection.", strlen("/grpc.reflection.")) == 0)
            continue;
        assert_string_equal(method->request->name, described[i].input + 1);
        assert_string_equal(method->response->name, described[i].output + 1);
    }
}

/* The handlers of reflection know the messages of v1 alone, which serve v1alpha as well. */
static void test_both_reflections_have_the_messages_of_v1(void **state)
{
    static const char *const paths[] = {
        "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
        "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
    };
    (void)state;
    for (size_t i = 0; i < sizeof(paths) / sizeof(paths[0]); i++) {
        const struct method *method = find_method(paths[i]);
        assert_non_null(method);
        assert_ptr_equal(method->request,
                         &grpc__reflection__v1__server_reflection_request__descriptor);
        assert_ptr_equal(method->response,
                         &grpc__reflection__v1__server_reflection_response__descriptor);
    }
}

/* What a method's shape makes the transport deliver has a handler. */
static void test_methods_handle_the_events_of_their_shape(void **state)
{
    (void)state;
    for (size_t i = 0; i < method_count; i++) {
        const struct method *method = &methods[i];
        bool receives = method->shape == METHOD_CLIENT_STREAM || method->shape == METHOD_BIDI;
        bool sends = method->shape == METHOD_SERVER_STREAM || method->shape == METHOD_BIDI;
        assert_non_null(method->start);
        assert_int_equal(method->message != NULL, receives);
        assert_int_equal(method->half_close != NULL, receives);
        assert_int_equal(method->sent != NULL, sends);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_table_serves_the_descriptors),
        cmocka_unit_test(test_both_reflections_have_the_messages_of_v1),
        cmocka_unit_test(test_methods_handle_the_events_of_their_shape),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
