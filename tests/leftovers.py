"""Who is alive of the processes that a session of tests started: they carry its number in their environment."""

from __future__ import annotations

import os
from pathlib import Path

MARK = "ES_LLM_TEST_SESSION"
KEPT = (b"multiprocessing.resource_tracker", b"multiprocessing.forkserver")
"""Of Python itself: they end with this process."""


def mark() -> str:
    """Mark all processes that are started from here on; the mark."""
    os.environ[MARK] = str(os.getpid())
    return f"{MARK}={os.getpid()}"


def living(session: str) -> dict[int, str]:
    """pid -> command line of the processes that carry the mark of a session or descend from this process, and live."""
    parents, marked, words = {}, set(), {}
    for place in Path("/proc").glob("[0-9]*"):
        try:
            state, parent = (place / "stat").read_text().rpartition(")")[2].split()[:2]
            if state in "ZX":
                continue
            pid = int(place.name)
            parents[pid], words[pid] = int(parent), (place / "cmdline").read_bytes()
            if session.encode() in (place / "environ").read_bytes().split(b"\0"):
                marked.add(pid)
        except OSError:  # it has just ended, or is another user's
            continue
    ours = set(marked)
    for pid in parents:
        above = pid
        while above in parents and above not in ours and above != os.getpid():
            above = parents[above]
        if above == os.getpid() or above in ours:
            ours.add(pid)
    ours.discard(os.getpid())
    kept = {pid for pid in ours if any(name in words[pid] for name in KEPT)}
    return {pid: words[pid].replace(b"\0", b" ").decode(errors="replace")[:300] for pid in sorted(ours - kept)}
