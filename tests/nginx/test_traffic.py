# SPDX-License-Identifier: Apache-2.0
"""Long uploads, long connections, a server that is gone, and a reload."""

import threading

from nginx.front import authorize, call

FETCH = "/build.bazel.remote.asset.v1.Fetch/FetchBlob"
WRITE = "/google.bytestream.ByteStream/Write"


def test_an_upload_may_be_long(front):
    chunk = bytes(1 << 20)
    assert front.call("push", WRITE, "client", messages=[chunk] * 48) == ("OK", "")
    assert front.write.take()[0].received == 48 << 20


def test_a_connection_takes_more_than_a_thousand_calls(front):
    with front.channel("pull") as channel:
        fetch = channel.unary_unary(FETCH)
        for _ in range(1050):
            fetch(b"", timeout=30)
    ids = [call.values("x-request-id")[0] for call in front.read.take()]
    first, last = front.access(ids[0]), front.access(ids[-1])
    assert first["connection"] == last["connection"]


def test_a_server_that_is_gone_is_unavailable(own_front):
    own_front.read.stop()
    code, message = own_front.call("pull", FETCH)
    assert code == "UNAVAILABLE"
    assert "assetd does not answer" in message
    assert own_front.call("push", FETCH, "client") == ("OK", "")
    own_front.read.start()
    assert own_front.call("pull", FETCH) == ("OK", "")


def test_a_client_counts_from_the_reload_on(own_front):
    tls = own_front.tls
    assert own_front.call("push", FETCH, "unknown")[0] == "UNAUTHENTICATED"
    authorize(tls / "authorized.crt", "newcomer", tls / "unknown.crt").check_returncode()
    own_front.reload()
    assert own_front.call("push", FETCH, "unknown") == ("OK", "")
    [seen] = own_front.write.take()
    assert seen.values("x-client-identity") == ["newcomer"]

    text = (tls / "authorized.crt").read_text()
    (tls / "authorized.crt").write_text(text.replace((tls / "unknown.crt").read_text(), ""))
    authorize(tls / "authorized.crt").check_returncode()
    own_front.reload()
    assert own_front.call("push", FETCH, "unknown")[0] == "UNAUTHENTICATED"
    assert own_front.call("push", FETCH, "client") == ("OK", "")


def test_a_reload_breaks_no_call(own_front):
    running, go_on = threading.Event(), threading.Event()

    def messages():
        yield b"first"
        running.set()
        assert go_on.wait(30)
        yield b"last"

    results = []

    def upload():
        with own_front.channel("push", "client") as channel:
            results.append(call(channel, WRITE, messages=messages()))

    thread = threading.Thread(target=upload)
    thread.start()
    assert running.wait(30)
    own_front.reload()
    go_on.set()
    thread.join()
    assert results == [("OK", "")]
