"""Runs code that a model wrote, in a process with few rights. `docs/security.md` lists what that stops and what not.

The child reads one JSON object (`code`, `function`, `arguments`) and writes one (`values`, or `error`). Before it runs
the code it gives up, in this order: its network, other processes, mounts and host names (by namespaces of its own), all
files (by an empty root), its user (nobody replaces root), new privileges, memory, processor time, descriptors and
processes.

There are two processes. The outer one, which is started here, waits. The inner one runs the code; it is the first of a
process namespace, so its end is the end of every process in there. When the time is over, both are killed by their
numbers, so the code can't hide in a session or group of its own.
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
    # A process with a second thread gets no user namespace, and numpy starts threads unless these forbid it.
    ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "BLIS_NUM_THREADS"),
    "1",
)
_END_S: Final = 10.0
"""Seconds to wait for the end of a killed process."""


@dataclass(frozen=True, kw_only=True)
class SandboxLimits:
    """What the code may use: seconds of the clock and of the processor, megabytes, bytes of its answer."""

    wall_s: float = 10.0
    cpu_s: int = 5
    memory_mb: int = 512
    answer_bytes: int = 1 << 20


@dataclass(frozen=True)
class SandboxResult:
    """What the code returned: one value per argument; or None, and the reason in `error`."""

    values: list[Any] | None
    error: str = ""


def run_function(code: str, function: str, arguments: list[Any], limits: SandboxLimits | None = None) -> SandboxResult:
    """Call `function` of `code` once per argument. Arguments and values are JSON.

    Raises:
        RewardError: this system offers no sandbox.
    """
    require_sandbox()
    return _run(code, function, arguments, limits or SandboxLimits())


@functools.cache
def require_sandbox() -> None:
    """Check that the system offers a sandbox. Without one, code of a model isn't run.

    Raises:
        RewardError: names what is missing.
    """
    if sys.platform != "linux":
        raise RewardError(f"code of a model runs in a sandbox, which needs Linux; this system is {sys.platform}")
    ran = _run("def f(x):\n    return x + 1\n", "f", [1], SandboxLimits())
    if ran.values != [2]:
        raise RewardError(
            f"this system offers no sandbox for code of a model ({ran.error}): user namespaces are switched off "
            "(see kernel.unprivileged_userns_clone), or the container forbids them"
        )


def _run(code: str, function: str, arguments: list[Any], limits: SandboxLimits) -> SandboxResult:
    question = json.dumps({
        "code": code, "function": function, "arguments": arguments, "parent": os.getpid(),
        "cpu_s": limits.cpu_s, "memory_mb": limits.memory_mb, "path": [entry for entry in sys.path if entry],
    })  # fmt: skip
    process = subprocess.Popen(
        [sys.executable, "-I", "-S", "-B", str(_CHILD)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, bufsize=0,
        env=_ENVIRONMENT, close_fds=True, start_new_session=True, cwd="/",
    )  # fmt: skip
    try:
        output = _exchange(process, question.encode(), limits)
    finally:
        _end(process)
    if isinstance(output, str):
        return SandboxResult(None, output)
    return _parsed(output, len(arguments), process.returncode)


def _exchange(process: subprocess.Popen[bytes], question: bytes, limits: SandboxLimits) -> bytes | str:
    """The child's answer to the question; or, as text, the reason why it has none. Takes at most `wall_s`."""
    to_child, from_child = process.stdin, process.stdout
    assert to_child is not None
    assert from_child is not None
    end, left, answer = time.monotonic() + limits.wall_s, memoryview(question), bytearray()
    for pipe in (to_child, from_child):
        os.set_blocking(pipe.fileno(), False)
    with selectors.DefaultSelector() as selector:
        selector.register(to_child, selectors.EVENT_WRITE)
        selector.register(from_child, selectors.EVENT_READ)
        while (rest := end - time.monotonic()) > 0:
            for key, _ in selector.select(rest):
                if key.fileobj is to_child:
                    left = _write(to_child, left)
                    if not left:
                        selector.unregister(to_child)
                        to_child.close()
                    continue
                piece = os.read(from_child.fileno(), 1 << 16)
                if not piece:
                    return bytes(answer)
                answer += piece
                if len(answer) > limits.answer_bytes:
                    return f"its answer is longer than {limits.answer_bytes} bytes"
    return f"took longer than {limits.wall_s:g} s"


def _write(pipe: IO[bytes], left: memoryview) -> memoryview:
    """Write what the pipe accepts; the bytes that are left. Nothing is left if the other end is closed."""
    try:
        return left[os.write(pipe.fileno(), left) :]
    except BlockingIOError:
        return left
    except OSError:
        return left[:0]


def _end(process: subprocess.Popen[bytes]) -> None:
    """Kill the child and the first process of its namespace, with which everything in the namespace ends."""
    for below in list(descendants(process.pid)):
        kill_tree(below)
    kill_tree(process.pid)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(_END_S)
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            with contextlib.suppress(OSError):
                pipe.close()


def _parsed(output: bytes, expected: int, code: int | None) -> SandboxResult:
    try:
        answer = json.loads(output)
        values = answer.get("values")
        if isinstance(values, list) and len(values) == expected:
            return SandboxResult(values)
        return SandboxResult(None, str(answer.get("error", "no values"))[:2000])
    except (ValueError, AttributeError, RecursionError):
        return SandboxResult(None, f"no answer; its process ended with code {code}")
