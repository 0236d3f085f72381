"""SIGKILL at any moment, then resume: the bits of an undisturbed run."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time

import pytest

from es_llm._core import Journal
from es_llm.errors import JournalError
from tests.commands import SMALL, base_sha256, command, es_llm, result, rewards
from tests.kill_worker import POINTS, SNAPSHOT_POINTS, STEPS

KILLS = int(os.environ.get("ES_LLM_KILLS", "12"))
"""Kills at random moments; `make test-faults` asks for many more."""


class Worker:
    """The warm process of `tests.kill_worker`."""

    def __init__(self):
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.kill_worker"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def train(self, directory, *, resume=False, kill=None):
        request = {"dir": str(directory), "resume": resume, "kill": kill}
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())

    def close(self):
        self.process.stdin.close()
        self.process.stdout.close()
        self.process.wait(30)


@pytest.fixture(scope="module")
def worker():
    worker = Worker()
    yield worker
    worker.close()


@pytest.fixture(scope="module")
def undisturbed(worker, tmp_path_factory):
    """Directory, SHA-256 and seconds of a run that nothing disturbed."""
    directory = tmp_path_factory.mktemp("undisturbed") / "run"
    worker.train(tmp_path_factory.mktemp("warm") / "run")
    start = time.perf_counter()
    answer = worker.train(directory)
    assert answer["code"] == 0
    assert answer["sha256"] != base_sha256(directory)
    assert len(set(rewards(directory))) == STEPS
    return directory, answer["sha256"], time.perf_counter() - start


def test_kill_at_each_place_of_an_iteration(worker, undisturbed, tmp_path):
    for step in (0, STEPS - 1):
        for point in POINTS:
            directory = tmp_path / f"{point}-{step}"
            killed = worker.train(directory, kill={"step": step, "point": point})
            assert killed == {"code": -signal.SIGKILL, "sha256": None}, (point, step)
            assert worker.train(directory, resume=True) == {"code": 0, "sha256": undisturbed[1]}, (point, step)
            assert rewards(directory) == rewards(undisturbed[0]), (point, step)


def test_kill_at_each_place_of_a_snapshot(worker, undisturbed, tmp_path):
    for step, point in [*((2, point) for point in SNAPSHOT_POINTS[:2]), *((STEPS, point) for point in SNAPSHOT_POINTS)]:
        directory, killed_at = tmp_path / f"{point}-{step}", 2 if point == "in_cleaning" else step
        killed = worker.train(directory, kill={"step": killed_at, "point": point})
        assert killed == {"code": -signal.SIGKILL, "sha256": None}, (point, step)
        assert any(path.name.startswith("checkpoint-") for path in directory.iterdir()) or (step, point) == (
            2,
            "before_swap",
        )
        assert worker.train(directory, resume=True) == {"code": 0, "sha256": undisturbed[1]}, (point, step)
        names = sorted(path.name for path in directory.iterdir() if "checkpoint" in path.name)
        # A kill after the new snapshot appears and before the old one is deleted leaves both.
        assert names[-1] == f"checkpoint-{STEPS}", (point, step)
        assert all(name.startswith("checkpoint-") for name in names), (point, step)
        assert len(names) == (2 if (step, point) == (STEPS, "after_swap") else 1), (point, step)


def test_kill_at_random_moments_again_and_again(worker, undisturbed, tmp_path):
    draw = random.Random(0)
    killed, whole_s = 0, undisturbed[2]
    for number in range(KILLS // 2):
        directory = tmp_path / str(number)
        for again in (False, True):
            start = time.perf_counter()
            answer = worker.train(directory, resume=True, kill={"after_s": draw.uniform(0, 1.1 * whole_s)})
            if answer["code"] == -signal.SIGKILL:
                killed += 1
            elif not again:  # the run ended before the kill: kill earlier
                whole_s = min(whole_s, time.perf_counter() - start)
        assert worker.train(directory, resume=True) == {"code": 0, "sha256": undisturbed[1]}, number
        assert rewards(directory) == rewards(undisturbed[0]), number
    assert killed > KILLS // 3


def test_the_journal_cut_anywhere_resumes_to_the_same_bits(worker, undisturbed, tmp_path):
    whole = (undisturbed[0] / "journal.es").read_bytes()
    header = next(size for size in range(len(whole)) if _reads(tmp_path / "cut", whole[:size]))
    cuts = sorted({header, header + 1, len(whole) - 1, *random.Random(1).sample(range(header, len(whole)), KILLS // 2)})
    for cut in cuts:
        directory = tmp_path / str(cut)
        directory.mkdir()
        (directory / "journal.es").write_bytes(whole[:cut])
        answer = worker.train(directory, resume=True)
        assert answer == {"code": 0, "sha256": undisturbed[1]}, f"cut at {cut}"


def test_replay_rebuilds_the_weights(undisturbed, tmp_path):
    process = es_llm("replay", str(undisturbed[0]), "--output_dir", str(tmp_path / "rebuilt"))
    assert process.returncode == 0, process.stderr
    assert result(tmp_path / "rebuilt")["weights_sha256"] == undisturbed[1]
    ours, theirs = (d / "model" / "model.safetensors" for d in (undisturbed[0], tmp_path / "rebuilt"))
    assert ours.read_bytes() == theirs.read_bytes()


def test_inspect_shows_the_run(undisturbed):
    process = es_llm("inspect", str(undisturbed[0]))
    assert process.returncode == 0, process.stderr
    lines = process.stdout.splitlines()
    assert any(line.split()[:1] == [str(STEPS)] for line in lines)
    assert "population_size=4" in process.stdout
    assert process.stdout.count("evaluation") == 2


def test_the_journal_is_small(undisturbed):
    assert os.path.getsize(undisturbed[0] / "journal.es") < 20_000
    journal = Journal.read(str(undisturbed[0] / "journal.es"))
    assert [record.iteration for record in journal.records] == list(range(STEPS))
    assert journal.torn_bytes == 0


@pytest.mark.mpi
def test_sigkill_of_the_whole_mpi_job(tmp_path):
    words = ["train", *SMALL, "--max_steps", "5", "--seed", "11"]
    assert es_llm(*words, "--output_dir", str(tmp_path / "whole"), ranks=2).returncode == 0
    directory = tmp_path / "killed"
    again = [*words, "--output_dir", str(directory), "--resume_from_checkpoint", str(directory)]
    for steps in (1, 3):
        job = subprocess.Popen(
            command(*again, ranks=2), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
        )
        _wait_for_steps(directory, steps)
        os.killpg(job.pid, signal.SIGKILL)
        job.wait(60)
    process = es_llm(*again, ranks=2)
    assert process.returncode == 0, process.stderr
    assert result(directory)["weights_sha256"] == result(tmp_path / "whole")["weights_sha256"]
    assert rewards(directory) == rewards(tmp_path / "whole")


def _reads(path, data):
    path.write_bytes(data)
    try:
        Journal.read(path)
    except JournalError:
        return False
    return True


def _wait_for_steps(directory, steps, timeout_s=120):
    end = time.monotonic() + timeout_s
    while time.monotonic() < end:
        try:
            copy = shutil.copy(directory / "journal.es", directory.parent / "copy")
            if len(Journal.read(copy).records) >= steps:
                return
        except (FileNotFoundError, RuntimeError):
            pass
        time.sleep(0.05)
    raise TimeoutError(f"{steps} steps not journaled in {timeout_s} s")
