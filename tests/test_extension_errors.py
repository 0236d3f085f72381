"""Every fault of an extension is one error that names the extension, what it did and what was expected."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch

from es_llm import ESConfig
from es_llm._core import Population
from es_llm.checkpoint.identity import require_same_identity, require_same_optimizer
from es_llm.errors import ConfigError, EsError, ModelError, ResumeError
from es_llm.model.table import ParameterTable
from es_llm.model.targets import Target
from es_llm.model.weights import Weights
from es_llm.optimizers import load_optimizer
from es_llm.rollout import load_engine
from es_llm.rollout.checks import checked_completions, checked_targets
from es_llm.rollout.engine import Completion
from es_llm.schedules import hyperparameters
from es_llm.shaping import load_shaping
from es_llm.tasks import load_task


@pytest.fixture
def piece(tmp_path, monkeypatch):
    """Writes `mine.py` into the working directory."""
    monkeypatch.chdir(tmp_path)
    return lambda text: (tmp_path / "mine.py").write_text(text) and "mine.py"


HEAD = "from es_llm.optimizers import Optimizer\n\nclass O(Optimizer):\n"
STEP = "    def step(self, master, direction, record, state):\n        "


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (f"{HEAD}{STEP}pass\n\nbuild = O()", r": `build` must be a function or a class, got <.*\(O\)"),
        ("class O:\n    pass\n\nbuild = O", ": the class O must be a subclass of `es_llm.optimizers.Optimizer`"),
        (f"{HEAD}    pass\n\nbuild = O", ": `O` failed: TypeError: Can't instantiate abstract class O .*step"),
        ("def build(config):\n    return config.nothing", r": `build` failed: AttributeError.*\(mine.py, line 2\)"),
        ("def build(config):\n    raise SystemExit(3)", r": `build` failed: SystemExit: 3 \(mine.py, line 2\)"),
        (f"{HEAD}    state_names = ('v')\n{STEP}pass\n\nbuild = O", ": `state_names` must be a tuple .*, got 'v'"),
        (f"{HEAD}    state_names = 'v', 'v'\n{STEP}pass\n\nbuild = O", ": the names in `state_names` must differ"),
        ("x = 1\ndef build(config) x", r": '.*mine.py' fails to import: SyntaxError: expected ':' \(mine.py, line 2"),
        ("x = 1\nx.y", r": '.*mine.py' fails to import: AttributeError: .* \(mine.py, line 2\)"),
    ],
)  # fmt: skip
def test_an_object_that_is_no_optimizer(piece, text, message):
    with pytest.raises(ConfigError, match=f"^optimizer 'mine.py'{message}"):
        load_optimizer(piece(text), ESConfig())


def weights(optimizer):
    module = torch.nn.Linear(3, 2)
    with torch.no_grad():
        module.weight.fill_(-0.0)
        module.bias.fill_(1.0)
    return Weights(module, optimizer=optimizer)


def record(fitness):
    return Population(run_seed=1, population_size=len(fitness)).tell(fitness, sigma=0.1, learning_rate=0.1)


@pytest.mark.parametrize(
    ("step", "message"),
    [
        ("state['v'].add_(1)", r"`step` failed: KeyError: 'v' \(mine.py, line 5\)"),
        ("raise RuntimeError('two\\nlines')", r"`step` failed: RuntimeError: two lines \(mine.py, line 5\)"),
        ("state['w'] = direction", "`step` failed: TypeError: 'mappingproxy' object does not support item assignment"),
        ("return master + direction", "`step` must change `master` and `state` in place and return None, got Tensor"),
        (
            "master[0].fill_(float('nan'))",
            "iteration 1 made 3 of 6 values NaN or infinite in the weights of `weight`, so the run stops.*"
            "can't be resumed with another one.*`--iterations 0` rebuilds the weights before",
        ),
    ],
)
def test_a_step_that_fails(piece, step, message):
    optimizer = load_optimizer(piece(f"{HEAD}{STEP}{step}\n\nbuild = O"), ESConfig())
    with pytest.raises(ConfigError, match=f"^optimizer 'mine.py': {message}"):
        weights(optimizer).update(record([0.0, 1.0]))


@pytest.mark.parametrize(
    ("step", "changed"),
    [
        ("master.resize_(2, 2)", r"shape of the weights of `weight`: expected \[2, 3\], got \[2, 2\]$"),
        ("master.t_()", r"shape of the weights of `weight`: expected \[2, 3\], got \[3, 2\]$"),
        ("v.resize_(7)", r"shape of the state 'v' of `weight`: expected \[2, 3\], got \[7\]$"),
        ("v.data = v.double()", "type of the state 'v' of `weight`: expected torch.float32, got torch.float64$"),
        ("master.data = master.half()", "type of the weights of `weight`: expected torch.float32, got torch.float16$"),
        ("v.data = v.t().contiguous().t()", r"strides of the state 'v' of `weight`: expected \(3, 1\), got \(1, 2\)$"),
        ("v.data = v + 1", r"memory address of the state 'v' of `weight`: expected \d+, got \d+$"),
        ("v.requires_grad_()", "requires_grad of the state 'v' of `weight`: expected False, got True$"),
    ],
)
def test_a_step_that_changes_more_than_values(piece, step, changed):
    text = f"{HEAD}    state_names = ('v',)\n{STEP}v = state['v']\n        {step}\n\nbuild = O"
    own = weights(load_optimizer(piece(text), ESConfig()))
    message = "`step` must change values in place, but it changed the "
    with pytest.raises(ConfigError, match=f"^optimizer 'mine.py': {message}{changed}"):
        own.update(record([0.0, 1.0]))


@pytest.mark.parametrize("value", ["nan", "inf", "-inf"])
def test_a_state_that_is_not_finite(piece, value):
    names = "    state_names = ('u', 'v')\n"
    second = "if record.iteration == 1:\n            state['v'].view(-1)[:2] = "
    own = weights(load_optimizer(piece(f"{HEAD}{names}{STEP}{second}float('{value}')\n\nbuild = O"), ESConfig()))
    population = Population(run_seed=1, population_size=2)
    first = population.tell([0.0, 1.0], sigma=0.1, learning_rate=0.1)
    own.update(first)
    population.apply(first)
    message = "iteration 2 made 2 of 6 values NaN or infinite in the state 'v' of `weight`, so the run stops"
    with pytest.raises(ConfigError, match=f"^optimizer 'mine.py': {message}.*`--iterations 1` rebuilds"):
        own.update(population.tell([0.0, 1.0], sigma=0.1, learning_rate=0.1))


@pytest.mark.parametrize(
    ("returned", "got"),
    [
        ("record.coefficients", r"float64 of shape \[2\]: array\(\["),
        ("np.ones(3, np.float32)", r"float32 of shape \[3\]: array\(\["),
        ("np.ones((2, 1), np.float32)", r"float32 of shape \[2, 1\]: array\(\["),
        ("np.float32([1, 'nan'])", r"float32 of shape \[2\]: array\(\[ ?1., nan\]"),
        ("[1.0, 2.0]", r"\[1.0, 2.0\]$"),
    ],
)
def test_fused_coefficients_that_do_not_fit(piece, returned, got):
    fused = f"    def fused_coefficients(self, record):\n        return {returned}"
    own = weights(load_optimizer(piece(f"import numpy as np\n{HEAD}{STEP}pass\n\n{fused}\n\nbuild = O"), ESConfig()))
    before = own.digest()
    expected = r"a finite float32 number for each of the 2 pairs, as an array of shape \[2\]"
    message = f"`fused_coefficients` must return None, or {expected}, got {got}"
    with pytest.raises(ConfigError, match=f"^optimizer 'mine.py': {message}"):
        own.update(record([0.0, 1.0]))
    assert own.digest() == before


def test_fused_coefficients_of_an_own_optimizer(piece):
    fused = "    def fused_coefficients(self, record):\n        return record.sgd_coefficients()"
    own = weights(load_optimizer(piece(f"{HEAD}{STEP}pass\n\n{fused}\n\nbuild = O"), ESConfig()))
    plain = weights(None)
    for each in (own, plain):
        each.update(record([0.0, 1.0]))
    assert own.digest() == plain.digest()


def test_equal_fitness_changes_neither_weights_nor_state(piece):
    text = f"{HEAD}    state_names = ('v',)\n{STEP}state['v'].add_(1)\n        master.add_(state['v'])\n\nbuild = O"
    own = weights(load_optimizer(piece(text), ESConfig()))
    before = own.digest()
    report = own.update(record([0.5, 0.5]))
    assert own.digest() == before
    assert torch.signbit(own.master[0]).all(), "-0.0 stays"
    assert (report.elements, report.moved, report.nonfinite, report.update_norm) == (8, 0, 0, 0)
    own.update(record([0.0, 1.0]))
    assert own.master[0].eq(1).all()
    assert own.state[0]["v"].eq(1).all()


def test_arguments_of_optimizers_and_schedules(piece):
    text = (
        f"{HEAD}    def __init__(self, config, beta=0.9, eps=0.0):\n        self.beta, self.eps = beta, eps\n{STEP}"
        "master.fill_(self.beta)\n\nbuild = O\n\ndef factor(config, iteration, warmup=1):\n"
        "    return min(1, (iteration + 1) / warmup)"
    )
    name = piece(text)
    for arguments in ({"beta": 0.25, "eps": 1e-8}, "beta=0.25, eps=1e-8"):
        config = ESConfig(optim=name, optim_args=arguments)
        assert config.optim_args == {"beta": 0.25, "eps": 1e-8}
        own = weights(load_optimizer(name, config))
        own.update(record([0.0, 1.0]))
        assert own.master[0].eq(0.25).all()
    with pytest.raises(ConfigError, match=r"optimizer 'mine.py': `O` failed: TypeError: .*unexpected keyword.*'beat'"):
        load_optimizer(name, ESConfig(optim_args={"beat": 1}))
    with pytest.raises(ConfigError, match=r"optimizer 'sgd': `SGD` failed: TypeError: .*unexpected keyword.*'beta'"):
        load_optimizer("sgd", ESConfig(optim_args={"beta": 1}))
    with pytest.raises(ConfigError, match="`optim_args` expects NAME=VALUE, got 'beta'"):
        ESConfig(optim_args="beta")
    with pytest.raises(ConfigError, match="`optim_args` expects NAME=VALUE, got ' eps'"):
        ESConfig(optim_args="beta=1, eps")
    with pytest.raises(
        ConfigError, match="`optim_args` must have one value for each name, got a second one for 'beta': '2'"
    ):
        ESConfig(optim_args="beta=1,beta=2")
    assert ESConfig(optim_args="").optim_args == ESConfig(optim_args=" ").optim_args == {}
    text = "betas=[0.9, 0.999],name='a,b',more={x: 1, y: 2}"
    assert ESConfig(optim_args=text).optim_args == {"betas": [0.9, 0.999], "name": "a,b", "more": {"x": 1, "y": 2}}
    config = ESConfig(
        sigma=1.0, learning_rate=1.0, lr_scheduler_type=name, lr_scheduler_kwargs={"warmup": 4},
        sigma_scheduler_type=name, sigma_scheduler_kwargs={"warmup": 2},
    )  # fmt: skip
    assert [hyperparameters(config, step).learning_rate for step in (0, 1, 9)] == [0.25, 0.5, 1.0]
    assert [hyperparameters(config, step).sigma for step in (0, 1)] == [0.5, 1.0]
    with pytest.raises(ConfigError, match=r"schedule 'constant': `factor` failed: TypeError: .*'warmup'"):
        hyperparameters(ESConfig(lr_scheduler_kwargs={"warmup": 4}), 0)


@pytest.mark.parametrize("value", ["None", "0", "-1", "float('inf')", "'1'", "[1, 2]"])
def test_a_schedule_that_returns_no_factor(piece, tmp_path, value):
    name = piece(f"def factor(config, iteration):\n    return {value}")
    config = ESConfig(lr_scheduler_type=str(tmp_path / name))  # schedules are cached by name
    got = re.escape(repr(eval(value)))
    with pytest.raises(
        ConfigError, match=f"^schedule '.*' must return a finite factor > 0, got {got} for `iteration` 2"
    ):
        hyperparameters(config, 2)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("def shape(fitness):\n    return fitness[:3]", "a finite number for each of the 4 members, got 3 numbers"),
        ("def shape(fitness):\n    pass", "expected a finite number for each of the 4 members, got None"),
        ("def shape(fitness):\n    return fitness.reshape(2, 2)", r"each of the 4 members, got array\(\[\["),
        ("def shape(fitness):\n    return fitness * float('nan')", r"each of the 4 members, got array\(\[nan"),
        ("def shape(fitness):\n    return fitness + 1j", r"each of the 4 members, got array\(\[0"),
        ("def shape(fitness):\n    return list('1234')", r"each of the 4 members, got \['1'"),
        ("def shape(fitness):\n    return 1 // 0", r"`shape` failed: ZeroDivisionError: .* \(mine.py, line 2\)"),
    ],
)  # fmt: skip
def test_a_rule_that_returns_no_shaped_fitness(piece, text, message):
    population = Population(run_seed=1, population_size=4, shaping=load_shaping(piece(text)))
    with pytest.raises(EsError, match=f'^shaping rule "mine.py" failed: .*{message}'):
        population.tell([0.0, 1.0, 2.0, 3.0], sigma=0.1, learning_rate=0.1)


def test_a_rule_may_return_any_sequence_and_cannot_change_the_fitness(piece):
    text = "def shape(fitness):\n    fitness -= fitness.mean()\n    return tuple(fitness)"
    population = Population(run_seed=1, population_size=2, shaping=load_shaping(piece(text)))
    record = population.tell([0.0, 1.0], sigma=0.1, learning_rate=0.1)
    assert record.fitness == [0.0, 1.0]
    np.testing.assert_array_equal(record.coefficients, [-0.5, 0.5])


def test_names_that_stand_for_no_rule(piece, monkeypatch, tmp_path):
    with pytest.raises(ConfigError, match=r"`shape` must be a function or a class, got 'centered_rank' .str"):
        load_shaping(piece("shape = 'centered_rank'"))
    known = r"'zscroe'; did you mean 'zscore'\? \(known: centered_rank, zscore; or file.py:NAME, or package.module:NAME"
    with pytest.raises(ConfigError, match=f"unknown shaping rule {known}"):
        load_shaping("zscroe")
    (tmp_path / "mypieces").mkdir()
    (tmp_path / "mypieces" / "__init__.py").write_text("")
    (tmp_path / "mypieces" / "top_half.py").write_text("def shape(fitness):\n    return fitness")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ConfigError, match=r"mypieces.top_half is a module: expected mypieces.top_half:shape"):
        load_shaping("mypieces.top_half")
    assert load_shaping("mypieces.top_half:shape")(np.array([1.0, 2.0])) == [1.0, 2.0]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("low_rank(2)", r" `bias` of shape \[2\] must get DENSE or NONE \(low_rank is for matrices\), got Pert"),
        ("low_rank(1000) if len(shape) == 2 else DENSE", r" `weight` of shape \[2, 3\] .* r in \[1, 2\], got .*1000"),
        ("low_rank(1.5) if len(shape) == 2 else DENSE", r".*low_rank\(r\) with an integer r in \[1, 2\], got .*1.5"),
        ("'dense'", " `weight` .* DENSE or NONE, or low_rank.*, got 'dense'"),
        ("1 // 0", r" `choose` failed: ZeroDivisionError: .* \(mine.py, line 3\)"),
    ],
)  # fmt: skip
def test_a_perturbation_that_fits_no_tensor(piece, given, message):
    text = f"from es_llm.noise.perturbation import *\ndef choose(name, shape):\n    return {given}"
    with pytest.raises(ConfigError, match=f"^perturbation 'mine.py':{message}"):
        ParameterTable.from_module(torch.nn.Linear(3, 2), perturbation=piece(text))


DONE = Completion("a", (1,), finished=True)


def test_what_an_engine_returns():
    assert checked_completions("e.py", ((DONE,), [DONE]), 2, 1) == [[DONE], [DONE]]
    for wrong in ([DONE, DONE], [[DONE]], [[DONE, DONE], [DONE]], [["a"], ["b"]], None):
        with pytest.raises(ConfigError, match=r"^engine 'e.py': `evaluate` must return one list .* 2 list\(s\) of 1"):
            checked_completions("e.py", wrong, 2, 1)
    weight = torch.zeros(2)
    assert len(checked_targets("e.py", (Target("a.weight", slice(None), weight),), {"a.weight"})) == 1
    with pytest.raises(ConfigError, match=r"'a.wight' is no parameter of the model; did you mean 'a.weight'"):
        checked_targets("e.py", [Target("a.wight", slice(None), weight)], {"a.weight"})
    with pytest.raises(ConfigError, match=r"^engine 'e.py': `targets` must return a list of .*Target`, got a Tensor"):
        checked_targets("e.py", [weight], {"a.weight"})


def test_functions_that_build_and_fail(piece):
    with pytest.raises(ConfigError, match=r"^engine 'mine.py': `build` failed: TypeError: .*argument"):
        load_engine(piece("def build(model):\n    return None"), None, None, max_completion_length=1)
    text = "from es_llm.errors import ModelError\ndef build(*_, **__):\n    raise ModelError('too new')"
    with pytest.raises(ModelError, match=r"^too new$"):
        load_engine(piece(text), None, None, max_completion_length=1)
    with pytest.raises(ConfigError, match=r"^task 'mine.py': `build` failed: KeyError: 'x' \(mine.py, line 2\)"):
        load_task(piece("def build():\n    return {}['x']   # a task"))


def header(**config):
    files = {option: f"content of {option}" for option in config}
    identity = {"config": config, "script": None, "extension_files": files, "reward_files": []}
    return {"identity": identity, "about": {}}


def builtin(name):
    """The header of a run with an optimizer of this package."""
    plain = header(optim=name)
    del plain["identity"]["extension_files"]
    return plain


def test_extensions_are_compared_by_content():
    saved = header(optim="rms.py", shaping="own.py:shape")
    require_same_identity(saved, header(optim="moved.py", shaping="theirs.py:shape"), "D")
    with pytest.raises(ResumeError, match=r"`config.shaping` was 'own.py:shape', now 'own.py:other'"):
        require_same_identity(saved, header(optim="rms.py", shaping="own.py:other"), "D")
    edited = header(optim="rms.py", shaping="own.py:shape")
    edited["identity"]["extension_files"]["optim"] = "edited"
    content = "the content of `optim` 'rms.py' differs: its SHA-256 was content of optim, now edited"
    with pytest.raises(ResumeError, match=f"^D holds a run with other files: {content}; a run is resumed with its own"):
        require_same_identity(saved, edited, "D")
    edited["identity"]["config"]["optim"] = "moved.py"
    renamed = f"`config.optim` was 'rms.py', now 'moved.py'; {content.replace('rms', 'moved')}"
    with pytest.raises(
        ResumeError, match=f"^D holds a run with other options: {renamed}; a run is resumed with its own"
    ):
        require_same_identity(saved, edited, "D")
    with pytest.raises(ResumeError, match=r"^D holds .* `config.optim` was 'rms.py', now 'sgd'; a run is resumed"):
        require_same_identity(header(optim="rms.py"), builtin("sgd"), "D")
    with pytest.raises(
        ResumeError, match=r"the content of `optim` 'adam' differs: its .* was content of optim, now None"
    ):
        require_same_identity(header(optim="adam"), builtin("adam"), "D")


def test_replay_needs_the_optimizer_of_the_run():
    own = {"config": {"optim": "rms.py"}, "extension_files": {"optim": "1a"}}
    require_same_optimizer(own, "moved.py", "1a")
    with pytest.raises(
        ResumeError, match=r"'rms.py' \(SHA-256 2b\) has other content than the run's optimizer 'rms.py' \(SHA-256 1a\)"
    ):
        require_same_optimizer(own, "rms.py", "2b")
    with pytest.raises(
        ResumeError, match=r"'sgd' differs from the run's optimizer 'rms.py' \(SHA-256 1a\); name the run"
    ):
        require_same_optimizer(own, "sgd", None)
    require_same_optimizer({"config": {}}, "sgd", None)
    with pytest.raises(ResumeError, match=r"'rms.py' \(SHA-256 1a\) differs from the run's optimizer 'sgd'"):
        require_same_optimizer({"config": {}}, "rms.py", "1a")
