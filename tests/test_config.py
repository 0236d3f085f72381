"""Options: defaults, layers, files, and a clear error for each kind of bad value."""

import dataclasses
import importlib.util
import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch

import es_llm
from es_llm import ESTrainer, _core
from es_llm.config import ESConfig, ScriptArguments
from es_llm.config.fields import option_fields, option_topics
from es_llm.config.foreign import foreign_options
from es_llm.config.parser import Parser, add_options
from es_llm.config.resolve import EMBEDDED_DEFAULTS, read_config, resolve
from es_llm.errors import ConfigError
from es_llm.tasks import load_task

KNOWN = set(option_fields(ScriptArguments, ESConfig))


def parse(*words):
    parser = Parser(prog="test")
    add_options(parser, ScriptArguments, ESConfig)
    return vars(parser.parse_known(words))


def test_defaults_are_those_of_the_paper():
    config = ESConfig()
    assert (config.population_size, config.sigma, config.learning_rate) == (30, 1e-3, 5e-4)
    assert (config.temperature, config.shaping, config.antithetic, config.max_steps) == (0.0, "zscore", False, 500)


def test_without_a_model_the_embedded_models_defaults_hold():
    _, config = resolve({})
    assert config.population_size == EMBEDDED_DEFAULTS["population_size"]
    _, config = resolve({"model_name_or_path": "some/where"})
    assert config == ESConfig()
    _, config = resolve({"sigma": 0.5}, {"sigma": 0.25})
    assert config.sigma == 0.25


def test_task_args_merge_name_by_name():
    script, _ = resolve({"task_args": {"train_size": 7}}, {"task_args": {"eval_size": 9}})
    assert script.task_args["train_size"] == 7
    assert script.task_args["eval_size"] == 9
    assert script.task_args["style"] == "compact"


def test_resolved_options_resolve_to_themselves():
    pair = resolve({"sigma": 0.5, "task_args": {"train_size": 7}})
    assert resolve({name: value for part in pair for name, value in dataclasses.asdict(part).items()}) == pair


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sigma": 0}, "`sigma` must be a number > 0 and in the range of float32, got 0"),
        ({"sigma": -0.1}, "`sigma` must be a number > 0 and in the range of float32, got -0.1"),
        ({"sigma": float("inf")}, "`sigma` must be a number > 0"),
        ({"sigma": float("nan")}, "`sigma` must be a number"),
        ({"sigma": "big"}, "`sigma` must be a number, got 'big'"),
        ({"population_size": 0}, "`population_size` must be an integer in [2, 2**24], got 0"),
        ({"population_size": -3}, "got -3"),
        ({"population_size": 2.5}, "`population_size` must be an integer, got 2.5"),
        ({"population_size": True}, "`population_size` must be an integer, got True"),
        ({"population_size": 5, "antithetic": True}, "even with `antithetic`, got 5"),
        ({"seed": -1}, "`seed` must be an integer in"),
        ({"seed": 2**64}, "`seed` must be an integer in"),
        ({"learning_rate": 0}, "`learning_rate` must be a number > 0"),
        ({"max_steps": 0}, "`max_steps` must be an integer > 0 and < 2**32, got 0"),
        ({"max_steps": 2**32}, "`max_steps` must be an integer > 0 and < 2**32, got 4294967296"),
        ({"logging_steps": 0}, "`logging_steps` must be an integer > 0, got 0"),
        ({"save_total_limit": 0}, "`save_total_limit` must be an integer > 0, or none, got 0"),
        ({"unit_timeout_s": float("inf")}, "`unit_timeout_s` must be a number >= 0 and finite, got inf"),
        ({"device": "gpu"}, "`device` must be auto, cpu, cuda or cuda:<number>, got 'gpu'"),
        (
            {"chat_template_kwargs": {"a": object}},
            "`chat_template_kwargs` must hold texts, numbers, lists and mappings",
        ),
        ({"schedule": "static"}, "unknown option 'schedule'; did you mean 'assignment'?"),
        ({"dtype": "float8"}, "`dtype` must be one of float32, bfloat16, float16, got 'float8'"),
        ({"failure_policy": "ignore"}, "`failure_policy` must be one of"),
        ({"temperature": -0.1}, "`temperature` must be a number >= 0, got -0.1"),
        ({"num_generations": 2}, "`num_generations` must be 1 with `temperature` 0, got 2"),
        ({"fixed_samples": True}, "`fixed_samples` must be false with `temperature` 0, got True"),
        ({"top_k": 5}, "`top_k` must be 0 with `temperature` 0, got 5"),
        ({"stop_strings": ["a", ""]}, "`stop_strings` must be a list without empty texts, got ['a', '']"),
        ({"temperature": 1.0, "top_p": 0.0}, "`top_p` must be a number in (0, 1], got 0.0"),
        ({"temperature": 1.0, "min_p": 1.5}, "`min_p` must be a number in [0, 1], got 1.5"),
        ({"repetition_penalty": 0.0}, "`repetition_penalty` must be a number > 0, got 0.0"),
        ({"antithetic": "yes"}, "`antithetic` must be true or false"),
        ({"reward_weights": ["a"]}, "`reward_weights` must be a list or none"),
    ],
)
def test_bad_values_are_named(options, message):
    with pytest.raises(ConfigError) as caught:
        ESConfig(**options)
    assert message in str(caught.value)


def test_a_tracker_may_be_a_text():
    assert ESConfig(report_to="none").report_to == ["none"]
    assert resolve({"report_to": "wandb"})[1].report_to == ["wandb"]
    with pytest.raises(ConfigError, match="`report_to` must be a list, got 3"):
        ESConfig(report_to=3)


def test_seed_zero_is_valid():
    assert ESConfig(seed=0).seed == 0


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--populaton_size", "3"], "unknown option '--populaton_size'; did you mean '--population_size'"),
        (["--num_generations_eval", "3"], "see `eval_num_samples`"),
        (["--sigma", "much"], "`sigma` must be a number, got 'much'"),
        (["--max_steps", "1.5"], "`max_steps` must be an integer, got '1.5'"),
        (["--antithetic", "maybe"], "`antithetic` must be true or false, got 'maybe'"),
        (["--task_args", "train_size"], "`task_args` expects NAME=VALUE, got 'train_size'"),
        (
            ["--task_args", "a=1", "b=2", "a=3"],
            "`task_args` must have one value for each name, got a second one for 'a': '3'",
        ),
        (["--optim_args", "a=1,a=3"], "`optim_args` must have one value for each name, got a second one for 'a': '3'"),
        (["--lr_scheduler_kwargs", "a=1", "a=1"], "`lr_scheduler_kwargs` must have one value for each name"),
        (["--task_args", "a={x: 1, x: 2}"], "the value of 'a' doesn't parse: '{x: 1, x: 2}': two values for 'x'"),
        (["--popul", "3"], "unknown option '--popul'"),
        (["stray"], "unknown option 'stray'"),
    ],
)
def test_bad_flags_are_named(words, message):
    with pytest.raises(ConfigError) as caught:
        parse(*words)
    assert message in str(caught.value)


def test_flags_become_values_of_their_type():
    flags = parse("--sigma", "1e-2", "--antithetic", "--eval_on_start", "false", "--reward_weights", "1", "0.5",
                  "--task_args", "train_size=5", "style=compact", "--seed", "0")  # fmt: skip
    assert flags == {"sigma": 0.01, "antithetic": True, "eval_on_start": False, "reward_weights": [1.0, 0.5],
                     "task_args": {"train_size": 5, "style": "compact"}, "seed": 0}  # fmt: skip


MAPPINGS = ["task_args", "optim_args", "lr_scheduler_kwargs", "sigma_scheduler_kwargs", "dataset_columns",
            "chat_template_kwargs"]  # fmt: skip


@pytest.mark.parametrize("option", MAPPINGS)
def test_an_empty_word_is_an_empty_mapping(option):
    assert parse(f"--{option}", "") == parse(f"--{option}", " ") == parse(f"--{option}") == {option: {}}
    assert parse(f"--{option}", "", "a=1") == {option: {"a": 1}}


@pytest.mark.parametrize("option", ["frozen", "trainable", "report_to", "reward_funcs", "reward_weights"])
def test_an_empty_word_is_an_empty_list(option):
    assert parse(f"--{option}", "") == parse(f"--{option}") == {option: []}
    assert parse(f"--{option}", "1", "") == {option: [1.0] if option == "reward_weights" else ["1"]}
    assert ESConfig(report_to="").report_to == []


def test_a_repeated_flag_overrides_the_names_that_it_has():
    assert parse("--task_args", "a=1", "b=2", "--task_args", "a=3") == {"task_args": {"a": 3, "b": 2}}


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.yaml", "sigma: 2e-3\ntask_args: {train_size: 5}\n"),
        ("a.toml", "sigma = 2e-3\n[task_args]\ntrain_size = 5\n"),
    ],
)
def test_files(tmp_path, name, text):
    (tmp_path / name).write_text(text)
    assert read_config(tmp_path / name, KNOWN) == {"sigma": 0.002, "task_args": {"train_size": 5}}


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.yaml", "sgima: 1\n", "unknown option 'sgima'; did you mean 'sigma'"),
        ("a.yaml", "- 1\n", "must hold a mapping"),
        ("a.yaml", "a: [\n", "doesn't parse"),
        ("a.toml", "a = \n", "doesn't parse"),
        ("missing.yaml", None, "can't be read"),
    ],
)
def test_bad_files_are_named(tmp_path, name, text, message):
    if text is not None:
        (tmp_path / name).write_text(text)
    with pytest.raises(ConfigError) as caught:
        read_config(tmp_path / name, KNOWN)
    assert message in str(caught.value)


def test_every_option_has_one_topic():
    topics = option_topics(ScriptArguments, ESConfig)
    names = [spec.name for specs in topics.values() for spec in specs]
    assert sorted(names) == sorted(KNOWN)
    assert [spec.name for spec in topics["Model"]][:1] == ["model_name_or_path"]
    assert "dtype" in [spec.name for spec in topics["Model"]]


def test_defaults_are_allowed_values():
    for cls in (ESConfig, ScriptArguments):
        for name, spec in option_fields(cls).items():
            within, value = spec.metadata["within"], getattr(cls(), name)
            assert within is None or value is None or within.contains(value), name
            assert not spec.metadata["choices"] or value is None or value in spec.metadata["choices"], name


def test_names_that_the_core_knows_are_accepted():
    options = option_fields(ESConfig)
    for name, names in [("failure_policy", _core.FAILURE_POLICIES), ("dtype", _core.DTYPES),
                        ("assignment", _core.ASSIGNMENTS)]:  # fmt: skip
        assert options[name].metadata["choices"] == names
    for shaping in _core.SHAPING_RULES:
        for policy in _core.FAILURE_POLICIES:
            _core.Population(run_seed=0, population_size=2, shaping=shaping, failure_policy=policy)
    for dtype in _core.DTYPES:
        live = np.zeros(1, np.float32 if dtype == "float32" else np.uint16)
        _core.round(live, np.ones(1, np.float32), dtype=dtype)
        assert live.any()


def test_options_of_other_trainers_are_not_options_here():
    ours = set(option_fields(ESConfig))
    assert not set(foreign_options("options")) & ours
    assert not [name for name in ours if name.startswith(tuple(foreign_options("prefixes")))]
    assert set(foreign_options("other_meaning")) < ours
    assert set(foreign_options("in_python")) < set(option_fields(ScriptArguments))


def test_every_option_is_read_by_something():
    """Each option's name appears as an attribute somewhere outside `config`."""
    package = Path(es_llm.__file__).parent
    text = "\n".join(path.read_text() for path in package.rglob("*.py") if path.parent.name != "config")
    for cls in (ESConfig, ScriptArguments):
        for spec in dataclasses.fields(cls):
            assert f".{spec.name}" in text, f"nothing reads `{spec.name}`"


NUMBERS = [
    ({"population_size": np.int64(8), "seed": np.uint32(3)}, {"population_size": 8, "seed": 3}),
    ({"population_size": np.array(8), "max_steps": torch.tensor(5)}, {"population_size": 8, "max_steps": 5}),
    ({"sigma": np.float64(0.5), "learning_rate": np.float32(0.25)}, {"sigma": 0.5, "learning_rate": 0.25}),
    ({"sigma": "1e-3", "learning_rate": "5.E-4"}, {"sigma": 1e-3, "learning_rate": 5e-4}),
    ({"reward_weights": np.array([1.0, 0.5])}, {"reward_weights": [1.0, 0.5]}),
    ({"reward_weights": (np.float32(1), "1e-1")}, {"reward_weights": [1.0, 0.1]}),
    ({"antithetic": np.bool_(True), "population_size": 4}, {"antithetic": True}),
    ({"dtype": torch.bfloat16, "device": torch.device("cpu")}, {"dtype": "bfloat16", "device": "cpu"}),
    ({"dtype": torch.float16, "device": torch.device("cuda", 1)}, {"dtype": "float16", "device": "cuda:1"}),
    ({"output_dir": Path("a") / "b"}, {"output_dir": "a/b"}),
    ({"frozen": (np.str_("a"), "b")}, {"frozen": ["a", "b"]}),
    ({"chat_template_kwargs": {"n": np.int8(1), "deep": [np.float64(2)]}},
     {"chat_template_kwargs": {"n": 1, "deep": [2.0]}}),
]  # fmt: skip


@pytest.mark.parametrize(("given", "wanted"), NUMBERS)
def test_values_of_other_libraries_become_plain_values(given, wanted):
    options = ESConfig(**given).to_dict()
    assert {name: options[name] for name in wanted} == wanted
    assert json.loads(json.dumps({name: options[name] for name in wanted})) == wanted
    for name, value in wanted.items():
        assert type(options[name]) is type(value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"population_size": np.float64(8.0)}, "`population_size` must be an integer, got 8.0 (float)"),
        ({"population_size": np.bool_(True)}, "`population_size` must be an integer, got True"),
        ({"population_size": "8"}, "`population_size` must be an integer, got '8'"),
        ({"population_size": "1e3"}, "`population_size` must be an integer, got '1e3'"),
        ({"sigma": np.float32("nan")}, "`sigma` must be a number"),
        ({"sigma": np.array([0.1, 0.2])}, "`sigma` must be a number, got [0.1, 0.2]"),
        ({"sigma": "1e"}, "`sigma` must be a number, got '1e'"),
        ({"dtype": torch.float64}, "`dtype` must be one of float32, bfloat16, float16, got 'float64'"),
        ({"antithetic": np.int64(1)}, "`antithetic` must be true or false, got 1"),
    ],
)
def test_values_of_other_libraries_are_checked(options, message):
    with pytest.raises(ConfigError, match=re.escape(message)):
        ESConfig(**options)


def test_exponents_are_numbers_in_files_and_in_names_with_values(tmp_path):
    path = tmp_path / "run.yaml"
    path.write_text("\ufeffsigma: 1e-3\nlearning_rate: .5e-3\nreward_weights: [1e0, 2E-1]\n")
    values = read_config(path, {"sigma", "learning_rate", "reward_weights"})
    assert values == {"sigma": 1e-3, "learning_rate": 5e-4, "reward_weights": [1.0, 0.2]}
    assert parse("--task_args", "scale=1e-3", "size=3")["task_args"] == {"scale": 1e-3, "size": 3}
    assert ScriptArguments(task_args={"train_size": np.int64(3)}).task_args == {"train_size": 3}
    assert len(load_task("gsm8k", train_size=np.int64(3)).train) == 3


@pytest.mark.parametrize("tracker", ["wandb", "trackio", "clearml"])
def test_a_tracker_that_is_not_installed(tracker, monkeypatch):
    if importlib.util.find_spec(tracker) is not None:
        pytest.skip(f"{tracker} is installed")
    monkeypatch.setattr(
        "es_llm.trainer.assembly.model.load_model", lambda *given, **named: pytest.fail("loaded a model")
    )
    with pytest.raises(ConfigError, match=rf"`report_to` '{tracker}' can't be used: .*`pip install {tracker}`"):
        ESTrainer(None, lambda **columns: [0.0], ESConfig(report_to=["tensorboard", tracker]), [{"prompt": "a"}])
