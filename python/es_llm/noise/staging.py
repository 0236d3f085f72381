"""Buffers on a device through which host memory is streamed, while kernels work on the chunks that have arrived."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final, final

import torch

BUFFERS: Final = 3
"""One is filled, one is worked on, one is emptied."""


@final
class Staging:
    """Three buffers of `size` float32 values, used in turn. Work runs in the current stream, copies in two others.

    The only order between them, with A -> B for "B begins when A has ended":

        copy in -> work -> copy out -> the next copy into the same buffer

    so the three run at the same time for different chunks. The host waits only in `wait`. The order also holds after an
    exception, such as KeyboardInterrupt, at any point.

    Args:
        cuda: provides the streams, `torch.cuda` or a test's fake; None: every step is synchronous, as on the CPU.
    """

    def __init__(self, device: torch.device, size: int, *, cuda: Any = None) -> None:
        self._device, self._size, self._cuda = device, size, cuda
        self._buffers: list[torch.Tensor] = []
        self._free: list[Any] = [None] * BUFFERS  # events: the buffer may be written again
        self._turn = 0
        self._in: Any = None
        self._out: Any = None

    @contextmanager
    def chunk(self, host: torch.Tensor, *, write: bool) -> Iterator[torch.Tensor]:
        """The values of `host` (n,), on the device while the context lasts. With `write`, the changed values are copied
        back, which ends before `wait` returns. If the context raises, nothing is copied back."""
        self._prepare()
        turn, self._turn = self._turn, (self._turn + 1) % BUFFERS
        buffer = self._buffers[turn][: host.numel()]
        if self._cuda is None:
            buffer.copy_(host)
            yield buffer
            if write:
                host.copy_(buffer)
            return
        work = self._cuda.current_stream(self._device)
        with self._cuda.stream(self._in):
            if self._free[turn] is not None:
                self._in.wait_event(self._free[turn])
            buffer.copy_(host, non_blocking=True)
        work.wait_stream(self._in)
        try:
            yield buffer
        finally:
            self._free[turn] = work.record_event()
        if write:
            with self._cuda.stream(self._out):
                self._out.wait_event(self._free[turn])
                try:
                    host.copy_(buffer, non_blocking=True)
                finally:
                    self._free[turn] = self._out.record_event()

    def wait(self) -> None:
        """Wait until all copies have ended: other code may then read and write the host memory."""
        if self._in is not None:
            self._in.synchronize()
            self._out.synchronize()

    def _prepare(self) -> None:
        if self._buffers:
            return
        buffers = [torch.empty(self._size, device=self._device) for _ in range(BUFFERS)]
        if self._cuda is not None:
            self._in, self._out = self._cuda.Stream(self._device), self._cuda.Stream(self._device)
            self._in.wait_stream(self._cuda.current_stream(self._device))
        self._buffers = buffers
