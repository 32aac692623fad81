# SPDX-License-Identifier: Apache-2.0
"""FetchBlob, directly: hits, misses, and what it costs to know that an artifact is whole."""

from bench import checks, contestants
from bench.rounds import Company, Measure, run_load, run_rounds, serving
from lib.content import Tree

NAME = "index"
TITLE = "FetchBlob, directly"

ASSETS = 1000
REFERENCES = 3  # as BuildStream's artifacts have
NOT_FOUND = 5

# Artifacts whose root has DIRECTORIES with FILES files in each, numbered apart from the others.
ARTIFACTS = 16
FIRST_ARTIFACT = 1 << 20
DIRECTORIES, FILES = 10, 100

HIT = Measure(
    *("hit", "FetchBlob, hit, 3 references", "fetch-asset", 20_000),
    keys={"assets": ASSETS},
    goal="assetd, index only: 1.15 x empty; assetd: 1.10 x index only",
)
MISS = Measure(
    *("miss", "FetchBlob, miss", "miss-asset", 20_000),
    keys={"status": NOT_FOUND},
)
HIT_FILES = Measure(
    *("hit-files", "FetchBlob, hit, artifact of 1000 files", "fetch-asset", 20_000),
    keys={"assets": ARTIFACTS, "first": FIRST_ARTIFACT},
    goal="assetd: 1.10 x index only",
)


def tree_of(number):
    """The files of one artifact; none of them is in another."""
    return Tree(
        {
            f"directory-{i}": {
                f"file-{j}": f"{number} {i} {j}".encode() for j in range(FILES)
            }
            for i in range(DIRECTORIES)
        }
    )


def push_artifacts(contestant):
    """Artifacts by the numbers that load(1) fetches, each with a tree to look through."""
    content = contestant.content
    with checks.asking(contestant) as client:
        for number in range(ARTIFACTS):
            tree = tree_of(number)
            if content:
                with checks.asking(content) as storing:
                    storing.upload_tree(tree)
            client.push_blob(
                checks.uri_of(FIRST_ARTIFACT + number),
                checks.digest_of_base(FIRST_ARTIFACT + number),
                references_directories=[tree.root],
            )


def put_assets(contestant):
    """Has it know the first ASSETS, with all that they reference."""
    if contestant.content:
        run_load(contestant.content, "fill", connections=4, in_flight=4, check="status")
    keys = {"connections": 8, "in_flight": 16, "check": "status"}
    run_load(contestant, "push-asset", calls=ASSETS, references=REFERENCES, **keys)


def prepare(contestant):
    """Puts all that is asked for; what only answers zeros needs nothing."""
    if contestant.name == "empty":
        return
    put_assets(contestant)
    push_artifacts(contestant)
    checks.check_index(contestant)


def check(contestant, _rows):
    checks.check_index(contestant)


def run(folder, options, progress):
    company = Company(progress)
    all_of_them = contestants.make(contestants.INDEX, folder, "tcp", options)
    rows = []
    with serving(all_of_them, company):
        company.each(all_of_them, "content is put there", prepare)
        knowing = [one for one in all_of_them if one.name != "empty"]
        rows += run_rounds(HIT, all_of_them, options, company)
        rows += run_rounds(MISS, all_of_them, options, company)
        rows += run_rounds(HIT_FILES, knowing, options, company)
        rows = company.check_again(knowing, rows, check)
    return {
        "rows": [row.as_json() for row in rows],
        "facts": [],
        "notes": [
            "64 calls in flight over 8 connections. assetd remembers what it has found whole;"
            " index only it answers as it was told, without looking."
        ],
    }
