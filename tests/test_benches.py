"""The benches run, and their checks hold; the figures don't matter here."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.commands import mpirun

BENCHES = Path(__file__).parent.parent / "benches" / "python"


def test_the_kernels_bench():
    small = ["--parameters", "2e5", "--members", "3", "--runs", "1", "--threads", "1", "--replay_iterations", "5"]
    done = subprocess.run(
        [sys.executable, BENCHES / "kernels.py", *small], capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    for row in ("perturb + restore", "per member", "update, N = 3", "low rank 1", "replay of 5 iterations"):
        assert done.stdout.count(f"\n{row}") == 2, row


@pytest.mark.mpi
def test_the_coordination_bench():
    words = ["--unit_ms", "5", "--units_per_rank", "4", "--iterations", "3"]
    done = subprocess.run(
        [*mpirun(), "-n", "3", sys.executable, BENCHES / "coordination.py", *words],
        capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    for row in ("equal speeds", "half 4 times as slow", "... another half each iteration"):
        assert done.stdout.count(f"\n{row}") == 2, row
    figures = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("    {")]
    assert len(figures) == 6
    for figure in figures:
        # A record's scores and coefficients, 12 bytes a member, and what doesn't grow with the members.
        assert figure["worker_bytes"] < 16 * figure["members"] + 1000


def test_the_rewards_bench():
    words = ["--rewards", "240", "--cost_ms", "1"]
    done = subprocess.run(
        [sys.executable, BENCHES / "rewards.py", *words], capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("of the longer of the two") == 2


def test_bad_options_are_refused_before_any_work():
    for words in (["--threads", "0"], ["--dtype", "int8"], ["--replay_iterations", "-1"], ["--kernel_path", "sse"]):
        done = subprocess.run(
            [sys.executable, BENCHES / "kernels.py", *words], capture_output=True, text=True, timeout=300, check=False
        )
        assert done.returncode == 2, words
        assert f"argument {words[0]}" in done.stderr, words


def test_the_rollout_bench():
    words = ["--rows", "16", "--tokens", "3", "--runs", "1"]
    done = subprocess.run(
        [sys.executable, BENCHES / "rollout.py", *words], capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "100% equal" in done.stdout
    batched = "batched, rank 4, vectors frozen, 16 members"
    for row in ("generate", "decoder, no noise", batched, "one by one, 16 members"):
        assert done.stdout.count(f"\n{row} ") == 1, row


def test_the_bench_of_whole_iterations():
    words = ["--rows", "32", "--tokens", "2", "--runs", "1", "--iteration"]
    done = subprocess.run(
        [sys.executable, BENCHES / "rollout.py", *words], capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    for row in ("published loop", "dense", "batched, rank 1"):
        assert done.stdout.count(f"\n{row} ") == 1, row
