"""A run continues after its files were moved, and only with the same data: contents count, not names."""

from __future__ import annotations

import json
import logging
import os
import shutil

import datasets
import pytest

from es_llm import ESConfig
from es_llm._core import Journal, JournalWriter
from es_llm.assemble import assemble
from es_llm.checkpoint.identity import require_same_identity
from es_llm.comm import SingleMailbox
from es_llm.config import ScriptArguments
from es_llm.data.fingerprint import fingerprint
from es_llm.errors import ResumeError
from es_llm.plugins import file_of
from es_llm.team import Team

REWARD = """
from es_llm.rewards import inline

@inline
def digits(completions, answer, **columns):
    return [float(sum(map(str.isdigit, text))) for text in completions]
"""
ROWS = [{"prompt": f"{number},1,2=9:", "answer": f"0{number}"} for number in range(90)]


def job(tmp_path, name, rows=ROWS, reward=REWARD, suffix="jsonl"):
    """A directory with rows and a reward function."""
    directory = tmp_path / name
    directory.mkdir()
    (directory / "reward.py").write_text(reward)
    text = "".join(json.dumps(row) + "\n" for row in rows)
    if suffix == "saved":
        datasets.Dataset.from_list(rows).save_to_disk(directory / "rows.saved")
    elif suffix == "folder":
        (directory / "rows.folder").mkdir()
        (directory / "rows.folder" / "train.jsonl").write_text(text)
    else:
        (directory / f"rows.{suffix}").write_text(text)
    return directory


def train(directory, run, steps, suffix="jsonl", config=None, **options):
    script = ScriptArguments(
        **{
            "dataset_name": str(directory / f"rows.{suffix}"),
            "reward_funcs": [f"{directory}/reward.py:digits"],
            **options,
        }
    )
    args = ESConfig(
        population_size=2, sigma=0.02, learning_rate=0.02, max_completion_length=3, prompts_per_iteration=2,
        eval_on_start=False, max_steps=steps, output_dir=str(run),
        resume_from_checkpoint=str(run) if run.exists() else None, **(config or {}),
    )  # fmt: skip
    return assemble(script, args, Team(SingleMailbox())).train().metrics["weights_sha256"]


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("suffix", ["jsonl", "saved", "folder"])
def test_a_moved_run_continues(tmp_path, monkeypatch, suffix, streaming):
    options = {"suffix": suffix, "dataset_streaming": streaming}
    first = job(tmp_path, "job_1", suffix=suffix)
    whole = train(first, tmp_path / "whole", 3, **options)
    train(first, tmp_path / "job_1" / "run", 1, **options)
    (tmp_path / "deep").mkdir()
    second = tmp_path / "deep" / "job_2"
    shutil.move(first, second)
    train(second, second / "run", 2, **options)
    (tmp_path / "link").symlink_to(second)
    monkeypatch.chdir(second)
    names = {"dataset_name": f"rows.{suffix}", "reward_funcs": ["./reward.py:digits"]}
    assert train(tmp_path / "link", tmp_path / "link" / "run", 3, **names, **options) == whole


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("row", [1, 80], ids=["early", "late"])
def test_other_rows_under_the_same_name_are_refused(tmp_path, streaming, row):
    first = job(tmp_path, "job")
    train(first, tmp_path / "run", 1, dataset_streaming=streaming)
    rows = [{**old, "answer": "99"} if number == row else old for number, old in enumerate(ROWS)]
    (first / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(ResumeError, match=r"(train_dataset|dataset_files).*the rows of `dataset_name` '.*rows.jsonl'"):
        train(first, tmp_path / "run", 2, dataset_streaming=streaming)


def test_a_run_continues_with_equal_rows_in_another_format(tmp_path):
    first = job(tmp_path, "job")
    train(first, tmp_path / "run", 1)
    train(job(tmp_path, "other", suffix="folder"), tmp_path / "run", 2, suffix="folder")


def test_a_reward_of_another_file(tmp_path, caplog):
    first = job(tmp_path, "job_1")
    train(first, tmp_path / "run", 1)
    other = job(tmp_path, "job_2", reward=REWARD + "\n# another one\n")
    with pytest.raises(
        ResumeError, match=r"run with other files: the content of `reward_funcs\[0\]` 'reward.py:digits' differs: its"
    ):
        train(other, tmp_path / "run", 2)
    (other / "reward.py").rename(other / "renamed.py")
    with pytest.raises(ResumeError, match=r"`script.reward_funcs` was \['reward.py:digits'\], now \['renamed.py:"):
        train(first, tmp_path / "run", 2, reward_funcs=[f"{other}/renamed.py:digits"])
    (first / "reward.py").write_text(REWARD + "\n# mended\n")
    with caplog.at_level(logging.WARNING):
        train(first, tmp_path / "run", 2)
    assert "reward_funcs` ['" in caplog.text
    assert "have changed since the run began" in caplog.text


def test_a_run_continues_with_a_renamed_file_of_rewards(tmp_path, monkeypatch):
    first = job(tmp_path, "job")
    whole = train(first, tmp_path / "whole", 4)
    train(first, tmp_path / "run", 1)
    (first / "reward.py").rename(first / "renamed_reward.py")
    train(first, tmp_path / "run", 2, reward_funcs=[f"{first}/renamed_reward.py:digits"])
    monkeypatch.syspath_prepend(first)
    train(first, tmp_path / "run", 3, reward_funcs=["renamed_reward.digits"])
    (first / "other_reward.py").write_text(REWARD.replace("digits", "numbers") + "\ndigits = numbers\n")
    with pytest.raises(ResumeError, match=r"`script\.reward_funcs` was"):
        train(first, tmp_path / "run", 4, reward_funcs=["other_reward.digits"])
    assert train(first, tmp_path / "run", 4, reward_funcs=["renamed_reward.digits"]) == whole


TASK = """
from es_llm.rewards import inline
from es_llm.tasks import Task

@inline
def digits(completions, **columns):
    return [float(sum(map(str.isdigit, text))) for text in completions]

def build():
    rows = [{"prompt": f"{number},1,2=9:"} for number in range(9)]
    return Task(name="own", train=rows, eval=[], reward_funcs=(digits,))
"""


def test_a_task_of_a_file_counts_by_its_content(tmp_path, caplog):
    def train_task(file, run, steps):
        return train(tmp_path, run, steps, dataset_name=None, reward_funcs=[], task=str(file))

    first, moved, other = (tmp_path / name / "task.py" for name in ("first", "moved", "other"))
    for path in (first, other):
        path.parent.mkdir()
        path.write_text(TASK if path == first else TASK + "\n# another file\n")
    whole = train_task(first, tmp_path / "whole", 3)
    train_task(first, tmp_path / "run", 1)
    first.parent.rename(moved.parent)
    train_task(moved, tmp_path / "run", 2)
    with pytest.raises(
        ResumeError, match=r"run with other files: the content of `task` 'task.py' differs: its SHA-256 was"
    ):
        train_task(other, tmp_path / "run", 3)
    moved.parent.rename(first.parent)
    first.write_text(TASK + "\n# edited\n")
    with caplog.at_level(logging.WARNING):
        assert train_task(first, tmp_path / "run", 3) == whole
    assert "the files of `task`" in caplog.text


def test_a_module_of_rewards_counts_by_its_content():
    assert file_of("reward", "es_llm.tasks.countdown.reward.countdown").name == "reward.py"
    assert file_of("reward", "no.such.module") is None
    assert file_of("reward", "sys.intern") is None

    def header(files, name="pkg.mod.f", rows=None):
        identity = {"script": {"reward_funcs": [name]}, "reward_files": files, "train_dataset": rows}
        return {"identity": identity, "about": {"options": {"reward_funcs": [name]}}}

    require_same_identity(header(["a"]), header(["a"]), "journal")
    with pytest.raises(ResumeError, match=r"`reward_funcs\[0\]` 'other.mod.f' differs: its SHA-256 was a, now b;"):
        require_same_identity(header(["a"]), header(["b"], "other.mod.f"), "journal")


READS_NONE = REWARD.replace("answer, **columns", "answer")


def test_a_column_that_nothing_reads_does_not_count(tmp_path):
    first = job(tmp_path, "job", [{**row, "note": 1} for row in ROWS], READS_NONE)
    train(first, tmp_path / "run", 1)
    for step, note in enumerate(({"note": 2}, {}, {"note": 3, "more": None}), 2):
        rows = [{**row, **note} for row in ROWS]
        train(job(tmp_path, f"job_{step}", rows, READS_NONE), tmp_path / "run", step)
    other = job(tmp_path, "other", [{**row, "answer": "7", "note": 1} for row in ROWS], READS_NONE)
    with pytest.raises(ResumeError, match=r"`train_dataset\.sha256` was .*; the rows of `dataset_name`"):
        train(other, tmp_path / "run", 5)


def test_an_edited_function_may_read_other_columns(tmp_path):
    first = job(tmp_path, "job", [{**row, "note": 1} for row in ROWS], READS_NONE)
    train(first, tmp_path / "run", 1)
    (first / "reward.py").write_text(REWARD)
    train(first, tmp_path / "run", 2)


def test_rows_count_by_all_columns_or_by_those_that_are_read():
    rows = [{"prompt": "a", "note": 1}]
    own, whole = fingerprint(rows, lambda column: column == "prompt"), fingerprint(rows)

    def header(data):
        return {"identity": {"train_dataset": data}, "about": {}}

    require_same_identity(header(whole), header(own), "journal")
    other = fingerprint([{"prompt": "a", "note": 2}], lambda column: column == "prompt")
    require_same_identity(header(own), header(other), "journal")
    with pytest.raises(ResumeError, match=r"`train_dataset\.sha256` was"):
        require_same_identity(header(whole), header(other), "journal")


def test_a_run_continues_from_a_journal_without_the_newest_options(tmp_path):
    first = job(tmp_path, "job")
    train(first, tmp_path / "run", 1)
    journal = Journal.read(str(tmp_path / "run" / "journal.es"))
    header = json.loads(journal.header)
    assert header["identity"]["script"]["dataset_name"] is None
    for name in ("chat", "system_prompt", "skip_special_tokens"):  # options that the earlier version didn't have
        del header["identity"]["config"][name]
    (tmp_path / "run" / "journal.es").unlink()
    JournalWriter.create(str(tmp_path / "run" / "journal.es"), json.dumps(header, sort_keys=True))
    os.remove(tmp_path / "run" / "result.json")
    with pytest.raises(ResumeError, match=r"`config\.skip_special_tokens` was None, now False"):
        train(first, tmp_path / "run", 2, config={"skip_special_tokens": False})
    train(first, tmp_path / "run", 2)
    with pytest.raises(ResumeError, match="`train_dataset"):
        train(job(tmp_path, "other", rows=ROWS[1:]), tmp_path / "run", 3)
