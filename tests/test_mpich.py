"""An MPI without fault tolerance: the same bits; a dead rank ends the job at once, and a resume goes on."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.commands import SMALL, es_llm, result, rewards

PREFIX = Path(sys.executable).parent.parent / "mpich"
WORDS = ["train", *SMALL, "--max_steps", "6", "--seed", "5"]

pytestmark = [
    pytest.mark.mpi,
    pytest.mark.skipif(not (PREFIX / "bin" / "mpiexec").exists(), reason=f"no MPICH in {PREFIX} (`make setup`)"),
]


def mpich(directory, *options, ranks=3, module=("es_llm",)):
    """A started job of ranks under MPICH."""
    words = [str(PREFIX / "bin" / "mpiexec"), "-n", str(ranks), sys.executable, "-m", *module, *WORDS]
    library = {"LD_LIBRARY_PATH": str(PREFIX / "lib"), "MPI4PY_MPIABI": "mpich"}
    return subprocess.Popen(
        [*words, "--output_dir", str(directory), *options],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env={**os.environ, **library},
    )  # fmt: skip


def pid_of_rank(directory, rank):
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and str(directory).encode() in (entry / "cmdline").read_bytes():
                variables = (entry / "environ").read_bytes().split(b"\0")
                if f"PMI_RANK={rank}".encode() in variables:
                    return int(entry.name)
        except OSError:
            continue
    raise AssertionError(f"no rank {rank}")


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    directory = tmp_path_factory.mktemp("whole") / "run"
    assert es_llm(*WORDS, "--output_dir", str(directory)).returncode == 0
    return directory


def test_the_same_bits(whole, tmp_path):
    job = mpich(tmp_path / "D")
    output, _ = job.communicate(timeout=120)
    assert job.returncode == 0, output
    assert result(tmp_path / "D")["weights_sha256"] == result(whole)["weights_sha256"]
    assert result(tmp_path / "D")["ranks"] == 3


@pytest.mark.parametrize("rank", [0, 2])
def test_a_dead_rank_ends_the_job_at_once_and_resume_goes_on(whole, tmp_path, rank):
    directory = tmp_path / "D"
    job = mpich(directory)
    while not (directory / "metrics.jsonl").exists() and job.poll() is None:
        time.sleep(0.02)
    os.kill(pid_of_rank(directory, rank), signal.SIGKILL)
    output, _ = job.communicate(timeout=30)
    assert job.returncode != 0
    assert "Killed (signal 9)" in output, output
    assert not (directory / "result.json").exists()
    job = mpich(directory, "--resume_from_checkpoint", str(directory), ranks=2)
    output, _ = job.communicate(timeout=120)
    assert job.returncode == 0, output
    assert result(directory)["weights_sha256"] == result(whole)["weights_sha256"]
    assert rewards(directory) == rewards(whole)


@pytest.mark.parametrize("rank", [0, 2])
def test_a_rank_that_hangs_does_not_keep_the_job_from_ending(whole, tmp_path, rank):
    directory = tmp_path / "D"
    job = mpich(directory, "--unit_timeout_s", "3", module=("tests.faulty_run", f"{rank}:hang:5"))
    output, _ = job.communicate(timeout=90)
    assert 'faulty_run.py", line' in output, "it shows where it hangs"
    assert result(directory)["weights_sha256"] == result(whole)["weights_sha256"], output


def test_a_launcher_of_another_mpi_is_refused(tmp_path):
    """mpi4py uses Open MPI by default here. Under MPICH's launcher, Open MPI sees a job of one process in each
    process."""
    words = [str(PREFIX / "bin" / "mpiexec"), "-n", "2", sys.executable, "-m", "es_llm", *WORDS]
    variables = {name: value for name, value in os.environ.items() if name not in ("MPI4PY_MPIABI", "LD_LIBRARY_PATH")}
    job = subprocess.run(
        [*words, "--output_dir", str(tmp_path / "D")], capture_output=True, text=True, env=variables, timeout=120,
        check=False,
    )  # fmt: skip
    assert job.returncode == 2, job.stderr
    assert job.stderr.count("es-llm: error") == 1
    assert "the launcher declares 2 ranks (PMI_SIZE=2" in job.stderr
    assert "but MPI has 1: mpi4py is built with Open MPI v" in job.stderr
    assert "own `mpirun -n 2`" in job.stderr
    assert not (tmp_path / "D").exists()
