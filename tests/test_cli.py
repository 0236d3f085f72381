"""Commands that succeed: help, version, training by `python -m`, evaluation of a finished run with its config."""

import contextlib
import io
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from es_llm import _core
from es_llm.checkpoint.metrics_log import MetricsLog
from es_llm.checkpoint.run_directory import write_whole
from es_llm.cli import main
from es_llm.errors import JournalError
from tests.commands import SMALL, command, es_llm, result


def run_main(*words):
    """Exit code, output and messages of a command."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            code = main(list(words))
        except SystemExit as end:
            code = end.code
    return code, out.getvalue(), err.getvalue()


def test_help_and_version():
    assert run_main("--version")[0] == 0
    code, out, _ = run_main("--help")
    assert code == 0
    assert all(name in out for name in ("train", "eval", "replay", "inspect"))
    for name in ("train", "eval", "replay", "inspect"):
        code, out, _ = run_main(name, "--help")
        assert code == 0
        assert f"usage: es-llm {name}" in out
    assert "--population_size INT" in run_main("train", "--help")[1]


def test_unknown_commands():
    assert run_main()[0] == 2
    code, _, err = run_main("trian")
    assert code == 2
    assert "did you mean 'train'" in err


def test_train_by_module_then_eval_with_its_config(tmp_path):
    directory = tmp_path / "D"
    words = [sys.executable, "-m", "es_llm.train", *SMALL, "--max_steps", "2", "--output_dir", str(directory)]
    process = subprocess.run(words, capture_output=True, text=True, timeout=200, check=False)
    assert process.returncode == 0, process.stderr
    assert process.stderr == ""
    assert "after" in process.stdout
    code, out, err = run_main("eval", "--config", str(directory / "config.json"),
                          "--model_name_or_path", str(directory / "model"))  # fmt: skip
    assert code == 0, err
    metrics = json.loads(out)
    assert metrics == {f"eval_{name}": value for name, value in result(directory)["eval_after"].items()}


def test_eval_prints_where_completions_are(tmp_path):
    words = ["eval", *SMALL, "--log_completions", "--num_completions_to_print", "0"]
    code, _, err = run_main(*words, "--output_dir", str(tmp_path / "D"))
    assert code == 0, err
    assert f"completions  {tmp_path / 'D' / 'completions'}/eval-rank*.parquet" in err
    assert (tmp_path / "D" / "completions" / "eval-rank0.parquet").is_file()
    assert "completions are not kept: `log_completions` needs `output_dir`" in run_main(*words)[2]


def test_replay_of_the_first_iterations(tmp_path, monkeypatch):
    directory = tmp_path / "D"
    assert run_main("train", *SMALL, "--max_steps", "3", "--output_dir", str(directory))[0] == 0
    assert run_main("train", *SMALL, "--max_steps", "2", "--output_dir", str(tmp_path / "shorter"))[0] == 0
    code, out, _ = run_main("replay", str(directory), "--output_dir", str(tmp_path / "E"), "--iterations", "2")
    assert code == 0
    assert result(tmp_path / "E")["weights_sha256"] == result(tmp_path / "shorter")["weights_sha256"]
    assert result(tmp_path / "E")["weights_sha256"] in out
    used = []
    monkeypatch.setattr(_core, "set_kernel_threads", used.append)
    code, out, _ = run_main("replay", str(directory), "--output_dir", str(tmp_path / "G"), "--kernel_threads", "2")
    assert (code, used) == (0, [2])
    assert result(directory)["weights_sha256"] in out
    code, _, err = run_main("replay", str(directory), "--output_dir", str(tmp_path / "F"), "--iterations", "9")
    assert code == 2
    assert "`iterations` must be in [0, 3], got 9" in err


def test_output_directories_are_numbered(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for number in (1, 2):
        assert run_main("train", *SMALL, "--max_steps", "1", "--eval_on_start", "false")[0] == 0
        assert len(list((tmp_path / "runs").iterdir())) == number


def test_a_metrics_log_that_cannot_be_written(tmp_path):
    with pytest.raises(JournalError, match=r"metrics\.jsonl"):
        MetricsLog(tmp_path / "missing" / "metrics.jsonl").write({"step": 1})


def test_a_metrics_log_has_each_iteration_and_evaluation_once(tmp_path):
    log = MetricsLog(tmp_path / "metrics.jsonl")
    written = [
        {"step": 0, "eval_reward": 0.5},
        {"step": 1, "reward": 1.0, "seconds": 0.5},
        {"step": 2, "eval_reward": 5.0},
        {"step": 2, "reward": 2.0, "seconds": 0.25},
        {"step": 4, "eval_reward": 6.0},
        {"step": 5, "reward": 7.0},
    ]
    for line in written:
        log.write(line)
        log.write({**line, "again": True})
    log.rewind(4, lambda step: {"step": step, "reward": 9.0}, {0: {}, 2: {}, 3: {"step": 3, "eval_reward": 8.0}})
    lines = [json.loads(text) for text in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    logged = [(line["step"], line.get("reward"), line.get("eval_reward")) for line in lines]
    assert logged == [
        (0, None, 0.5),
        (1, 1, None),
        (2, 2, None),
        (2, None, 5),
        (3, 9, None),
        (3, None, 8),
        (4, 9, None),
    ]
    assert log.total("seconds") == 0.75


def test_a_leader_stopped_while_it_wrote_a_file_that_another_one_writes_meanwhile(tmp_path, monkeypatch):
    path, replace = tmp_path / "config.json", os.replace

    def stopped(source, target):
        monkeypatch.setattr(os, "replace", replace)
        write_whole(path, "the other's")
        replace(source, target)

    monkeypatch.setattr(os, "replace", stopped)
    write_whole(path, "its own")
    assert path.read_text() == "its own"
    assert list(tmp_path.iterdir()) == [path]


def test_a_signal_while_libraries_load_ends_in_a_run_that_can_be_resumed(tmp_path):
    words = ["train", *SMALL, "--max_steps", "2", "--output_dir", str(tmp_path / "D")]
    process = subprocess.Popen(command(*words, fresh=True), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    while not int(_status(process.pid, "SigCgt"), 16) >> (signal.SIGTERM - 1) & 1:
        time.sleep(0.005)
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 75, output
    assert "--resume_from_checkpoint" in output
    again = es_llm(*words, "--resume_from_checkpoint", str(tmp_path / "D"))
    assert again.returncode == 0, again.stderr
    assert result(tmp_path / "D")["steps"] == 2


@pytest.mark.parametrize("where", ["the rank", "the reward server"])
def test_a_signal_while_a_reward_hangs_in_its_import_ends_the_run_before_it_began(tmp_path, where):
    mark, reward = tmp_path / "pid", tmp_path / "hangs.py"
    reward.write_text(
        "import os, sys, time\n"
        f"if ('es_llm.rewards.workers.server' in sys.modules) == {where != 'the rank'}:\n"
        f"    with open({str(mark)!r}, 'w') as file:\n"
        "        print(os.getpid(), file=file)\n"
        "    time.sleep(600)\n"
        "def f(completions, **columns):\n"
        "    return [1.0] * len(completions)\n"
    )
    words = ["train", *SMALL, "--output_dir", str(tmp_path / "D"), "--reward_funcs", f"{reward}:f"]
    process = subprocess.Popen(command(*words), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        while not mark.exists() or not mark.read_text().endswith("\n"):
            assert process.poll() is None, process.communicate()
            time.sleep(0.05)
        process.send_signal(signal.SIGINT if where == "the rank" else signal.SIGTERM)
        output, _ = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 75, output
    assert "ending before the first iteration" in output
    assert f"--resume_from_checkpoint {tmp_path / 'D'}" in output
    assert not (tmp_path / "D").exists()
    assert not Path(f"/proc/{mark.read_text().strip()}").exists(), "a process is left"


def _status(pid, name):
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(line.split()[1] for line in lines if line.startswith(name))


def test_inspect_counts_failed_rewards_and_shows_one(tmp_path):
    reward = tmp_path / "fragile.py"
    reward.write_text(
        "def fragile(completions, prompts, **columns):\n"
        "    if len(prompts[0]) % 2:\n"
        "        raise ValueError('an odd prompt')\n"
        "    return [float(len(completions[0]))]\n"
    )
    words = ["train", *SMALL, "--max_steps", "2", "--output_dir", str(tmp_path / "D"), "--reward_funcs"]
    process = es_llm(*words, f"{reward}:fragile")
    assert process.returncode == 0, process.stderr
    logged = [json.loads(line) for line in (tmp_path / "D" / "metrics.jsonl").read_text().splitlines()]
    failures = [str(line["rewards/failures"]) for line in logged if "rewards/failures" in line]
    inspected = es_llm("inspect", str(tmp_path / "D")).stdout.splitlines()
    assert [line.split()[5] for line in inspected if line.split()[:1] in (["1"], ["2"])] == failures
    assert any(int(count) for count in failures)
    assert "failure   fragile: ValueError: an odd prompt" in inspected
