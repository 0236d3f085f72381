"""Runs code that a model wrote, in a process that may do little: `docs/security.md` says what that stops and what not.

The child reads one JSON object (`code`, `function`, `arguments`) and writes one (`values`, or `error`). Before it runs
the code it gives up, in this order: its network, other processes, mounts and host names (namespaces of its own), every
file (an empty root), its user (nobody, where it was root), new privileges, memory, processor time, files and processes.
"""

from __future__ import annotations

import functools
import json
import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from es_llm.errors import RewardError

_CHILD = Path(__file__).with_name("sandbox_child.py")


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
        "code": code, "function": function, "arguments": arguments,
        "cpu_s": limits.cpu_s, "memory_mb": limits.memory_mb, "path": [place for place in sys.path if place],
    })  # fmt: skip
    process = subprocess.Popen(
        [sys.executable, "-I", "-S", "-B", str(_CHILD)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
        env={"PATH": "/nowhere"}, close_fds=True, start_new_session=True, cwd="/",
    )  # fmt: skip
    try:
        output = _talk(process, words.encode(), limits)
    finally:
        _end(process)
    if isinstance(output, str):
        return Ran(None, output)
    return _read(output, len(arguments), process.returncode)


def _talk(process: subprocess.Popen[bytes], words: bytes, limits: SandboxLimits) -> bytes | str:
    """What the child wrote, or why it wasn't waited for."""
    import threading

    assert process.stdin is not None
    assert process.stdout is not None
    pieces: list[bytes] = []

    def read() -> None:
        assert process.stdout is not None
        size = 0
        while size <= limits.answer_bytes:
            piece = process.stdout.read1(1 << 16)  # type: ignore[attr-defined]
            if not piece:
                return
            size += len(piece)
            pieces.append(piece)

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    try:
        process.stdin.write(words)
        process.stdin.close()
    except OSError:
        pass
    reader.join(limits.wall_s)
    if reader.is_alive():
        return f"took longer than {limits.wall_s:g} s"
    output = b"".join(pieces)
    return output if len(output) <= limits.answer_bytes else f"its answer is longer than {limits.answer_bytes} bytes"


def _end(process: subprocess.Popen[bytes]) -> None:
    """Kill the child; what it started is in its process namespace and goes with it."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except OSError:
        process.kill()
    process.wait()
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            try:
                pipe.close()
            except OSError:
                continue


def _read(output: bytes, expected: int, code: int | None) -> Ran:
    try:
        told = json.loads(output)
        values = told.get("values")
        if isinstance(values, list) and len(values) == expected:
            return Ran(values)
        return Ran(None, str(told.get("error", "no values"))[:2000])
    except (ValueError, AttributeError, RecursionError):
        return Ran(None, f"no answer; its process ended with code {code}")
