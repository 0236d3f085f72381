"""Commands that work: help, versions, training by module, evaluation of a finished run by its own options."""

import contextlib
import io
import json
import subprocess
import sys

import pytest

from es_llm.checkpoint.metrics_log import MetricsLog
from es_llm.cli import main
from es_llm.errors import JournalError
from tests.commands import SMALL, result


def told(*words):
    """Exit code, output and messages of a command."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            code = main(list(words))
        except SystemExit as end:
            code = end.code
    return code, out.getvalue(), err.getvalue()


def test_help_and_version():
    assert told("--version")[0] == 0
    code, out, _ = told("--help")
    assert code == 0
    assert all(name in out for name in ("train", "eval", "replay", "inspect"))
    for command in ("train", "eval", "replay", "inspect"):
        code, out, _ = told(command, "--help")
        assert code == 0
        assert f"usage: es-llm {command}" in out
    assert "--population_size INT" in told("train", "--help")[1]


def test_unknown_commands():
    assert told()[0] == 2
    code, _, err = told("trian")
    assert code == 2
    assert "did you mean 'train'" in err


def test_train_by_module_then_eval_with_its_config(tmp_path):
    directory = tmp_path / "D"
    words = [sys.executable, "-m", "es_llm.train", *SMALL, "--max_steps", "2", "--output_dir", str(directory)]
    process = subprocess.run(words, capture_output=True, text=True, timeout=200, check=False)
    assert process.returncode == 0, process.stderr
    assert process.stderr == ""
    assert "after" in process.stdout
    code, out, err = told("eval", "--config", str(directory / "config.json"),
                          "--model_name_or_path", str(directory / "model"))  # fmt: skip
    assert code == 0, err
    metrics = json.loads(out)
    assert metrics == {f"eval_{name}": value for name, value in result(directory)["eval_after"].items()}


def test_replay_of_the_first_steps(tmp_path):
    directory = tmp_path / "D"
    assert told("train", *SMALL, "--max_steps", "3", "--output_dir", str(directory))[0] == 0
    assert told("train", *SMALL, "--max_steps", "2", "--output_dir", str(tmp_path / "shorter"))[0] == 0
    code, out, _ = told("replay", str(directory), "--output_dir", str(tmp_path / "E"), "--steps", "2")
    assert code == 0
    assert result(tmp_path / "E")["weights_sha256"] == result(tmp_path / "shorter")["weights_sha256"]
    assert result(tmp_path / "E")["weights_sha256"] in out
    code, _, err = told("replay", str(directory), "--output_dir", str(tmp_path / "F"), "--steps", "9")
    assert code == 2
    assert "`steps` must be in [0, 3], got 9" in err


def test_output_directories_are_numbered(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for number in (1, 2):
        assert told("train", *SMALL, "--max_steps", "1", "--eval_on_start", "false")[0] == 0
        assert len(list((tmp_path / "runs").iterdir())) == number


def test_a_metrics_log_that_cannot_be_written(tmp_path):
    with pytest.raises(JournalError, match=r"metrics\.jsonl"):
        MetricsLog(tmp_path / "missing" / "metrics.jsonl").write({"step": 1})
