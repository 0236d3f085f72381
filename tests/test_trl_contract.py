"""What people bring from TRL: its reward functions, unchanged; data and reward of its quick start; its options."""

from __future__ import annotations

import dataclasses
import inspect
import re

import datasets
import pytest
from trl import GRPOConfig, GRPOTrainer
from trl.rewards import (
    accuracy_reward,
    get_cosine_scaled_reward,
    get_repetition_penalty_reward,
    get_soft_overlong_punishment,
    reasoning_accuracy_reward,
    think_format_reward,
)

from es_llm import ESConfig, ESTrainer
from es_llm.comm import SingleMailbox
from es_llm.config import ScriptArguments
from es_llm.config.replaced import REPLACED
from es_llm.errors import ConfigError
from es_llm.rewards.batch import Batch
from es_llm.rewards.scoring import Limits, RewardSet
from es_llm.rollout.hf import HFEngine
from es_llm.team import Team
from tests.tiny_models import tiny_model, tiny_tokenizer

TEXTS = [
    "<think>one third</think> The answer is \\boxed{\\frac{1}{3}}",
    "<think>one half</think> The answer is \\boxed{\\frac{1}{2}}",
    "no thought, no box, no box, no box, no box",
]
ROWS = [
    {"prompt": [{"role": "user", "content": f"question {place}"}], "solution": "\\boxed{\\frac{1}{3}}"}
    for place in range(3)
]
IDS = [[1] * 10, [1] * 95, [1] * 120]
FUNCTIONS = [
    accuracy_reward,
    reasoning_accuracy_reward,
    think_format_reward,
    get_soft_overlong_punishment(max_completion_len=100, soft_punish_cache=20),
    get_cosine_scaled_reward(max_len=100),
    get_repetition_penalty_reward(2, -1.0),
]


@pytest.fixture(scope="module")
def batch():
    return Batch.of(ROWS, TEXTS, IDS)


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("place", range(len(FUNCTIONS)))
def test_the_functions_that_trl_ships_run_unchanged(batch, place, workers):
    function = FUNCTIONS[place]
    direct = function(
        prompts=batch.prompts,
        completions=batch.completions,
        completion_ids=batch.completion_ids,
        solution=batch.columns["solution"],
    )
    rewards = RewardSet([function], limits=Limits(workers=workers, timeout_s=60))
    graded = rewards.submit(batch).result()
    rewards.close()
    (name,) = rewards.names
    assert not graded.scores[name].failures
    assert graded.totals == direct
    assert len(set(direct)) > 1


def test_the_overlong_punishment_follows_dapo(batch):
    """Equation 13 of DAPO (arXiv 2503.14476): 0 up to 80 tokens, then linear, -1 beyond 100."""
    assert RewardSet([FUNCTIONS[3]]).score(batch) == [0.0, -0.75, -1.0]


def test_log_extra_of_the_accuracy_reward(batch):
    scores = RewardSet([accuracy_reward]).submit(batch).result().scores["accuracy_reward"]
    assert set(scores.extra) == {"solution", "gold_parsed", "answer_parsed"}
    assert scores.values == [1.0, 0.0, 0.0]


def train(tmp_path, reward_funcs, data, **options):
    settings = {
        "population_size": 4, "sigma": 0.05, "learning_rate": 0.05, "max_steps": 2, "max_completion_length": 8,
        "prompts_per_iteration": 3, "output_dir": str(tmp_path / "run"), **options,
    }  # fmt: skip
    return ESTrainer(
        model=tiny_model(max_position_embeddings=512), reward_funcs=reward_funcs, args=ESConfig(**settings),
        train_dataset=data, processing_class=tiny_tokenizer(), team=Team(SingleMailbox()),
    )  # fmt: skip


def test_the_quick_start_of_grpo_runs_unchanged(tmp_path):
    """A data set in the shape of trl-lib/tldr, and a reward in that of TRL's documentation."""
    dataset = datasets.Dataset.from_list(
        [
            {"prompt": f"SUBREDDIT: r/{name}\n\nTL;DR:", "completion": f" {name}"}
            for name in ("tifu", "ask", "pets", "news")
        ]
    )

    def reward_num_unique_chars(completions, **kwargs):
        return [len(set(c)) for c in completions]

    trainer = train(tmp_path, reward_num_unique_chars, dataset)
    output = trainer.train()
    assert output.global_step == 2
    assert "completion" not in trainer.train_dataset[0]


def test_conversational_data_and_several_functions(tmp_path):
    seen = []

    def solved(prompts, completions, solution, trainer_state, log_metric, **columns):
        seen.append((trainer_state.global_step, trainer_state.max_steps))
        assert all(prompt[-1]["role"] == "user" for prompt in prompts)
        assert all(completion[0]["role"] == "assistant" for completion in completions)
        log_metric("asked", len(prompts))
        return [None] + [0.5] * (len(completions) - 1)

    trainer = train(
        tmp_path, [solved, solved, think_format_reward], ROWS, reward_weights=[1.0, 2.0, 0.5], reward_workers=0
    )
    trainer.train()
    assert trainer.run.rewards.names == ["solved", "solved_2", "think_format_reward"]
    assert {step for step, _ in seen} == {0, 1}
    assert {steps for _, steps in seen} == {2}
    log = [line for line in trainer.callbacks.state.log_history if "reward" in line]
    assert {"rewards/solved/mean", "rewards/solved/std", "rewards/solved_2/mean", "asked"} <= set(log[0])
    assert log[0]["rewards/solved/mean"] == 0.5
    assert log[0]["asked"] == 3


def test_the_chat_template_gets_its_arguments():
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = "{{ messages[0]['content'] }}{% if enable_thinking %} think{% endif %}:"
    engine = HFEngine(tiny_model(), tokenizer, max_completion_length=2, chat_template_kwargs={"enable_thinking": True})
    plain = HFEngine(tiny_model(), tokenizer, max_completion_length=2)
    message = [{"role": "user", "content": "hi"}]
    assert len(engine._prompts.encode(message)) == len(plain._prompts.encode(message)) + len(" think")


OWN = {spec.name for spec in dataclasses.fields(ESConfig)}
GRPO = [spec.name for spec in dataclasses.fields(GRPOConfig)]
ARGUMENTS = [name for name in inspect.signature(GRPOTrainer.__init__).parameters if name != "self"]
OTHERS = (
    "max_new_tokens", "use_peft", "lora_r", "load_in_4bit", "torch_dtype", "vllm_of_tomorrow", "max_prompt_length",
    "dataset_name", "model_name_or_path", "reward_funcs", "population", "alpha", "ref_model",
)  # fmt: skip


@pytest.mark.parametrize("name", sorted({*GRPO, *REPLACED, *OTHERS} - OWN))
def test_options_of_others_name_their_counterpart(name):
    """All of the installed GRPOConfig's, transformers' among them. No nearest name: `min_p` is no `max_steps`."""
    with pytest.raises(ConfigError, match=f"unknown option '{name}'; ") as caught:
        ESConfig(**{name: 1})
    reason = str(caught.value).partition("; ")[2]
    assert not re.fullmatch(r"did you mean '\w+'( or '\w+')?\?", reason) or REPLACED.get(name) == reason
    named = re.findall(r"`(\w+)`", reason)
    options = OWN | {spec.name for spec in dataclasses.fields(ScriptArguments)}
    options |= set(inspect.signature(ESTrainer.__init__).parameters)
    assert set(named) <= options, "a counterpart that doesn't exist"


def test_options_that_both_have_mean_the_same():
    """Those that are taken over by their names have the same type; a new one has to be looked at."""
    common = {
        "chat_template_kwargs", "eval_on_start", "eval_steps", "greater_is_better", "learning_rate", "log_completions",
        "logging_steps", "max_completion_length", "max_steps", "metric_for_best_model", "num_completions_to_print",
        "output_dir", "report_to", "resume_from_checkpoint", "reward_weights", "run_name", "save_steps",
        "save_total_limit", "seed", "shuffle_dataset", "temperature",
    }  # fmt: skip
    assert set(GRPO) & OWN == common


@pytest.mark.parametrize("name", sorted({*ARGUMENTS} - {*inspect.signature(ESTrainer.__init__).parameters}))
def test_arguments_of_others_name_their_counterpart(tmp_path, name):
    with pytest.raises(ConfigError, match=f"ESTrainer has no argument '{name}'; (?!did you mean)"):
        ESTrainer(tiny_model(), len, None, ROWS, **{name: [print]})
    default = inspect.signature(GRPOTrainer.__init__).parameters[name].default
    data = [{"prompt": "ab"}]
    trainer = ESTrainer(
        tiny_model(), lambda completions, **_: [1.0] * len(completions),
        ESConfig(max_completion_length=2, output_dir=str(tmp_path)), data, processing_class=tiny_tokenizer(),
        team=Team(SingleMailbox()), **{name: default},
    )  # fmt: skip
    trainer.run.rewards.close()


def test_an_argument_that_nobody_has():
    with pytest.raises(ConfigError, match="ESTrainer has no argument 'train_datset'; did you mean 'train_dataset'"):
        ESTrainer(None, len, train_datset=ROWS)


def test_grpos_own_config_is_refused():
    class GRPOConfig:
        pass

    with pytest.raises(ConfigError, match="`args` must be an ESConfig, got a GRPOConfig"):
        ESTrainer(None, len, GRPOConfig(), ROWS)
