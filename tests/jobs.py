"""Jobs of ranks under `mpirun --with-ft ulfm`, whose processes the tests kill, stop and wake one by one."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from es_llm._core import Journal
from tests import forking
from tests.commands import SMALL, mpirun, python_m, result

RANKS = 4
WORDS = ["train", *SMALL, "--max_steps", "16", "--seed", "5"]


class Job:
    """A job of ranks under mpirun, whose processes can be killed one by one.

    Args:
        fresh: each rank is a real start of Python, not a fork of a server.
    """

    def __init__(
        self, directory: Path, *options: str, module: tuple[str, ...] = ("es_llm",), ranks: int = RANKS,
        fresh: bool = False,
    ):  # fmt: skip
        self.directory = directory
        rank = python_m(*module, *WORDS, "--output_dir", str(directory), *options, fresh=fresh)
        self.process = subprocess.Popen(
            [*mpirun(), "--with-ft", "ulfm", "-n", str(ranks), *rank],
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True,
        )  # fmt: skip

    def wait_for_start(self) -> None:
        """Wait until the leader has created the journal."""
        while not (self.directory / "journal.es").exists() and self.process.poll() is None:
            time.sleep(0.01)

    def pids(self) -> dict[int, int]:
        """The process id of each rank that lives. The process that mpirun starts may be the launcher of the rank."""
        found = {}
        for entry in Path("/proc").iterdir():
            try:
                command = (entry / "cmdline").read_bytes() if entry.name.isdigit() else b""
                if str(self.directory).encode() in command and b"mpirun" not in command:
                    for word in (entry / "environ").read_bytes().split(b"\0"):
                        if word.startswith(b"OMPI_COMM_WORLD_RANK="):
                            pid = forking.forked(int(entry.name)) or int(entry.name)
                            if lives(pid):
                                found[int(word.partition(b"=")[2])] = pid
            except OSError:
                continue
        return found

    def end(self, timeout_s: float = 120) -> tuple[int, str]:
        """Wait for the end of the job, and return its exit code and output."""
        try:
            output, _ = self.process.communicate(timeout=timeout_s)
        except subprocess.TimeoutExpired:
            self.kill()
            pytest.fail(f"the job hangs: {self.process.communicate()[0][-3000:]}")
        return self.process.returncode, output

    def kill(self) -> None:
        """Kill mpirun and all ranks with SIGKILL."""
        for pid in self.pids().values():
            kill(pid)
        os.killpg(self.process.pid, signal.SIGKILL)


def lives(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def kill(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def same(directory, whole):
    return result(directory)["weights_sha256"] == result(whole)["weights_sha256"]


def events(directory):
    return [json.loads(text) for text in Journal.read(str(directory / "journal.es")).events]


def steps(directory):
    try:
        return len(Journal.read(str(directory / "journal.es")).records)
    except (OSError, RuntimeError):
        return 0


def wait_until(condition, timeout_s=60):
    end = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.02)
