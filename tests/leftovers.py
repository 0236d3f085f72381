"""Finds living processes that a test session started. Each has an id of the session in its environment."""

from __future__ import annotations

import os
from pathlib import Path

MARK = "ES_LLM_TEST_SESSION"
KEPT = (b"multiprocessing.resource_tracker", b"multiprocessing.forkserver")
"""Helper processes of Python, which end with this process."""


def mark() -> str:
    """Mark all processes that are started from now on, and return the mark."""
    os.environ[MARK] = str(os.getpid())
    return f"{MARK}={os.getpid()}"


def living(session: str, server: int | None = None) -> dict[int, str]:
    """Process id -> command line, for living processes that have the mark of a session or descend from this process.

    Args:
        server: the process id of the fork server, which ends with this process. Its forked processes are counted.
    """
    parents, marked, words = {}, set(), {}
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            state, parent = (entry / "stat").read_text().rpartition(")")[2].split()[:2]
            if state in "ZX":
                continue
            pid = int(entry.name)
            parents[pid], words[pid] = int(parent), (entry / "cmdline").read_bytes()
            if session.encode() in (entry / "environ").read_bytes().split(b"\0"):
                marked.add(pid)
        except OSError:  # the process has just ended, or belongs to another user
            continue
    ours = set(marked)
    for pid in parents:
        above = pid
        while above in parents and above not in ours and above != os.getpid():
            above = parents[above]
        if above == os.getpid() or above in ours:
            ours.add(pid)
    ours -= {os.getpid(), server}
    kept = {pid for pid in ours if any(name in words[pid] for name in KEPT)}
    return {pid: words[pid].replace(b"\0", b" ").decode(errors="replace")[:300] for pid in sorted(ours - kept)}
