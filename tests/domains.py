"""DDS domains for tests: no two processes on this machine that run tests use the same one at a time."""

import fcntl
import os
import tempfile
from collections import deque
from pathlib import Path

LAST = 100
"""Of the domains whose ports lie below the range from which Linux takes ports for outgoing connections."""
KEPT = 20
"""Domains that one process keeps; the oldest ones belong to tests that have ended."""

_held: deque = deque()


def take() -> int:
    """A domain of this process's own, 1 to ``LAST``."""
    while len(_held) >= KEPT:
        _held.popleft().close()
    folder = Path(tempfile.gettempdir()) / "marlgpt-test-domains"
    folder.mkdir(exist_ok=True)
    for k in range(LAST):
        domain = 1 + (os.getpid() * 7 + len(_held) + k) % LAST
        file = (folder / str(domain)).open("w")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            file.close()
            continue
        _held.append(file)
        return domain
    raise RuntimeError(f"all DDS domains are taken by running tests, see {folder}")
