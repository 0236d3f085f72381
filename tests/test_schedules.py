"""The schedules of the package: known factors, transformers' curves, and wrong arguments."""

import math

import pytest
import torch
from transformers import get_scheduler

from es_llm.config import ESConfig
from es_llm.errors import ConfigError
from es_llm.schedules import BUILTIN, hyperparameters


def rates(name, steps=10, **arguments):
    config = ESConfig(lr_scheduler_type=name, lr_scheduler_kwargs=arguments, learning_rate=1.0, max_steps=steps)
    return [hyperparameters(config, iteration).learning_rate for iteration in range(steps)]


def of_transformers(name, warmup, steps=10, **arguments):
    """The rates of transformers' schedule, one iteration later during the warm-up, which begins at 0 there."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    schedule = get_scheduler(name, optimizer, warmup, steps, scheduler_specific_kwargs=arguments or None)
    found = []
    for _ in range(steps + 1):
        found.append(schedule.get_last_lr()[0])
        optimizer.step()
        schedule.step()
    return found[1 : warmup + 1] + found[warmup:steps]


@pytest.mark.parametrize("warmup", [1, 3])
@pytest.mark.parametrize(
    ("name", "arguments"),
    [("linear", {}), ("cosine", {}), ("cosine_with_min_lr", {"min_lr_rate": 0.25}), ("constant_with_warmup", {})],
)
def test_the_curves_are_those_of_transformers(name, arguments, warmup):
    expected = of_transformers(name, warmup, **arguments)[:10]
    assert rates(name, num_warmup_steps=warmup, **arguments) == pytest.approx(expected, abs=1e-12)


def test_known_factors():
    assert rates("constant", 3) == [1.0, 1.0, 1.0]
    assert rates("linear", 4) == [1.0, 0.75, 0.5, 0.25]
    assert rates("linear", 4, num_warmup_steps=2) == [0.5, 1.0, 1.0, 0.5]
    assert rates("cosine", 2, floor=0.5) == pytest.approx([1.0, 0.75])
    assert rates("constant_with_warmup", 4, num_warmup_steps=2) == [0.5, 1.0, 1.0, 1.0]


def test_sigma_has_a_schedule_of_its_own():
    config = ESConfig(sigma=0.5, sigma_scheduler_type="cosine", sigma_scheduler_kwargs={"floor": 0.5}, max_steps=4)
    assert hyperparameters(config, 2).sigma == pytest.approx(0.5 * 0.75)
    assert hyperparameters(config, 2).learning_rate == config.learning_rate


@pytest.mark.parametrize("name", sorted(BUILTIN))
def test_every_factor_is_above_0(name):
    needed = {"constant_with_warmup": {"num_warmup_steps": 5}, "cosine_with_min_lr": {"min_lr_rate": 0.0}}
    factors = rates(name, 500, **needed.get(name, {}))
    assert all(0 < factor <= 1 and math.isfinite(factor) for factor in factors)


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("linear", {"num_warmup_steps": -1}, "`num_warmup_steps` must be an integer >= 0, got -1"),
        ("cosine", {"num_warmup_steps": 0.5}, "`num_warmup_steps` must be an integer >= 0, got 0.5"),
        ("cosine", {"floor": 2.0}, r"`floor` must be a number in \[0, 1\], got 2.0"),
        ("cosine_with_min_lr", {"min_lr_rate": -0.5}, r"`min_lr_rate` must be a number in \[0, 1\], got -0.5"),
        ("constant_with_warmup", {}, "missing 1 required keyword-only argument: 'num_warmup_steps'"),
    ],
)
def test_wrong_arguments_are_refused(name, arguments, message):
    with pytest.raises(ConfigError, match=message):
        rates(name, **arguments)
