"""Master weights, in float32, and live weights, which the engine runs: on a CPU or a CUDA device.

Only `update` and `reset` change the masters. The live weights are the tensors that an engine runs, by default the
module's own parameters. They are always written from the masters and noise is never subtracted again, so no rounding
errors add up. Knows nothing about prompts, rewards or ranks. Formulas, per element, with the member's noise z:

    perturb      live = round(master + sign * sigma * z)
    unperturb    live = round(master)
    update       master, state = optimizer.step(master, direction, record, state)
                 direction = (1/N) * sum over the pairs, in order, of coefficient * z(pair)

where `round` goes to the live type, to nearest even. The parameter table says which noise a tensor gets: dense noise,
or low-rank noise z = A B^T / sqrt(rank). `docs/noise.md` has the exact order of operations. Plain SGD makes direction
and step in one pass over the masters.
"""

from __future__ import annotations

import hashlib
import logging
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final, TypeVar, final

import numpy as np
import torch
from numpy.typing import NDArray

from es_llm._core import Member, Noise, Record, Slice, Terms, UpdateReport, compare
from es_llm.errors import ModelError
from es_llm.model.device import master_device_of
from es_llm.model.live import DTYPES, Live, cast_parameters, check_parameters
from es_llm.model.table import ParameterTable
from es_llm.model.targets import LivePart, Target, live_parts, own_targets
from es_llm.noise.backend import Deferred, NoiseBackend, backend_for
from es_llm.noise.checks import dtype_name
from es_llm.noise.cpu import as_array
from es_llm.optimizers import CheckedOptimizer
from es_llm.optimizers.sgd import SGD

logger = logging.getLogger(__name__)

_DIGEST_MODULUS: Final = 1 << 64
_BLOCK: Final = 1 << 17
"""Weights for which an elementwise optimizer makes its step at a time in host memory."""

P = TypeVar("P")
T = TypeVar("T")


@final
class Weights:
    """The weights of one module under training.

    Args:
        module: its parameters and buffers get the types of a model that is loaded in `dtype`: tensors that its class
            keeps in float32 stay float32. Tied weights stay tied.
        table: the parameters to train, and their noise; default: all trainable parameters, with dense noise. All other
            parameters keep their values, but are cast too.
        targets: the tensors that an engine runs; default: the module's own parameters.
        optimizer: moves the masters; default: plain SGD.
        dtype: live type, "float32", "bfloat16" or "float16"; None keeps the type of each parameter.
        device: the device of the live weights, to which the module is moved; None leaves the module on its device.
        master_device: "device" keeps the masters on the same device, "cpu" in host memory (pinned, and streamed through
            the device), "auto" chooses by `master_device_of`.

    Raises:
        ModelError: a parameter can't be trained (see `check_parameters`), isn't finite after rounding to `dtype`, or
            doesn't fit the table; the table is empty (see `ParameterTable.from_module`); or the targets don't fit the
            parameters.
        ConfigError: `master_device` is unknown.
        KernelError: there are no kernels for the device.
    """

    def __init__(
        self,
        module: torch.nn.Module,
        table: ParameterTable | None = None,
        *,
        targets: Sequence[Target] | None = None,
        optimizer: CheckedOptimizer | None = None,
        dtype: str | None = None,
        device: torch.device | None = None,
        master_device: str = "auto",
    ) -> None:
        if dtype is not None and dtype not in DTYPES:
            raise ModelError(f"`dtype` must be one of {', '.join(DTYPES)}, got {dtype!r}")
        self.table = table or ParameterTable.from_module(module)
        self.table.require_in(module)
        targets = own_targets(module) if targets is None else targets
        check_parameters(module, dtype)
        named = dict(module.named_parameters())
        trained = [named.pop(parameter.name) for parameter in self.table.parameters]
        self.device = _numbered(device if device is not None else trained[0].device)
        masters = master_device_of(
            master_device, self.device, masters=4 * self.table.elements, coming=_coming(module, dtype, self.device)
        )
        self._backend: NoiseBackend = _backend(self.device, masters)
        self._optimizer = optimizer or CheckedOptimizer(SGD(), "optimizer 'sgd'")
        self.master: list[torch.Tensor] = [_master(weight, masters, self.device) for weight in trained]
        self.state = [
            {name: torch.zeros_like(master) for name in self._optimizer.state_names} for master in self.master
        ]
        cast_parameters(module, dtype, self.device)
        whole = [
            Target(row.name, slice(None), weight) for row, weight in zip(self.table.parameters, trained, strict=True)
        ]
        self._own = live_parts(self.table, whole, self.master)
        self._live = live_parts(self.table, targets, self.master)
        self._frozen = [Live(name, weight) for name, weight in named.items()]
        self._warned: set[str] = set()
        self.unperturb()
        for live in (*(part.live for part in self._live), *self._frozen):
            live.require_finite()

    def perturb(self, member: Member) -> int:
        """Write the live weights of `member`.

        Returns the number of live weights that are NaN or infinite, and logs a warning for the first such member of
        each tensor.
        """
        noise, scale = Noise(member.run_seed, member.iteration, member.pair), member.sign * member.sigma
        counts = self._pass(
            self._live,
            lambda part: self._backend.perturb(part.live.tensor(), part.master, noise, scale, part.at),
        )
        return self._warn(self._live, counts, lambda live: f"in {live.dtype}, of {member}")

    def unperturb(self) -> int:
        """Write live = round(master). Returns the number of live weights that are NaN or infinite, and logs warnings as
        `perturb` does."""
        return self._round(self._live)

    def write_module(self) -> None:
        """Write the module's own parameters = round(master), also if the engine runs other tensors."""
        self._round(self._own)

    def update(self, record: Record) -> UpdateReport:
        """Move the masters by one iteration's record. Returns the sum of the tensors' reports, and logs a warning for
        each tensor with weights that have become NaN or infinite.

        The live weights don't change: call `perturb` or `unperturb` before the next rollout.
        """
        fused = self._optimizer.fused_coefficients(record)
        if fused is None:
            reports = [self._step(part, record, state) for part, state in zip(self._own, self.state, strict=True)]
        else:
            terms = Terms(record.run_seed, record.iteration, fused)
            reports = self._pass(
                self._own,
                lambda part: self._backend.accumulate(part.master, terms, part.at, part.live.tensor().dtype),
            )
        where = f"after the update of iteration {record.iteration + 1}"
        self._warn(self._own, [report.nonfinite for report in reports], lambda _: where)
        return sum(reports[1:], start=reports[0])

    def reset(self, module: torch.nn.Module, state: Mapping[str, torch.Tensor] | None = None) -> None:
        """Copy the masters from `module`, a fresh copy of the base model or a snapshot, and write the live weights.

        Args:
            module: has the table's parameters.
            state: the optimizer's state, as `optimizer_state` returns it; None: zeros.

        Raises:
            ModelError: the module has other parameters.
        """
        for master, weight in zip(self.master, self._parameters_of(module), strict=True):
            master.copy_(weight)
        for name, tensor in self.optimizer_state().items():
            tensor.copy_(state[name]) if state else tensor.zero_()
        self.unperturb()

    def master_state(self, module: torch.nn.Module) -> dict[str, torch.Tensor]:
        """The state dict of `module`, the module under training, with masters instead of live weights."""
        named = dict(module.named_parameters())
        of = {named[row.name]: master for row, master in zip(self.table.parameters, self.master, strict=True)}
        aliases = module.named_parameters(remove_duplicate=False)
        return {**module.state_dict(), **{name: of[weight] for name, weight in aliases if weight in of}}

    def optimizer_state(self) -> dict[str, torch.Tensor]:
        """The optimizer's state by "parameter/state"; empty for plain SGD."""
        rows = zip(self.table.parameters, self.state, strict=True)
        return {f"{row.name}/{name}": tensor for row, state in rows for name, tensor in state.items()}

    def bytes_on(self, device: torch.device) -> int:
        """Bytes of the parameters, the masters and the optimizer's state on a device."""
        live = [part.live for part in (*self._own, *self._live)]
        tensors = [*(part.tensor() for part in (*live, *self._frozen)), *self.master, *self._state_tensors()]
        memory = [tensor.untyped_storage() for tensor in tensors if tensor.device == device]
        return sum({storage.data_ptr(): storage.nbytes() for storage in memory}.values())

    def digest_of(self, module: torch.nn.Module, state: Mapping[str, torch.Tensor] | None = None) -> int:
        """The digest that `digest` would return if the weights of `module` were the masters, and `state` the
        optimizer's state (see `optimizer_state`).

        Raises:
            ModelError: the module has other parameters, or the state lacks a tensor.
        """
        backend = backend_for(torch.device("cpu"))
        saved = state or {}
        try:
            tensors = [*self._parameters_of(module), *(saved[name] for name in self.optimizer_state())]
        except KeyError as error:
            raise ModelError(f"the optimizer's state has no {error}") from error
        digests = [
            backend.digest(tensor.to("cpu", torch.float32).contiguous(), at)
            for tensor, at in zip(tensors, self._addresses(), strict=True)
        ]
        return sum(backend.settle(digests)) % _DIGEST_MODULUS

    def digest(self) -> int:
        """64-bit digest of the bits of the masters and of the optimizer's state: the sum of the tensors' digests modulo
        2**64. Frozen weights don't count."""
        parts = list(zip([*self.master, *self._state_tensors()], self._addresses(), strict=True))
        digests = self._pass(parts, lambda part: self._backend.digest(*part))
        return sum(digests) % _DIGEST_MODULUS

    def sha256(self) -> str:
        """SHA-256 of the masters in table order, as little-endian float32."""
        return _sha256(self.master)

    def frozen_sha256(self) -> str:
        """SHA-256 of the frozen parameters in the module's order, as little-endian values of their own types."""
        return _sha256([live.tensor() for live in self._frozen])

    def _step(self, part: LivePart, record: Record, state: dict[str, torch.Tensor]) -> UpdateReport:
        """Move one tensor: its direction, then the optimizer's step. Nothing changes if all coefficients are 0."""
        if not record.coefficients.any():
            return _report(part.master, part.master, part.live.tensor().dtype)
        direction = torch.zeros_like(part.master)
        coefficients = (record.coefficients / len(record.fitness)).astype(np.float32)
        terms = Terms(record.run_seed, record.iteration, coefficients)
        self._backend.settle([self._backend.accumulate(direction, terms, part.at, torch.float32)])
        live, reports = part.live, []
        for master, towards, *own in self._blocks(part.master, direction, *state.values()):
            before = master.clone()
            self._optimizer.step(live.name, master, towards, record, dict(zip(state, own, strict=True)))
            reports.append(_report(before, master, live.tensor().dtype))
        return sum(reports[1:], start=reports[0])

    def _blocks(self, *tensors: torch.Tensor) -> Iterable[Sequence[torch.Tensor]]:
        """The same parts of these tensors, small enough for the processor's caches if the optimizer allows parts."""
        if not self._optimizer.elementwise or tensors[0].device.type != "cpu":
            return [tensors]
        return zip(*(torch.split(tensor.view(-1), _BLOCK) for tensor in tensors), strict=True)

    def _round(self, parts: Sequence[LivePart]) -> int:
        counts = self._pass(parts, lambda part: self._backend.round(part.live.tensor(), part.master))
        return self._warn(parts, counts, lambda live: f"in {live.dtype}, without noise")

    def _state_tensors(self) -> list[torch.Tensor]:
        return [tensor for state in self.state for tensor in state.values()]

    def _addresses(self) -> list[Slice]:
        """The addresses at which the masters and then the state tensors are digested. The tensor ids of the state
        follow those of the masters."""
        rows = self.table.parameters
        shapes = [row.whole for row, state in zip(rows, self.state, strict=True) for _ in state]
        states = [Slice(len(rows) + number, whole.size) for number, whole in enumerate(shapes)]
        return [*(row.whole for row in rows), *states]

    def _parameters_of(self, module: torch.nn.Module) -> list[torch.Tensor]:
        """The table's parameters in another module of the same kind."""
        self.table.require_in(module)
        named = dict(module.named_parameters())
        return [named[parameter.name].detach() for parameter in self.table.parameters]

    def _pass(self, parts: Iterable[P], work: Callable[[P], T | Deferred[T]]) -> list[T]:
        """The results of `work` for each part, in order.

        Waits for the device once, at the end. It also waits if `work` fails, so that no kernel runs after an exception.
        """
        results: list[T | Deferred[T]] = []
        try:
            for part in parts:
                results.append(work(part))
        finally:
            settled = self._backend.settle(results)
        return settled

    def _warn(self, parts: Sequence[LivePart], counts: Sequence[int], where: Callable[[Live], str]) -> int:
        """The sum of the counts of NaN or infinite weights; logs the first count of each tensor that isn't 0."""
        for part, count in zip(parts, counts, strict=True):
            live = part.live
            if count and live.name not in self._warned:
                self._warned.add(live.name)
                logger.warning("`%s`: %d weights are NaN or infinite, %s", live.name, count, where(live))
        return sum(counts)


def _report(before: torch.Tensor, after: torch.Tensor, dtype: torch.dtype) -> UpdateReport:
    """The report of a step: the change of a master, and of live weights of this type. Sums are float64."""
    if before.device.type == "cpu":
        return compare(as_array(before), as_array(after), dtype=dtype_name(dtype))
    old, new = before.to(dtype), after.to(dtype)
    change, intended = new.double() - old.double(), after.double() - before.double()
    finite = change.isfinite()
    change, intended = change[finite], intended[finite]
    return UpdateReport(
        elements=after.numel(),
        moved=int(((old != new) & ~old.isnan()).sum()),
        nonfinite=int((~new.isfinite()).sum()),
        intended_square=float(intended.square().sum()),
        actual_square=float(change.square().sum()),
        product=float((intended * change).sum()),
    )


def _numbered(device: torch.device) -> torch.device:
    """The device with its index. The device "cuda" has no index, but the devices of tensors do."""
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
    """Bytes of live weights that are still to be moved to the device."""
    return sum(
        weight.numel() * (DTYPES[dtype].itemsize if dtype is not None else weight.element_size())
        for weight in module.parameters()
        if weight.device != device
    )


def _master(weight: torch.Tensor, masters: torch.device, device: torch.device) -> torch.Tensor:
    """A float32 copy of a weight; pinned in host memory if the live weights are on another device."""
    master = weight.detach().to(masters, torch.float32, copy=True).contiguous()
    return master.pin_memory() if masters != device else master


def _sha256(tensors: Sequence[torch.Tensor]) -> str:
    sha = hashlib.sha256()
    for tensor in tensors:
        sha.update(_little_endian(tensor))
    return sha.hexdigest()


def _little_endian(tensor: torch.Tensor) -> memoryview:
    """The tensor's values as bytes in little-endian order; no copy of host memory on a little-endian machine."""
    octets: NDArray[np.uint8] = tensor.reshape(-1).view(torch.uint8).cpu().numpy()
    if sys.byteorder == "big":
        octets = np.ascontiguousarray(octets.reshape(-1, tensor.element_size())[:, ::-1])
    return octets.data
