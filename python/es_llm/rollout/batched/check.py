"""A check that rows with noise give the logits of materialized weights, on the model at hand.

A model's code may use its parameters in ways that the replaced modules don't expect. So an engine compares once, before
a run begins, and refuses a model instead of training with wrong answers.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Final

import torch

from es_llm._core import Member, Noise, Population
from es_llm.errors import ConfigError, ModelError
from es_llm.model.table import ParameterTable
from es_llm.noise.backend import backend_for
from es_llm.rollout.batched.modules import RowModules
from es_llm.rollout.batched.noise import UnitNoise, require_batchable
from es_llm.rollout.replaced import in_float32, replaced
from es_llm.rollout.steady import steady

SIGMA: Final = 1e-2
_TOLERANCE: Final = 0.01
"""Of the change that the noise makes. Rounding of float32 is far below, another use of a parameter far above."""


def can_batch(model: Any, table: ParameterTable) -> bool:
    """True if rows can have this noise in every module with trained parameters, by the kinds of the modules alone."""
    (member,) = Population(run_seed=0, population_size=2, antithetic=True).ask(sigma=SIGMA)[:1]
    try:
        require_batchable(table)
        RowModules(model, UnitNoise(table, [member], model.get_input_embeddings().weight.device))
    except (ConfigError, ModelError):
        return False
    return all(weight.is_floating_point() for weight in model.parameters())  # others are quantized


def require_right(model: Any, table: ParameterTable, ids: Sequence[int]) -> None:
    """Compare the logits of a text for two members.

    Raises:
        ModelError: they differ; names the kinds of modules that have parameters with noise.
    """
    members = Population(run_seed=0, population_size=2, antithetic=True).ask(sigma=SIGMA)
    device = model.get_input_embeddings().weight.device
    text_BT = torch.tensor([list(ids)] * len(members), device=device)
    at = {id(model.get_parameter(parameter.name)): parameter.perturbed for parameter in table.parameters}
    modules = RowModules(model, UnitNoise(table, members, device))
    modules.use(range(len(members)))
    with steady(model):
        with in_float32(model):
            base = _logits(model, text_BT[:1])
            with modules.active():
                rows = _logits(model, text_BT)
        for member, row in zip(members, rows, strict=True):
            with replaced(model, lambda weight: _perturbed(weight, member, at.get(id(weight)))):  # noqa: B023
                wanted = _logits(model, text_BT[:1])[0]
            error, change = _distance(row, wanted), _distance(base[0], wanted)
            if not math.isfinite(error) or error > _TOLERANCE * change:
                kinds = {type(m).__name__ for m in model.modules() if any(True for _ in m.parameters(recurse=False))}
                raise ModelError(
                    f"engine 'batched': {type(model).__name__} uses parameters in a way that can't differ between the "
                    f"rows of a batch: with noise, logits differ by {error:.2g} from those of perturbed weights, whose "
                    f"own change is {change:.2g}; its modules with parameters are {', '.join(sorted(kinds))}. Use "
                    "`--engine hf`, or leave parameters out with `--frozen`"
                )


def _perturbed(weight: torch.Tensor, member: Member, at: Any) -> torch.Tensor:
    """The member's weight in float32; without noise if it has no address."""
    master = weight.detach().float()
    if at is None:
        return master
    live, backend = torch.empty_like(master), backend_for(weight.device)
    noise = Noise(member.run_seed, member.iteration, member.pair)
    backend.settle([backend.perturb(live, master, noise, member.sign * member.sigma, at)])
    return live


def _logits(model: Any, ids_BT: torch.Tensor) -> torch.Tensor:
    """Logits (B, V) after the last token."""
    logits: torch.Tensor = model(input_ids=ids_BT, use_cache=False).logits[:, -1].float()
    return logits


def _distance(a: torch.Tensor, b: torch.Tensor) -> float:
    distance = float((a - b).square().mean().sqrt())
    return distance if math.isfinite(distance) else math.inf
