"""Launches the Triton kernels on one device, with their launch parameters.

Checks nothing and waits for nothing: `cuda` and `streamed` do. Tensors are contiguous and on the device; masters are
float32; slices are not empty. Results stay on the device.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import lru_cache
from types import ModuleType
from typing import Any, Final, Protocol, TypeAlias, final

import numpy as np
import torch

from es_llm._core import LowRank, Noise, Slice, Terms
from es_llm.noise.backend import At
from es_llm.noise.checks import dtype_name
from es_llm.noise.streams import kind_number

BLOCK: Final = 4
"""Values of one Philox block."""

REPORT: Final = 5
"""Number of values in a program's part of an update's report: moved, not finite, sums of u^2, d^2 and u d."""

_WARP: Final = 32  # threads
_SIZES: Final = ((4, 4), (2, 4), (1, 4), (1, 2), (1, 1))
"""(tiles, warps) of a program that writes weights, one block per thread, so that a thread stores the values it makes.
Four tiles keep loads in flight and share one setup among 16 values of a thread; short rows need fewer."""

_UPDATE_SIZES: Final = ((1, 4), (1, 2), (1, 1))
"""(tiles, warps) of a program that moves masters, two blocks per thread: more would need too many registers."""

_USED: Final = 0.75  # least used share of a program's values, if a smaller program can be chosen
_WARPS: Final = 4  # of a program of low-rank noise
_HEIGHT: Final = 16  # rows of a tile of low-rank noise: 32 sums in the registers of a thread
_WIDTH: Final = 256  # columns of such a tile
_TOKENS: Final = 8  # most tokens of a program that adds noise to rows
_SUMMED: Final = 1024  # values of such a program: its tokens times the columns that it works on at once
_COUNTERS: Final = 256  # zeroed at once

Lines: TypeAlias = tuple[torch.Tensor, torch.Tensor]
"""The factors of a block: (N R, rows rounded up to a multiple of the tile's) of A times coefficient / sqrt(R), and the
same of B without a factor."""


class Kernels(Protocol):
    """The modules of `es_llm.noise.triton_kernels`."""

    weights: ModuleType
    update: ModuleType
    low_rank: ModuleType
    rows: ModuleType


@final
class Launcher:
    """All kernels of one device."""

    def __init__(self, device: torch.device, kernels: Kernels) -> None:
        self.device = device
        self._kernels = kernels
        self._sent: tuple[object, Lines] | None = None
        self._counters: tuple[object, list[torch.Tensor]] = None, []

    def counter(self) -> torch.Tensor:
        """(1,) int64, zero: kernels add to it the number of live values that they store as NaN or infinite."""
        stream = self._stream()
        if not self._counters[1] or self._counters[0] != stream:  # many at once: the device takes as long for one
            block = torch.zeros(_COUNTERS, 1, dtype=torch.int64, device=self.device)
            self._counters = stream, list(block.unbind())
        return self._counters[1].pop()

    def fill(self, out: torch.Tensor, noise: Noise, at: Slice, kind: str) -> None:
        """out = noise."""
        grid, common = _grid(at, _SIZES, 1)
        words = _words(noise, at.tensor, kind)
        self._run(self._kernels.weights.fill, grid, out, **common, **words, pair=noise.pair)

    def perturb(
        self, live: torch.Tensor, master: torch.Tensor, wrong: torch.Tensor, noise: Noise, scale: float, at: At
    ) -> None:
        """live = round(master + scale * noise)."""
        store = {"LIVE": dtype_name(live.dtype)}
        if isinstance(at, LowRank):
            lines = self._lines(noise, at, *self._on_device((noise, scale), lambda: ([noise.pair], [scale])))
            grid, common = _matrix(at, lines)
            kernel = self._kernels.low_rank.perturb
            self._run(kernel, grid, _stored(live), master, wrong, *lines, **store, **common)
            return
        grid, common = _grid(at, _SIZES, 1)
        bits = int(np.float32(scale).view(np.uint32))
        words = {**_words(noise, at.tensor, "dense"), "pair": noise.pair, "scale": bits}
        kernel = self._kernels.weights.perturb
        self._run(kernel, grid, _stored(live), master, wrong, **store, **common, **words)

    def round(self, live: torch.Tensor, master: torch.Tensor, wrong: torch.Tensor) -> None:
        """live = round(master)."""
        grid, common = _grid(Slice(0, live.numel()), _SIZES, 1)
        where = {"size": common["columns"], **{name: common[name] for name in ("T", "B", "EVEN", "num_warps")}}
        kernel = self._kernels.weights.round
        self._run(kernel, grid, _stored(live), master, wrong, LIVE=dtype_name(live.dtype), **where)

    def accumulate(self, master: torch.Tensor, terms: Terms, at: At, live_dtype: str) -> torch.Tensor:
        """master += sum over the terms; the report's sums, (REPORT,) float64."""
        noise = Noise(terms.run_seed, terms.iteration, 0)
        pairs, coefficients = self._on_device(terms, lambda: (terms.pairs, terms.coefficients))
        if isinstance(at, LowRank):
            lines = self._lines(noise, at, pairs, coefficients)
            grid, common = _matrix(at, lines)
            kernel, inputs = self._kernels.low_rank.accumulate, lines
        else:
            grid, common = _grid(at, _UPDATE_SIZES, 2)
            del common["T"]
            common |= {"count": pairs.numel(), **_words(noise, at.tensor, "dense")}
            kernel, inputs = self._kernels.update.accumulate, (pairs, coefficients)
        sums = torch.empty(grid, REPORT, dtype=torch.float64, device=self.device)
        self._run(kernel, grid, master, sums, *inputs, LIVE=live_dtype, **common)
        return sums.sum(0)

    def digest(self, master: torch.Tensor, at: Slice) -> torch.Tensor:
        """The digest modulo 2^64, () int64."""
        grid, common = _grid(at, _SIZES, 1)
        del common["CARRY"]
        sums = torch.empty(grid, dtype=torch.int64, device=self.device)
        tensor = int(np.uint64(at.tensor << 42).astype(np.int64))
        self._run(self._kernels.weights.digest, grid, master, sums, tensor=tensor, **common)
        return sums.sum()

    def _on_device(self, key: object, make: Callable[[], tuple[Any, Any]]) -> Lines:
        """Pairs, as the bits of int32, and coefficients, float32, on the device. All tensors of a pass use the same
        pairs, so they stay on the device until other pairs are needed."""
        stream = self._stream()
        if self._sent is None or self._sent[0] != (stream, key):
            pairs, coefficients = make()
            words, factors = np.array(pairs, np.uint32).view(np.int32), np.array(coefficients, np.float32)
            sent = torch.from_numpy(words).to(self.device), torch.from_numpy(factors).to(self.device)
            self._sent = (stream, key), sent
        return self._sent[1]

    def _stream(self) -> object:
        return torch.cuda.current_stream(self.device) if self.device.type == "cuda" else None

    def factors(self, noise: Noise, at: LowRank, pairs: Sequence[int]) -> Lines:
        """A / sqrt(R) (P, R, rows) and B (P, R, columns) of some pairs; the pair of `noise` is ignored."""
        ones = [1.0] * len(pairs)
        left, right = self._lines(noise, at, *self._on_device(tuple(pairs), lambda: (pairs, ones)), (1, 1))
        return left.view(len(pairs), at.rank, -1), right.view(len(pairs), at.rank, -1)

    def add_rows(
        self,
        y: torch.Tensor,
        x: torch.Tensor,
        factors: Lines,
        rows: tuple[torch.Tensor, torch.Tensor],
        first: int = 0,
    ) -> None:
        """y (B, ..., columns) += s (x right^T) left, with x (B, ..., width), left (P, R, length), right (P, R, width).

        Args:
            rows: the pair (B,) int64 and the scale (B,) float32 of each row.
            first: of the columns of `left` that y has.
        """
        (left, right), (pairs, scales) = factors, rows
        count, rank = len(pairs), left.shape[1]
        tokens = y.numel() // y.shape[-1] // count
        products = torch.empty(count, tokens, rank, device=self.device)
        t = min(_TOKENS, 1 << (tokens - 1).bit_length())
        blocks = -(-tokens // t)
        live = dtype_name(y.dtype)
        common = {"tokens": tokens, "rank": rank, "LIVE": live, "T": t}
        kernels = self._kernels.rows
        self._run(
            kernels.project, (count, blocks), products, _stored(x), right, pairs, scales,
            **common, width=x.shape[-1], K=_SUMMED // t,
        )  # fmt: skip
        self._run(
            kernels.expand, (count, blocks, -(-y.shape[-1] // (_SUMMED // t))), _stored(y), products, left, pairs,
            **common, width=y.shape[-1], first=first, length=left.shape[2], W=_SUMMED // t,
        )  # fmt: skip

    def add_embedding(
        self, y: torch.Tensor, ids: torch.Tensor, factors: Lines, rows: tuple[torch.Tensor, torch.Tensor]
    ) -> None:
        """y (B, tokens, width) += s left[:, id] right, with ids (B, tokens) int64; else as `add_rows`."""
        (left, right), (pairs, scales) = factors, rows
        grid = (ids.numel(), -(-y.shape[-1] // _SUMMED))
        self._run(
            self._kernels.rows.embed, grid, _stored(y), ids, left, right, pairs, scales,
            tokens=ids.shape[-1], width=y.shape[-1], rank=left.shape[1], length=left.shape[2],
            LIVE=dtype_name(y.dtype), W=_SUMMED,
        )  # fmt: skip

    def _lines(
        self,
        noise: Noise,
        at: LowRank,
        pairs: torch.Tensor,
        coefficients: torch.Tensor,
        multiples: tuple[int, int] = (_HEIGHT, _WIDTH),
    ) -> Lines:
        def lines(kind: str, first: int, rows: int, multiple: int) -> torch.Tensor:
            count = pairs.numel()
            lines = torch.zeros(count, at.rank, -(-rows // multiple) * multiple, device=self.device)
            if count:
                part = Slice(at.tensor, rows * at.rank, element=first * at.rank)
                grid, common = _grid(part, _SIZES[2:], 1)
                del common["stride"]
                raw = torch.empty(count, rows, at.rank, device=self.device)
                common |= {"rank": at.rank, "SCALED": kind == "low_rank_a", **_words(noise, at.tensor, kind)}
                self._run(self._kernels.low_rank.factors, grid * count, raw, pairs, coefficients, **common)
                lines[:, :, :rows] = raw.transpose(1, 2)
            return lines.view(count * at.rank, lines.shape[2])

        left = lines("low_rank_a", at.row, at.shape[0], multiples[0])
        return left, lines("low_rank_b", at.column, at.shape[1], multiples[1])

    def _run(self, kernel: Any, grid: int | tuple[int, ...], *arguments: Any, **options: Any) -> None:
        here: AbstractContextManager[Any] = nullcontext()
        if self.device.type == "cuda" and torch.cuda.current_device() != self.device.index:
            here = torch.cuda.device(self.device)  # Triton launches on the current device
        with here:
            kernel[grid if isinstance(grid, tuple) else (grid,)](
                *arguments,
                **{"num_warps": _WARPS, **options},
                enable_fp_fusion=False,
                sanitize_overflow=False,  # TRITON_DEBUG=1 would trap where integers wrap, as they do on purpose
            )


def _grid(at: Slice, sizes: tuple[tuple[int, int], ...], per_thread: int) -> tuple[int, dict[str, Any]]:
    """Number of programs, and the arguments that select the values they work on, with `per_thread` blocks in a tile."""
    grid, common = _cached_grid(at, sizes, per_thread)
    return grid, dict(common)


@lru_cache(maxsize=4096)  # a pass asks for each tensor again for each member
def _cached_grid(at: Slice, sizes: tuple[tuple[int, int], ...], per_thread: int) -> tuple[int, dict[str, Any]]:
    """A program works on one row. Its size is the largest of `sizes` at which three quarters of the programs' values
    are used: a narrow column slice would leave most of a large program idle.
    """
    aligned = at.element % BLOCK == 0 and (at.rows <= 1 or at.stride % BLOCK == 0)
    even = aligned and at.columns % 16 == 0  # every row begins with a block and has a multiple of 16 values
    width = at.columns + (0 if even else BLOCK - 1)
    for tiles, warps in sizes:
        blocks = warps * _WARP * per_thread
        values = BLOCK * tiles * blocks
        programs = -(-width // values)
        if width >= _USED * programs * values:
            break
    # Whether the upper bits of the block index, from 2^32 blocks on, change within the slice or just past its end.
    carry = at.element // BLOCK >> 32 != (at.end + values + BLOCK) // BLOCK >> 32
    return at.rows * programs, {
        "element": at.element,
        "stride": at.stride,
        "columns": at.columns // 16 if even else at.columns,
        "programs": programs,
        "T": tiles,
        "B": blocks,
        "EVEN": even,
        "CARRY": carry,
        "num_warps": warps,
    }


def _words(noise: Noise, tensor: int, kind: str) -> dict[str, int]:
    """The words of counter and key that all blocks of a tensor and pair share."""
    return {
        "word": kind_number(kind) << 28 | tensor << 8,
        "iteration": noise.iteration,
        "k0": noise.run_seed & 0xFFFF_FFFF,
        "k1": noise.run_seed >> 32,
    }


def _matrix(at: LowRank, lines: Lines) -> tuple[int, dict[str, Any]]:
    rows, columns = at.shape
    even = columns % 16 == 0
    grid = -(-rows // _HEIGHT) * -(-columns // _WIDTH)
    return grid, {
        "lines": lines[0].shape[0],
        "rows": rows,
        "columns": columns // 16 if even else columns,
        "H": _HEIGHT,
        "W": _WIDTH,
        "EVEN": even,
    }


def _stored(live: torch.Tensor) -> torch.Tensor:
    """The tensor; 16-bit values as int16."""
    return live if live.dtype == torch.float32 else live.view(torch.int16)
