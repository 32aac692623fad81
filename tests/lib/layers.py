# SPDX-License-Identifier: Apache-2.0
"""Proves that includes point one way: `layers.py backend` lists what does not, and fails."""

import pathlib
import re
import sys

# Which folders the files of a folder may include from; "" is backend/ itself, the programs.
MAY_INCLUDE = {
    "base": {"base"},
    "conf": {"base", "conf"},
    "store": {"base", "conf", "store"},
    "rpc": {"base", "rpc"},
    "remote": {"base", "conf", "store", "rpc", "remote"},
    "service": {"base", "conf", "store", "remote", "service"},
    "transport": {"base", "conf", "rpc", "credential", "service", "transport"},
    "credential": {"base", "credential"},
    "control": {"base", "conf", "store", "remote", "credential", "control"},
    "": {"base", "conf", "store", "rpc", "remote", "service", "transport", "control"},
}

# Messages that are generated from protos/.
GENERATED = ".pb-c.h"
GENERATED_IN = {"remote", "service", "transport"}

# Headers of libraries that stay in their place: in these folders, or in one file.
FOLDERS_OF = {
    "grpc/": {"rpc", "remote", "transport"},
    # Digests are computed by <openssl/evp.h>, which is what the others may have.
    "openssl/": {"credential"},
}
ANYWHERE = {"openssl/evp.h"}
ONE_FILE = ("lmdb.h", "yaml.h", "jansson.h", "systemd/sd-daemon.h")

INCLUDE = re.compile(r'^\s*#\s*include\s*([<"])([^>"]+)[>"]', re.MULTILINE)


def faults(root):
    owners = {name: set() for name in ONE_FILE}
    for path in sorted(root.rglob("*.[ch]")):
        layer = path.relative_to(root).parts[0] if path.parent != root else ""
        for kind, name in INCLUDE.findall(path.read_text(encoding="utf-8")):
            if name.endswith(GENERATED):
                if layer not in GENERATED_IN:
                    yield f"{path}: {name} stands in {', '.join(sorted(GENERATED_IN))} alone"
                continue
            if kind == '"' and name.split("/")[0] not in MAY_INCLUDE[layer]:
                yield f"{path}: {layer or 'programs'} may not include {name}"
            for prefix, folders in FOLDERS_OF.items():
                is_bound = name.startswith(prefix) and name not in ANYWHERE
                if kind == "<" and is_bound and layer not in folders:
                    yield f"{path}: <{name}> stands in {', '.join(sorted(folders))} alone"
            if name in owners:
                owners[name].add(path)
    for name, paths in owners.items():
        if len(paths) != 1:
            yield f"<{name}> must stand in one file, it is in: {sorted(map(str, paths))}"


def main():
    found = list(faults(pathlib.Path(sys.argv[1])))
    print("\n".join(found) if found else "layers: every include points the right way")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
