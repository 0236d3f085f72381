"""Starts the Triton kernels on one device. Checks nothing and waits for nothing: `cuda` and `streamed` do.

Tensors are contiguous and on the device; masters are float32. Results stay on the device. Launch parameters are here.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from types import ModuleType
from typing import Any, Final, Protocol, final

import numpy as np
import torch

from es_llm.noise.address import NoiseAddress, kind_number
from es_llm.noise.checks import Members
from es_llm.noise.shard import BLOCK, Shard

REPORT: Final = 5
"""Numbers in a program's part of an update's report: moved, not finite, sums of u^2, d^2 and u d."""

_WARP: Final = 32  # threads
_SIZES: Final = ((4, 4), (2, 4), (1, 4), (1, 2), (1, 1))
"""(tiles, warps) of a program that writes weights, one block per thread: then the values a thread makes are the ones it
stores. Four tiles are loads in flight, and one setup for 16 values of a thread; short rows take less."""

_UPDATE_SIZES: Final = ((1, 4), (1, 2), (1, 1))
"""Of a program that moves masters, two blocks per thread: more would cost too many registers."""

_USED: Final = 0.75  # of a program's values at least, where a smaller one can be chosen
_WARPS: Final = 4  # of low-rank noise
_HEIGHT: Final = 16  # of a tile of low-rank noise: 32 sums in the registers of a thread
_WIDTH: Final = 256


class Kernels(Protocol):
    """The modules of `es_llm.noise.triton_kernels`."""

    weights: ModuleType
    update: ModuleType
    low_rank: ModuleType


@final
class Launcher:
    """All kernels of one device."""

    def __init__(self, device: torch.device, kernels: Kernels) -> None:
        self.device = device
        self._kernels = kernels
        self._members: tuple[object, tuple[torch.Tensor, torch.Tensor]] | None = None

    def counter(self) -> torch.Tensor:
        """(1,) int64, zero: kernels add to it how many of the live values that they store are NaN or infinite."""
        return torch.zeros(1, dtype=torch.int64, device=self.device)

    def fill(self, out: torch.Tensor, shard: Shard, address: NoiseAddress, kind: str) -> None:
        """out = noise."""
        grid, common = _grid(shard, _SIZES, 1)
        self._run(self._kernels.weights.fill, grid, out, **common, **_words(address, kind), pair=address.pair)

    def perturb(
        self,
        live: torch.Tensor,
        master: torch.Tensor,
        wrong: torch.Tensor,
        *,
        scale: float,
        shard: Shard,
        address: NoiseAddress,
    ) -> None:
        """live = round(fma(scale, noise, master))."""
        grid, common = _grid(shard, _SIZES, 1)
        self._run(
            self._kernels.weights.perturb,
            grid,
            _stored(live),
            master,
            wrong,
            scale=int(np.float32(scale).view(np.uint32)),
            LIVE=name_of(live.dtype),
            pair=address.pair,
            **common,
            **_words(address, "dense"),
        )

    def round_into(self, live: torch.Tensor, master: torch.Tensor, wrong: torch.Tensor) -> None:
        """live = round(master)."""
        size = live.numel()
        grid, common = _grid(Shard(size, 0, size, size), _SIZES, 1)
        place = {"size": common["columns"], **{name: common[name] for name in ("T", "B", "EVEN", "num_warps")}}
        self._run(
            self._kernels.weights.round_into, grid, _stored(live), master, wrong, LIVE=name_of(live.dtype), **place
        )

    def accumulate(
        self,
        master: torch.Tensor,
        members: tuple[torch.Tensor, torch.Tensor],
        *,
        live_dtype: str,
        shard: Shard,
        address: NoiseAddress,
    ) -> torch.Tensor:
        """master += sum over the members; the report's sums, (REPORT,) float64. The address's pair doesn't count."""
        pairs, coefficients = members
        grid, common = _grid(shard, _UPDATE_SIZES, 2)
        del common["T"]
        sums = torch.empty(grid, REPORT, dtype=torch.float64, device=self.device)
        self._run(
            self._kernels.update.accumulate,
            grid,
            master,
            sums,
            pairs,
            coefficients,
            count=pairs.numel(),
            LIVE=live_dtype,
            **common,
            **_words(address, "dense"),
        )
        return sums.sum(0)

    def digest(self, master: torch.Tensor, *, shard: Shard, tensor: int) -> torch.Tensor:
        """The digest modulo 2^64, () int64."""
        grid, common = _grid(shard, _SIZES, 1)
        del common["CARRY"]
        sums = torch.empty(grid, dtype=torch.int64, device=self.device)
        place = np.uint64(tensor << 42).astype(np.int64)
        self._run(self._kernels.weights.digest, grid, master, sums, tensor=int(place), **common)
        return sums.sum()

    def perturb_low_rank(
        self, live: torch.Tensor, master: torch.Tensor, wrong: torch.Tensor, lines: tuple[torch.Tensor, torch.Tensor]
    ) -> None:
        """live = round(master + acc); both (rows, columns); `lines` as from `low_rank_lines`."""
        grid, common = _matrix(master, lines)
        name = name_of(live.dtype)
        self._run(self._kernels.low_rank.perturb, grid, _stored(live), master, wrong, *lines, LIVE=name, **common)

    def accumulate_low_rank(
        self, master: torch.Tensor, lines: tuple[torch.Tensor, torch.Tensor], *, live_dtype: str
    ) -> torch.Tensor:
        """master += acc; the report's sums, (REPORT,) float64."""
        grid, common = _matrix(master, lines)
        sums = torch.empty(grid, REPORT, dtype=torch.float64, device=self.device)
        self._run(self._kernels.low_rank.accumulate, grid, master, sums, *lines, LIVE=live_dtype, **common)
        return sums.sum(0)

    def low_rank_lines(
        self,
        members: tuple[torch.Tensor, torch.Tensor],
        *,
        rank: int,
        address: NoiseAddress,
        first: tuple[int, int],
        shape: tuple[int, int],
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Factors for the block of `shape` at row and column `first`: (N R, rows up to a multiple of the tile's) of A
        times coefficient / sqrt(R), and the same of B without a factor."""
        left = self._lines(members, "low_rank_a", rank, address, first[0], shape[0], _HEIGHT)
        right = self._lines(members, "low_rank_b", rank, address, first[1], shape[1], _WIDTH)
        return left, right

    def members(self, members: Members) -> tuple[torch.Tensor, torch.Tensor]:
        """Pairs, as the bits of int32, and coefficients, float32, on the device. A pass asks for the same ones at every
        tensor: they stay there until others are asked for."""
        stream = torch.cuda.current_stream(self.device) if self.device.type == "cuda" else None
        asked = (stream, members.pairs.tobytes(), members.coefficients.tobytes())
        if self._members is None or self._members[0] != asked:
            pairs = torch.from_numpy(members.pairs.view(np.int32).copy()).to(self.device)
            self._members = asked, (pairs, torch.from_numpy(members.coefficients.copy()).to(self.device))
        return self._members[1]

    def _lines(
        self,
        members: tuple[torch.Tensor, torch.Tensor],
        kind: str,
        rank: int,
        address: NoiseAddress,
        first: int,
        rows: int,
        multiple: int,
    ) -> torch.Tensor:
        pairs, coefficients = members
        count = pairs.numel()
        lines = torch.zeros(count, rank, -(-rows // multiple) * multiple, device=self.device)
        if count:
            shard = Shard(rows * rank, first * rank, rows * rank, rows * rank)
            grid, common = _grid(shard, _SIZES[2:], 1)
            del common["stride"]
            raw = torch.empty(count, rows, rank, device=self.device)
            self._run(
                self._kernels.low_rank.factors,
                grid * count,
                raw,
                pairs,
                coefficients,
                rank=rank,
                SCALED=kind == "low_rank_a",
                **common,
                **_words(address, kind),
            )
            lines[:, :, :rows] = raw.transpose(1, 2)
        return lines.view(count * rank, lines.shape[2])

    def _run(self, kernel: Any, grid: int, *arguments: Any, **options: Any) -> None:
        here: AbstractContextManager[Any] = nullcontext()
        if self.device.type == "cuda":
            here = torch.cuda.device(self.device)  # Triton launches on the current device
        with here:
            kernel[(grid,)](
                *arguments,
                **{"num_warps": _WARPS, **options},
                enable_fp_fusion=False,
                sanitize_overflow=False,  # TRITON_DEBUG=1 would trap where integers wrap, as they do on purpose
            )


def name_of(dtype: torch.dtype) -> str:
    """ "float32", "bfloat16" or "float16"."""
    return str(dtype).removeprefix("torch.")


def _grid(shard: Shard, sizes: tuple[tuple[int, int], ...], per_thread: int) -> tuple[int, dict[str, Any]]:
    """Number of programs, and the arguments that say where they work, with `per_thread` blocks in a tile.

    A program works on one row. So its size, of those in `sizes`, is the largest one of which the rows' programs use
    three quarters: a narrow column shard would leave most of a large one idle.
    """
    even = shard.even
    width = shard.columns + (0 if even else BLOCK - 1)
    for tiles, warps in sizes:
        blocks = warps * _WARP * per_thread
        values = BLOCK * tiles * blocks
        programs = -(-width // values)
        if width >= _USED * programs * values:
            break
    place: dict[str, Any] = {
        "element": shard.element,
        "stride": shard.stride,
        "columns": shard.columns // 16 if even else shard.columns,
        "programs": programs,
        "T": tiles,
        "B": blocks,
        "EVEN": even,
        "CARRY": shard.carries(values + BLOCK),
        "num_warps": warps,
    }
    return shard.rows * programs, place


def _words(address: NoiseAddress, kind: str) -> dict[str, int]:
    """The other words of the counter and the key."""
    k0, k1 = address.key
    return {"word": kind_number(kind) << 28 | address.tensor << 8, "iteration": address.iteration, "k0": k0, "k1": k1}


def _matrix(master: torch.Tensor, lines: tuple[torch.Tensor, torch.Tensor]) -> tuple[int, dict[str, Any]]:
    rows, columns = master.shape
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
    """16-bit values as int16."""
    return live if live.dtype == torch.float32 else live.view(torch.int16)
