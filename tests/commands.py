"""Runs the command line in subprocesses, alone and under mpirun."""

from __future__ import annotations

import atexit
import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from es_llm._core import Journal
from tests import forking

REWARD = str(Path(__file__).with_name("reward_digits.py")) + ":digits"
"""A reward that differs between members from the first iteration on. Otherwise equal weights would prove nothing."""

SMALL = [
    "--population_size", "5", "--prompts_per_iteration", "6", "--prompts_per_unit", "4", "--max_completion_length", "8",
    "--task_args", "train_size=40", "eval_size=10",
    "--sigma", "0.02", "--learning_rate", "0.02", "--reward_funcs", REWARD,
]  # fmt: skip
"""Options of a short run (seconds) of the embedded model. No number of ranks divides the population."""

SESSIONS = tempfile.mkdtemp(prefix="es_llm_mpirun_")
"""Has a folder for each mpirun that this process starts."""
atexit.register(shutil.rmtree, SESSIONS, ignore_errors=True)


def es_llm(*words: str, ranks: int | None = None, timeout_s: float = 240, cwd: Path | None = None, fresh: bool = False):
    """Run `python -m es_llm WORDS`, under mpirun if `ranks` is given, and return the finished process."""
    line = command(*words, ranks=ranks, fresh=fresh)
    return subprocess.run(line, capture_output=True, text=True, timeout=timeout_s, cwd=cwd, check=False)


def command(*words: str, ranks: int | None = None, fresh: bool = False) -> list[str]:
    """The command line of such a process."""
    return [*([*mpirun(), "-n", str(ranks)] if ranks else []), *python_m("es_llm", *words, fresh=fresh)]


def python_m(module: str, *words: str, fresh: bool) -> list[str]:
    """A command line that runs a module: a real start of Python if it must be fresh, else a fork of a server (see
    `tests.forking`). A test about the start itself, or the loading of libraries, needs a real start."""
    return [sys.executable, "-m", module, *words] if fresh else forking.command(module, *words)


def mpirun() -> list[str]:
    """The mpirun of this virtual environment, else the one on the PATH, with a folder of its own for its files.

    In a folder that it shares, an mpirun fails to start if one with the same process id was killed there before.
    """
    beside = Path(sys.executable).with_name("mpirun")
    path = str(beside) if beside.exists() else shutil.which("mpirun") or "mpirun"
    return [path, "--prtemca", "prte_tmpdir_base", tempfile.mkdtemp(dir=SESSIONS)]


def result(directory: Path) -> dict:
    return json.loads((directory / "result.json").read_text())


def base_sha256(directory: Path) -> str:
    """SHA-256 of the weights that the run began from."""
    header = json.loads(Journal.read(directory / "journal.es").header)
    return header["identity"]["model"]["base_sha256"]


def rewards(directory: Path) -> list[float]:
    lines = [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]
    return [line["reward"] for line in lines if "reward" in line]
