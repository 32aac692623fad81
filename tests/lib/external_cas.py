# SPDX-License-Identifier: Apache-2.0
"""A CAS to pair assetd with: records what it is asked, loses blobs, fails as it is told."""

import concurrent.futures
import contextlib
import pathlib
import re
import socket
import threading
import time

import grpc

from lib.api import bytestream, bytestream_grpc, reapi, reapi_grpc
from lib.content import FUNCTIONS, digest_of, name_of
from lib.server import PATIENCE

# What the strictest servers in the field take, and give in one batch.
MESSAGE_MAX = 1 << 20
BATCH_MAX = 2 << 20

CHUNK = 64 << 10
WORKERS = 128

RESOURCE = re.compile(r"(?:(?P<instance>.+)/)?blobs/(?P<blob>[0-9a-f]+/[0-9]+)")

# The characters of a hash, by function.
LENGTHS = {number: len(digest_of(b"", name).hash) for name, number in FUNCTIONS.items()}

FIND = "FindMissingBlobs"
BATCH_READ = "BatchReadBlobs"
BATCH_UPDATE = "BatchUpdateBlobs"
READ = "Read"
CAPABILITIES = "GetCapabilities"


class Call:
    """What it was asked. BLOBS are names, "HASH/SIZE"."""

    def __init__(self, method, instance, blobs, context):
        self.method = method
        self.instance = instance
        self.blobs = blobs
        self.metadata = {}
        for name, value in context.invocation_metadata():
            self.metadata.setdefault(name, []).append(value)
        self.time_left = context.time_remaining()
        self.peer = context.peer()


class ExternalCas(
    reapi_grpc.ContentAddressableStorageServicer,
    reapi_grpc.CapabilitiesServicer,
    bytestream_grpc.ByteStreamServicer,
):
    """
    ADDRESS is unix:/PATH or HOST:PORT. TLS is (key, certificate), paths, and CLIENTS the path of
    the certificates that clients must have one of. INSTANCES are the names that it knows. What a
    strict server would not take is refused, and fails the test in finish() unless EXPECTS_REFUSALS.
    """

    def __init__(
        self,
        address,
        instances=("",),
        functions=("sha256",),
        tls=None,
        clients=None,
        batch=BATCH_MAX,
    ):
        self.address = address
        self.instances = instances
        self.functions = [FUNCTIONS[name] for name in functions]
        self.tls = tls
        self.clients = clients
        self.batch = batch  # bytes of blobs in one BatchReadBlobs
        self.blobs = {}  # by name
        self.faults = {}  # by method
        self.calls = []
        self.refused = []
        self.expects_refusals = False
        self.lock = threading.Lock()
        self.server = None

    @property
    def url(self):
        """As assetd's configuration has it."""
        if self.address.startswith("unix:"):
            return self.address
        return f"{'grpcs' if self.tls else 'grpc'}://{self.address}"

    # Its life

    def start(self):
        assert self.server is None, "it runs already"
        self.server = grpc.server(
            concurrent.futures.ThreadPoolExecutor(WORKERS),
            options=[
                ("grpc.so_reuseport", 0),
                ("grpc.max_receive_message_length", MESSAGE_MAX),
                ("grpc.max_send_message_length", -1),
            ],
        )
        reapi_grpc.add_ContentAddressableStorageServicer_to_server(self, self.server)
        reapi_grpc.add_CapabilitiesServicer_to_server(self, self.server)
        bytestream_grpc.add_ByteStreamServicer_to_server(self, self.server)
        if self.tls is None:
            assert self.server.add_insecure_port(self.address)
        else:
            assert self.server.add_secure_port(self.address, self._credentials())
        self.server.start()
        return self

    def _credentials(self):
        pair = tuple(path.read_bytes() for path in self.tls)
        clients = self.clients.read_bytes() if self.clients else None
        return grpc.ssl_server_credentials([pair], clients, clients is not None)

    def stop(self):
        """Ends every call and connection. start() brings it back at the same address."""
        if self.server is not None:
            self.server.stop(None).wait()
            self.server = None

    def finish(self):
        self.stop()
        assert self.expects_refusals or not self.refused, self.refused

    @contextlib.contextmanager
    def silent(self):
        """Meanwhile connections at its address are taken by the kernel alone: nobody answers."""
        self.stop()
        if self.address.startswith("unix:"):
            path = self.address.removeprefix("unix:")
            pathlib.Path(path).unlink(missing_ok=True)
            listening = socket.socket(socket.AF_UNIX)
            listening.bind(path)
        else:
            host, _, port = self.address.rpartition(":")
            listening = socket.socket()
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listening.bind((host, int(port)))
        with listening:
            listening.listen()
            yield
        self.start()

    # What it has

    def put(self, *blobs, function="sha256"):
        """Returns the digest of the first."""
        digests = [digest_of(data, function) for data in blobs]
        with self.lock:
            self.blobs.update(zip(map(name_of, digests), blobs))
        return digests[0]

    def put_tree(self, tree):
        self.put(*tree.blobs.values(), function=tree.function)
        return tree.root

    def remove(self, *digests):
        """As an eviction, behind everybody's back."""
        with self.lock:
            for digest in digests:
                del self.blobs[name_of(digest)]

    # What it was asked

    def take(self, *methods):
        """
        The calls of METHODS since the last time; by default those about content, as it may be asked
        for its capabilities at any time.
        """
        methods = methods or (FIND, BATCH_READ, READ)
        with self.lock:
            calls, self.calls = self.calls, []
        return [call for call in calls if call.method in methods]

    def take_names(self, *methods):
        return [call.method for call in self.take(*methods)]

    @contextlib.contextmanager
    def fault(self, fault, *methods):
        """Meanwhile calls, all or those of METHODS, go wrong by FAULT, which the block gets."""
        for method in methods or (FIND, BATCH_READ, READ, CAPABILITIES):
            self.faults[method] = fault
        try:
            yield fault
        finally:
            self.faults.clear()
            if isinstance(fault, Hold):
                fault.release()

    # The services

    def _answer(self, call, context, make):
        with self.lock:
            self.calls.append(call)
            fault = self.faults.get(call.method)

        def honest():
            if call.instance not in self.instances:
                context.abort(grpc.StatusCode.NOT_FOUND, f"no instance {call.instance!r} here")
            return make()

        return honest() if fault is None else fault(call, context, honest)

    def _refuse(self, call, context, code, text):
        with self.lock:
            self.refused.append(f"{call.method}: {text}")
        context.abort(code, text)

    def _check_digests(self, call, context, request, digests):
        """Of one function, which the request may name, each once, and none empty."""
        lengths = {len(digest.hash) for digest in digests}
        named = {LENGTHS[request.digest_function]} if request.digest_function else lengths
        if len(lengths) != 1 or named != lengths:
            self._refuse(call, context, grpc.StatusCode.INVALID_ARGUMENT, "a hash's length")
        if not any(LENGTHS[function] in lengths for function in self.functions):
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, "of a digest function not known here")
        if len(set(call.blobs)) != len(call.blobs):
            self._refuse(call, context, grpc.StatusCode.INVALID_ARGUMENT, "a digest twice")
        if any(digest.size_bytes == 0 for digest in digests):
            self._refuse(call, context, grpc.StatusCode.INVALID_ARGUMENT, "an empty blob")

    def FindMissingBlobs(self, request, context):
        digests = request.blob_digests
        call = Call(FIND, request.instance_name, [*map(name_of, digests)], context)

        def make():
            self._check_digests(call, context, request, digests)
            with self.lock:
                missing = [d for d, name in zip(digests, call.blobs) if name not in self.blobs]
            return reapi.FindMissingBlobsResponse(missing_blob_digests=missing)

        return self._answer(call, context, make)

    def BatchReadBlobs(self, request, context):
        digests = request.digests
        call = Call(BATCH_READ, request.instance_name, [*map(name_of, digests)], context)

        def make():
            self._check_digests(call, context, request, digests)
            if sum(digest.size_bytes for digest in digests) > self.batch:
                self._refuse(call, context, grpc.StatusCode.INVALID_ARGUMENT, "a batch too large")
            answer = reapi.BatchReadBlobsResponse()
            for digest, name in zip(digests, call.blobs):
                with self.lock:
                    data = self.blobs.get(name)
                one = answer.responses.add(digest=digest, data=data)
                if data is None:
                    one.status.code = grpc.StatusCode.NOT_FOUND.value[0]
                    one.status.message = f"no blob {name}"
            return answer

        return self._answer(call, context, make)

    def BatchUpdateBlobs(self, request, context):
        digests = [one.digest for one in request.requests]
        call = Call(BATCH_UPDATE, request.instance_name, [*map(name_of, digests)], context)

        def make():
            self._check_digests(call, context, request, digests)
            answer = reapi.BatchUpdateBlobsResponse()
            for one, name in zip(request.requests, call.blobs):
                answer.responses.add(digest=one.digest)
                with self.lock:
                    self.blobs[name] = one.data
            return answer

        return self._answer(call, context, make)

    def Read(self, request, context):
        match = RESOURCE.fullmatch(request.resource_name)
        name = match["blob"] if match else request.resource_name
        call = Call(READ, match["instance"] or "" if match else None, [name], context)

        def make():
            if match is None or request.read_offset != 0 or request.read_limit != 0:
                self._refuse(call, context, grpc.StatusCode.INVALID_ARGUMENT, str(request))
            with self.lock:
                data = self.blobs.get(name)
            if data is None:
                context.abort(grpc.StatusCode.NOT_FOUND, f"no blob {name}")
            return [
                bytestream.ReadResponse(data=data[offset : offset + CHUNK])
                for offset in range(0, len(data), CHUNK)
            ]

        yield from self._answer(call, context, make)

    def GetCapabilities(self, request, context):
        call = Call(CAPABILITIES, request.instance_name, [], context)

        def make():
            answer = reapi.ServerCapabilities()
            answer.low_api_version.major = answer.high_api_version.major = 2
            answer.high_api_version.minor = 3
            answer.cache_capabilities.digest_functions.extend(self.functions)
            answer.cache_capabilities.max_batch_total_size_bytes = self.batch
            return answer

        return self._answer(call, context, make)


# Faults: functions of the call, its context, and what makes the honest answer.


def refuses(code, text):
    """The call ends with that status."""
    return lambda call, context, honest: context.abort(getattr(grpc.StatusCode, code), text)


def delays(seconds):
    def fault(_call, _context, honest):
        time.sleep(seconds)
        return honest()

    return fault


def alters(change):
    """CHANGE is made to the honest answer, in its place."""

    def fault(_call, _context, honest):
        answer = honest()
        change(answer)
        return answer

    return fault


class Hold:
    """The next COUNT calls, or all, are answered by release(), as it was when they came."""

    def __init__(self, count=1 << 30):
        self.left = count
        self.held = 0
        self.is_released = False
        self.changed = threading.Condition()

    def __call__(self, _call, context, honest):
        answer = honest()
        with self.changed:
            if self.left == 0:
                return answer
            self.left -= 1
            self.held += 1
            self.changed.notify_all()
        # Called at once, or never, if the call has ended already.
        if context.add_callback(self._wake):
            with self.changed:
                self.changed.wait_for(lambda: self.is_released or not context.is_active())
        return answer

    def _wake(self):
        with self.changed:
            self.changed.notify_all()

    def wait_for(self, count):
        """Until COUNT calls have come."""
        with self.changed:
            assert self.changed.wait_for(lambda: self.held >= count, PATIENCE), self.held

    def release(self):
        with self.changed:
            self.is_released = True
            self.left = 0
            self.changed.notify_all()


def index_only(folder, name="", cas=None, trust="0s", **keys):
    """
    An instance of a configuration, with storage below FOLDER; paired with CAS if there is one.
    `token_file` stands for `token-file`.
    """
    instance = {"name": name, "storage": str(folder / f"index-{name}"), "index-only": True}
    if cas is not None:
        keys = {key.replace("_", "-"): value for key, value in keys.items()}
        instance["cas"] = {"address": cas.url, "trust": trust, **keys}
    return instance
