"""docs/extending.md: each example is one file that runs with the command below it."""

import itertools
import re
import shlex
from pathlib import Path

import pytest

from .commands import REWARD, base_sha256, es_llm, result

PAGE = (Path(__file__).parent.parent / "docs" / "extending.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```(python|bash)\n(.*?)```", PAGE, re.DOTALL)
EXAMPLES = {
    re.match(r"# (\w+)\.py\n", source)[1]: (source, command)
    for (kind, source), (after, command) in itertools.pairwise(BLOCKS)
    if (kind, after) == ("python", "bash")
}
QUICK = [
    "--population_size", "4", "--prompts_per_iteration", "4", "--max_completion_length", "8", "--sigma", "0.1",
    "--learning_rate", "0.02", "--eval_on_start", "false", "--max_eval_samples", "2",
]  # fmt: skip


def test_every_piece_has_an_example():
    sections = re.findall(r"^## (.*)$", PAGE, re.MULTILINE)
    assert sections == ["Shaping rule", "Task", "Reward", "Engine", "Optimizer", "Schedule", "Perturbation"]
    assert len(EXAMPLES) == len(sections)


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_runs_unchanged(tmp_path, name):
    source, command = EXAMPLES[name]
    (tmp_path / f"{name}.py").write_text(source)
    program, *words = shlex.split(command)
    assert (program, words[0]) == ("es-llm", "train")
    signal = [] if name in ("reverse", "brevity") else ["--reward_funcs", REWARD]  # these two define their own rewards
    process = es_llm("train", *QUICK, *signal, *words[1:], "--output_dir", "run", cwd=tmp_path)
    assert process.returncode == 0, process.stderr
    assert result(tmp_path / "run")["steps"] == 2
    if name != "reverse":  # the embedded model doesn't know this task
        assert result(tmp_path / "run")["weights_sha256"] != base_sha256(tmp_path / "run")
