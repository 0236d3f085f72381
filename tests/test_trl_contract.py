"""What people bring from TRL: its reward functions, unchanged; data and reward of its quick start; its options."""

from __future__ import annotations

import datasets
import pytest
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


@pytest.mark.parametrize("name", sorted(REPLACED))
def test_options_of_others_name_their_counterpart(name):
    with pytest.raises(ConfigError, match=f"unknown option '{name}'; "):
        ESConfig(**{name: 1})


def test_grpos_own_config_is_refused():
    class GRPOConfig:
        pass

    with pytest.raises(ConfigError, match="`args` must be an ESConfig, got a GRPOConfig"):
        ESTrainer(None, len, GRPOConfig(), ROWS)
