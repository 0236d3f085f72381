"""Fake CUDA streams and events, which record the order that they enforce. Tests check that this order is sufficient.

A step is a piece of work on a stream. It has the memory that it reads or writes, and the steps that have certainly
ended when it begins. Nothing else orders streams: one step comes before another only if the later one waits for it,
directly or through further steps.
"""

import contextlib
from dataclasses import dataclass

import torch


@dataclass
class Step:
    name: str
    reads: list
    writes: list
    after: frozenset


class Stream:
    def __init__(self, cuda, name):
        self._cuda, self.name = cuda, name
        self.ended = frozenset()  # indices of the steps that end before the next step

    def do(self, what, *, reads=(), writes=()):
        steps = self._cuda.steps
        spans = [[span(tensor) for tensor in tensors] for tensors in (reads, writes)]
        steps.append(Step(f"{what} on {self.name}", *spans, self.ended))
        self.ended |= {len(steps) - 1}

    def record_event(self):
        return self.ended

    def wait_event(self, event):
        self.ended |= event

    def wait_stream(self, other):
        self.ended |= other.ended

    def synchronize(self):
        self._cuda.host |= self.ended


class FakeCuda:
    """The part of `torch.cuda` that `Staging` needs. Within `recording`, each `copy_` is a step of the current
    stream."""

    def __init__(self):
        self.steps, self.host, self._made = [], frozenset(), 0
        self.work = self._current = Stream(self, "work")

    def Stream(self, _device):  # noqa: N802 - torch's name
        self._made += 1
        return Stream(self, f"stream {self._made}")

    def current_stream(self, _device):
        return self._current

    @contextlib.contextmanager
    def stream(self, stream):
        before, self._current = self._current, stream
        try:
            yield
        finally:
            self._current = before

    @contextlib.contextmanager
    def recording(self, monkeypatch):
        copy = torch.Tensor.copy_

        def copy_(target, source, non_blocking=False):
            assert non_blocking, "a copy that the host waits for"
            self._current.do("copy", reads=[source], writes=[target])
            return copy(target, source)

        with monkeypatch.context() as patch:
            patch.setattr(torch.Tensor, "copy_", copy_)
            yield

    def races(self):
        """Unordered pairs of steps that touch the same memory, where at least one step writes it."""
        return [
            (first.name, second.name)
            for later, second in enumerate(self.steps)
            for earlier, first in enumerate(self.steps[:later])
            if earlier not in second.after and clash(first, second)
        ]

    def under_way(self, tensor):
        """Steps that touch this memory and that the host has not waited for."""
        memory = span(tensor)
        return [
            step.name
            for number, step in enumerate(self.steps)
            if number not in self.host and any(overlap(memory, other) for other in step.reads + step.writes)
        ]

    def at_once(self):
        """Pairs of steps that may run at the same time."""
        return {
            (first.name, second.name)
            for later, second in enumerate(self.steps)
            for earlier, first in enumerate(self.steps[:later])
            if earlier not in second.after
        }


def span(tensor):
    return tensor.data_ptr(), tensor.data_ptr() + tensor.numel() * tensor.element_size()


def overlap(one, other):
    return one[0] < other[1] and other[0] < one[1]


def clash(first, second):
    pairs = [(a, b) for a in first.writes for b in second.reads + second.writes]
    pairs += [(a, b) for a in first.reads for b in second.writes]
    return any(overlap(a, b) for a, b in pairs)
