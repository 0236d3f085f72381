"""The devices of a rank's live weights and masters, and their free memory."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import torch

from es_llm.config.es import MASTER_DEVICES
from es_llm.errors import ConfigError

_PROC: Final = Path("/proc")
_GROUPS: Final = Path("/sys/fs/cgroup")
_SHARE: Final = 0.5
"""Largest share of the device's free memory for masters. The rest is for caches and activations."""


def device_of_rank(name: str, local_rank: int) -> torch.device:
    """The device of a rank's live weights.

    Args:
        name: "cpu", "cuda" (the GPU with the number `local_rank` modulo the number of visible GPUs), "cuda:1", or
            "auto" (as "cuda" if torch sees a GPU, else the CPU).
        local_rank: number of the rank on its host.

    Raises:
        ConfigError: the name is unknown, or there is no such device.
    """
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if name == "cpu" or (name == "auto" and not count):
        return torch.device("cpu")
    kind, _, index = name.partition(":")
    if name not in ("auto", "cuda") and (kind != "cuda" or not index.isdigit()):
        raise ConfigError(f"`device` must be auto, cpu, cuda or cuda:<number>, got {name!r}")
    if not count:
        built = "sees none" if torch.version.cuda else "is built without CUDA"
        raise ConfigError(f"`device` {name!r} needs a CUDA device, but torch {torch.__version__} {built}; use cpu")
    number = int(index) if index else local_rank % count
    if number >= count:
        raise ConfigError(f"`device` {name!r}: torch sees {count} CUDA devices, expected a number below that")
    return torch.device("cuda", number)


def master_device_of(name: str, device: torch.device, *, masters: int, coming: int) -> torch.device:
    """The device of the float32 masters: `device`, or the CPU. The bits are the same on both.

    Args:
        name: "device", "cpu", or "auto" (`device` if the masters fit into half of its free memory, else the CPU).
        masters: bytes of the masters.
        coming: bytes of live weights that are still to be moved to the device.

    Raises:
        ConfigError: the name is unknown.
    """
    if name not in MASTER_DEVICES:
        raise ConfigError(f"`master_device` must be one of {', '.join(MASTER_DEVICES)}, got {name!r}")
    if device.type == "cpu" or name == "cpu":
        return torch.device("cpu")
    if name == "device":
        return device
    return device if masters <= _SHARE * (free_memory(device) - coming) else torch.device("cpu")


def free_memory(device: torch.device) -> int:
    """Bytes that tensors can use. On a CUDA device: free bytes, and bytes that torch keeps for its next tensors. In
    host memory: the system's estimate, within the limits of the control groups; a large number if it has none."""
    if device.type == "cpu":
        return min([sys.maxsize, *_in_host("MemAvailable:"), *(free for _, free in _in_groups())])
    free, _ = torch.cuda.mem_get_info(device)
    return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)


def total_memory(device: torch.device) -> int:
    """Bytes of a CUDA device, or of the host within the limits of the control groups, whatever uses them."""
    if device.type == "cpu":
        return min([sys.maxsize, *_in_host("MemTotal:"), *(limit for limit, _ in _in_groups())])
    _, total = torch.cuda.mem_get_info(device)
    return total


def ranks_sharing(device: torch.device, name: str, local_size: int) -> int:
    """Number of ranks of this host that share the device, given the option `device`."""
    if device.type == "cpu" or ":" in name:
        return local_size
    return -(-local_size // torch.cuda.device_count())


def _in_host(name: str) -> Iterator[int]:
    """The bytes in the line of the system's figures that begins with this name."""
    with contextlib.suppress(OSError):
        for line in (_PROC / "meminfo").read_text().splitlines():
            if line.startswith(name):
                yield 1024 * int(line.split()[1])


def _in_groups() -> Iterator[tuple[int, int]]:
    """Each limit, and what is left of it: of this process's control group and its parents, of version 1 or 2."""
    try:
        lines = [line.split(":", 2) for line in (_PROC / "self" / "cgroup").read_text().splitlines()]
    except OSError:
        return
    for _, controllers, path in lines:
        if controllers == "":
            root, limit, used, cached = _GROUPS, "memory.max", "memory.current", "inactive_file"
        elif controllers == "memory":
            root, limit, used = _GROUPS / "memory", "memory.limit_in_bytes", "memory.usage_in_bytes"
            cached = "total_inactive_file"
        else:
            continue
        own = root / path.strip("/")
        for folder in (own, *own.parents):
            # A file is missing, or holds "max". A folder outside `root` has no such files.
            with contextlib.suppress(OSError, ValueError, KeyError):
                stat = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
                total, taken = (int((folder / name).read_text()) for name in (limit, used))
                yield total, total - taken + int(stat[cached])
