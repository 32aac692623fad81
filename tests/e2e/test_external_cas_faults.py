# SPDX-License-Identifier: Apache-2.0
"""An external CAS that is gone, slow or says no: what clients are told, and how it is mended."""

import contextlib

import grpc
import pytest

from lib.api import reapi
from lib.client import fails, is_answered
from lib.content import FUNCTIONS, Tree, digest_of, name_of
from lib.external_cas import (
    BATCH_READ,
    CAPABILITIES,
    FIND,
    READ,
    ExternalCas,
    Hold,
    alters,
    index_only,
    refuses,
)
from lib.metrics import figures
from lib.ports import free_port
from lib.server import wait_until

FETCH_BLOB = "/build.bazel.remote.asset.v1.Fetch/FetchBlob"


def push_blobs(client, cas, count=1):
    """Pushes a blob as urn:0, another as urn:1, ...; returns their digests."""
    digests = [cas.put(b"content %d" % number) for number in range(count)]
    for number, digest in enumerate(digests):
        client.push_blob(f"urn:{number}", digest)
    return digests


def wait_for_answer(call, *arguments):
    wait_until(lambda: is_answered(call, *arguments), "it is UNAVAILABLE for ever")


def wait_until_lost(server, client):
    """Fetches until it is known that the CAS does not answer."""

    def is_lost():
        assert not is_answered(client.fetch_blob, "urn:0")
        return "event=cas-lost" in server.log()

    wait_until(is_lost, "the CAS is not lost")


@contextlib.contextmanager
def stopped(cas):
    cas.stop()
    yield
    cas.start()


AWAY = {
    "stopped": stopped,
    "silent": ExternalCas.silent,
    "silent calls": lambda cas: cas.fault(Hold()),
}


# Gone


@pytest.mark.parametrize("where", ["tcp", "unix"])
@pytest.mark.parametrize("away", AWAY.values(), ids=AWAY.keys())
def test_a_cas_that_goes_and_comes_back(external_cas, paired, where, away):
    cas = external_cas(f"127.0.0.1:{free_port()}" if where == "tcp" else None)
    server = paired(cas, timeout="1s")
    client = server.client()
    digests = push_blobs(client, cas, 4)
    with away(cas):
        calls = [client.begin_fetch_blob(f"urn:{number}") for number in range(4)]
        for call in calls:
            with fails("UNAVAILABLE", cas.url.rpartition("/")[2]):
                call.result()
        wait_until_lost(server, client)
        # From now on only a try now and then reaches it, which others do not wait for.
        cas.take()
        for _ in range(50):
            with fails("UNAVAILABLE", cas.url.rpartition("/")[2]):
                client.fetch_blob("urn:0")
            with fails("UNAVAILABLE"):
                client.push_blob("urn:0", digests[0])
        assert len(cas.take()) <= 10
    wait_for_answer(client.fetch_blob, "urn:0")
    for number, digest in enumerate(digests):
        assert client.fetch_blob(f"urn:{number}").blob_digest == digest
    push_blobs(client, cas)
    lines = server.log().splitlines()
    (lost,) = [line for line in lines if "event=cas-lost" in line]
    assert "level=warning" in lost and 'instance=""' in lost and cas.url in lost
    assert "reason=" in lost
    (back,) = [line for line in lines if "event=cas-back" in line]
    assert "level=info" in back and 'instance=""' in back


def test_that_it_is_lost_is_told_once(paired, cas):
    server = paired(cas)
    client = server.client()
    (digest,) = push_blobs(client, cas)
    cas.stop()
    wait_until_lost(server, client)
    before = server.log().count("event=call-failed")
    tries = 0
    for call in (lambda: client.fetch_blob("urn:0"), lambda: client.push_blob("urn:0", digest)):
        refused = 0
        while refused < 20:
            with fails("UNAVAILABLE") as info:
                call()
            is_refused = "does not answer, and is" in info.value.details()
            refused += is_refused
            tries += not is_refused
    # What only meets what is known is not worth a line; a try may say something new.
    log = server.log()
    assert log.count("event=call-failed") == before + tries, log


def test_a_cas_that_is_not_there_yet(external_cas, paired):
    cas = external_cas()
    digest = cas.put(b"content")
    cas.stop()
    client = paired(cas).client()
    with fails("UNAVAILABLE"):
        client.push_blob("urn:a", digest)
    with fails("NOT_FOUND"):
        client.fetch_blob("urn:none")
    cas.start()
    wait_for_answer(client.push_blob, "urn:a", digest)
    assert client.fetch_blob("urn:a").blob_digest == digest


def test_what_is_trusted_is_answered_meanwhile(paired, cas):
    client = paired(cas, trust="10m").client()
    digests = push_blobs(client, cas, 2)
    cas.stop()
    for number, digest in enumerate(digests):
        assert client.fetch_blob(f"urn:{number}").blob_digest == digest


def test_all_is_answered_as_stored_if_told_so(paired, cas):
    server = paired(cas, on_unavailable="serve")
    client = server.client()
    (digest,) = push_blobs(client, cas)
    cas.remove(digest)
    with fails("NOT_FOUND"):
        client.fetch_blob("urn:0")
    cas.stop()
    for _ in range(10):
        assert client.fetch_blob("urn:0").blob_digest == digest
        with fails("UNAVAILABLE"):
            client.push_blob("urn:1", digest)
        with fails("NOT_FOUND"):
            client.fetch_blob("urn:1")
    (lost,) = [line for line in server.log().splitlines() if "event=cas-lost" in line]
    assert "as stored" in lost
    cas.start()

    def is_checked():
        try:
            client.fetch_blob("urn:0")
        except grpc.RpcError as error:
            assert error.code() == grpc.StatusCode.NOT_FOUND
            return True
        return False

    wait_until(is_checked, "it is answered as stored for ever")


def test_a_cas_is_stopped_and_started_under_load(paired, cas):
    """Checks are cut off in the middle; the next ones go on well."""
    server = paired(cas)
    client = server.client()
    tree = Tree({f"d{n}": {"file": b"%d" % n} for n in range(50)})
    cas.put_tree(tree)
    client.push_directory("urn:tree", tree.root)
    digests = push_blobs(client, cas, 20)
    for _ in range(3):
        with cas.fault(Hold(20)) as hold:
            calls = [client.begin_fetch_blob(f"urn:{number}") for number in range(20)]
            hold.wait_for(20)
            cas.stop()
        for call in calls:
            with fails("UNAVAILABLE"):
                call.result()
        cas.start()
        wait_for_answer(client.fetch_directory, "urn:tree")
    for number, digest in enumerate(digests):
        assert client.fetch_blob(f"urn:{number}").blob_digest == digest


# Says no, or nonsense


STATUSES = [
    "PERMISSION_DENIED",
    "UNAUTHENTICATED",
    "RESOURCE_EXHAUSTED",
    "INTERNAL",
    "UNIMPLEMENTED",
    "NOT_FOUND",
    "INVALID_ARGUMENT",
    "CANCELLED",
    "DEADLINE_EXCEEDED",
]


def test_no_status_of_the_cas_is_a_miss(assetd, folder, external_cas):
    """Each for an instance of its own, as each stops asking a CAS that fails."""
    cas = external_cas(instances=STATUSES)
    server = assetd(instances=[index_only(folder, name, cas) for name in STATUSES])
    tree = Tree({"file": b"content"})
    cas.put_tree(tree)
    for method in (FIND, BATCH_READ):
        for name in STATUSES:
            server.client(instance=name).push_directory(f"urn:{method}", tree.root)
    server.restart()

    def fault(call, context, _honest):
        context.abort(getattr(grpc.StatusCode, call.instance), f"the reason of {call.instance}")

    for method in (BATCH_READ, FIND):
        for name in STATUSES:
            client = server.client(instance=name)
            with cas.fault(fault, method):
                with fails("UNAVAILABLE", f"the reason of {name}"):
                    client.fetch_directory(f"urn:{FIND}")
                with fails("UNAVAILABLE", f"the reason of {name}"):
                    client.push_directory(f"urn:{BATCH_READ}", tree.root)
            wait_for_answer(client.fetch_directory, f"urn:{FIND}")


def test_an_instance_that_the_cas_does_not_know(paired, cas):
    cas.put(b"content")
    client = paired(cas, instance_name="no/such").client()
    with fails("UNAVAILABLE", "no instance 'no/such' here"):
        client.push_blob("urn:a", digest_of(b"content"))
    assert {call.instance for call in cas.take()} == {"no/such"}


LARGE = {f"{n:0250}": b"x" for n in range(5000)}
SMALL = {"sub": {"file": b"x"}}


def set_status(answer):
    for one in answer.responses:
        one.status.code = grpc.StatusCode.INTERNAL.value[0]
        one.status.message = "the disk is broken"


def swell(answer):
    answer.responses[0].status.message = "x" * (9 << 20)


def answer_others(answer):
    for one in answer.responses:
        one.digest.CopyFrom(digest_of(b"others"))


def name_others(answer):
    answer.missing_blob_digests.append(digest_of(b"others"))


def garble(answer):
    answer.missing_blob_digests.add(hash="zz", size_bytes=-5)


def fail_half_way(_call, context, honest):
    yield honest()[0]
    context.abort(grpc.StatusCode.INTERNAL, "the disk is broken")


BAD_ANSWERS = {
    "an error for one blob": (BATCH_READ, SMALL, alters(set_status)),
    "too large": (BATCH_READ, SMALL, alters(swell)),
    "one is left out": (BATCH_READ, SMALL, alters(lambda answer: answer.responses.pop())),
    "of other blobs": (BATCH_READ, SMALL, alters(answer_others)),
    "others are missing": (FIND, SMALL, alters(name_others)),
    "a bad digest": (FIND, SMALL, alters(garble)),
    "half a stream": (READ, LARGE, fail_half_way),
}


@pytest.mark.parametrize("method, content, fault", BAD_ANSWERS.values(), ids=BAD_ANSWERS.keys())
def test_an_answer_that_is_none(paired, cas, method, content, fault):
    """Nothing was learned of the content from it."""
    server = paired(cas)
    client = server.client()
    tree = Tree(content)
    cas.put_tree(tree)
    with cas.fault(fault, method), fails("UNAVAILABLE"):
        client.push_directory("urn:a", tree.root)
    client.push_directory("urn:a", tree.root)
    server.restart()
    client = server.client()
    with cas.fault(fault, method), fails("UNAVAILABLE"):
        client.fetch_directory("urn:a")
    assert client.fetch_directory("urn:a").root_directory_digest == tree.root


def test_a_stream_that_does_not_end_well_is_not_whole(paired, cas):
    """Too short, too long."""
    client = paired(cas).client()
    tree = Tree(LARGE)
    cas.put_tree(tree)
    for change in (lambda answer: answer.pop(), lambda answer: answer.append(answer[-1])):
        with cas.fault(alters(change), READ):
            with pytest.raises(grpc.RpcError) as info:
                client.push_directory("urn:a", tree.root)
            assert info.value.code() in (
                grpc.StatusCode.UNAVAILABLE,
                grpc.StatusCode.FAILED_PRECONDITION,
            )
    client.push_directory("urn:a", tree.root)


# Who waits no longer


def ended(port, *statuses):
    found = figures(port)
    return sum(
        found.get(("assetd_calls_total", f'method="{FETCH_BLOB}",status="{status.value[0]}"'), 0)
        for status in statuses
    )


@pytest.mark.parametrize("end", ["deadline", "cancel"])
def test_a_client_that_waits_no_longer(paired, cas, end):
    port = free_port()
    server = paired(cas, timeout="10m", config={"metrics": {"address": f"127.0.0.1:{port}"}})
    client = server.client()
    digests = push_blobs(client, cas, 2)
    with cas.fault(Hold(1), FIND) as hold:
        call = client.begin_fetch_blob("urn:0", timeout=1 if end == "deadline" else 60)
        hold.wait_for(1)
        patient = client.begin_fetch_blob("urn:0")
        if end == "cancel":
            call.cancel()
        statuses = (grpc.StatusCode.CANCELLED, grpc.StatusCode.DEADLINE_EXCEEDED)
        wait_until(lambda: ended(port, *statuses) == 1, "the server waits on")
        assert client.fetch_blob("urn:1").blob_digest == digests[1]
    # Whoever shares the check goes on.
    assert patient.result().blob_digest == digests[0]


def test_who_leaves_the_queue_costs_no_call(paired, cas):
    """No more than so many checks are made at once; the others wait."""
    port = free_port()
    server = paired(cas, timeout="10m", config={"metrics": {"address": f"127.0.0.1:{port}"}})
    client = server.client()
    digests = push_blobs(client, cas, 80)
    cas.take()
    with cas.fault(Hold(), FIND) as hold:
        calls = [client.begin_fetch_blob(f"urn:{number}") for number in range(80)]
        hold.wait_for(32)
        client.health()
        for call in calls[1::2]:
            call.cancel()
        wait_until(lambda: ended(port, grpc.StatusCode.CANCELLED) == 40, "the server waits on")
        begun = {name for call in cas.take(FIND) for name in call.blobs}
        assert len(begun) == hold.held == 32
    for call, digest in zip(calls[::2], digests[::2]):
        assert call.result().blob_digest == digest
    asked = {name for call in cas.take(FIND) for name in call.blobs}
    assert asked == {name_of(digest) for digest in digests[::2]} - begun


def test_the_server_is_stopped_while_checks_hang(paired, cas):
    server = paired(cas, timeout="10m", config={"shutdown-grace": "0s"})
    client = server.client()
    push_blobs(client, cas, 50)
    with cas.fault(Hold()) as hold:
        calls = [client.begin_fetch_blob(f"urn:{number}") for number in range(50)]
        calls.append(client.begin_push_blob("urn:0", digest_of(b"content 0")))
        hold.wait_for(10)
        server.signal()
        assert server.wait() == 0
        for call in calls:
            assert call.exception().code() in (
                grpc.StatusCode.UNAVAILABLE,
                grpc.StatusCode.CANCELLED,
            )


def test_checks_that_hang_are_answered_within_the_grace(paired, cas):
    server = paired(cas, timeout="10m", config={"shutdown-grace": "10m"})
    client = server.client()
    (digest,) = push_blobs(client, cas)
    with cas.fault(Hold()) as hold:
        call = client.begin_fetch_blob("urn:0")
        hold.wait_for(1)
        server.signal()
        wait_until(lambda: "event=stopping" in server.log(), server.log)
    assert call.result().blob_digest == digest
    assert server.wait() == 0


# Capabilities


def test_capabilities_are_those_of_the_cas_for_the_functions_of_the_instance(
    external_cas, assetd, folder
):
    cas = external_cas(functions=["sha1", "sha512", "sha256"])
    instance = index_only(folder, cas=cas)
    instance["digest-functions"] = ["sha256", "sha384", "sha512"]

    def change(answer):
        answer.cache_capabilities.max_batch_total_size_bytes = 12345
        answer.cache_capabilities.supported_compressors.append(reapi.Compressor.ZSTD)
        answer.high_api_version.minor = 7

    with cas.fault(alters(change), CAPABILITIES):
        found = assetd(instances=[instance]).client().capabilities()
    assert sorted(found.cache_capabilities.digest_functions) == [
        reapi.DigestFunction.SHA256,
        reapi.DigestFunction.SHA512,
    ]
    assert found.cache_capabilities.max_batch_total_size_bytes == 12345
    assert list(found.cache_capabilities.supported_compressors) == [reapi.Compressor.ZSTD]
    assert found.high_api_version.minor == 7


def test_capabilities_are_asked_for_once_and_kept_while_the_cas_is_away(paired, cas):
    server = paired(cas)
    client = server.client()
    found = client.capabilities()
    for _ in range(5):
        assert client.capabilities() == found
    assert cas.take_names(CAPABILITIES) == [CAPABILITIES]
    cas.stop()
    assert client.capabilities() == found
    server.restart()
    client = server.client()
    with fails("UNAVAILABLE", cas.url):
        client.capabilities()
    cas.start()
    wait_for_answer(client.capabilities)
    assert client.capabilities() == found


def test_concurrent_requests_for_capabilities_share_one_call(paired, cas):
    request = reapi.GetCapabilitiesRequest()
    with cas.fault(Hold(), CAPABILITIES) as hold:
        client = paired(cas).client()
        calls = [client._capabilities.GetCapabilities.future(request) for _ in range(20)]
        hold.wait_for(1)
        client.health()
    assert all(call.result().cache_capabilities.digest_functions for call in calls)
    assert cas.take_names(CAPABILITIES) == [CAPABILITIES]


def test_digest_functions_that_are_not_the_same(external_cas, assetd, folder):
    """The operator has to know, and nobody is told that it is fine."""
    cas = external_cas(functions=["sha256"])
    sha1, both = index_only(folder, "sha1", cas), index_only(folder, "both", cas)
    for instance in (sha1, both):
        instance["cas"]["instance-name"] = ""
    sha1["digest-functions"], both["digest-functions"] = ["sha1"], ["sha1", "sha256"]
    server = assetd(instances=[sha1, both])
    with fails("FAILED_PRECONDITION", "sha256.* sha1"):
        server.client(instance="sha1").capabilities()
    client = server.client(instance="both")
    functions = client.capabilities().cache_capabilities.digest_functions
    assert list(functions) == [reapi.DigestFunction.SHA256]
    push_blobs(client, cas)
    with fails("UNAVAILABLE", "digest function"):
        client.push_blob("urn:a", digest_of(b"content", "sha1"))


def test_each_digest_function(external_cas, assetd, folder):
    """Each is told from the other, all the way."""
    cas = external_cas(functions=list(FUNCTIONS))
    instance = index_only(folder, cas=cas)
    instance["digest-functions"] = list(FUNCTIONS)
    client = assetd(instances=[instance]).client()
    for name in FUNCTIONS:
        tree = Tree({"sub": {"file": name.encode()}, "empty": b""}, name)
        cas.put_tree(tree)
        client.push_directory(f"urn:{name}", tree.root)
        chosen = {"digest_function": FUNCTIONS[name]}
        assert client.fetch_directory(f"urn:{name}", **chosen).root_directory_digest == tree.root
        cas.remove(tree.digest(name.encode()))
        with fails("NOT_FOUND", "whole"):
            client.fetch_directory(f"urn:{name}", **chosen)


def test_capabilities_while_all_is_answered_as_stored(paired, cas):
    """An index by itself has some too."""
    cas.stop()
    client = paired(cas, on_unavailable="serve").client()
    found = client.capabilities()
    assert list(found.cache_capabilities.digest_functions) == [reapi.DigestFunction.SHA256]


def test_a_cas_that_tells_no_capabilities(paired, cas):
    """Then they are the instance's own."""
    with cas.fault(refuses("UNIMPLEMENTED", "no such method"), CAPABILITIES):
        client = paired(cas).client()
        found = client.capabilities()
    assert list(found.cache_capabilities.digest_functions) == [reapi.DigestFunction.SHA256]
    push_blobs(client, cas)


# Figures


def test_metrics(assetd, folder, cas):
    port = free_port()
    server = assetd(
        instances=[index_only(folder, cas=cas, trust="10m"), index_only(folder, "other")],
        metrics={"address": f"127.0.0.1:{port}"},
    )
    client = server.client()

    def external():
        return {
            name.removeprefix("assetd_external_"): value
            for (name, labels), value in figures(port).items()
            if name.startswith("assetd_external_") and labels == 'instance=""'
        }

    push_blobs(client, cas, 2)
    # It was asked for its capabilities too.
    assert external() == {
        "checks_remembered_total": 0,
        "checks_whole_total": 2,
        "checks_missing_total": 0,
        "checks_failed_total": 0,
        "calls_total": 3,
        "up": 1,
    }
    client.fetch_blob("urn:0")
    client.fetch_blob("urn:1")
    with fails("FAILED_PRECONDITION"):
        client.push_blob("urn:2", digest_of(b"absent"))
    assert external() == {
        "checks_remembered_total": 2,
        "checks_whole_total": 2,
        "checks_missing_total": 1,
        "checks_failed_total": 0,
        "calls_total": 4,
        "up": 1,
    }
    cas.stop()
    wait_until(
        lambda: not is_answered(client.push_blob, "urn:0", digest_of(b"content 0"))
        and external()["up"] == 0,
        "it is up for ever",
    )
    assert external()["checks_failed_total"] >= 3
    cas.start()
    wait_for_answer(client.push_blob, "urn:0", digest_of(b"content 0"))
    assert external()["up"] == 1
    assert ("assetd_external_up", 'instance="other"') not in figures(port)
