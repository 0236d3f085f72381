"""Code for TRL works here: its reward functions, the data and reward of its quick start, its options."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import re
from pathlib import Path

import datasets
import pytest
import torch
import transformers
from pyarrow import parquet
from transformers import TrainerCallback
from trl import GRPOConfig, GRPOTrainer, apply_chat_template
from trl.rewards import (
    accuracy_reward,
    get_cosine_scaled_reward,
    get_repetition_penalty_reward,
    get_soft_overlong_punishment,
    reasoning_accuracy_reward,
    think_format_reward,
)

from es_llm import ESConfig, ESTrainer
from es_llm.checkpoint.export import export_model
from es_llm.comm import SingleMailbox
from es_llm.config import ScriptArguments
from es_llm.config.foreign import foreign_options
from es_llm.errors import ConfigError
from es_llm.rewards.batch import Batch
from es_llm.rewards.batch import TrainerState as RewardState
from es_llm.rewards.reward_set import RewardSet
from es_llm.rewards.workers.protocol import WorkerLimits
from es_llm.rollout.engines.hf import HFEngine
from es_llm.team import Team
from tests.tiny_models import EOS, tiny_model, tiny_tokenizer

TEXTS = [
    "<think>one third</think> The answer is \\boxed{\\frac{1}{3}}",
    "<think>one half</think> The answer is \\boxed{\\frac{1}{2}}",
    "no thought, no box, no box, no box, no box",
]
ROWS = [
    {"prompt": [{"role": "user", "content": f"question {number}"}], "solution": "\\boxed{\\frac{1}{3}}"}
    for number in range(3)
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
@pytest.mark.parametrize("index", range(len(FUNCTIONS)))
def test_the_functions_that_trl_ships_run_unchanged(batch, index, workers):
    function = FUNCTIONS[index]
    direct = function(
        prompts=batch.prompts,
        completions=batch.completions,
        completion_ids=batch.completion_ids,
        solution=batch.columns["solution"],
    )
    rewards = RewardSet([function], limits=WorkerLimits(workers=workers, timeout_s=60))
    outcome = rewards.submit(batch).result()
    rewards.close()
    (name,) = rewards.names
    assert not outcome.results[name].failures
    assert outcome.rewards == direct
    assert len(set(direct)) > 1


def test_the_overlong_punishment_follows_dapo(batch):
    """Equation 13 of DAPO (arXiv 2503.14476): 0 up to 80 tokens, then linear, -1 beyond 100."""
    assert RewardSet([FUNCTIONS[3]]).rewards(batch) == [0.0, -0.75, -1.0]


def test_log_extra_of_the_accuracy_reward(batch):
    scores = RewardSet([accuracy_reward]).submit(batch).result().results["accuracy_reward"]
    assert set(scores.extra) == {"solution", "gold_parsed", "answer_parsed"}
    assert scores.rewards == [1.0, 0.0, 0.0]


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
    """The data have the format of trl-lib/tldr, and the reward function that of TRL's documentation."""
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


def test_the_quick_start_of_trl_with_a_conversational_data_set_runs_unchanged(tmp_path, monkeypatch):
    """The data have the format of trl-lib/DeepMath-103K; the arguments are a model path and TRL's reward function. The
    model ends its answers soon, so that a run with default options takes seconds. A callback ends it after an
    iteration."""
    model = tiny_model("qwen2-untied", max_position_embeddings=2048)
    torch.manual_seed(0)
    model.lm_head.weight.data[EOS] = 4 * model.lm_head.weight.data[10:].mean(0) + torch.randn(32)
    export_model(tmp_path / "model", model, tiny_tokenizer())
    dataset = datasets.Dataset.from_list(
        [
            {"prompt": [{"role": "user", "content": f"What is {a} / 3?"}], "solution": f"$\\frac{{{a}}}{{3}}$"}
            for a in (1, 2)
        ]
    )
    monkeypatch.chdir(tmp_path)

    trainer = ESTrainer(
        model=str(tmp_path / "model"),
        reward_funcs=accuracy_reward,
        train_dataset=dataset,
    )

    class Stop(TrainerCallback):
        def on_step_end(self, args, state, control, **given):
            control.should_training_stop = True

    trainer.add_callback(Stop())
    output = trainer.train()
    assert output.global_step == 1
    (line,) = [line for line in trainer.callbacks.state.log_history if "reward" in line]
    assert line["rewards/accuracy_reward/mean"] == 0.0
    assert line["rewards/failures"] == 0
    assert (Path(output.output_dir) / "model" / "config.json").is_file()
    assert "runs" in Path(output.output_dir).parts


def test_the_state_that_rewards_get_has_the_attributes_of_transformers(tmp_path):
    """The values are equal in all calls of an iteration, whatever the process."""
    names = [spec.name for spec in dataclasses.fields(transformers.TrainerState)]
    assert names == [name for name in names if hasattr(RewardState(), name)]

    def reads(completions, trainer_state, log_extra, **columns):
        if trainer_state.is_world_process_zero and trainer_state.is_local_process_zero:
            seen = {name: getattr(trainer_state, name) for name in names}
        assert [line for line in trainer_state.log_history if "loss" in line] == []
        log_extra("state", [repr(sorted(seen.items()))] * len(completions))
        return [1.0] * len(completions)

    trainer = train(
        tmp_path, reads, ROWS, logging_steps=1, save_steps=7, eval_steps=3, log_completions=True, reward_workers=2
    )
    trainer.train()
    trainer.run.rewards.close()
    lines = [line for line in trainer.callbacks.state.log_history if "reward" in line]
    assert [line["rewards/failures"] for line in lines] == [0, 0]
    for step, file in enumerate(sorted((tmp_path / "run" / "completions").iterdir())):
        (seen,) = {row["state"] for row in parquet.read_table(file).to_pylist()}
        state = dict(ast.literal_eval(seen))
        wanted = {"global_step": step, "max_steps": 2, "epoch": float(step), "logging_steps": 1, "save_steps": 7,
                  "eval_steps": 3, "train_batch_size": 3, "log_history": [], "best_metric": None}  # fmt: skip
        assert {name: state[name] for name in wanted} == wanted


def test_columns_with_names_of_the_trainers_are_ignored_as_in_trl(tmp_path):
    seen = []

    def reward(completions, completion_ids, trainer_state, log_extra, log_metric, other, **columns):
        seen.append((completion_ids, other, columns))
        log_metric("x", trainer_state.global_step)
        return [1.0] * len(completions)

    mine = {"completion": "c", "completion_ids": [9, 9], "trainer_state": 1, "log_extra": 2, "log_metric": 3}
    data = [{"prompt": "ab", "other": number, **mine} for number in range(3)]
    train(tmp_path, reward, data, reward_workers=0, max_steps=1).train()
    for ids, other, columns in seen:
        assert [9, 9] not in ids
        assert list(other) == [0, 1, 2]
        assert set(columns) == {"prompts"}
    for name in ("prompts", "completions"):
        with pytest.raises(ConfigError, match=f"columns \\['{name}'\\] are given to rewards"):
            train(tmp_path, reward, [{"prompt": "ab", name: 1}])


@pytest.mark.parametrize(
    "messages",
    [
        [{"role": "user", "content": "hi"}],
        [{"role": "system", "content": "be"}, {"role": "user", "content": "hi"}],
        [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "I think"}],
        [{"role": "user", "content": "hi"}, {"role": "tool", "content": "42"}],
    ],
)
def test_prompts_are_written_as_by_trl(messages):
    """If the last message is the assistant's, the model continues it."""
    tokenizer = tiny_tokenizer()
    engine = HFEngine(tiny_model(), tokenizer, max_completion_length=2)
    wanted = apply_chat_template({"prompt": messages}, tokenizer)["prompt"]
    assert list(engine._prompts.encode(messages)) == tokenizer(wanted, add_special_tokens=False)["input_ids"]
    assert wanted.endswith("<assistant>") == (messages[-1]["role"] != "assistant")
    assert wanted.endswith("I think") == (messages[-1]["role"] == "assistant")


@pytest.mark.parametrize(
    ("messages", "template", "message"),
    [
        ([{"role": "user", "content": "hi"}, {"role": "assistant", "content": "I think"}], "thoughts are left out",
         "the chat template refuses the prompt .*I think.*: ValueError"),
        ([{"role": "user", "content": "hi"}], "{{ raise_exception('no users') }}", "TemplateError: no users"),
        ([{"role": "user", "content": "a\ud800"}], "{{ messages[0]['content'] }}", "is no Unicode text"),
        ("a\ud800", "", "is no Unicode text"),
        (["text"], "{{ messages[0]['content'] | trim }}{{ messages[0]['role'] + 1 }}", "the chat template refuses"),
    ],
)  # fmt: skip
def test_what_a_chat_template_refuses_is_reported(messages, template, message):
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = template
    with pytest.raises(ConfigError, match=message):
        HFEngine(tiny_model(), tokenizer, max_completion_length=2).check_lengths([messages])


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


REPLACED = foreign_options("options")
OWN = {spec.name for spec in dataclasses.fields(ESConfig)}
GRPO = [spec.name for spec in dataclasses.fields(GRPOConfig)]
ARGUMENTS = [name for name in inspect.signature(GRPOTrainer.__init__).parameters if name != "self"]
OTHERS = (
    "max_new_tokens", "use_peft", "lora_r", "load_in_4bit", "torch_dtype", "vllm_of_tomorrow", "max_prompt_length",
    "dataset_name", "model_name_or_path", "reward_funcs", "population", "alpha", "ref_model",
)  # fmt: skip


@pytest.mark.parametrize("name", sorted({*GRPO, *REPLACED, *OTHERS} - OWN))
def test_errors_on_trl_options_name_the_counterpart(name):
    """All options of the installed GRPOConfig. No nearest name is suggested: `min_p` isn't `max_steps`."""
    with pytest.raises(ConfigError, match=f"unknown option '{name}'; ") as caught:
        ESConfig(**{name: 1})
    reason = str(caught.value).partition("; ")[2]
    assert not re.fullmatch(r"did you mean '\w+'( or '\w+')?\?", reason) or REPLACED.get(name) == reason
    named = re.findall(r"`(\w+)`", reason)
    options = OWN | {spec.name for spec in dataclasses.fields(ScriptArguments)}
    options |= set(inspect.signature(ESTrainer.__init__).parameters)
    assert set(named) <= options, "a counterpart that doesn't exist"


def test_options_that_both_have_mean_the_same():
    """Options that keep their names have the same types. A new option has to be reviewed."""
    common = {
        "chat_template_kwargs", "eval_on_start", "eval_steps", "greater_is_better", "learning_rate",
        "log_completions", "logging_steps", "lr_scheduler_kwargs", "lr_scheduler_type", "max_completion_length",
        "max_steps", "metric_for_best_model", "min_p", "num_completions_to_print", "num_generations", "optim",
        "optim_args", "output_dir", "repetition_penalty", "report_to", "resume_from_checkpoint", "reward_weights",
        "run_name", "save_steps", "save_total_limit", "seed", "shuffle_dataset", "temperature", "top_k", "top_p",
    }  # fmt: skip
    assert set(GRPO) & OWN == common


@pytest.mark.parametrize("name", sorted({*ARGUMENTS} - {*inspect.signature(ESTrainer.__init__).parameters}))
def test_errors_on_trl_arguments_name_the_counterpart(tmp_path, name):
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


def test_an_unknown_argument():
    with pytest.raises(ConfigError, match="ESTrainer has no argument 'train_datset'; did you mean 'train_dataset'"):
        ESTrainer(None, len, train_datset=ROWS)


def test_grpos_own_config_is_refused():
    class GRPOConfig:
        pass

    with pytest.raises(ConfigError, match="`args` must be an ESConfig, got a GRPOConfig"):
        ESTrainer(None, len, GRPOConfig(), ROWS)
