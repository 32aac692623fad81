# SPDX-License-Identifier: Apache-2.0
"""What the benchmark reads in the output of bst, and what it makes of projects."""

import pytest

from bench.projects import Project, seconds_of_jobs

PRINTED = """
[23:59:58.250000][  main:core activity] Query cache
[23:59:58.500000][  pull:part-1.bst  ] Pulling artifact
[23:59:59.500000][  push:part-1.bst  ] bench-small/part-1/push.log
[23:59:59.750000][  push:part-2.bst  ] bench-small/part-2/push.log
[00:00:01.750000][  push:part-1.bst  ] bench-small/part-1/push.log
[00:00:02.000000][  main:core activity] Push
"""


def test_jobs_are_timed_by_their_kind_and_over_midnight():
    assert seconds_of_jobs(PRINTED, "push") == 2.25
    assert seconds_of_jobs(PRINTED, "pull") == 0
    with pytest.raises(RuntimeError, match="no job to build"):
        seconds_of_jobs(PRINTED, "build")


def test_a_checkout_with_another_byte_or_file_is_found(folder):
    project = Project("small", "3 small elements", elements=3)
    project.folder = folder
    (folder / "expected.json").write_text(
        '{"a/b": "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"}'
    )
    checkout = folder / "checkout"
    (checkout / "a").mkdir(parents=True)
    (checkout / "a" / "b").write_bytes(b"abc")
    project.require_whole(checkout)
    (checkout / "c").write_bytes(b"")
    with pytest.raises(RuntimeError, match="3 small elements: the checkout differs"):
        project.require_whole(checkout)
    (checkout / "c").unlink()
    (checkout / "a" / "b").write_bytes(b"abd")
    with pytest.raises(RuntimeError, match="3 small elements: the checkout differs"):
        project.require_whole(checkout)
