"""`ESTrainer` behaves as TRL users expect, on the embedded model and on small random models."""

import dataclasses
import json
import threading

import pytest
import torch
from pyarrow import parquet
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback

from es_llm import ESConfig, ESTrainer
from es_llm.comm import SingleMailbox
from es_llm.errors import ConfigError, JournalError, LeftOutError, PopulationError, ResumeError
from es_llm.model.loading import load_model, load_tokenizer
from es_llm.team import Team
from tests.deaf import cut_off
from tests.rank_threads import run_ranks

ROWS = [{"prompt": f"{a:2d} {a + 1:2d} {a + 2:2d}={3 * a + 3:3d}:", "bonus": 0.1 * a} for a in range(1, 9)]


def digits(completions, **columns):
    """Share of digits in the answer."""
    return [sum(c.isdigit() for c in text) / (1 + len(text)) for text in completions]


def make(tmp_path, reward_funcs=digits, model=None, team=None, **options):
    extra = {name: options.pop(name) for name in ("callbacks", "eval_dataset", "metric_funcs", "train_dataset",
                                                  "processing_class") if name in options}  # fmt: skip
    options = {
        "population_size": 4, "sigma": 0.02, "learning_rate": 0.02, "max_steps": 3, "max_completion_length": 6,
        "prompts_per_iteration": 4, "reward_workers": 0, "output_dir": str(tmp_path / "run"), **options,
    }  # fmt: skip
    return ESTrainer(
        model=model, reward_funcs=reward_funcs, args=ESConfig(**options), team=team or Team(SingleMailbox()),
        **{"train_dataset": ROWS, "eval_dataset": ROWS[:3], **extra},
    )  # fmt: skip


def lines(tmp_path):
    return [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]


def test_a_run_writes_all_files_of_its_directory(tmp_path, capsys):
    output = make(tmp_path).train()
    assert output.global_step == 3
    run = tmp_path / "run"
    assert {path.name for path in run.iterdir()} == {
        "config.json",
        "journal.es",
        "metrics.jsonl",
        "model",
        "result.json",
    }
    result = json.loads((run / "result.json").read_text())
    assert result == output.metrics
    assert result["steps"] == 3
    assert result["eval_before"]["reward"] == pytest.approx(result["eval_before"]["reward"])
    assert json.loads((run / "config.json").read_text())["population_size"] == 4
    assert [line["step"] for line in lines(tmp_path) if "reward" in line] == [1, 2, 3]
    shown = capsys.readouterr().out
    assert "train iteration    3/3" in shown
    assert "eval  iteration    0/3" in shown


def test_the_exported_model_answers_as_the_trainers_did(tmp_path):
    trainer = make(tmp_path)
    output = trainer.train()
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "run" / "model")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "run" / "model", padding_side="left")
    inputs = tokenizer([row["prompt"] for row in ROWS[:3]], return_tensors="pt", padding=True)
    inputs.pop("token_type_ids", None)
    ids = model.generate(**inputs, max_new_tokens=6, do_sample=False)
    texts = tokenizer.batch_decode(ids[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
    assert texts == [answer for _, answer in output.answers_after]


def test_a_users_model_and_tokenizer(tmp_path):
    model, tokenizer = load_model(None), load_tokenizer(None)
    trainer = make(tmp_path, model=model)
    assert trainer.model is model
    start = {name: weight.clone() for name, weight in model.named_parameters()}
    trainer.train()
    moved = [name for name, weight in model.named_parameters() if not torch.equal(weight, start[name])]
    assert moved == list(start)
    assert tokenizer.get_vocab() == trainer.processing_class.get_vocab()


def test_a_model_may_be_a_path(tmp_path):
    make(tmp_path / "a").save_model(str(tmp_path / "model"))
    assert make(tmp_path / "b", model=tmp_path / "model").run.weights.table.elements > 0


def test_columns_reach_the_rewards_and_weights_count(tmp_path):
    seen = []

    def bonus(prompts, completions, completion_ids, bonus, **columns):
        seen.append((list(prompts), list(bonus)))
        assert len(prompts) == len(completions) == len(completion_ids) == len(bonus)
        assert set(columns) == {"trainer_state", "log_extra", "log_metric"}
        return bonus

    trainer = make(tmp_path, [bonus, lambda completions, **_: [1.0] * len(completions)], reward_weights=[2.0, -1.0])
    metrics = trainer.evaluate()
    assert metrics["eval_reward"] == pytest.approx(2 * 0.2 - 1.0)
    assert seen == [([row["prompt"] for row in ROWS[:3]], [0.1, 0.2, pytest.approx(0.3)])]


def test_metric_funcs(tmp_path):
    trainer = make(tmp_path, metric_funcs={"half": lambda completions, **_: [0.5] * len(completions)})
    assert trainer.evaluate()["eval_half"] == 0.5
    assert trainer.evaluate(ROWS)["eval_half"] == 0.5
    with pytest.raises(ConfigError, match="eval_dataset"):
        trainer.evaluate([])


def test_callbacks_of_transformers(tmp_path):
    events = []

    class Watch(TrainerCallback):
        def on_step_end(self, args, state, control, **given):
            events.append(("step", state.global_step, given["model"] is not None))
            control.should_training_stop = state.global_step == 2

        def on_evaluate(self, args, state, control, metrics=None, **given):
            events.append(("evaluate", state.global_step, "eval_reward" in metrics))

        def on_train_end(self, args, state, control, **given):
            events.append(("end", args.population_size, len(state.log_history) > 0))

    output = make(tmp_path, callbacks=[Watch]).train()
    assert output.global_step == 2
    assert events == [
        ("evaluate", 0, True),
        ("step", 1, True),
        ("step", 2, True),
        ("evaluate", 2, True),
        ("end", 4, True),
    ]
    with pytest.raises(ConfigError, match="TrainerCallback"):
        make(tmp_path, callbacks=[print])


def test_trackers_of_transformers(tmp_path):
    make(tmp_path, report_to=["tensorboard"], run_name="a run").train()
    files = list((tmp_path / "run" / "runs").rglob("events.out.tfevents*"))
    assert len(files) == 1
    logged = files[0].read_bytes()
    assert b"reward_std" in logged
    assert b"population_size" in logged


def test_eval_steps(tmp_path):
    make(tmp_path, max_steps=5, eval_steps=2).train()
    assert [line["step"] for line in lines(tmp_path) if "eval_reward" in line] == [0, 2, 4, 5]


@pytest.mark.parametrize(
    "broken",
    [
        lambda completions, **_: [float("nan")] * len(completions),
        lambda completions, **_: [None] * len(completions),
        lambda completions, **_: ["high"] * len(completions),
        lambda completions, **_: [1.0],
        lambda completions, **_: None,
        lambda completions, **_: 1 / 0,
    ],
    ids=["nan", "none", "text", "short", "nothing", "raises"],
)
def test_a_reward_that_always_fails_moves_nothing(tmp_path, broken):
    trainer = make(tmp_path, broken, eval_on_start=False)
    before = trainer.run.weights.sha256()
    assert trainer.train().metrics["weights_sha256"] == before
    assert [line["rewards/failures"] for line in lines(tmp_path) if "rewards/failures" in line] == [16, 16, 16]


def test_iterations_without_any_reward_are_reported(tmp_path, caplog):
    def broken(completions, **columns):
        raise ValueError("no such\nthing")

    make(tmp_path, broken, eval_dataset=None).train()
    warnings = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert warnings == [
        "iteration 1: no completion has a reward, so the weights do not change; `broken`: thing "
        "(`failure_policy` raise would end such a run)",
        "in 3 of the iterations all members had the same fitness, or none: the weights did not change",
    ]


def test_rewards_that_are_none_are_reported(tmp_path, caplog):
    def silent(completions, **columns):
        return [None] * len(completions)

    make(tmp_path, silent, eval_dataset=None).train()
    warnings = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert "do not change; `silent` gave None for every completion (" in warnings[0]


def test_a_reward_that_sometimes_fails(tmp_path):
    calls = []

    def sometimes(completions, **columns):
        calls.append(len(completions))
        if len(calls) % 3 == 0:
            raise RuntimeError("third call")
        return digits(completions)

    make(tmp_path, sometimes, eval_on_start=False, eval_dataset=None).train()
    assert sum(line["rewards/failures"] for line in lines(tmp_path)) == 16
    with pytest.raises(PopulationError):
        make(tmp_path / "other", sometimes, failure_policy="raise", eval_on_start=False).train()


def test_logs_of_functions_never_replace_a_metric_of_the_trainer(tmp_path):
    """Bad logs don't end the run either: values that are no number, text without UTF-8, a name that is taken."""
    taken = ["step", "reward", "reward_std", "sigma", "seconds", "rewards/wait_ratio", "rewards/reward/mean",
             "completions/mean_length", "bytes_sent", "update/norm", "rewards/failures", "early", "prompt"]  # fmt: skip

    def reward(completions, log_metric, log_extra, **columns):
        for name in taken:
            log_metric(name, 7.5)
        for value in (float("nan"), float("inf"), "text", None):
            log_metric("reward", value)
            log_metric("lost", value)
        log_metric("mine", 3)
        for name in ("reward", "prompt", "step", "completion", "tokens", "mine \ud800"):
            log_extra(name, ["\ud800 lone"] * len(completions))
        return digits(completions)

    def plain(tmp_path, function, **options):
        make(tmp_path, function, metric_funcs={"early": digits}, eval_steps=2, log_completions=True, **options).train()
        return lines(tmp_path), sorted((tmp_path / "run" / "completions").iterdir())

    def named(completions, **columns):
        return digits(completions)

    named.__name__ = "reward"
    (logs, files), (quiet, _) = (
        plain(tmp_path / str(index), function) for index, function in enumerate([reward, named])
    )
    timed = {"seconds", "rewards/wait_ratio", "eval_seconds", "bytes_sent", "bytes_received"}
    for line, wanted in zip(logs, quiet, strict=True):
        for name in set(wanted) - timed:
            if not name.startswith("seconds/"):
                assert line[name] == wanted[name], name
        prefix = "eval_" if "eval_reward" in line else ""
        assert line[f"{prefix}logged/reward"] == line[f"{prefix}mine"] * 2.5 == 7.5
        assert line[f"{prefix}rewards/log_metric_refused"] == (8 if prefix else 32)
        assert f"{prefix}lost" not in line
    train = [line for line in logs if "reward" in line]
    assert [line["step"] for line in train] == [1, 2, 3]
    assert all({"logged/step", "logged/rewards/wait_ratio", "logged/bytes_sent"} <= set(line) for line in train)
    assert len(files) == 3 + 3, "tables of 3 iterations and 3 evaluations"
    for file in files:
        for row in parquet.read_table(file).to_pylist():
            assert row["rewards/reward"] == row["reward"] == pytest.approx(digits([row["completion"]])[0])
            assert row["reward/prompt"] == "\\ud800 lone" == row["mine \\ud800"]
            assert row["prompt"] in [known["prompt"] for known in ROWS]
            assert isinstance(row["step"], int)


def test_a_table_of_completions_that_cannot_be_written_is_a_warning(tmp_path, monkeypatch, caplog):
    import pyarrow

    def broken(*given, **named):
        raise pyarrow.ArrowInvalid("no table")

    monkeypatch.setattr(pyarrow, "table", broken)
    assert make(tmp_path, log_completions=True).train().global_step == 3
    assert "can't be written: no table" in caplog.text


def test_functions_that_log_the_same_column_get_separate_columns(tmp_path):
    def first(completions, log_extra, **columns):
        log_extra("read", ["of the first"] * len(completions))
        return digits(completions)

    def second(completions, log_extra, **columns):
        log_extra("read", [None] * len(completions))
        return digits(completions)

    make(tmp_path, [first, second], log_completions=True, max_steps=1, eval_dataset=None).train()
    (file,) = (tmp_path / "run" / "completions").iterdir()
    for row in parquet.read_table(file).to_pylist():
        assert (row["first/read"], row["second/read"]) == ("of the first", None)
        assert "read" not in row


def test_resume_through_train(tmp_path):
    whole = make(tmp_path / "whole", max_steps=4).train().metrics["weights_sha256"]
    make(tmp_path, max_steps=2).train()
    resumed = make(tmp_path, max_steps=4).train(resume_from_checkpoint=True)
    assert resumed.metrics["weights_sha256"] == whole
    with pytest.raises(ResumeError, match=r"config\.sigma"):
        make(tmp_path, max_steps=4, sigma=0.5).train(resume_from_checkpoint=True)
    with pytest.raises(ResumeError, match=r"train_dataset"):
        make(tmp_path, max_steps=4, train_dataset=ROWS[1:]).train(resume_from_checkpoint=True)


def test_ranks_as_threads_give_the_same_bits(tmp_path):
    models = [load_model(None) for _ in range(6)]  # transformers can't load in several threads at once

    def work(mailbox):
        model = models[mailbox.size * (mailbox.size - 1) // 2 + mailbox.rank]
        return (
            make(tmp_path / str(mailbox.size), team=Team(mailbox), model=model, eval_steps=2)
            .train()
            .metrics["weights_sha256"]
        )

    results = [set(run_ranks(size, work)) for size in (1, 2, 3)]
    assert len(set.union(*results)) == 1
    assert (tmp_path / "1" / "run" / "journal.es").read_bytes() != b""
    log = (tmp_path / "3" / "run" / "metrics.jsonl").read_text().splitlines()
    sent = [line["bytes_sent"] for line in map(json.loads, log) if "bytes_sent" in line]
    assert max(sent) < 3 * (16 * 4 + 200)


def test_an_error_of_rank_0_alone_is_raised_on_all(tmp_path, monkeypatch):
    """If the journal of rank 0 fails, the other ranks must not wait forever."""
    models = [load_model(None) for _ in range(2)]
    raised = []

    def full(path, line):
        raise JournalError("disk full")

    monkeypatch.setattr("es_llm.checkpoint.metrics_log.MetricsLog.write", full)

    def work(mailbox):
        try:
            make(tmp_path, team=Team(mailbox), model=models[mailbox.rank]).train()
        except JournalError as error:
            raised.append((mailbox.rank, str(error), error.shared))

    run_ranks(2, work, timeout_s=60)
    message = "disk full; the 0 iterations in the journal beside it are safe"
    assert sorted(raised) == [(0, message, True), (1, message, True)]


def test_a_leader_that_slept_until_the_end_reports_where_the_result_is(tmp_path, monkeypatch):
    """The leader gets no messages of the others, since they have ended."""
    monkeypatch.setattr("es_llm.team.call._SETTLE_S", 0.2)
    models, asleep, done = [load_model(None) for _ in range(2)], threading.Event(), threading.Event()

    class Sleep(TrainerCallback):
        def on_step_end(self, args, state, control, **given):
            if state.global_step == 2:
                asleep.set()
                done.wait(60)

    def work(mailbox):
        callbacks = [Sleep] if mailbox.rank == 0 else []
        team = Team(cut_off(mailbox, asleep) if mailbox.rank == 0 else mailbox)
        trainer = make(tmp_path, team=team, model=models[mailbox.rank], callbacks=callbacks, unit_timeout_s=2.0)
        if mailbox.rank == 1:
            trainer.train()
            done.set()
            return ""
        with pytest.raises(LeftOutError) as caught:
            trainer.train()
        return str(caught.value)

    error, _ = run_ranks(2, work)
    run = tmp_path / "run"
    assert error.startswith("the other ranks continued without rank 0, which was stopped or hung, and finished the run")
    assert f"nothing is lost: the result is in '{run / 'result.json'}', the model in '{run / 'model'}'" in error
    assert json.loads((run / "result.json").read_text())["steps"] == 3


def test_training_goes_on_after_a_callback_stopped_it(tmp_path):
    class Stop(TrainerCallback):
        def on_step_end(self, args, state, control, **given):
            control.should_training_stop = True

    trainer = make(tmp_path, callbacks=Stop())
    assert trainer.train().global_step == 1
    trainer.remove_callback(Stop)
    whole = make(tmp_path, max_steps=3)
    assert whole.train(resume_from_checkpoint=True).global_step == 3


OPTION_EFFECTS = {
    "seed": 1,
    "population_size": 6,
    "sigma": 0.03,
    "learning_rate": 0.03,
    "antithetic": True,
    "shaping": "centered_rank",
    "prompts_per_iteration": 3,
    "shuffle_dataset": False,
    "prompt_schedule": "fixed",
    "max_completion_length": 3,
    "frozen": ["*norm*"],
    "max_steps": 2,
    "reward_weights": [-1.0],
}


@pytest.mark.parametrize("name", OPTION_EFFECTS)
def test_each_option_has_an_effect(tmp_path, name):
    def sha(directory, **options):
        trainer = make(directory, eval_on_start=False, eval_dataset=None, **options)
        return trainer.train().metrics["weights_sha256"]

    assert sha(tmp_path / "a") != sha(tmp_path / "b", **{name: OPTION_EFFECTS[name]})


@pytest.mark.parametrize(("dtype", "live"), [(None, "float32"), ("bfloat16", "bfloat16"), ("float16", "float16")])
def test_dtype_is_the_type_of_the_live_weights(tmp_path, dtype, live):
    trainer = make(tmp_path, dtype=dtype)
    assert {str(weight.dtype) for weight in trainer.model.parameters()} == {f"torch.{live}"}
    assert {master.dtype for master in trainer.run.weights.master} == {torch.float32}


def test_options_of_identity_are_covered_by_the_test_above():
    names = {spec.name for spec in dataclasses.fields(ESConfig) if spec.metadata["identity"]}
    tested_elsewhere = {"failure_policy", "temperature", "torch_threads", "prompts_per_unit", "dtype"}
    tested_elsewhere |= {"chat", "chat_template_kwargs", "system_prompt", "skip_special_tokens", "engine"}
    tested_elsewhere |= {"optim", "optim_args", "perturbation", "rank", "trainable", "vectors", "embeddings"}
    tested_elsewhere |= {"members_per_unit", "rows_per_batch"}
    tested_elsewhere |= {
        "num_generations",
        "fixed_samples",
        "top_k",
        "top_p",
        "min_p",
        "repetition_penalty",
        "stop_strings",
    }
    tested_elsewhere |= {f"{kind}_scheduler_{part}" for kind in ("lr", "sigma") for part in ("type", "kwargs")}
    assert names - tested_elsewhere <= set(OPTION_EFFECTS)


def needs_more(completions, goals, *, bonus, other=1):
    return bonus


needs_more.__name__ = "needs"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"reward_funcs": needs_more, "train_dataset": [{"prompt": "a", "goal": 1, "bonus": 1}], "eval_dataset": None},
         "reward function `needs` needs `goals`, which `train_dataset` doesn't give; did you mean 'goal'?; expected "
         "one of its columns ['bonus', 'goal'], or of prompts, completions, completion_ids, trainer_state"),
        ({"reward_funcs": len}, "reward function `len` needs `obj`, which `train_dataset` doesn't give"),
        ({"reward_funcs": lambda prompt, completions: [1.0]}, "needs `prompt`, which `train_dataset` doesn't give; "),
        ({"reward_funcs": lambda completions, bonus: bonus, "eval_dataset": {"x": [{"prompt": "1"}]}},
         "needs `bonus`, which `eval_dataset['x']` doesn't give"),
        ({"metric_funcs": {"right": lambda completions, right: right}},
         "metric function `right` needs `right`, which `eval_dataset` doesn't give"),
        ({"model": 3}, "`model` must be a model of transformers, a directory or hub id, or None for the embedded one, "
         "got 3 (int)"),
        ({"processing_class": 3}, "`processing_class` must be a tokenizer, or None for the model's own, got 3 (int)"),
        ({"processing_class": "gpt2"}, "must be a tokenizer, or None for the model's own, got 'gpt2' (str)"),
        ({"reward_funcs": "some/reward-model", "model": "nowhere"},
         "`reward_funcs` must hold functions, got 'some/reward-model': call a reward model in a function of yours"),
        ({"train_dataset": None}, "`train_dataset` must hold at least one row"),
        ({"train_dataset": [{"question": "?"}]}, "row 0 must have a `prompt`, got the columns ['question']"),
        ({"train_dataset": [{"prompt": "1"}, {"prompt": "2", "x": 1}]}, "row 1 must have the columns ['prompt']"),
        ({"reward_funcs": []}, "`reward_funcs` must hold at least one function"),
        ({"reward_weights": [float("inf")]}, "`reward_weights` must be finite"),
        ({"reward_funcs": None}, "`reward_funcs` must hold at least one function"),
        ({"reward_funcs": 3}, "`reward_funcs` must hold functions, got 3"),
        ({"train_dataset": ["text"]}, "row 0 must be a mapping of columns, got 'text'"),
        ({"train_dataset": {"prompt": ["a"]}}, "must be a sequence of rows, got a dict"),
        ({"train_dataset": 3}, "must be a sequence of rows, got a int"),
        ({"train_dataset": [{"prompt": 3}]}, "`prompt` must be text or messages, not empty, got 3"),
        ({"train_dataset": [{"prompt": "a", "completions": 1}]}, "['completions'] are given to rewards"),
        ({"callbacks": "early stop"}, "`callbacks` must hold objects, got 'early stop'"),
        ({"reward_funcs": ["digits"]}, "must hold functions, got 'digits'"),
        ({"reward_weights": [1.0, 2.0]}, "`reward_weights` must hold one number per reward function (1), got 2"),
        ({"train_dataset": [{"prompt": "1" * 500}]}, "context"),
    ],
)  # fmt: skip
def test_bad_arguments(tmp_path, options, message):
    with pytest.raises(ConfigError) as caught:
        make(tmp_path, **options).train()
    assert message in str(caught.value)
    assert not (tmp_path / "run").exists()
