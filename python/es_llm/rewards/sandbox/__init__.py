"""Runs code that a model wrote, in a process that may do little: `docs/security.md` says what that stops and what not.

The child reads one JSON object (`code`, `function`, `arguments`) and writes one (`values`, or `error`). Before it runs
the code it gives up, in this order: its network, other processes, mounts and host names (namespaces of its own), every
file (an empty root), its user (nobody, where it was root), new privileges, memory, processor time, files and processes.

Two processes: the one that is started here stays outside and waits; the one that runs the code is the first of a
process namespace, whose end is the end of everything in it. Both are killed by their numbers when the time is over, so
no session or group that the code makes for itself hides it.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import selectors
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Final

from es_llm.errors import RewardError
from es_llm.rewards.workers.system import descendants, kill_tree

_CHILD: Final = Path(__file__).with_name("child.py")
_ENVIRONMENT: Final = {"PATH": "/nowhere"} | dict.fromkeys(
    # A process with a second thread gets no user namespace, and numpy starts threads where it is let.
    ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "BLIS_NUM_THREADS"),
    "1",
)
_END_S: Final = 10.0
"""A killed process that isn't gone after that is left to the system."""


@dataclass(frozen=True, kw_only=True)
class SandboxLimits:
    """What the code may take: seconds of the clock and of the processor, megabytes, bytes of its answer."""

    wall_s: float = 10.0
    cpu_s: int = 5
    memory_mb: int = 512
    answer_bytes: int = 1 << 20


@dataclass(frozen=True)
class Ran:
    """What came of it: one value for each argument, or why there is none."""

    values: list[Any] | None
    error: str = ""


def run_function(code: str, function: str, arguments: list[Any], limits: SandboxLimits | None = None) -> Ran:
    """Call `function` of `code` once for each argument; arguments and values are JSON.

    Raises:
        RewardError: this system offers no sandbox.
    """
    require_sandbox()
    return _run(code, function, arguments, limits or SandboxLimits())


@functools.cache
def require_sandbox() -> None:
    """Refuse to go on where the system has no namespaces for us: code of a model isn't run without.

    Raises:
        RewardError: says what is missing.
    """
    if sys.platform != "linux":
        raise RewardError("code of a model is run in a sandbox of Linux alone; this system has none")
    ran = _run("def f(x):\n    return x + 1\n", "f", [1], SandboxLimits())
    if ran.values != [2]:
        raise RewardError(
            f"this system offers no sandbox for code of a model ({ran.error}): user namespaces are switched off "
            "(see kernel.unprivileged_userns_clone), or the container forbids them"
        )


def _run(code: str, function: str, arguments: list[Any], limits: SandboxLimits) -> Ran:
    words = json.dumps({
        "code": code, "function": function, "arguments": arguments, "parent": os.getpid(),
        "cpu_s": limits.cpu_s, "memory_mb": limits.memory_mb, "path": [place for place in sys.path if place],
    })  # fmt: skip
    process = subprocess.Popen(
        [sys.executable, "-I", "-S", "-B", str(_CHILD)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, bufsize=0,
        env=_ENVIRONMENT, close_fds=True, start_new_session=True, cwd="/",
    )  # fmt: skip
    try:
        output = _talk(process, words.encode(), limits)
    finally:
        _end(process)
    if isinstance(output, str):
        return Ran(None, output)
    return _read(output, len(arguments), process.returncode)


def _talk(process: subprocess.Popen[bytes], words: bytes, limits: SandboxLimits) -> bytes | str:
    """What the child wrote, or why it wasn't waited for. Neither pipe is ever waited on for longer than the limit."""
    asking, telling = process.stdin, process.stdout
    assert asking is not None
    assert telling is not None
    end, left, told = time.monotonic() + limits.wall_s, memoryview(words), bytearray()
    for pipe in (asking, telling):
        os.set_blocking(pipe.fileno(), False)
    with selectors.DefaultSelector() as selector:
        selector.register(asking, selectors.EVENT_WRITE)
        selector.register(telling, selectors.EVENT_READ)
        while (rest := end - time.monotonic()) > 0:
            for key, _ in selector.select(rest):
                if key.fileobj is asking:
                    left = _write(asking, left)
                    if not left:
                        selector.unregister(asking)
                        asking.close()
                    continue
                piece = os.read(telling.fileno(), 1 << 16)
                if not piece:
                    return bytes(told)
                told += piece
                if len(told) > limits.answer_bytes:
                    return f"its answer is longer than {limits.answer_bytes} bytes"
    return f"took longer than {limits.wall_s:g} s"


def _write(pipe: IO[bytes], left: memoryview) -> memoryview:
    """What is left to write; nothing where nobody reads."""
    try:
        return left[os.write(pipe.fileno(), left) :]
    except BlockingIOError:
        return left
    except OSError:
        return left[:0]


def _end(process: subprocess.Popen[bytes]) -> None:
    """Kill the child and, above all, the first process of its namespace: everything in there ends with that one."""
    for below in list(descendants(process.pid)):
        kill_tree(below)
    kill_tree(process.pid)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(_END_S)
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            with contextlib.suppress(OSError):
                pipe.close()


def _read(output: bytes, expected: int, code: int | None) -> Ran:
    try:
        told = json.loads(output)
        values = told.get("values")
        if isinstance(values, list) and len(values) == expected:
            return Ran(values)
        return Ran(None, str(told.get("error", "no values"))[:2000])
    except (ValueError, AttributeError, RecursionError):
        return Ran(None, f"no answer; its process ended with code {code}")
