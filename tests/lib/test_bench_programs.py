# SPDX-License-Identifier: Apache-2.0
"""The benchmark's own programs find wrong answers, wait as they say, and count all CPU time."""

import concurrent.futures
import os
import resource
import subprocess
import sys

import grpc
import pytest

from bench import checks
from bench.contestants.ours import Empty
from bench.options import BUILD, GIB, MIB
from bench.parts import cas
from bench.rounds import Measure, run_load, run_tool
from lib.api import asset, reapi
from lib.content import digest_of

NOT_FOUND = 5
BATCH = cas.BATCH
BASE = [checks.blob_of_base(number) for number in range(BATCH)]
DIGESTS = [digest_of(blob) for blob in BASE]
# Of load(1), so that it reads these blobs, in their order.
KEYS = {"base": BATCH}


@pytest.fixture(scope="module", autouse=True)
def built():
    assert (BUILD / "bench" / "load").exists(), "`make bench-programs` first"


@pytest.fixture
def empty(folder):
    """Answers zeros to everything, in the right number."""
    contestant = Empty(folder / "empty").start()
    yield contestant
    contestant.kill()


class Peer(grpc.GenericRpcHandler):
    """A server that gives one ANSWER to each call, and keeps the requests."""

    def __init__(self):
        self.answer = b""
        self.requests = []
        self.server = grpc.server(concurrent.futures.ThreadPoolExecutor(2), handlers=[self])
        self.address = f"127.0.0.1:{self.server.add_insecure_port('127.0.0.1:0')}"

    def service(self, _):
        return grpc.unary_unary_rpc_method_handler(self.take)

    def take(self, request, _):
        self.requests.append(request)
        return self.answer

    def load(self, operation, answer=None, **keys):
        if answer is not None:
            self.answer = answer.SerializeToString()
        pairs = [f"{key}={value}" for key, value in (KEYS | keys).items()]
        return run_tool("load", self.address, operation, *pairs)


@pytest.fixture
def peer():
    peer = Peer()
    peer.server.start()
    yield peer
    peer.server.stop(None).wait()


# --- bytes and statuses ---


@pytest.mark.parametrize("operation", ["read", "update", "fetch", "fetch-asset"])
def test_zeros_are_not_the_bytes_that_were_wanted(empty, operation):
    assert run_load(empty, operation, check="size", size=MIB)["calls"] == 1
    with pytest.raises(RuntimeError, match="a wrong answer, among bytes"):
        run_load(empty, operation, check="bytes", size=MIB)


def test_one_other_byte_is_found(peer):
    answer = read_answer()
    peer.load("read", answer, check="size")
    answer.responses[BATCH - 1].data = b"?" + BASE[-1][1:]
    with pytest.raises(RuntimeError, match="a wrong answer, among bytes"):
        peer.load("read", answer, check="bytes")


@pytest.mark.parametrize("check", ["bytes", "size", "enough", "status"])
def test_another_status_is_a_failure(empty, check):
    with pytest.raises(RuntimeError, match="status 0, not 5"):
        run_load(empty, "find", check=check, status=NOT_FOUND)
    assert run_load(empty, "miss-asset", check=check, status=NOT_FOUND)["calls"] == 1
    with pytest.raises(RuntimeError, match="status 5, not 0: no asset is known"):
        run_load(empty, "miss-asset", check=check)


@pytest.mark.parametrize("check", ["size", "enough", "status"])
def test_a_hit_is_no_miss(empty, check):
    with pytest.raises(RuntimeError, match="status 0, not 5"):
        run_load(empty, "fetch-asset", check=check, status=NOT_FOUND)


def test_a_client_of_its_own_sees_that_zeros_are_no_answer(empty):
    with pytest.raises(RuntimeError, match="answers wrongly: missing"):
        checks.check_cas(empty)


# --- what other servers may answer, and what not ---


def read_answer():
    responses = [
        reapi.BatchReadBlobsResponse.Response(digest=digest, data=blob, status={})
        for digest, blob in zip(DIGESTS, BASE)
    ]
    return reapi.BatchReadBlobsResponse(responses=responses)


def update_answer():
    responses = [
        reapi.BatchUpdateBlobsResponse.Response(digest=digest, status={}) for digest in DIGESTS
    ]
    return reapi.BatchUpdateBlobsResponse(responses=responses)


BATCHES = {"read": read_answer, "fill": update_answer}


def leave_alone(_):
    pass


def turn_round(responses):
    responses.reverse()


def leave_statuses_out(responses):
    for response in responses:
        response.ClearField("status")


def say_that_all_is_well(responses):
    for response in responses:
        response.status.message = "OK"


def fail_one(responses):
    responses[7].status.code = NOT_FOUND


def leave_one_out(responses):
    del responses[7]


def say_one_twice(responses):
    responses[7].CopyFrom(responses[8])


def say_one_too_often(responses):
    responses.append(responses[8])


def name_another(responses):
    responses[7].digest.hash = "0" * 64


def change_bytes(responses):
    responses[7].data = responses[8].data


@pytest.mark.parametrize("operation", BATCHES)
@pytest.mark.parametrize(
    "change", [leave_alone, turn_round, leave_statuses_out, say_that_all_is_well]
)
def test_the_form_of_a_right_answer_is_free(peer, operation, change):
    answer = BATCHES[operation]()
    change(answer.responses)
    assert peer.load(operation, answer, check="enough")["calls"] == 1


@pytest.mark.parametrize(
    ("operation", "change"),
    [
        *((name, change) for name in BATCHES for change in (fail_one, leave_one_out)),
        *((name, change) for name in BATCHES for change in (say_one_twice, say_one_too_often)),
        *((name, name_another) for name in BATCHES),
        ("read", change_bytes),
    ],
)
def test_a_wrong_answer_of_any_form_is_found(peer, operation, change):
    answer = BATCHES[operation]()
    change(answer.responses)
    with pytest.raises(RuntimeError, match="a wrong answer, of"):
        peer.load(operation, answer, check="enough")


def test_a_hit_tells_of_the_content(peer):
    asked = {"check": "enough", "assets": 1}
    answer = {"uri": "urn:of:another:form", "blob_digest": DIGESTS[0]}
    assert peer.load("fetch-asset", asset.FetchBlobResponse(**answer), **asked)["calls"] == 1
    wrong = [
        {},
        {"status": {"code": NOT_FOUND}},
        answer | {"status": {"code": NOT_FOUND}},
        answer | {"blob_digest": DIGESTS[1]},
    ]
    for fields in wrong:
        with pytest.raises(RuntimeError, match="a wrong answer, of"):
            peer.load("fetch-asset", asset.FetchBlobResponse(**fields), **asked)


@pytest.mark.parametrize("check", ["bytes", "size", "enough"])
def test_a_blob_that_is_missing_is_no_answer(peer, check):
    assert peer.load("find", reapi.FindMissingBlobsResponse(), check=check)["calls"] == 1
    missing = reapi.FindMissingBlobsResponse(missing_blob_digests=DIGESTS[:1])
    with pytest.raises(RuntimeError, match="wrong answer|the answer has 76 bytes, not 5"):
        peer.load("find", missing, check=check)


# --- what is stored, what it costs ---


def test_what_is_stored_is_new_in_each_turn(peer):
    (measure,) = (measure for measure in cas.MEASURES if measure.operation == "update")
    calls, turns = 3, 4
    for turn in range(turns):
        peer.load("update", calls=calls, check="status", **measure.keys_of(turn * calls))
    stored = {
        request.digest.hash
        for body in peer.requests
        for request in reapi.BatchUpdateBlobsRequest.FromString(body).requests
    }
    assert len(stored) == turns * calls * BATCH


def test_costs_are_per_call_or_gib():
    assert Measure("a", "A", "find", 10).cost(0.5, 100) == 5000
    assert Measure("a", "A", "fetch", 10, size=GIB // 4).cost(3, 8) == 1.5


# Answers at once, and works for WORK seconds then.
WORK = 0.3
LATE = f"""
import concurrent.futures, threading, time, grpc

def work():
    while time.thread_time() < {WORK}:
        pass

def answer(request, context):
    context.add_callback(threading.Thread(target=work).start)
    return b""

class Handler(grpc.GenericRpcHandler):
    def service(self, _):
        return grpc.unary_unary_rpc_method_handler(answer)

server = grpc.server(concurrent.futures.ThreadPoolExecutor(1), handlers=[Handler()])
print(server.add_insecure_port("127.0.0.1:0"), flush=True)
server.start()
server.wait_for_termination()
"""


def late_cpu(peer):
    """What is told of a call after which the server works."""
    late = subprocess.Popen([sys.executable, "-c", LATE], stdout=subprocess.PIPE, text=True)
    try:
        peer.address = f"127.0.0.1:{int(late.stdout.readline())}"
        (cpu,) = peer.load("find", pid=late.pid)["cpu"]
    finally:
        late.kill()
        late.communicate()
    return cpu


def test_work_after_the_last_answer_counts(peer):
    # A server that others keep from its CPU for a while looks as if it were done.
    assert any(late_cpu(peer) >= WORK * 5 / 6 for _ in range(5))


# --- limits and disks ---


def test_too_many_connections_are_told_to_be_the_client_s_matter(empty):
    command = [BUILD / "bench" / "load", empty.address, "find", "connections=64", "in-flight=64"]
    done = subprocess.run(
        command,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (32, 32)),
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "the client gets no socket" in done.stderr and "`ulimit -n`" in done.stderr


SYNC = """
import os, sys, time
with open(sys.argv[1], "wb") as file:
    file.write(b"something")
    file.flush()
    begun = time.monotonic()
    getattr(os, sys.argv[2])(file.fileno())
    print(time.monotonic() - begun)
"""


@pytest.mark.parametrize("function", ["fsync", "fdatasync"])
def test_the_slow_disk_takes_its_time(folder, function):
    slow = {"LD_PRELOAD": str(BUILD / "bench" / "slow_sync.so"), "SLOW_SYNC_US": "200000"}
    command = [sys.executable, "-c", SYNC, folder / "file", function]
    assert float(subprocess.check_output(command, env=os.environ | slow)) >= 0.2
