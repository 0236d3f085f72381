"""The quick starts and scripts that the installed TRL ships run on a real model, with the trainer's name changed."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from trl import GRPOConfig

from es_llm import ESConfig, ESTrainer
from es_llm.config.foreign import counterpart, foreign_options
from tests.trl_scripts import MODEL, SMALL, command_line_scripts, quick_starts, with_our_trainer

ROOT = Path(__file__).parent.parent
ROWS = [
    {"prompt": [{"role": "user", "content": f"What is {a} + {a}? Answer with a number."}], "solution": f"${a + a}$"}
    for a in (1, 2, 3)
]
PUBLISHED = '"Qwen/Qwen2.5-0.5B-Instruct"'
REWARDS = ["accuracy_reward", "reasoning_accuracy_reward", "think_format_reward", "get_soft_overlong_punishment"]


def run(tmp_path, text, *words):
    (tmp_path / "rows.json").write_text(json.dumps(ROWS))
    (tmp_path / "script.py").write_text(text)
    command = [sys.executable, "-m", "tests.trl_scripts", "rows.json", "script.py", *words]
    paths = [str(ROOT), *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
    process = subprocess.run(
        command, cwd=tmp_path, capture_output=True, text=True, timeout=240, check=False,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, paths))},
    )  # fmt: skip
    assert process.returncode == 0, process.stderr
    return process


def result(run_directory):
    assert (run_directory / "model" / "model.safetensors").is_file()
    return json.loads((run_directory / "result.json").read_text())


def test_all_scripts_are_found():
    assert any(name.startswith("README") for name in quick_starts())
    assert {"GRPOTrainer", "RLOOTrainer"} <= quick_starts().keys()
    assert {"grpo.py", "rloo.py"} <= command_line_scripts().keys()


def statements(text):
    return frozenset(with_our_trainer(text).splitlines()) - {""}


@pytest.mark.smollm2
@pytest.mark.parametrize("text", {statements(text): text for text in quick_starts().values()}.values())
def test_the_quick_starts_run(tmp_path, text):
    """Quick starts that differ only in the order of imports run once."""
    assert PUBLISHED in text
    process = run(tmp_path, with_our_trainer(text).replace(PUBLISHED, repr(MODEL)))
    assert "left out" not in process.stderr
    (directory,) = (tmp_path / "runs").iterdir()
    assert result(directory)["steps"] == SMALL["max_steps"]


@pytest.mark.smollm2
@pytest.mark.parametrize("name", sorted(command_line_scripts()))
def test_the_scripts_of_the_command_line_run(tmp_path, name):
    """Options that mean the same are used; the others are listed once, with their values."""
    process = run(
        tmp_path, with_our_trainer(command_line_scripts()[name]), "--model_name_or_path", MODEL, "--dataset_name",
        "trl-lib/DeepMath-103K", "--reward_funcs", *REWARDS, "--output_dir", "out", "--bf16", "False", "--max_steps",
        "2", "--max_completion_length", "5", "--eval_strategy", "steps", "--eval_steps", "1", "--logging_steps", "1",
        "--learning_rate", "1e-5", "--num_generations", "4", "--beta", "0.1", "--report_to", "none", "--seed", "7",
    )  # fmt: skip
    assert "Training completed" in process.stdout
    assert process.stderr.count("these options belong to another method") == 1
    for notice in ("learning_rate=1e-05: ", "num_generations=4: ", "beta=0.1: "):
        assert f"\n  {notice}" in process.stderr
    assert "the model is saved to out/model" in process.stderr
    done = result(tmp_path / "out")
    assert done["steps"] == 2
    assert done["eval_after"]["completions/mean_length"] <= 5
    options = json.loads((tmp_path / "out" / "config.json").read_text())
    wanted = {"seed": 7, "dtype": "float32", "eval_steps": 1, "learning_rate": 5e-4, "max_completion_length": 5}
    assert {key: options[key] for key in wanted} == wanted


PAGE = (ROOT / "docs" / "from_trl.md").read_text()


@pytest.mark.smollm2
def test_the_code_of_the_page_runs(tmp_path):
    (code,) = re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL)
    published = '"HuggingFaceTB/SmolLM2-135M-Instruct"'
    assert published in code
    process = run(tmp_path, code.replace(published, repr(MODEL)))
    assert re.findall(r"\n  (\w+)=", process.stderr) == ["learning_rate"]
    assert result(tmp_path / "math-ES")["steps"] == 2


def table(heading):
    lines = PAGE.split(f"## {heading}\n")[1].split("\n## ")[0].splitlines()
    cells = [line.strip("| ").split(" | ") for line in lines if line.startswith("| `")]
    return [(re.findall(r"`(\w+)", names), meaning) for names, meaning in cells]


def test_the_tables_of_the_page_are_right():
    theirs = {spec.name for spec in dataclasses.fields(GRPOConfig)}
    ours = {spec.name for spec in dataclasses.fields(ESConfig)}
    for names, meaning in table("Options"):
        assert theirs >= set(names)
        if meaning.startswith("the same"):
            assert ours >= set(names)
        if meaning.startswith("left out"):
            assert all(foreign_options("other_meaning").get(name) or counterpart(name) for name in names)
    refused = False
    for names, meaning in table("The trainer"):
        refused = "AttributeError" in meaning
        for name in set(names) - {"state", "accelerator", "print"}:
            assert callable(getattr(ESTrainer, name, None)) != refused, name
    assert refused
