"""The optimizers of the package: each agrees with its formula in numpy to the bit, in any blocks and on any number of
ranks, and a run with it resumes and replays."""

import json
from functools import partial

import numpy as np
import pytest
import torch

from es_llm import _core
from es_llm.config import ESConfig
from es_llm.errors import ConfigError, KernelError
from es_llm.model import weights as weights_module
from es_llm.model.table import ParameterTable
from es_llm.model.weights import Weights
from es_llm.optimizers import BUILTIN, load_optimizer, square_root
from tests.commands import SMALL, es_llm, result, rewards

f = np.float32
RATE = 0.125


def momentum(master, g, t, state, *, factor=0.9):
    state["momentum"] = state["momentum"] * f(factor) + g
    return master + state["momentum"] * f(RATE)


def nesterov(master, g, t, state, *, factor=0.9):
    state["momentum"] = state["momentum"] * f(factor) + g
    return master + (g + state["momentum"] * f(factor)) * f(RATE)


def adam(master, g, t, state, *, beta1=0.9, beta2=0.999, epsilon=1e-8, weight_decay=0.0):
    master = master * f(1 - RATE * weight_decay) if weight_decay else master
    state["mean"] = state["mean"] * f(beta1) + g * f(1 - beta1)
    state["square"] = state["square"] * f(beta2) + (g * g) * f(1 - beta2)
    root = np.sqrt(state["square"] * f(1 / (1 - beta2**t))) + f(epsilon)
    return master + state["mean"] * f(1 / (1 - beta1**t)) / root * f(RATE)


CASES = {
    "momentum": (momentum, {}),
    "momentum momentum=0.5": (partial(momentum, factor=0.5), {"momentum": 0.5}),
    "nesterov": (nesterov, {}),
    "adam": (adam, {}),
    "adam beta1=0.5 beta2=0.75": (
        partial(adam, beta1=0.5, beta2=0.75, epsilon=0.25),
        {"beta1": 0.5, "beta2": 0.75, "epsilon": 0.25},
    ),
    "adamw": (partial(adam, weight_decay=0.01), {}),
    "adamw weight_decay=0.5": (partial(adam, weight_decay=0.5), {"weight_decay": 0.5}),
}


def weights_of(name, options, dtype=None):
    torch.manual_seed(0)
    module = torch.nn.Linear(33, 21)
    config = ESConfig(optim=name.split()[0], optim_args=options)
    return Weights(
        module, ParameterTable.from_module(module), dtype=dtype, optimizer=load_optimizer(config.optim, config)
    )


def records(count=4):
    """Records of some iterations; the third has no spread."""
    population = _core.Population(run_seed=3, population_size=6)
    for iteration in range(count):
        population.ask(sigma=0.01)
        fitness = [1.0] * 6 if iteration == 2 else [float((7 * iteration + 5 * member) % 11) for member in range(6)]
        record = population.tell(fitness, sigma=0.01, learning_rate=RATE, cursor=0)
        population.apply(record)
        yield record


def direction(record, parameter):
    """g = the sum over the pairs of coefficient / N * noise: in float64, rounded to float32 after each term."""
    total = np.zeros(parameter.whole.size, f)
    for pair, coefficient in enumerate(record.coefficients):
        noise = np.empty(parameter.whole.size, f)
        _core.fill(noise, _core.Noise(record.run_seed, record.iteration, pair), parameter.whole)
        total = (np.float64(f(coefficient / len(record.fitness))) * noise + total).astype(f)
    return total


@pytest.mark.parametrize("block", [7, 1 << 17])
@pytest.mark.parametrize("case", CASES)
def test_each_optimizer_is_its_formula_to_the_bit(monkeypatch, case, block):
    monkeypatch.setattr(weights_module, "_BLOCK", block)
    step, options = CASES[case]
    own = weights_of(case, options)
    masters = [master.numpy().ravel().copy() for master in own.master]
    states = [{name: np.zeros_like(master) for name in state} for master, state in zip(masters, own.state, strict=True)]
    for record in records():
        own.update(record)
        if record.iteration != 2:  # an iteration without a spread changes nothing
            for index, parameter in enumerate(own.table.parameters):
                g = direction(record, parameter)
                masters[index] = step(masters[index], g, record.iteration + 1, states[index])
        for master, expected in zip(own.master, masters, strict=True):
            np.testing.assert_array_equal(master.numpy().ravel(), expected)
    for state, expected in zip(own.state, states, strict=True):
        for name, tensor in state.items():
            np.testing.assert_array_equal(tensor.numpy().ravel(), expected[name])


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_the_report_of_a_step_is_that_of_its_weights(dtype):
    own = weights_of("adam", {}, dtype)
    live = getattr(torch, dtype)
    for record in records(2):
        before = torch.cat([master.flatten() for master in own.master])
        report = own.update(record)
        after = torch.cat([master.flatten() for master in own.master])
        change = after.to(live).double() - before.to(live).double()
        intended = (after - before).double()
        assert report.elements == after.numel()
        assert report.moved == int((change != 0).sum()) > 0
        assert report.nonfinite == 0
        assert report.update_norm == pytest.approx(float(intended.norm()), rel=1e-12)
        assert report.cosine == pytest.approx(float(intended @ change / intended.norm() / change.norm()), rel=1e-12)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_a_comparison_counts_values_that_are_not_finite(dtype):
    before = np.array([1.0, np.nan, np.inf, 2.0, 3.0, np.nan, 0.0] * 40, f)
    after = np.array([np.inf, np.nan, 1.0, 2.0, 4.0, 1.0, -0.0] * 40, f)
    report = _core.compare(before, after, dtype=dtype)
    assert (report.elements, report.moved, report.nonfinite) == (280, 120, 80)
    assert report.update_norm == pytest.approx(np.sqrt(40), rel=1e-12)
    with pytest.raises(KernelError, match="same number of values, got 280 and 3"):
        _core.compare(before, after[:3].copy(), dtype=dtype)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("momentum", {"momentum": 1.0}, r"`momentum` must be a number in \[0, 1\), got 1.0"),
        ("nesterov", {"momentum": -0.1}, r"`momentum` must be a number in \[0, 1\), got -0.1"),
        ("adam", {"beta2": "x"}, r"`beta2` must be a number in \[0, 1\), got 'x'"),
        ("adam", {"beta1": float("nan")}, r"`beta1` must be a number in \[0, 1\), got nan"),
        ("adam", {"epsilon": 0.0}, "`epsilon` must be a finite number > 0, got 0.0"),
        ("adamw", {"weight_decay": -1.0}, "`weight_decay` must be a finite number >= 0, got -1.0"),
        ("adam", {"weight_decay": 0.1}, "optimizer 'adam': .*unexpected keyword.*'weight_decay'"),
    ],
)
def test_wrong_arguments_are_refused(name, options, message):
    with pytest.raises(ConfigError, match=message):
        load_optimizer(name, ESConfig(optim=name, optim_args=options))


def test_the_memory_of_each_optimizer_s_state():
    states = {name: len(weights_of(name, {}).state[0]) for name in BUILTIN}
    assert states == {"sgd": 0, "momentum": 1, "nesterov": 1, "adam": 2, "adamw": 2}, "4 bytes per weight for each"


@pytest.mark.mpi
@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", ["nesterov", "adamw"])
def test_a_run_resumes_replays_and_agrees_on_ranks(tmp_path, name):
    words = [*SMALL, "--seed", "7", "--optim", name, "--learning_rate", "0.002"]

    def run(directory, steps, *more, ranks=None):
        command = ["train", *words, "--max_steps", str(steps), "--output_dir", str(directory), *more]
        process = es_llm(*command, ranks=ranks)
        assert process.returncode == 0, process.stderr
        return result(directory)["weights_sha256"]

    whole = run(tmp_path / "whole", 4)
    run(tmp_path / "parts", 2)
    assert run(tmp_path / "parts", 4, "--resume_from_checkpoint", str(tmp_path / "parts")) == whole
    assert run(tmp_path / "ranks", 4, ranks=2) == whole
    assert rewards(tmp_path / "ranks") == rewards(tmp_path / "whole")
    process = es_llm("replay", str(tmp_path / "whole"), "--output_dir", str(tmp_path / "replayed"))
    assert process.returncode == 0, process.stderr
    assert result(tmp_path / "replayed")["weights_sha256"] == whole
    assert json.loads((tmp_path / "whole" / "config.json").read_text())["optim"] == name


def test_square_roots_are_rounded_correctly():
    values = np.concatenate(
        [np.random.default_rng(1).random(200_000, f) * f(1e-4), np.array([0.0, 1e-45, 3e38, 2.0], f)]
    )
    np.testing.assert_array_equal(square_root(torch.from_numpy(values)).numpy(), np.sqrt(values))
