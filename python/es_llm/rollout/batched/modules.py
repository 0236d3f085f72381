"""Modules that add each row's noise to the weights of one model, for the time of a call.

The forward passes of modules with trained parameters are replaced, and restored afterwards; no model's code is changed.

y = x W^T + s (x B) A^T               `nn.Linear`, and the experts of a mixture; s = +-sigma, and A has the 1 / sqrt(r)
y = x W + s (x A) B^T                 GPT-2's `Conv1D`, whose weights are (in, out)
y = W[token] + s A[token] B^T         `nn.Embedding`; a tied head is a linear layer with the same A and B
w + s e                               a vector per row: biases, and the weights of norms
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, TypeAlias, final

import torch
from torch import nn
from torch.nn import functional
from transformers.pytorch_utils import Conv1D

from es_llm.errors import ModelError
from es_llm.rollout.batched.factors import Factors, Rows
from es_llm.rollout.batched.noise import UnitNoise
from es_llm.rollout.batched.product import Forward, with_few_rows

Change: TypeAlias = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""(a result without noise, the input) -> the result with noise."""


@final
class RowModules:
    """The replaced modules of one model.

    Args:
        model: its parameters have the names of the noise's.
        noise: of the members of a unit.

    Raises:
        ModelError: it isn't known how a module uses a matrix that has noise.
    """

    def __init__(self, model: nn.Module, noise: UnitNoise) -> None:
        self._noise = noise
        self._rows: Rows | None = None
        self._row_vectors: dict[str, torch.Tensor] = {}
        name_of = {id(weight): name for name, weight in model.named_parameters()}
        self._replaced: list[tuple[nn.Module, Callable[[Forward], Forward]]] = []
        for path, module in model.named_modules():
            own = {key: name_of[id(weight)] for key, weight in module.named_parameters(recurse=False)}
            matrices = {key: noise.matrices[name] for key, name in own.items() if name in noise.matrices}
            vectors = {key: name for key, name in own.items() if name in noise.vectors}
            if matrices or vectors:
                self._replaced.append((module, self._replacement(path, module, matrices, vectors)))

    def use(self, members: Sequence[int | None]) -> None:
        """The next forward pass has rows of these members, given by their index among the unit's; None: a row without
        noise."""
        self._rows = self._noise.rows(members)
        self._row_vectors.clear()

    @contextmanager
    def active(self) -> Iterator[None]:
        """Replace the forward passes while the block runs."""
        saved = [module.__dict__.get("forward") for module, _ in self._replaced]
        try:
            for module, replacement in self._replaced:
                module.forward = replacement(module.forward)
            yield
        finally:
            for (module, _), own in zip(self._replaced, saved, strict=True):
                if own is not None:
                    module.forward = own
                else:
                    module.__dict__.pop("forward", None)
            self._row_vectors.clear()

    def _replacement(
        self, path: str, module: nn.Module, matrices: dict[str, Factors], vectors: dict[str, str]
    ) -> Callable[[Forward], Forward]:
        keys = {*matrices, *vectors}
        weight_alone = keys == {"weight"} == {*matrices}
        if type(module) in (nn.Linear, Conv1D):
            return partial(self._linear, module, matrices.get("weight"), vectors.get("bias"))
        if isinstance(module, nn.Embedding) and weight_alone:
            return partial(self._within, functional.embedding, module, self._embedding(matrices["weight"]))
        if (isinstance(module, nn.Linear) or _is_router(module)) and weight_alone:
            return partial(self._within, functional.linear, module, self._added(matrices["weight"]))
        if _is_experts(module) and keys <= {"gate_up_proj", "down_proj"}:
            return partial(self._experts, module, matrices)
        if isinstance(module, nn.LayerNorm):
            return partial(self._layer_norm, module, vectors)
        if not matrices:
            return partial(self._broadcast, module, vectors)
        raise ModelError(
            f"engine 'batched': it isn't known how `{path}` ({type(module).__name__}) uses "
            f"{', '.join(f'`{key}`' for key in matrices)}; leave {'it' if len(matrices) == 1 else 'them'} out with "
            "`--frozen`, or use `--engine hf`"
        )

    def _linear(self, module: nn.Module, factors: Factors | None, bias: str | None, forward: Forward) -> Forward:
        if isinstance(module, nn.Linear):
            forward = with_few_rows(module, forward)
        add = None if factors is None else (factors.add_transposed if isinstance(module, Conv1D) else factors.add)

        def run(x: torch.Tensor) -> torch.Tensor:
            y: torch.Tensor = forward(x)
            if add is not None:
                y = add(y, x, self._current)
            if bias is not None:
                y = y + self._vector(bias, y)
            return y

        return run

    def _added(self, factors: Factors) -> Change:
        return lambda y, x: factors.add(y, x, self._current)

    def _embedding(self, factors: Factors) -> Change:
        def change(y: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
            rows = self._current
            if ids.dim() == 1 or len(ids) != rows.size:  # positions that are the same in all rows
                ids, y = ids.expand(rows.size, -1), y.expand(rows.size, -1, -1)
            return factors.add_embedding(y, ids, rows)

        return change

    def _layer_norm(self, module: nn.LayerNorm, vectors: dict[str, str], _: Forward) -> Forward:
        def run(x: torch.Tensor) -> torch.Tensor:
            y = functional.layer_norm(x, module.normalized_shape, None, None, module.eps)
            for key, combine in (("weight", torch.mul), ("bias", torch.add)):
                base = getattr(module, key)
                if base is not None:
                    y = combine(y, self._vector(vectors[key], x, base) if key in vectors else base)
            return y.to(x.dtype)

        return run

    def _broadcast(self, module: nn.Module, vectors: dict[str, str], forward: Forward) -> Forward:
        """For a module that uses its vectors along the last dimension of its input, in operations that broadcast: in
        place of a vector it finds one for each row."""

        def run(x: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
            own = {key: module._parameters[key] for key in vectors}
            try:
                for key, name in vectors.items():
                    module._parameters[key] = self._vector(name, x, own[key])  # type: ignore[assignment]
                y = forward(x, *args, **kwargs)
            finally:
                module._parameters.update(own)
            return y.to(x.dtype) if isinstance(y, torch.Tensor) else y

        return run

    def _within(self, function: Callable[..., Any], module: Any, change: Change, forward: Forward) -> Forward:
        """For a module that calls this function with its weight among other things."""

        def run(x: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
            with _ResultOf(function, module.weight, change):
                return forward(x, *args, **kwargs)

        return run

    def _experts(self, module: Any, matrices: dict[str, Factors], _: Forward) -> Forward:
        """Experts whose weights are (experts, out, in), each on the tokens that chose it."""

        def product(x: torch.Tensor, key: str, expert: int, row: torch.Tensor) -> torch.Tensor:
            weight = getattr(module, key)[expert]
            y = functional.linear(x, weight)
            if key not in matrices:
                return y
            outputs = (expert * len(weight), (expert + 1) * len(weight))
            return matrices[key].add(y, x, self._current.at(row), outputs)

        def run(x: torch.Tensor, chosen: torch.Tensor, share: torch.Tensor) -> torch.Tensor:
            total = torch.zeros_like(x)
            tokens = len(x) // self._current.size
            for expert in sorted(set(chosen.flatten().tolist())):
                if expert >= len(module.down_proj):
                    continue
                token, choice = torch.where(chosen == expert)
                gate, up = product(x[token], "gate_up_proj", expert, token // tokens).chunk(2, -1)
                y = product(module.act_fn(gate) * up, "down_proj", expert, token // tokens)
                total.index_add_(0, token, (y * share[token, choice, None]).to(total.dtype))
            return total

        return run

    def _vector(self, name: str, like: torch.Tensor, base: torch.Tensor | None = None) -> torch.Tensor:
        """A vector's noise in each row (B, 1, ..., n), to be used with a tensor of the batch: `base` + noise, or the
        noise alone in the type of `like`. Computed once for the forward passes with the same rows."""
        rows = self._current
        if name not in self._row_vectors:
            noise = self._noise.vectors[name][rows.pairs] * rows.scales[:, None]
            self._row_vectors[name] = noise.to(like.dtype) if base is None else base + noise
        vector = self._row_vectors[name]
        if len(like) != rows.size:  # rows and tokens as one dimension
            return vector.repeat_interleave(len(like) // rows.size, 0)
        return vector.view(rows.size, *[1] * (like.dim() - 2), vector.shape[-1])

    @property
    def _current(self) -> Rows:
        assert self._rows is not None, "`use` was called"
        return self._rows


class _ResultOf(torch.overrides.TorchFunctionMode):
    """Changes the result of each call of a function with this weight as second argument."""

    def __init__(self, function: Callable[..., Any], weight: torch.Tensor, change: Change) -> None:
        super().__init__()
        self._function, self._weight, self._change = function, weight, change

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if func is self._function and args[1] is self._weight:
            return self._change(result, args[0])
        return result


def _is_router(module: nn.Module) -> bool:
    return type(module).__name__.endswith(("Router", "Gate")) and isinstance(
        getattr(module, "weight", None), nn.Parameter
    )


def _is_experts(module: nn.Module) -> bool:
    """True for experts as Mixtral's and Qwen's: (experts, 2 intermediate, in), a gated activation, (experts, out,
    intermediate)."""
    weights = [getattr(module, key, None) for key in ("gate_up_proj", "down_proj")]
    plain = not getattr(module, "is_transposed", False) and not getattr(module, "has_bias", False)
    return plain and hasattr(module, "act_fn") and all(isinstance(w, nn.Parameter) and w.dim() == 3 for w in weights)
