"""Master weights, the truth, and live weights, what the engine runs.

`master` is float32 and changes only by `update`. The live weights are the module's own parameters; they are
always written from the masters (never undone by subtraction), so nothing drifts. Knows nothing of prompts,
rewards or ranks. Formulas, per element, with the member's noise z:

    perturb      live = round(fma(sign * sigma, z, master))
    unperturb    live = round(master)
    update       master += sum over the pairs, in order, of coefficient * z(pair)

where `round` goes to the live type, to nearest even.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Sequence
from typing import Final, final

import numpy as np
import torch
from numpy.typing import NDArray

from es_llm._core import Member, Record, UpdateReport
from es_llm.errors import ModelError
from es_llm.model.live import DTYPES, Live, cast_parameters, check_parameters
from es_llm.model.table import ParameterTable
from es_llm.noise.backend import NoiseBackend, backend_for

_DIGEST_MODULUS: Final = 1 << 64


@final
class Weights:
    """The weights of one module under training.

    Args:
        module: its parameters are cast in place to `dtype` (buffers stay) and tied weights stay tied.
        dtype: live type, "float32", "bfloat16" or "float16"; None keeps the type of each parameter.
        frozen: name patterns (`fnmatch`) of parameters that keep their values; they are cast too.

    Raises:
        ModelError: parameters that can't be trained: another device or type, not contiguous, overlapping,
            not finite (also after rounding to `dtype`), or what `ParameterTable.from_module` refuses.
    """

    def __init__(self, module: torch.nn.Module, *, dtype: str | None = None, frozen: Sequence[str] = ()) -> None:
        if dtype is not None and dtype not in DTYPES:
            raise ModelError(f"`dtype` must be one of {', '.join(DTYPES)}, got {dtype!r}")
        self.table = ParameterTable.from_module(module, frozen)
        check_parameters(module, dtype)
        named = dict(module.named_parameters())
        trained = [named.pop(parameter.name) for parameter in self.table.parameters]
        self.master: list[torch.Tensor] = [
            weight.detach().to(torch.float32, copy=True).contiguous() for weight in trained
        ]
        cast_parameters(module, dtype)
        self._live = [
            Live(parameter.name, weight) for parameter, weight in zip(self.table.parameters, trained, strict=True)
        ]
        self._frozen = [Live(name, weight) for name, weight in named.items()]
        self._backend: NoiseBackend = backend_for(torch.device("cpu"))
        self.unperturb()
        for live in (*self._live, *self._frozen):
            live.require_finite()

    @property
    def dtypes(self) -> tuple[str, ...]:
        """The live types in use, in the order "float32", "bfloat16", "float16"."""
        used = {live.dtype for live in self._live}
        return tuple(name for name in DTYPES if name in used)

    def perturb(self, member: Member, *, run_seed: int, sigma: float) -> None:
        """Write the live weights of `member`; `sigma` is the scale of the noise, in the weights' unit."""
        for parameter, live, master in self._tensors():
            self._backend.perturb_into(
                live.tensor(),
                master,
                scale=member.sign * sigma,
                run_seed=run_seed,
                iteration=member.iteration,
                pair=member.pair,
                tensor=parameter,
            )

    def unperturb(self) -> None:
        """Write live = round(master)."""
        for _, live, master in self._tensors():
            self._backend.round_into(live.tensor(), master)

    def update(self, record: Record, *, run_seed: int) -> UpdateReport:
        """Move the masters by one iteration's record; returns the sum of the tensors' reports.

        The live weights are left as they are: call `perturb` or `unperturb` before the next rollout.
        """
        reports = [
            self._backend.accumulate(
                master,
                live_dtype=live.tensor().dtype,
                pairs=record.pairs,
                coefficients=record.coefficients,
                run_seed=run_seed,
                iteration=record.iteration,
                tensor=tensor,
            )
            for tensor, live, master in self._tensors()
        ]
        total = reports[0]
        for report in reports[1:]:
            total = total + report
        return total

    def digest(self) -> int:
        """64-bit digest of the masters' bits: the sum over the tensors modulo 2**64. Frozen weights are not in."""
        digests = (self._backend.digest(master, tensor=tensor) for tensor, _, master in self._tensors())
        return sum(digests) % _DIGEST_MODULUS

    def sha256(self) -> str:
        """SHA-256 of the masters in table order, as little-endian float32."""
        return _sha256(self.master)

    def frozen_sha256(self) -> str:
        """SHA-256 of the frozen parameters in the module's order, as little-endian words of their own types."""
        return _sha256([live.tensor() for live in self._frozen])

    def _tensors(self) -> list[tuple[int, Live, torch.Tensor]]:
        """(tensor id, live, master), in table order."""
        return [
            (parameter.tensor, live, master)
            for parameter, live, master in zip(self.table.parameters, self._live, self.master, strict=True)
        ]


def _sha256(tensors: Sequence[torch.Tensor]) -> str:
    sha = hashlib.sha256()
    for tensor in tensors:
        sha.update(_little_endian(tensor))
    return sha.hexdigest()


def _little_endian(tensor: torch.Tensor) -> memoryview:
    """The tensor's words as bytes, least significant first; no copy on a little-endian machine."""
    octets: NDArray[np.uint8] = tensor.reshape(-1).view(torch.uint8).numpy()
    if sys.byteorder == "big":
        octets = np.ascontiguousarray(octets.reshape(-1, tensor.element_size())[:, ::-1])
    return octets.data
