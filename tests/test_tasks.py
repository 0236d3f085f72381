"""Every task trains and evaluates on a small model. Its built-in data are reproducible, and other data can replace
them."""

from __future__ import annotations

import json

import pytest

from es_llm._core import Journal
from es_llm.checkpoint.export import export_model
from es_llm.errors import ConfigError, RewardError
from es_llm.rewards.call import load_reward
from es_llm.rewards.sandbox import require_sandbox
from es_llm.tasks import BUILTIN, load_task
from es_llm.tasks.base import Splits
from tests.commands import REWARD, base_sha256, es_llm, result
from tests.tiny_models import tiny_model, tiny_tokenizer

RUN = [
    "--population_size", "4", "--max_steps", "3", "--prompts_per_iteration", "4", "--prompts_per_unit", "2",
    "--max_completion_length", "6", "--sigma", "0.05", "--learning_rate", "0.02",
]  # fmt: skip
SIZES = ["--task_args", "train_size=6", "eval_size=3"]
TASKS = {
    "countdown": [*SIZES, "style=compact"],
    "conciseness": [],
    "math": SIZES,
    "gsm8k": SIZES,
    "arc": SIZES,
    "reasoning_gym:chain_sum": SIZES,
    "reasoning_gym:mini_sudoku": [*SIZES, "min_empty=4", "max_empty=6"],
}
OWN_REWARD = {
    "countdown": "es_llm.tasks.countdown.reward.compact_reward",
    "conciseness": "es_llm.tasks.conciseness.conciseness_reward",
    "math": "es_llm.tasks.math.reward.math_accuracy",
    "gsm8k": "es_llm.tasks.gsm8k.numeric_accuracy",
    "arc": "es_llm.tasks.arc.arc_accuracy",
    "reasoning_gym": "es_llm.tasks.reasoning_gym.reasoning_gym_score",
}
"""A random model gets no reward from most tasks. So each run has a second reward, which any model gets in part, and the
weights move."""


def sandboxed():
    try:
        require_sandbox()
    except RewardError:
        return False
    return True


def test_the_rewards_above_are_those_of_the_tasks():
    for name, sizes in TASKS.items():
        if name != "arc" or sandboxed():
            options = dict(word.split("=") for word in sizes[1:])
            task = load_task(name, **{key: int(text) if text.isdigit() else text for key, text in options.items()})
            assert task.reward_funcs == (load_reward(OWN_REWARD[name.partition(":")[0]]),)


def test_no_task_is_forgotten():
    assert {name.partition(":")[0] for name in TASKS} | {"rows"} == set(BUILTIN)


NEEDS_SANDBOX = pytest.mark.skipif(not sandboxed(), reason="this machine offers no sandbox")


@pytest.fixture(scope="module")
def roomy(tmp_path_factory):
    """The directory of a tiny model with room for long prompts."""
    directory = tmp_path_factory.mktemp("roomy")
    export_model(directory / "model", tiny_model(max_position_embeddings=2048), tiny_tokenizer())
    return str(directory / "model")


@pytest.mark.mpi
@pytest.mark.slow
@pytest.mark.parametrize("name", [pytest.param(name, marks=NEEDS_SANDBOX) if name == "arc" else name for name in TASKS])
def test_training_and_evaluation_are_equal_on_one_and_two_ranks(name, roomy, tmp_path):
    own = OWN_REWARD[name.partition(":")[0]]
    words = ["train", "--task", name, "--model_name_or_path", roomy, *RUN, *TASKS[name], "--reward_funcs", own, REWARD]
    for name_of_run, ranks in (("alone", None), ("two", 2)):
        process = es_llm(*words, "--output_dir", str(tmp_path / name_of_run), ranks=ranks)
        assert process.returncode == 0, process.stderr
    alone, two = result(tmp_path / "alone"), result(tmp_path / "two")
    assert alone["weights_sha256"] == two["weights_sha256"] != base_sha256(tmp_path / "alone")
    for name_of_run in ("alone", "two"):
        lines = [json.loads(line) for line in (tmp_path / name_of_run / "metrics.jsonl").read_text().splitlines()]
        steps = [line for line in lines if "reward" in line]
        assert [line["step"] for line in steps] == [1, 2, 3]
        assert all(line["update/norm"] > 0 for line in steps)
        assert all(f"rewards/{own.rpartition('.')[2]}/mean" in line for line in steps)
        assert [line["rewards/failures"] for line in steps] == [0, 0, 0]
    assert alone["eval_after"] == two["eval_after"]
    assert alone["eval_before"]["reward"] is not None
    assert len(Journal.read(str(tmp_path / "two" / "journal.es")).records) == 3
    process = es_llm("eval", "--config", str(tmp_path / "alone" / "config.json"))
    assert process.returncode == 0, process.stderr
    assert json.loads(process.stdout)["eval_reward"] == alone["eval_before"]["reward"]


@pytest.mark.parametrize("name", ["countdown", "math", "gsm8k", "reasoning_gym:chain_sum"])
def test_built_in_rows_are_reproducible_distinct_and_held_out(name):
    first, again = (load_task(name, train_size=30, eval_size=20) for _ in range(2))
    other = load_task(name, train_size=30, eval_size=20, seed=1)
    assert list(first.train) == list(again.train)
    assert list(first.eval) == list(again.eval)
    assert list(first.train) != list(other.train)
    prompts = [[row["prompt"] for row in split] for split in (first.train, first.eval)]
    assert len(set(prompts[0])) == 30
    assert not set(prompts[0]) & set(prompts[1])


@pytest.mark.parametrize(("name", "right"), [("math", "so \\boxed{%s}"), ("gsm8k", "it is so.\n#### %s")])
def test_the_built_in_answers_are_right(name, right):
    task = load_task(name, train_size=40, eval_size=0)
    answers = [row["answer"].rpartition("#### ")[2] for row in task.train]
    score = task.reward_funcs[0]
    columns = {"answer": [row["answer"] for row in task.train]}
    assert score(completions=[right % answer for answer in answers], **columns) == [1.0] * 40
    assert score(completions=[right % f"{answer}7" for answer in answers], **columns) == [0.0] * 40


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("maths", {}, "unknown task 'maths'; did you mean 'math'"),
        ("math:x", {}, "unknown task 'math:x'"),
        ("reasoning_gym", {}, "expected --task reasoning_gym:NAME, such as reasoning_gym:mini_sudoku"),
        ("reasoning_gym:", {}, "expected --task reasoning_gym:NAME, such as .*, got 'reasoning_gym:'"),
        ("reasoning_gym:sudoku_9", {}, "`reasoning_gym:sudoku_9` can't be built"),
        ("reasoning_gym:chain_sum", {"nonsense": 3}, "can't be built"),
        ("math", {"train_size": -1}, "`train_size` must be >= 0"),
        ("math", {"train_sise": 1}, "did you mean 'train_size'"),
        ("math", {"seed": "x"}, "`seed` must be an integer"),
        ("conciseness", {"chat": True}, "no option 'chat'; it is one of the run: --chat chat, or --chat raw"),
        ("reasoning_gym:chain_sum", {"system_prompt": "x"}, "no option 'system_prompt'; .*--system_prompt TEXT"),
        ("rows", {}, "needs `dataset_name`"),
    ],
)
def test_bad_tasks(name, options, message):
    with pytest.raises(ConfigError, match=message.replace("(", "\\(")):
        load_task(name, **options)


def test_prompts_are_text_and_become_one_message_of_the_users():
    for name in ("math", "gsm8k", "conciseness", "reasoning_gym:chain_sum"):
        sizes = {} if name == "conciseness" else {"train_size": 1, "eval_size": 0}
        task = load_task(name, **sizes)
        text = next(iter(task.train))["prompt"]
        assert isinstance(text, str)
        assert task.text_prompts.questions
        assert task.text_prompts.as_messages(text) == [{"role": "user", "content": text.strip()}]


@pytest.mark.parametrize("style", ["paper", "compact"])
def test_countdown_is_sent_raw_and_its_opened_block_is_the_assistants(style):
    task = load_task("countdown", style=style, train_size=1, eval_size=0)
    text = next(iter(task.train))["prompt"]
    assert not task.text_prompts.questions
    messages = task.text_prompts.as_messages(text)
    assert messages[0] == {"role": "user", "content": text.removesuffix("<think>").strip()}
    assert messages[1:] == ([{"role": "assistant", "content": "<think>"}] if style == "paper" else [])


@pytest.mark.parametrize("text", [None, "", " \n", float("nan"), 7, ["a"]])
@pytest.mark.parametrize("name", ["gsm8k", "math"])
def test_a_question_that_is_no_text_is_refused_with_its_row(name, text):
    column = "question" if name == "gsm8k" else "problem"
    rows = [{column: "1 + 1?", "answer": "2"}, {column: text, "answer": "2"}]
    with pytest.raises(ConfigError, match=f"row 1 of `train` can't be used by this task: .*{column}"):
        load_task(name, data=Splits(train=rows, eval=[]))
