"""Master weights, the truth, and live weights, what the engine runs: on a CPU or a CUDA device.

`master` is float32 and changes only by `update`. The live weights are the tensors that an engine runs, by default the
module's own parameters; they are always written from the masters (never undone by subtraction), so nothing drifts.
Knows nothing of prompts, rewards or ranks. Formulas, per element, with the member's noise z:

    perturb      live = round(fma(sign * sigma, z, master))
    unperturb    live = round(master)
    update       master += sum over the pairs, in order, of coefficient * z(pair)

where `round` goes to the live type, to nearest even.
"""

from __future__ import annotations

import hashlib
import logging
import sys
from collections.abc import Callable, Collection, Sequence
from typing import Final, TypeVar, final

import numpy as np
import torch
from numpy.typing import NDArray

from es_llm._core import Member, Record, UpdateReport
from es_llm.errors import ModelError
from es_llm.model.device import master_place
from es_llm.model.live import DTYPES, Live, cast_parameters, check_parameters
from es_llm.model.table import ParameterTable
from es_llm.model.targets import Placed, Target, own_targets, place_targets
from es_llm.noise.backend import NoiseBackend, backend_for
from es_llm.noise.pending import Pending

logger = logging.getLogger(__name__)

_DIGEST_MODULUS: Final = 1 << 64

T = TypeVar("T")


@final
class Weights:
    """The weights of one module under training.

    Args:
        module: its parameters and buffers are cast in place as if it was loaded in `dtype`: what its class keeps in
            float32 stays so. Tied weights stay tied.
        dtype: live type, "float32", "bfloat16" or "float16"; None keeps the type of each parameter.
        frozen: name patterns (`fnmatch`) of parameters that keep their values; they are cast too.
        targets: the tensors that an engine runs; default: the module's own parameters. A parameter without a target
            keeps its values too.
        only: names of the parameters that are trained, as a journal has them; default: all others.
        device: where the module is moved to and the live weights are; None keeps the module where it is.
        master_device: "device" keeps the masters there too, "cpu" in host memory (pinned, and streamed through the
            device), "auto" as `master_place` says.

    Raises:
        ModelError: parameters that can't be trained: another device or type, not contiguous, overlapping,
            not finite (also after rounding to `dtype`), or what `ParameterTable.from_module` refuses; or targets that
            don't fit the parameters.
        ConfigError: another `master_device`.
        KernelError: a device that the kernels don't work on.
    """

    def __init__(
        self,
        module: torch.nn.Module,
        *,
        dtype: str | None = None,
        frozen: Sequence[str] = (),
        targets: Sequence[Target] | None = None,
        only: Collection[str] | None = None,
        device: torch.device | None = None,
        master_device: str = "auto",
    ) -> None:
        if dtype is not None and dtype not in DTYPES:
            raise ModelError(f"`dtype` must be one of {', '.join(DTYPES)}, got {dtype!r}")
        named = dict(module.named_parameters())
        targets = own_targets(module) if targets is None else targets
        unused = named.keys() - {target.name for target in targets}
        self.table = ParameterTable.from_module(module, frozen, unused=unused, only=only)
        check_parameters(module, dtype)
        trained = [named.pop(parameter.name) for parameter in self.table.parameters]
        self.device = _numbered(device if device is not None else trained[0].device)
        place = master_place(
            master_device, self.device, masters=4 * self.table.elements, coming=_coming(module, dtype, self.device)
        )
        self._backend: NoiseBackend = _backend(self.device, place)
        self.master: list[torch.Tensor] = [_master(weight, place, self.device) for weight in trained]
        cast_parameters(module, dtype, self.device)
        self._own = [Live(row.name, weight) for row, weight in zip(self.table.parameters, trained, strict=True)]
        self._placed = place_targets(self.table, targets, self.master)
        self._frozen = [Live(name, weight) for name, weight in named.items()]
        self._told: set[str] = set()
        self.unperturb()
        for live in (*(placed.live for placed in self._placed), *self._frozen):
            live.require_finite()

    @property
    def dtypes(self) -> tuple[str, ...]:
        """The live types in use, in the order "float32", "bfloat16", "float16"."""
        used = {placed.live.dtype for placed in self._placed}
        return tuple(name for name in DTYPES if name in used)

    def perturb(self, member: Member) -> int:
        """Write the live weights of `member`.

        Returns how many of them are NaN or infinite, and logs a warning for the first such member of each tensor.
        """
        counts = self._pass(
            self._placed,
            lambda part: self._backend.perturb_into(
                part.live.tensor(),
                part.master,
                scale=member.sign * member.sigma,
                run_seed=member.run_seed,
                iteration=member.iteration,
                pair=member.pair,
                tensor=part.tensor,
                element=part.element,
            ),
        )
        return self._told_counts(self._placed, counts, lambda live: f"in {live.dtype}, of {member}")

    def unperturb(self) -> int:
        """Write live = round(master); returns how many are NaN or infinite, warning as `perturb` does."""
        return self._round(self._placed)

    def write_module(self) -> None:
        """Write the module's own parameters = round(master), whatever tensors the engine runs."""
        self._round(self._whole())

    def _round(self, parts: Sequence[Placed]) -> int:
        counts = self._pass(parts, lambda part: self._backend.round_into(part.live.tensor(), part.master))
        return self._told_counts(parts, counts, lambda live: f"in {live.dtype}, without noise")

    def _whole(self) -> list[Placed]:
        """The module's own parameters, each with its whole master."""
        rows = zip(self.table.parameters, self._own, self.master, strict=True)
        return [Placed(row.tensor, live, master, 0) for row, live, master in rows]

    def update(self, record: Record) -> UpdateReport:
        """Move the masters by one iteration's record; returns the sum of the tensors' reports. Logs a warning for a
        tensor of which weights have become NaN or infinite.

        The live weights are left as they are: call `perturb` or `unperturb` before the next rollout.
        """
        coefficients = record.sgd_coefficients()
        pairs = np.arange(len(coefficients), dtype=np.uint32)
        whole = self._whole()
        reports = self._pass(
            whole,
            lambda part: self._backend.accumulate(
                part.master,
                live_dtype=part.live.tensor().dtype,
                pairs=pairs,
                coefficients=coefficients,
                run_seed=record.run_seed,
                iteration=record.iteration,
                tensor=part.tensor,
            ),
        )
        where = f"after the update of step {record.iteration + 1}"
        self._told_counts(whole, [report.nonfinite for report in reports], lambda _: where)
        return sum(reports[1:], start=reports[0])

    def reset(self, module: torch.nn.Module) -> None:
        """Make the masters those of `module`, a fresh copy of the base model, and the live weights round(master).

        Raises:
            ModelError: it has other parameters.
        """
        for master, weight in zip(self.master, self._parameters_of(module), strict=True):
            master.copy_(weight)
        self.unperturb()

    def master_state(self, module: torch.nn.Module) -> dict[str, torch.Tensor]:
        """The state of `module`, these weights' own, by name, with the masters in the place of its live weights."""
        named = dict(module.named_parameters())
        of = {named[row.name]: master for row, master in zip(self.table.parameters, self.master, strict=True)}
        aliases = module.named_parameters(remove_duplicate=False)
        return {**module.state_dict(), **{name: of[weight] for name, weight in aliases if weight in of}}

    def digest_of(self, module: torch.nn.Module) -> int:
        """The digest that the masters of `module` would have; see `digest`.

        Raises:
            ModelError: it has other parameters.
        """
        backend = backend_for(torch.device("cpu"))
        digests = [
            backend.digest(weight.to("cpu", torch.float32).contiguous(), tensor=parameter.tensor)
            for parameter, weight in zip(self.table.parameters, self._parameters_of(module), strict=True)
        ]
        return sum(backend.settle(digests)) % _DIGEST_MODULUS

    def _parameters_of(self, module: torch.nn.Module) -> list[torch.Tensor]:
        """The table's parameters in another module of the same kind."""
        named = dict(module.named_parameters())
        for parameter, master in zip(self.table.parameters, self.master, strict=True):
            if parameter.name not in named or named[parameter.name].shape != master.shape:
                raise ModelError(f"the model has no parameter `{parameter.name}` of shape {tuple(master.shape)}")
        return [named[parameter.name].detach() for parameter in self.table.parameters]

    def digest(self) -> int:
        """64-bit digest of the masters' bits: the sum over the tensors modulo 2**64. Frozen weights are not in."""
        digests = self._pass(self._whole(), lambda part: self._backend.digest(part.master, tensor=part.tensor))
        return sum(digests) % _DIGEST_MODULUS

    def sha256(self) -> str:
        """SHA-256 of the masters in table order, as little-endian float32."""
        return _sha256(self.master)

    def frozen_sha256(self) -> str:
        """SHA-256 of the frozen parameters in the module's order, as little-endian words of their own types."""
        return _sha256([live.tensor() for live in self._frozen])

    def _pass(self, parts: Sequence[Placed], work: Callable[[Placed], T | Pending[T]]) -> list[T]:
        """What `work` gives for each part, in order. The device is waited for once, at the end; also if the work fails,
        so that nothing runs behind an exception's back."""
        results: list[T | Pending[T]] = []
        try:
            for part in parts:
                results.append(work(part))
        finally:
            settled = self._backend.settle(results)
        return settled

    def _told_counts(self, parts: Sequence[Placed], counts: Sequence[int], where: Callable[[Live], str]) -> int:
        """Their sum; the first time that a parameter's isn't 0, log where."""
        for part, count in zip(parts, counts, strict=True):
            if count and part.live.name not in self._told:
                self._told.add(part.live.name)
                logger.warning("`%s`: %d weights are NaN or infinite, %s", part.live.name, count, where(part.live))
        return sum(counts)


def _numbered(device: torch.device) -> torch.device:
    """The device as its tensors name it: "cuda" alone has no index."""
    if device.type != "cuda":
        return device
    from es_llm.noise.cuda import cuda_device

    return cuda_device(device)


def _backend(device: torch.device, masters: torch.device) -> NoiseBackend:
    if device == masters:
        return backend_for(device)
    from es_llm.noise.streamed import StreamedBackend

    return StreamedBackend(device)


def _coming(module: torch.nn.Module, dtype: str | None, device: torch.device) -> int:
    """Bytes of live weights that aren't on the device yet."""
    return sum(
        weight.numel() * (DTYPES[dtype].itemsize if dtype is not None else weight.element_size())
        for weight in module.parameters()
        if weight.device != device
    )


def _master(weight: torch.Tensor, place: torch.device, device: torch.device) -> torch.Tensor:
    """A float32 copy of a weight; pinned in host memory if the live weights are on another device."""
    master = weight.detach().to(place, torch.float32, copy=True).contiguous()
    return master.pin_memory() if place != device else master


def _sha256(tensors: Sequence[torch.Tensor]) -> str:
    sha = hashlib.sha256()
    for tensor in tensors:
        sha.update(_little_endian(tensor))
    return sha.hexdigest()


def _little_endian(tensor: torch.Tensor) -> memoryview:
    """The tensor's words as bytes, least significant first; no copy of host memory on a little-endian machine."""
    octets: NDArray[np.uint8] = tensor.reshape(-1).view(torch.uint8).cpu().numpy()
    if sys.byteorder == "big":
        octets = np.ascontiguousarray(octets.reshape(-1, tensor.element_size())[:, ::-1])
    return octets.data
