"""The Triton kernels for masters in host memory: streamed through the device in chunks, live weights on the device.

For models whose float32 masters don't fit on the device beside the live weights. Copies in, kernels and copies out run
at the same time, each in its own stream, over three buffers in turn, from one tensor to the next; only `settle` waits.
Copies are fast if the masters are pinned. Bits, errors and reports are those of `es_llm.noise.cuda`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Final, TypeVar, final

import torch

from es_llm._core import LowRank, Noise, Slice, Terms, UpdateReport
from es_llm.errors import KernelError
from es_llm.noise.backend import At, Deferred, settled
from es_llm.noise.checks import dtype_name, finite_scale, require_pair, require_tensor
from es_llm.noise.cuda import NO_REPORT, CudaBackend, count_of, digest_of, report_of
from es_llm.noise.launch import Kernels
from es_llm.noise.staging import Staging

CHUNK: Final = 1 << 21
"""Values of one buffer: 8 MiB, about a third of a millisecond on a PCIe 4 bus; a typical tensor has several."""

_HOST: Final = torch.device("cpu")

Where = TypeVar("Where", Slice, LowRank, At)
T = TypeVar("T")


@final
class StreamedBackend:
    """`es_llm.noise.backend.NoiseBackend` with live weights on one CUDA device and masters in host memory.

    Args:
        device, kernels: as for `CudaBackend`.
        chunk: values of one of the three buffers on the device; a multiple of 16.

    Raises:
        KernelError: as for `CudaBackend`, or `chunk` isn't a multiple of 16.
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
        """The device of the live weights."""
        return self._resident.device

    def settle(self, results: Sequence[T | Deferred[T]]) -> list[T]:
        """The results of a pass, by one read of the device, after all masters are back in host memory."""
        self._staging.wait()
        return settled(results)

    def fill(self, out: torch.Tensor, noise: Noise, at: Slice, kind: str = "dense") -> None:
        """out = noise; `out` is on the device."""
        self._resident.fill(out, noise, at, kind)

    def perturb(self, live: torch.Tensor, master: torch.Tensor, noise: Noise, scale: float, at: At) -> Deferred[int]:
        """live = round(master + scale * noise); the number of live values that are NaN or infinite."""
        require_pair(live, master, self.device, _HOST, at)
        scale, flat, wrong = finite_scale(scale), live.detach().view(-1), self._launch.counter()

        def perturb(first: int, chunk: torch.Tensor, part: At) -> None:
            self._launch.perturb(flat[first : first + part.size], chunk, wrong, noise, scale, part)

        self._each(master, at, perturb)
        return count_of(wrong)

    def round(self, live: torch.Tensor, master: torch.Tensor) -> Deferred[int]:
        """live = round(master), to nearest even; the number of live values that are NaN or infinite."""
        require_pair(live, master, self.device, _HOST)
        flat, wrong = live.detach().view(-1), self._launch.counter()

        def round(first: int, chunk: torch.Tensor, part: At) -> None:
            self._launch.round(flat[first : first + part.size], chunk, wrong)

        self._each(master, Slice(0, master.numel()), round)
        return count_of(wrong)

    def accumulate(
        self, master: torch.Tensor, terms: Terms, at: At, live_dtype: torch.dtype
    ) -> UpdateReport | Deferred[UpdateReport]:
        """master += sum over the terms, in order, of coefficient * noise(pair)."""
        require_tensor(master, "master", _HOST, at)
        name, sums = dtype_name(live_dtype), list[torch.Tensor]()

        def accumulate(_first: int, chunk: torch.Tensor, part: At) -> None:
            sums.append(self._launch.accumulate(chunk, terms, part, name))

        self._each(master, at, accumulate, write=True)
        return report_of(at.size, torch.stack(sums).sum(0)) if sums else NO_REPORT

    def digest(self, master: torch.Tensor, at: Slice) -> int | Deferred[int]:
        """Order-free 64-bit digest of the bits."""
        require_tensor(master, "master", _HOST, at)
        sums: list[torch.Tensor] = []

        def digest(_first: int, chunk: torch.Tensor, part: Slice) -> None:
            sums.append(self._launch.digest(chunk, part))

        self._each(master, at, digest)
        return digest_of(torch.stack(sums).sum()) if sums else 0

    def _each(
        self, master: torch.Tensor, at: Where, work: Callable[[int, torch.Tensor, Where], None], *, write: bool = False
    ) -> None:
        """Call `work` with the index of the first value, the values on the device and their slice, for each chunk.

        With `write` the changed values go back to host memory: still in progress when this returns, but not when it
        raises.
        """
        flat = master.detach().view(-1)
        try:
            for first, part in pieces(at, self._chunk):
                with self._staging.chunk(flat[first : first + part.size], write=write) as chunk:
                    work(first, chunk, part)
        except BaseException:
            self._staging.wait()
            raise


def pieces(at: Where, limit: int) -> Iterator[tuple[int, Where]]:
    """(index of the first value, slice) of consecutive parts of at most `limit` values: whole rows if they fit, else
    parts of a row."""
    rows, columns = at.shape if isinstance(at, LowRank) else (at.rows, at.columns)
    if not at.size:
        return
    height, width = max(limit // columns, 1), min(limit, columns)
    for row in range(0, rows, height):
        for column in range(0, columns, width):
            shape = min(height, rows - row), min(width, columns - column)
            yield row * columns + column, _part(at, row, column, shape)


def _part(at: Where, row: int, column: int, shape: tuple[int, int]) -> Where:
    """The block of `shape` at (row, column) of a slice."""
    if isinstance(at, LowRank):
        return LowRank(at.tensor, shape, at.rank, row=at.row + row, column=at.column + column)
    first = at.element + row * at.stride + column
    return Slice(at.tensor, shape[0] * shape[1], element=first, columns=shape[1], stride=at.stride)
