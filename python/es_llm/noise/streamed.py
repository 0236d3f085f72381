"""The Triton kernels for masters in host memory: streamed through the device in chunks, live weights on the device.

For models whose float32 masters don't fit beside the live weights. Copies in, kernels and copies out run at the same
time, each in its own stream, on three buffers in turn, from one tensor to the next: only `settle` waits. Pinned masters
are what makes the copies fast; others are right too. Bits, errors and reports are those of `es_llm.noise.cuda`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Final, TypeVar, final

import numpy as np
import torch
from numpy.typing import NDArray

from es_llm._core import UpdateReport
from es_llm.errors import KernelError
from es_llm.noise.address import NoiseAddress
from es_llm.noise.checks import (
    Pairs,
    dtype_name,
    finite_scale,
    members_of,
    require_block,
    require_one_shape,
    require_pair,
    require_tensor,
)
from es_llm.noise.cuda import NO_REPORT, CudaBackend, count_of, digest_of, member_of, report_of
from es_llm.noise.launch import Kernels
from es_llm.noise.pending import Pending, settled
from es_llm.noise.shard import Shard, shard_of
from es_llm.noise.staging import Staging

CHUNK: Final = 1 << 21
"""Values of one buffer: 8 MiB, about a third of a millisecond of a PCIe 4 bus; a typical tensor has several."""

_HOST: Final = torch.device("cpu")

Piece = TypeVar("Piece")
T = TypeVar("T")


@final
class StreamedBackend:
    """`es_llm.noise.backend.NoiseBackend` with live weights on one CUDA device and masters in host memory.

    Args:
        device, kernels: as for `CudaBackend`.
        chunk: values that are on the device at a time, times 3; a multiple of 16.

    Raises:
        KernelError: what `CudaBackend` refuses, or a chunk that isn't a multiple of 16.
    """

    def __init__(self, device: torch.device, *, kernels: Kernels | None = None, chunk: int = CHUNK) -> None:
        if chunk < 16 or chunk % 16:
            raise KernelError(f"`chunk` must be a multiple of 16, got {chunk}")
        self._resident = CudaBackend(device, kernels=kernels)
        self._launch = self._resident.launcher
        self._chunk = chunk
        streams = torch.cuda if self.device.type == "cuda" else None
        self._staging = Staging(self.device, chunk, cuda=streams)

    @property
    def device(self) -> torch.device:
        """Where the live weights are."""
        return self._resident.device

    def settle(self, results: Sequence[T | Pending[T]]) -> list[T]:
        """The results of a pass, in one read of the device, when all masters are in host memory."""
        self._staging.wait()
        return settled(results)

    def fill(
        self,
        out: torch.Tensor,
        *,
        run_seed: int,
        iteration: int,
        pair: int,
        tensor: int,
        element: int = 0,
        kind: str = "dense",
    ) -> None:
        """out = noise; `out` is on the device."""
        self._resident.fill(
            out, run_seed=run_seed, iteration=iteration, pair=pair, tensor=tensor, element=element, kind=kind
        )

    def perturb_into(
        self,
        live: torch.Tensor,
        master: torch.Tensor,
        *,
        scale: float,
        run_seed: int,
        iteration: int,
        pair: int,
        tensor: int,
        element: int = 0,
        columns: int | None = None,
        stride: int | None = None,
    ) -> Pending[int]:
        """live = round(fma(scale, noise, master)); how many live values are NaN or infinite."""
        address = NoiseAddress(run_seed, iteration, pair, tensor, element)
        require_pair(live, master, self.device, _HOST)
        scale = finite_scale(scale)
        shard = shard_of(master.numel(), element=element, columns=columns, stride=stride)
        flat, wrong = live.detach().view(-1), self._launch.counter()

        def perturb(first: int, chunk: torch.Tensor, piece: Shard) -> None:
            part = flat[first : first + piece.size]
            self._launch.perturb(part, chunk, wrong, scale=scale, shard=piece, address=address)

        self._each(master, _sized(shard.pieces(self._chunk)), perturb)
        return count_of(wrong)

    def round_into(self, live: torch.Tensor, master: torch.Tensor) -> Pending[int]:
        """live = round(master), to nearest even; how many live values are NaN or infinite."""
        require_pair(live, master, self.device, _HOST)
        shard = shard_of(master.numel(), element=0, columns=None, stride=None)
        flat, wrong = live.detach().view(-1), self._launch.counter()

        def round_into(first: int, chunk: torch.Tensor, piece: Shard) -> None:
            self._launch.round_into(flat[first : first + piece.size], chunk, wrong)

        self._each(master, _sized(shard.pieces(self._chunk)), round_into)
        return count_of(wrong)

    def accumulate(
        self,
        master: torch.Tensor,
        *,
        live_dtype: torch.dtype | str,
        pairs: Pairs,
        coefficients: NDArray[np.float32],
        run_seed: int,
        iteration: int,
        tensor: int,
        element: int = 0,
        columns: int | None = None,
        stride: int | None = None,
    ) -> UpdateReport | Pending[UpdateReport]:
        """master += sum over the pairs, in order, of coefficient * noise(pair)."""
        address = NoiseAddress(run_seed, iteration, 0, tensor, element)
        require_tensor(master, "master", _HOST)
        checked = members_of(pairs, coefficients)
        shard = shard_of(master.numel(), element=element, columns=columns, stride=stride)
        name, members = dtype_name(live_dtype), self._launch.members(checked)
        sums: list[torch.Tensor] = []

        def accumulate(_first: int, chunk: torch.Tensor, piece: Shard) -> None:
            sums.append(self._launch.accumulate(chunk, members, live_dtype=name, shard=piece, address=address))

        self._each(master, _sized(shard.pieces(self._chunk)), accumulate, write=True)
        return report_of(shard.size, torch.stack(sums).sum(0)) if sums else NO_REPORT

    def digest(
        self,
        master: torch.Tensor,
        *,
        tensor: int,
        element: int = 0,
        columns: int | None = None,
        stride: int | None = None,
    ) -> int | Pending[int]:
        """Order-free 64-bit digest of the bits."""
        tensor = NoiseAddress(0, 0, 0, tensor, element).tensor
        size = require_tensor(master, "master", _HOST).numel()
        shard = shard_of(size, element=element, columns=columns, stride=stride)
        sums: list[torch.Tensor] = []

        def digest(_first: int, chunk: torch.Tensor, piece: Shard) -> None:
            sums.append(self._launch.digest(chunk, shard=piece, tensor=tensor))

        self._each(master, _sized(shard.pieces(self._chunk)), digest)
        return digest_of(torch.stack(sums).sum()) if sums else 0

    def perturb_low_rank_into(
        self,
        live: torch.Tensor,
        master: torch.Tensor,
        *,
        rank: int,
        scale: float,
        run_seed: int,
        iteration: int,
        pair: int,
        tensor: int,
        row: int = 0,
        column: int = 0,
    ) -> Pending[int]:
        """live = round(master + scale * E), E the pair's low-rank noise; how many live values aren't finite."""
        address = NoiseAddress(run_seed, iteration, pair, tensor)
        require_pair(live, master, self.device, _HOST)
        require_block(master, rank=rank, row=row, column=column)
        require_one_shape(live, master)
        flat, wrong = live.detach().view(-1), self._launch.counter()
        members = self._launch.members(member_of(address.pair, scale))

        def perturb(first: int, chunk: torch.Tensor, block: _Block) -> None:
            lines = self._lines(members, rank, address, block, row, column)
            part = flat[first : first + chunk.numel()].view(block.shape)
            self._launch.perturb_low_rank(part, chunk.view(block.shape), wrong, lines)

        self._each(master, _blocks(master.shape, self._chunk), perturb)
        return count_of(wrong)

    def accumulate_low_rank(
        self,
        master: torch.Tensor,
        *,
        rank: int,
        live_dtype: torch.dtype | str,
        pairs: Pairs,
        coefficients: NDArray[np.float32],
        run_seed: int,
        iteration: int,
        tensor: int,
        row: int = 0,
        column: int = 0,
    ) -> UpdateReport | Pending[UpdateReport]:
        """master += sum over the pairs, in order, of coefficient * E(pair)."""
        address = NoiseAddress(run_seed, iteration, 0, tensor)
        require_tensor(master, "master", _HOST)
        require_block(master, rank=rank, row=row, column=column)
        checked = members_of(pairs, coefficients)
        name, members = dtype_name(live_dtype), self._launch.members(checked)
        sums: list[torch.Tensor] = []

        def accumulate(_first: int, chunk: torch.Tensor, block: _Block) -> None:
            lines = self._lines(members, rank, address, block, row, column)
            sums.append(self._launch.accumulate_low_rank(chunk.view(block.shape), lines, live_dtype=name))

        self._each(master, _blocks(master.shape, self._chunk), accumulate, write=True)
        return report_of(master.numel(), torch.stack(sums).sum(0)) if sums else NO_REPORT

    def _lines(
        self, members: Any, rank: int, address: NoiseAddress, block: _Block, row: int, column: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        first = (row + block.row, column + block.column)
        return self._launch.low_rank_lines(members, rank=rank, address=address, first=first, shape=block.shape)

    def _each(
        self,
        master: torch.Tensor,
        pieces: Iterable[tuple[int, int, Piece]],
        work: Callable[[int, torch.Tensor, Piece], None],
        *,
        write: bool = False,
    ) -> None:
        """Calls `work` with the first value's index, the values on the device and the piece. Copies of masters are
        still under way when this returns, but not when it raises."""
        flat = master.detach().view(-1)
        try:
            for first, size, piece in pieces:
                with self._staging.chunk(flat[first : first + size], write=write) as chunk:
                    work(first, chunk, piece)
        except BaseException:
            self._staging.wait()
            raise


class _Block:
    """A part of a matrix that is one run of values in memory, at (`row`, `column`)."""

    def __init__(self, row: int, column: int, shape: tuple[int, int]) -> None:
        self.row, self.column, self.shape = row, column, shape


def _blocks(shape: Sequence[int], limit: int) -> Iterator[tuple[int, int, _Block]]:
    """Whole rows where they fit, else parts of a row."""
    rows, columns = shape
    if columns > limit:
        for row in range(rows):
            for column in range(0, columns, limit):
                size = min(limit, columns - column)
                yield row * columns + column, size, _Block(row, column, (1, size))
        return
    step = limit // max(columns, 1)
    for row in range(0, rows if columns else 0, step):
        height = min(step, rows - row)
        yield row * columns, height * columns, _Block(row, 0, (height, columns))


def _sized(pieces: Iterable[tuple[int, Shard]]) -> Iterator[tuple[int, int, Shard]]:
    return ((first, piece.size, piece) for first, piece in pieces)
