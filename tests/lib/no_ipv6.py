# SPDX-License-Identifier: Apache-2.0
"""`python3 no_ipv6.py COMMAND...` becomes COMMAND, on a system whose kernel has no IPv6."""

import ctypes
import errno
import os
import platform
import socket
import struct
import sys

PR_SET_SECCOMP = 22
PR_SET_NO_NEW_PRIVS = 38
SECCOMP_MODE_FILTER = 2
SECCOMP_RET_ERRNO = 0x00050000
SECCOMP_RET_ALLOW = 0x7FFF0000

# Instructions of the kernel's filters: load a word, jump if it is equal, return.
LOAD, JUMP_EQUAL, RETURN = 0x20, 0x15, 0x06

# Offsets in struct seccomp_data, of a machine that has the low half of a word first.
NUMBER, FIRST_ARGUMENT = 0, 16

SYS_SOCKET = {"x86_64": 41, "aarch64": 198, "riscv64": 198}[platform.machine()]


def refuse_ipv6():
    """Makes socket(AF_INET6, ...) fail, here and in what this process becomes."""
    instructions = [
        (LOAD, 0, 0, NUMBER),
        (JUMP_EQUAL, 0, 3, SYS_SOCKET),
        (LOAD, 0, 0, FIRST_ARGUMENT),
        (JUMP_EQUAL, 0, 1, socket.AF_INET6),
        (RETURN, 0, 0, SECCOMP_RET_ERRNO | errno.EAFNOSUPPORT),
        (RETURN, 0, 0, SECCOMP_RET_ALLOW),
    ]
    code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *one) for one in instructions))
    program = ctypes.create_string_buffer(
        struct.pack("HP", len(instructions), ctypes.addressof(code))
    )
    libc = ctypes.CDLL(None, use_errno=True)
    for arguments in (
        (PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0),
        (PR_SET_SECCOMP, SECCOMP_MODE_FILTER, ctypes.addressof(program), 0, 0),
    ):
        if libc.prctl(*map(ctypes.c_ulong, arguments)) != 0:
            raise OSError(ctypes.get_errno(), "prctl")


if __name__ == "__main__":
    refuse_ipv6()
    os.execvp(sys.argv[1], sys.argv[1:])
