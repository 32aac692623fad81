# SPDX-License-Identifier: Apache-2.0
"""What a failed test's report ends with: the logs of all that ran at the time."""

import contextlib

# Of each log, the last characters.
SHOWN = 20000


@contextlib.contextmanager
def shown(session, source):
    """Meanwhile reports have the log of SOURCE, which has log() and log_title."""
    session.log_sources = [*getattr(session, "log_sources", []), source]
    try:
        yield source
    finally:
        session.log_sources = [other for other in session.log_sources if other is not source]


def sections(session):
    """(title, text) of each log."""
    return [
        (source.log_title, source.log()[-SHOWN:])
        for source in getattr(session, "log_sources", [])
    ]
