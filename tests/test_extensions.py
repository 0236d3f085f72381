"""A shaping rule, an optimizer and a schedule, each in a file outside the package, are found by path or entry point,
and run from the command line: training, resume and replay. Tasks, rewards and engines have separate tests."""

import hashlib
import json
import os
import re

import numpy as np
import pytest

from es_llm.checkpoint.identity import read_journal

from .commands import SMALL, es_llm, result

SHAPING = """
import numpy as np

def shape(fitness):
    \"\"\"The sign of what is above the median.\"\"\"
    return np.sign(fitness - np.median(fitness))
"""
OPTIMIZER = """
from es_llm.optimizers import Optimizer

class HeavyBall(Optimizer):
    state_names = ("velocity",)

    def step(self, master, direction, record, state):
        velocity = state["velocity"]
        velocity.mul_(0.5).add_(direction)
        master.add_(velocity * record.learning_rate)

build = HeavyBall
"""
BROKEN = """
from es_llm.optimizers import Optimizer

class Broken(Optimizer):
    \"\"\"Divides by zero in the second iteration.\"\"\"

    def step(self, master, direction, record, state):
        master.add_(direction / (1 - record.iteration))

build = Broken
"""
TASK = """
from es_llm.tasks import Task

def digits(completions, **columns):
    return [float(sum(map(str.isdigit, text))) for text in completions]

def build():
    rows = [{"prompt": f"{number} 2="} for number in range(4)]
    return Task(name="many digits", train=rows, eval=[], reward_funcs=(digits,))
"""
SCHEDULE = """
def factor(config, iteration):
    return 0.5**iteration
"""


def train(directory, *options, **how):
    process = es_llm(
        "train", *SMALL, "--eval_on_start", "false", "--max_eval_samples", "2", *options,
        "--output_dir", str(directory), **how,
    )  # fmt: skip
    assert process.returncode == 0, process.stderr
    return read_journal(str(directory / "journal.es"))[0].records


def replayed(directory, target, *options):
    process = es_llm("replay", str(directory), "--output_dir", str(target), *options)
    assert process.returncode == 0, process.stderr
    return result(target)["weights_sha256"]


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """Installs a module with an entry point, as another package would."""

    def install(group, name, source):
        (tmp_path / "site").mkdir(exist_ok=True)
        (tmp_path / "site" / f"foreign_{name}.py").write_text(source)
        info = tmp_path / "site" / f"foreign_{name}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: foreign-{name}\nVersion: 1.0\n")
        attribute = re.search(r"def (shape|factor)|(build) =", source)
        point = f"foreign_{name}:{attribute[1] or attribute[2]}"
        (info / "entry_points.txt").write_text(f"[es_llm.{group}]\n{name} = {point}\n")
        path = os.pathsep.join([str(tmp_path / "site"), os.environ.get("PYTHONPATH", "")])
        monkeypatch.setenv("PYTHONPATH", path)
        return name

    return install


def test_a_shaping_rule_by_path_and_by_entry_point(tmp_path, installed):
    (tmp_path / "signs.py").write_text(SHAPING)
    records = train(tmp_path / "one", "--max_steps", "2", "--shaping", str(tmp_path / "signs.py"))
    for record in records:
        fitness = np.array(record.fitness)
        np.testing.assert_array_equal(record.coefficients, np.sign(fitness - np.median(fitness)))
    assert any(record.coefficients.any() for record in records)
    name = installed("shaping_rules", "signs", SHAPING)
    train(tmp_path / "two", "--max_steps", "2", "--shaping", name, ranks=2)
    assert result(tmp_path / "two")["weights_sha256"] == result(tmp_path / "one")["weights_sha256"]
    assert replayed(tmp_path / "one", tmp_path / "again") == result(tmp_path / "one")["weights_sha256"]


def test_a_schedule_by_path_and_by_entry_point(tmp_path, installed):
    (tmp_path / "halving.py").write_text(SCHEDULE)
    path = str(tmp_path / "halving.py")
    records = train(tmp_path / "one", "--max_steps", "3", "--lr_scheduler_type", path, "--sigma_scheduler_type", path)
    assert [(record.sigma, record.learning_rate) for record in records] == [
        (0.02, 0.02), (0.01, 0.01), (0.005, 0.005)
    ]  # fmt: skip
    name = installed("schedules", "halving", SCHEDULE)
    records = train(tmp_path / "two", "--max_steps", "2", "--lr_scheduler_type", name)
    assert [(record.sigma, record.learning_rate) for record in records] == [(0.02, 0.02), (0.02, 0.01)]
    assert replayed(tmp_path / "one", tmp_path / "again") == result(tmp_path / "one")["weights_sha256"]


def test_an_optimizer_by_path_and_by_entry_point(tmp_path, installed):
    (tmp_path / "ball.py").write_text(OPTIMIZER)
    path = str(tmp_path / "ball.py")
    train(tmp_path / "one", "--max_steps", "4", "--optim", path)
    whole = result(tmp_path / "one")["weights_sha256"]
    train(tmp_path / "sgd", "--max_steps", "4")
    assert whole != result(tmp_path / "sgd")["weights_sha256"]

    train(tmp_path / "ranks", "--max_steps", "2", "--optim", path, "--save_steps", "2", ranks=2)
    moved = str((tmp_path / "ball.py").rename(tmp_path / "moved_ball.py"))
    missing = es_llm("replay", str(tmp_path / "one"), "--output_dir", str(tmp_path / "again"))
    assert missing.returncode == 2
    assert "ball.py'; if the optimizer's file has moved, name it with --optim" in missing.stderr
    assert replayed(tmp_path / "one", tmp_path / "again", "--optim", moved) == whole
    (tmp_path / "ball.py").write_text(OPTIMIZER.replace("0.5", "0.25"))
    edited = es_llm("replay", str(tmp_path / "one"), "--output_dir", str(tmp_path / "other"))
    assert edited.returncode == 2
    assert "has other content than the run's optimizer 'ball.py' (SHA-256 " in edited.stderr
    assert not (tmp_path / "other").exists()
    ranks = tmp_path / "ranks"
    process = es_llm(
        "train", "--config", str(ranks / "config.json"), "--max_steps", "4", "--optim", moved,
        "--resume_from_checkpoint", str(ranks),
    )  # fmt: skip
    assert process.returncode == 0, process.stderr
    assert result(tmp_path / "ranks")["weights_sha256"] == whole, "two ranks, a snapshot with the state, one rank"
    events = [json.loads(event) for event in read_journal(str(tmp_path / "ranks" / "journal.es"))[0].events]
    assert {"snapshot", "resumed"} <= {event["event"] for event in events}

    name = installed("optimizers", "ball", OPTIMIZER)
    train(tmp_path / "two", "--max_steps", "4", "--optim", name)
    assert result(tmp_path / "two")["weights_sha256"] == whole


def test_weights_that_are_not_finite_end_the_run(tmp_path):
    (tmp_path / "broken.py").write_text(BROKEN)
    (tmp_path / "my_task.py").write_text(TASK)
    process = es_llm(
        "train", "--task", "my_task.py", "--optim", "broken.py", "--max_steps", "3", "--population_size", "4",
        "--prompts_per_iteration", "4", "--max_completion_length", "4", "--sigma", "0.1", cwd=tmp_path,
    )  # fmt: skip
    assert process.returncode == 2
    assert "extensions: optim broken.py, task my_task.py\n" in process.stdout
    (error,) = [line for line in process.stderr.splitlines() if "NaN" in line]
    assert error.startswith("es-llm: error: optimizer 'broken.py': iteration 2 made ")
    directory = tmp_path / "runs" / "embedded-many-digits-1"
    assert not (directory / "model").exists()
    assert len(read_journal(str(directory / "journal.es"))[0].records) == 2

    before = es_llm("replay", str(directory), "--output_dir", "before", "--iterations", "1", cwd=tmp_path)
    assert before.returncode == 0, before.stderr
    inspected = es_llm("inspect", str(directory)).stdout
    sha256 = hashlib.sha256(BROKEN.encode()).hexdigest()
    assert f"extension optim broken.py  SHA-256 {sha256}" in inspected
    assert f"extension task my_task.py  SHA-256 {hashlib.sha256(TASK.encode()).hexdigest()}" in inspected
    lines = [line.split() for line in inspected.splitlines() if re.match(r" +[12] ", line)]
    assert [line[6:8] for line in lines] == [["0.1", "0.012"]] * 2, "sigma and learning rate"


@pytest.mark.parametrize(
    ("option", "text", "message"),
    [
        (
            "--shaping",
            "def shape(fitness):\n    return [0.0]",
            'mine.py" failed: ConfigError: expected a finite number for each',
        ),
        ("--shaping", "def shapes(fitness):\n    return fitness", "has no 'shape'; did you mean 'shapes'"),
        (
            "--lr_scheduler_type",
            "def factor(config, iteration):\n    return -1",
            "mine.py' must return a finite factor > 0, got -1 for `iteration` 0",
        ),
        ("--optim", "def build(config):\n    return 3", "mine.py' must make an `es_llm.optimizers.Optimizer`, got int"),
        ("--optim", "import nothing_of_this_name", "fails to import: ModuleNotFoundError"),
    ],
)
def test_objects_that_are_no_extension_are_refused_with_a_reason(tmp_path, option, text, message):
    (tmp_path / "mine.py").write_text(text)
    process = es_llm(
        "train", *SMALL, "--max_steps", "1", "--eval_on_start", "false", "--max_eval_samples", "2",
        option, str(tmp_path / "mine.py"), "--output_dir", str(tmp_path / "run"),
    )  # fmt: skip
    assert process.returncode != 0
    assert message in process.stderr
    assert "Traceback" not in process.stderr


@pytest.mark.parametrize("option", ["--shaping", "--lr_scheduler_type", "--sigma_scheduler_type", "--optim"])
def test_unknown_names_are_refused_with_the_known_ones(tmp_path, option):
    process = es_llm("train", *SMALL, "--max_steps", "1", option, "zscores", "--output_dir", str(tmp_path / "run"))
    assert process.returncode != 0
    assert "'zscores'" in process.stderr
    assert not (tmp_path / "run").exists()
