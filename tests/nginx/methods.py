# SPDX-License-Identifier: Apache-2.0
"""The methods that clients call, by class."""

ASSET = "/build.bazel.remote.asset.v1"
REAPI = "/build.bazel.remote.execution.v2"
CAS = f"{REAPI}.ContentAddressableStorage"
BYTESTREAM = "/google.bytestream.ByteStream"

FETCH = f"{ASSET}.Fetch/FetchBlob"
PUSH = f"{ASSET}.Push/PushBlob"
READ = f"{BYTESTREAM}/Read"
WRITE = f"{BYTESTREAM}/Write"
CAPABILITIES = f"{REAPI}.Capabilities/GetCapabilities"
HEALTH = "/grpc.health.v1.Health/Check"
FIND = f"{CAS}/FindMissingBlobs"
BATCH_UPDATE = f"{CAS}/BatchUpdateBlobs"
REFLECTION = "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo"
EXECUTE = f"{REAPI}.Execution/Execute"

READS = [
    FETCH,
    f"{ASSET}.Fetch/FetchDirectory",
    CAPABILITIES,
    f"{REAPI}.ActionCache/GetActionResult",
    FIND,
    f"{CAS}/BatchReadBlobs",
    f"{CAS}/GetTree",
    f"{CAS}/SplitBlob",
    READ,
    HEALTH,
    "/grpc.health.v1.Health/Watch",
]
WRITES = [
    PUSH,
    f"{ASSET}.Push/PushDirectory",
    f"{REAPI}.ActionCache/UpdateActionResult",
    BATCH_UPDATE,
    f"{CAS}/SpliceBlob",
    WRITE,
    f"{BYTESTREAM}/QueryWriteStatus",
]
UNKNOWN = [
    REFLECTION,
    "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
    EXECUTE,
    f"{ASSET}.Push/Pull",
    "/",
    "/favicon.ico",
]


def spellings(method):
    """Of a path that a server might take for METHOD's after some tidying up."""
    service, name = method[1:].split("/")
    return [
        f"//{service}/{name}",
        f"/{service}//{name}",
        f"/./{service}/{name}",
        f"/{service}/./{name}",
        f"/x/../{service}/{name}",
        f"/{service}/x/../{name}",
        f"/grpc.health.v1.Health/Check/../../{service}/{name}",
        f"{HEALTH}/..%2f..%2f{service}/{name}",
        f"/{service}/%{ord(name[0]):02x}{name[1:]}",
        f"/{service}%2f{name}",
        f"/{service}%5c{name}",
        f"/{service}\\{name}",
        f"/%{ord(service[0]):02x}{service[1:]}/{name}",
        f"/{service}/{name}?x",
        f"/{service}/{name}?",
        f"/{service}/{name}#x",
        f"/{service}/{name}/",
        f"/{service}/{name}/..",
        f"/{service}/{name}/.",
        f"/{service}/{name};x",
        f"/{service};x/{name}",
        f"/{service}/{name}%00",
        f"/{service}/{name}%0a",
        f"/{service}/{name}%20",
        f"/{service}/{name} ",
        f"{service}/{name}",
        f"https://localhost/{service}/{name}",
        f"*/{service}/{name}",
    ]


def capitals(method):
    """METHOD in other cases."""
    service, name = method[1:].split("/")
    return [
        method.upper(),
        method.lower(),
        f"/{service}/{name.lower()}",
        f"/{service}/{name.upper()}",
        f"/{service.upper()}/{name}",
    ]
