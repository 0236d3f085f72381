"""Buffers on a device through which host memory passes, while kernels work on what has arrived."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final, final

import torch

_BUFFERS: Final = 3  # one arrives, one is worked on, one leaves


@final
class Staging:
    """Three buffers of `size` float32 values in turn. Work is in the current stream, copies are in two of their own.

    On the CPU, for tests, everything is done at once.
    """

    def __init__(self, device: torch.device, size: int) -> None:
        self._device, self._size = device, size
        self._buffers: list[torch.Tensor] = []
        self._free: list[Any] = [None] * _BUFFERS  # events: the buffer may be written again
        self._turn = 0
        self._in: Any = None
        self._out: Any = None

    @contextmanager
    def chunk(self, host: torch.Tensor, *, write: bool) -> Iterator[torch.Tensor]:
        """The values of `host` (n,), on the device for the time of the context; with `write`, what the context made of
        them goes back, and is there after `wait`."""
        self._prepare()
        turn, self._turn = self._turn, (self._turn + 1) % _BUFFERS
        buffer = self._buffers[turn][: host.numel()]
        if self._in is None:
            buffer.copy_(host)
            yield buffer
            if write:
                host.copy_(buffer)
            return
        compute = torch.cuda.current_stream(self._device)
        with torch.cuda.stream(self._in):
            if self._free[turn] is not None:
                self._in.wait_event(self._free[turn])
            buffer.copy_(host, non_blocking=True)
        compute.wait_stream(self._in)
        yield buffer
        self._free[turn] = compute.record_event()
        if write:
            with torch.cuda.stream(self._out):
                self._out.wait_event(self._free[turn])
                host.copy_(buffer, non_blocking=True)
                self._free[turn] = self._out.record_event()

    def wait(self) -> None:
        """Until all that was written back is in host memory."""
        if self._out is not None:
            self._out.synchronize()

    def _prepare(self) -> None:
        if self._buffers:
            return
        self._buffers = [torch.empty(self._size, device=self._device) for _ in range(_BUFFERS)]
        if self._device.type == "cuda":
            new: Any = torch.cuda.Stream
            self._in, self._out = new(self._device), new(self._device)
            self._in.wait_stream(torch.cuda.current_stream(self._device))
