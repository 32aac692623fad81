/* SPDX-License-Identifier: Apache-2.0 */
/* ByteStream: reading ranges, and writing with whatever a client or a cut connection does. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
/* cmocka needs those above. */
#include <cmocka.h>

#include "base/wire.h"
#include "fake_services.h"

#define UUID "6f1d3b1c-52c8-4a3e-9c4e-6b0d5f3d2a10"

enum { MIB = 1 << 20, NAME_SIZE = 512 };

static const char *name_of(char text[NAME_SIZE], const char *before, const struct fake_blob *blob)
{
    (void)snprintf(text, NAME_SIZE, "%sblobs/%s/%zu", before, blob->hash, blob->size);
    return text;
}

/* --- Read --- */

static void read_range(struct fake_call *fake, const char *name, int64_t offset, int64_t limit)
{
    BYTESTREAM(ReadRequest) request = GOOGLE__BYTESTREAM__READ_REQUEST__INIT;
    request.resource_name = (char *)name;
    request.read_offset = offset;
    request.read_limit = limit;
    fake_run(fake, "ByteStream/Read", &request.base);
}

/* The call ended well with exactly these bytes, in messages that clients can take. */
static void assert_data(const struct fake_call *fake, const uint8_t *data, size_t size)
{
    size_t done = 0;
    assert_int_equal(fake->status.code, ERR_OK);
    for (size_t i = 0; i < fake->message_count; i++) {
        BYTESTREAM(ReadResponse) *response =
            fake_call_unpack(fake, i, &google__bytestream__read_response__descriptor);
        assert_true(response->data.len > 0 && response->data.len <= MIB);
        assert_true(response->data.len <= size - done);
        assert_memory_equal(response->data.data, data + done, response->data.len);
        done += response->data.len;
        google__bytestream__read_response__free_unpacked(response, NULL);
    }
    assert_int_equal(done, size);
}

static void test_read(void **state)
{
    (void)state;
    static const struct {
        int64_t offset, limit;
        size_t size; /* of what comes */
    } ranges[] = {
        {0, 0, 3 * MIB + 5},   {0, 1, 1},           {1, 0, 3 * MIB + 4},
        {MIB - 1, 2, 2},       {MIB, MIB, MIB},     {3 * MIB + 4, 0, 1},
        {3 * MIB + 5, 0, 0},   {3 * MIB + 5, 7, 0}, {5, INT64_MAX, 3 * MIB},
        {0, 3 * MIB, 3 * MIB},
    };
    char name[NAME_SIZE];
    struct fake_blob *blob = fake_blob_new(3 * MIB + 5);
    fake_store(FAKE_MAIN, blob);
    for (size_t i = 0; i < sizeof(ranges) / sizeof(ranges[0]); i++) {
        struct fake_call fake;
        read_range(&fake, name_of(name, "", blob), ranges[i].offset, ranges[i].limit);
        assert_data(&fake, blob->data + ranges[i].offset, ranges[i].size);
        fake_call_fini(&fake);
    }
}

static void test_read_small_and_empty(void **state)
{
    (void)state;
    char name[NAME_SIZE];
    for (size_t size = 0; size < 200; size += 66) {
        struct fake_blob *blob = fake_blob_new(size);
        struct fake_call fake;
        if (size != 0)
            fake_store(FAKE_MAIN, blob);
        read_range(&fake, name_of(name, "", blob), 0, 0);
        assert_data(&fake, blob->data, size);
        assert_int_equal(fake.message_count, size == 0 ? 0 : 1);
        fake_call_fini(&fake);
    }
}

static void assert_read_fails(const char *name, int64_t offset, int64_t limit, enum err_code code)
{
    struct fake_call fake;
    read_range(&fake, name, offset, limit);
    fake_assert_failed(&fake, code, "");
}

static void test_read_refused(void **state)
{
    (void)state;
    char name[NAME_SIZE];
    struct fake_blob *blob = fake_blob_new(100);
    fake_store(FAKE_MAIN, blob);
    name_of(name, "", blob);
    assert_read_fails(name, -1, 0, ERR_OUT_OF_RANGE);
    assert_read_fails(name, 101, 0, ERR_OUT_OF_RANGE);
    assert_read_fails(name, INT64_MAX, 0, ERR_OUT_OF_RANGE);
    assert_read_fails(name, 0, -1, ERR_INVALID);
    assert_read_fails(name, 0, INT64_MIN, ERR_INVALID);
    assert_read_fails("blobs/zz/5", 0, 0, ERR_INVALID);
    assert_read_fails("", 0, 0, ERR_INVALID);
    assert_read_fails(name_of(name, "", fake_blob_new(100)), 0, 0, ERR_NOT_FOUND);
    assert_read_fails(name_of(name, "nowhere/", blob), 0, 0, ERR_NOT_FOUND);
    assert_read_fails(name_of(name, "small/", blob), 0, 0, ERR_NOT_FOUND);
    assert_read_fails(name_of(name, "index/", blob), 0, 0, ERR_UNIMPLEMENTED);
    assert_read_fails(name_of(name, "team/kernel/", blob), 0, 0, ERR_DENIED);
    /* The right hash with another size is another digest. */
    blob->size = 99;
    assert_read_fails(name_of(name, "", blob), 0, 0, ERR_NOT_FOUND);
}

/* --- Write --- */

/* A WriteRequest under construction. */
struct builder {
    uint8_t *bytes;
    size_t size;
};

static void add_bytes(struct builder *builder, unsigned field, const void *data, size_t size)
{
    builder->bytes = realloc(builder->bytes, builder->size + size + 32);
    assert_non_null(builder->bytes);
    builder->size += wire_put_varint(builder->bytes + builder->size, field << 3 | WIRE_BYTES);
    builder->size += wire_put_varint(builder->bytes + builder->size, size);
    if (size != 0)
        memcpy(builder->bytes + builder->size, data, size);
    builder->size += size;
}

static void add_number(struct builder *builder, unsigned field, uint64_t value)
{
    builder->bytes = realloc(builder->bytes, builder->size + 32);
    assert_non_null(builder->bytes);
    builder->size += wire_put_varint(builder->bytes + builder->size, field << 3 | WIRE_VARINT);
    builder->size += wire_put_varint(builder->bytes + builder->size, value);
}

static void begin_write(struct fake_call *fake)
{
    fake_call_init(fake, &fake_services, fake_method("ByteStream/Write"), &fake_listener, "");
    fake_call_start(fake, NULL);
}

static void send_built(struct fake_call *fake, struct builder *builder)
{
    fake_call_message(fake, builder->bytes, builder->size);
    free(builder->bytes);
    *builder = (struct builder){0};
}

static void send_part(struct fake_call *fake, const char *name, int64_t offset, const void *data,
                      size_t size, bool finish)
{
    struct builder builder = {0};
    if (name != NULL)
        add_bytes(&builder, 1, name, strlen(name));
    if (offset != 0)
        add_number(&builder, 2, (uint64_t)offset);
    if (finish)
        add_number(&builder, 3, 1);
    add_bytes(&builder, 10, data, size);
    send_built(fake, &builder);
}

static const char *upload_name(char text[NAME_SIZE], const struct fake_blob *blob)
{
    return name_of(text, "uploads/" UUID "/", blob);
}

static void assert_committed(const struct fake_call *fake, int64_t size)
{
    if (fake->status.code != ERR_OK)
        fail_msg("%s", fake->status.msg);
    assert_true(fake->ended);
    assert_int_equal(fake->message_count, 1);
    BYTESTREAM(WriteResponse) *response =
        fake_call_unpack(fake, 0, &google__bytestream__write_response__descriptor);
    assert_int_equal(response->committed_size, size);
    google__bytestream__write_response__free_unpacked(response, NULL);
}

static void test_write(void **state)
{
    (void)state;
    char name[NAME_SIZE];
    struct fake_call fake;
    struct fake_blob *blob = fake_blob_new(3 * MIB + 5);
    upload_name(name, blob);
    begin_write(&fake);
    for (size_t done = 0; done < blob->size; done += MIB) {
        size_t size = blob->size - done < MIB ? blob->size - done : MIB;
        assert_false(fake_has(FAKE_MAIN, blob));
        send_part(&fake, done % 2 == 0 ? name : NULL, (int64_t)done, blob->data + done, size,
                  done + size == blob->size);
        assert_false(fake.ended);
    }
    fake_call_half_close(&fake);
    assert_committed(&fake, (int64_t)blob->size);
    fake_call_fini(&fake);
    assert_true(fake_has(FAKE_MAIN, blob));

    read_range(&fake, name_of(name, "", blob), 0, 0);
    assert_data(&fake, blob->data, blob->size);
    fake_call_fini(&fake);
}

/* finish_write may come alone, and data may be missing from any message. */
static void test_write_finish_alone(void **state)
{
    (void)state;
    char name[NAME_SIZE];
    struct fake_call fake;
    struct fake_blob *blob = fake_blob_new(10);
    begin_write(&fake);
    send_part(&fake, upload_name(name, blob), 0, NULL, 0, false);
    send_part(&fake, NULL, 0, blob->data, 10, false);
    send_part(&fake, NULL, 10, NULL, 0, false);
    assert_false(fake_has(FAKE_MAIN, blob));
    send_part(&fake, name, 10, NULL, 0, true);
    fake_call_half_close(&fake);
    assert_committed(&fake, 10);
    fake_call_fini(&fake);
    assert_true(fake_has(FAKE_MAIN, blob));
}

static void test_write_of_what_is_there(void **state)
{
    (void)state;
    char name[NAME_SIZE];
    struct fake_call fake;
    struct fake_blob *blob = fake_blob_new(1000);
    fake_store(FAKE_MAIN, blob);
    begin_write(&fake);
    send_part(&fake, upload_name(name, blob), 0, blob->data, 10, false);
    assert_committed(&fake, 1000);
    fake_call_fini(&fake);

    struct fake_blob *empty = fake_blob_of("", 0);
    begin_write(&fake);
    send_part(&fake, upload_name(name, empty), 0, NULL, 0, true);
    assert_committed(&fake, 0);
    fake_call_fini(&fake);
}

/* Clients use one name for several uploads at once: each stands for itself. */
static void test_overlapping_writes(void **state)
{
    (void)state;
    char name[NAME_SIZE];
    struct fake_call first, second, third;
    struct fake_blob *blob = fake_blob_new(100);
    upload_name(name, blob);
    begin_write(&first);
    begin_write(&second);
    begin_write(&third);
    send_part(&first, name, 0, blob->data, 50, false);
    send_part(&second, name, 0, blob->data, 60, false);
    send_part(&third, name, 0, "wrong", 5, false);
    send_part(&second, name, 60, blob->data + 60, 40, true);
    fake_call_half_close(&second);
    assert_committed(&second, 100);
    fake_call_cancel(&third);
    send_part(&first, name, 50, blob->data + 50, 50, true);
    fake_call_half_close(&first);
    assert_committed(&first, 100);
    fake_call_fini(&first);
    fake_call_fini(&second);
    fake_call_fini(&third);
    assert_true(fake_has(FAKE_MAIN, blob));
}

static void test_write_without_finish(void **state)
{
    (void)state;
    char name[NAME_SIZE];
    struct fake_call fake;
    struct fake_blob *blob = fake_blob_new(100);
    begin_write(&fake);
    fake_call_half_close(&fake);
    fake_assert_failed(&fake, ERR_INVALID, "finish_write");
    begin_write(&fake);
    send_part(&fake, upload_name(name, blob), 0, blob->data, 50, false);
    fake_call_half_close(&fake);
    fake_assert_failed(&fake, ERR_INVALID, "finish_write");
    begin_write(&fake);
    send_part(&fake, name, 0, blob->data, 100, false);
    fake_call_half_close(&fake);
    fake_assert_failed(&fake, ERR_INVALID, "finish_write");
    begin_write(&fake);
    send_part(&fake, name, 0, blob->data, 99, true);
    fake_assert_failed(&fake, ERR_INVALID, "99 of 100");
    assert_false(fake_has(FAKE_MAIN, blob));
}

static void test_cancelled_write(void **state)
{
    (void)state;
    char name[NAME_SIZE];
    struct fake_call fake;
    struct fake_blob *blob = fake_blob_new(100);
    struct cas_stats before, after;
    struct cas *cas = instances_at(fake_services.instances, FAKE_MAIN)->cas;
    cas_stats(cas, &before);
    /* While the client is waited for, ... */
    begin_write(&fake);
    send_part(&fake, upload_name(name, blob), 0, blob->data, 50, false);
    fake_call_cancel(&fake);
    fake_call_fini(&fake);
    /* ... before anything came, ... */
    begin_write(&fake);
    fake_call_cancel(&fake);
    fake_call_fini(&fake);
    /* ... and while the last message waits for a worker. */
    begin_write(&fake);
    fake.cancel_offload = true;
    send_part(&fake, name, 0, blob->data, 100, true);
    assert_true(fake.ended);
    fake_call_fini(&fake);
    assert_false(fake_has(FAKE_MAIN, blob));
    cas_stats(cas, &after);
    assert_int_equal(after.blobs, before.blobs);
    assert_int_equal(after.bytes, before.bytes);
}

static void test_write_refused(void **state)
{
    (void)state;
    char name[NAME_SIZE], other[NAME_SIZE];
    struct fake_call fake;
    struct fake_blob *blob = fake_blob_new(100);
    upload_name(name, blob);

    begin_write(&fake);
    send_part(&fake, NULL, 0, blob->data, 50, false);
    fake_assert_failed(&fake, ERR_INVALID, "resource name is empty");

    begin_write(&fake);
    send_part(&fake, name_of(other, "", blob), 0, blob->data, 50, false);
    fake_assert_failed(&fake, ERR_INVALID, "uploads/UUID");

    begin_write(&fake);
    send_part(&fake, name, 50, blob->data + 50, 50, true);
    fake_assert_failed(&fake, ERR_INVALID, "not resumed");

    begin_write(&fake);
    send_part(&fake, name, -1, blob->data, 50, false);
    fake_assert_failed(&fake, ERR_INVALID, "write_offset is -1");

    begin_write(&fake);
    send_part(&fake, name, 0, blob->data, 50, false);
    send_part(&fake, name, 0, blob->data, 50, false);
    fake_assert_failed(&fake, ERR_INVALID, "write_offset is 0 after 50");

    begin_write(&fake);
    send_part(&fake, name, 0, blob->data, 50, false);
    send_part(&fake, name_of(other, "uploads/other/", blob), 50, blob->data + 50, 50, true);
    fake_assert_failed(&fake, ERR_INVALID, "first message");

    begin_write(&fake);
    send_part(&fake, name, 0, blob->data, 100, false);
    send_part(&fake, name, 100, "x", 1, false);
    fake_assert_failed(&fake, ERR_INVALID, "more data");

    uint8_t wrong[100] = {0};
    begin_write(&fake);
    send_part(&fake, name, 0, wrong, 100, true);
    fake_assert_failed(&fake, ERR_INVALID, "");

    begin_write(&fake);
    fake_call_message(&fake, (const uint8_t *)"\x52\x7f", 2);
    fake_assert_failed(&fake, ERR_INVALID, "malformed");

    assert_false(fake_has(FAKE_MAIN, blob));
}

static void test_message_after_finish(void **state)
{
    (void)state;
    char name[NAME_SIZE];
    struct fake_call fake;
    struct fake_blob *blob = fake_blob_new(100);
    begin_write(&fake);
    send_part(&fake, upload_name(name, blob), 0, blob->data, 100, true);
    send_part(&fake, name, 100, NULL, 0, false);
    fake_assert_failed(&fake, ERR_INVALID, "after the one with finish_write");
}

static void test_write_to_others(void **state)
{
    (void)state;
    char name[NAME_SIZE];
    struct fake_call fake;
    struct fake_blob *blob = fake_blob_new(2 * MIB);
    begin_write(&fake);
    send_part(&fake, name_of(name, "nowhere/uploads/u/", blob), 0, blob->data, 5, false);
    fake_assert_failed(&fake, ERR_NOT_FOUND, "\"nowhere\"");
    begin_write(&fake);
    send_part(&fake, name_of(name, "index/uploads/u/", blob), 0, blob->data, 5, false);
    fake_assert_failed(&fake, ERR_UNIMPLEMENTED, "index only");
    begin_write(&fake);
    send_part(&fake, name_of(name, "team/kernel/uploads/u/", blob), 0, blob->data, 5, false);
    fake_assert_failed(&fake, ERR_DENIED, "\"team/kernel\"");

    struct fake_blob *kept = fake_blob_new(1000);
    fake_store(FAKE_SMALL, kept);
    begin_write(&fake);
    send_part(&fake, name_of(name, "small/uploads/u/", blob), 0, blob->data, 5, false);
    fake_assert_failed(&fake, ERR_EXHAUSTED, "");
    assert_true(fake_has(FAKE_SMALL, kept));
}

/* Any order of fields, unknown ones between them, the last of several, runs cut anywhere. */
static void test_fields_and_runs(void **state)
{
    (void)state;
    char name[NAME_SIZE];
    uint32_t random = 7;
    for (size_t round = 0; round < 200; round++) {
        struct fake_call fake;
        struct builder builder = {0};
        struct fake_blob *blob = fake_blob_new(40 + round);
        upload_name(name, blob);
        if (round % 2 == 0)
            add_bytes(&builder, 10, "old data", 8);
        add_bytes(&builder, 10, blob->data, blob->size);
        add_number(&builder, 77, UINT64_MAX);
        add_number(&builder, 3, round % 3 + 1);
        add_bytes(&builder, 78, "unknown", 7);
        add_number(&builder, 10, 5); /* known number, other type */
        if (round % 5 == 0)
            add_bytes(&builder, 1, "old name", 8);
        add_bytes(&builder, 1, name, strlen(name));
        add_number(&builder, 2, 0);

        size_t cuts[8];
        size_t cut = 0;
        for (size_t i = 0; i < 8; i++) {
            random = random * 1664525 + 1013904223;
            cut += (random >> 16) % (builder.size / 4);
            cuts[i] = cut < builder.size ? cut : builder.size;
            cut = cuts[i];
        }
        begin_write(&fake);
        fake_call_message_in_runs(&fake, builder.bytes, builder.size, cuts, round % 9);
        free(builder.bytes);
        fake_call_half_close(&fake);
        assert_committed(&fake, (int64_t)blob->size);
        fake_call_fini(&fake);
        assert_true(fake_has(FAKE_MAIN, blob));
    }
}

/* The same message with a run for each byte, and with empty runs around them. */
static void test_runs_of_one_byte(void **state)
{
    (void)state;
    char name[NAME_SIZE];
    size_t cuts[1024];
    struct fake_call fake;
    struct builder builder = {0};
    struct fake_blob *blob = fake_blob_new(300);
    add_bytes(&builder, 1, upload_name(name, blob), strlen(upload_name(name, blob)));
    add_bytes(&builder, 10, blob->data, blob->size);
    add_number(&builder, 3, 1);
    assert_true(2 * builder.size < 1024);
    for (size_t i = 0; i < 2 * builder.size; i++)
        cuts[i] = i / 2;
    begin_write(&fake);
    fake_call_message_in_runs(&fake, builder.bytes, builder.size, cuts, 2 * builder.size);
    free(builder.bytes);
    fake_call_half_close(&fake);
    assert_committed(&fake, 300);
    fake_call_fini(&fake);
}

/* Messages with bytes changed or cut off: refused, or waited for more, and never a wrong blob. */
static void test_mutated_messages(void **state)
{
    (void)state;
    char name[NAME_SIZE];
    uint32_t random = 3;
    for (size_t round = 0; round < 5000; round++) {
        struct fake_call fake;
        struct builder builder = {0};
        struct fake_blob *blob = fake_blob_new(64);
        add_bytes(&builder, 1, upload_name(name, blob), strlen(upload_name(name, blob)));
        add_number(&builder, 2, 0);
        add_number(&builder, 3, 1);
        add_bytes(&builder, 10, blob->data, blob->size);
        for (size_t change = 0; change <= round % 3; change++) {
            random = random * 1664525 + 1013904223;
            builder.bytes[(random >> 16) % builder.size] = (uint8_t)(random >> 8);
        }
        size_t size = round % 4 == 0 ? (random >> 12) % builder.size : builder.size;
        size_t cut = (random >> 10) % (size + 1);
        begin_write(&fake);
        fake_call_message_in_runs(&fake, builder.bytes, size, &cut, 1);
        free(builder.bytes);
        if (!fake.ended)
            fake_call_half_close(&fake);
        if (fake.status.code == ERR_OK)
            assert_true(fake_has(FAKE_MAIN, blob));
        else
            assert_true(fake.status.msg[0] != '\0');
        fake_call_fini(&fake);
    }
}

/* --- QueryWriteStatus --- */

static void query(struct fake_call *fake, const char *name)
{
    BYTESTREAM(QueryWriteStatusRequest) request =
        GOOGLE__BYTESTREAM__QUERY_WRITE_STATUS_REQUEST__INIT;
    request.resource_name = (char *)name;
    fake_run(fake, "ByteStream/QueryWriteStatus", &request.base);
}

static void assert_status(const struct fake_blob *blob, int64_t committed_size, bool complete)
{
    char name[NAME_SIZE];
    struct fake_call fake;
    query(&fake, upload_name(name, blob));
    assert_int_equal(fake.status.code, ERR_OK);
    BYTESTREAM(QueryWriteStatusResponse) *response =
        fake_call_unpack(&fake, 0, &google__bytestream__query_write_status_response__descriptor);
    assert_int_equal(response->committed_size, committed_size);
    assert_int_equal(response->complete, complete);
    google__bytestream__query_write_status_response__free_unpacked(response, NULL);
    fake_call_fini(&fake);
}

static void test_query_write_status(void **state)
{
    (void)state;
    char name[NAME_SIZE];
    struct fake_call fake;
    struct fake_blob *blob = fake_blob_new(100);
    assert_status(blob, 0, false);
    begin_write(&fake);
    send_part(&fake, upload_name(name, blob), 0, blob->data, 50, false);
    assert_status(blob, 0, false);
    send_part(&fake, name, 50, blob->data + 50, 50, true);
    fake_call_half_close(&fake);
    assert_status(blob, 100, true);
    fake_call_fini(&fake);

    query(&fake, name_of(name, "", blob));
    fake_assert_failed(&fake, ERR_INVALID, "uploads/UUID");
    query(&fake, name_of(name, "nowhere/uploads/u/", blob));
    fake_assert_failed(&fake, ERR_NOT_FOUND, "\"nowhere\"");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_read),
        cmocka_unit_test(test_read_small_and_empty),
        cmocka_unit_test(test_read_refused),
        cmocka_unit_test(test_write),
        cmocka_unit_test(test_write_finish_alone),
        cmocka_unit_test(test_write_of_what_is_there),
        cmocka_unit_test(test_overlapping_writes),
        cmocka_unit_test(test_write_without_finish),
        cmocka_unit_test(test_cancelled_write),
        cmocka_unit_test(test_write_refused),
        cmocka_unit_test(test_message_after_finish),
        cmocka_unit_test(test_write_to_others),
        cmocka_unit_test(test_fields_and_runs),
        cmocka_unit_test(test_runs_of_one_byte),
        cmocka_unit_test(test_mutated_messages),
        cmocka_unit_test(test_query_write_status),
    };
    return cmocka_run_group_tests(tests, fake_services_set_up, fake_services_tear_down);
}
