"""The benches run, and their checks hold; the figures don't matter here."""

import subprocess
import sys
from pathlib import Path

BENCHES = Path(__file__).parent.parent / "benches" / "python"


def test_the_kernels_bench():
    small = ["--parameters", "2e5", "--members", "3", "--runs", "1", "--threads", "1", "--replay_iterations", "5"]
    done = subprocess.run(
        [sys.executable, BENCHES / "kernels.py", *small], capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    for row in ("perturb + restore", "per member", "update, N = 3", "low rank 1", "replay of 5 iterations"):
        assert done.stdout.count(f"\n{row}") == 2, row


def test_bad_options_are_refused_before_any_work():
    for words in (["--threads", "0"], ["--dtype", "int8"], ["--replay_iterations", "-1"], ["--kernel_path", "sse"]):
        done = subprocess.run(
            [sys.executable, BENCHES / "kernels.py", *words], capture_output=True, text=True, timeout=300, check=False
        )
        assert done.returncode == 2, words
        assert f"argument {words[0]}" in done.stderr, words
