"""The order of copies and kernels when masters are streamed through a device is sufficient and not stricter. Streams
are fake."""

import numpy as np
import pytest
import torch

from es_llm._core import LowRank, Slice, Terms
from es_llm.noise.staging import BUFFERS, Staging
from es_llm.noise.streamed import StreamedBackend
from tests import interpreted
from tests.fake_cuda import FakeCuda
from tests.interpreted import like_the_device  # noqa: F401 - a fixture

CPU = torch.device("cpu")
CHUNK = 16
TERMS = Terms(1, 2, np.ones(1, np.float32), [1])


@pytest.fixture
def cuda(monkeypatch):
    fake = FakeCuda()
    with fake.recording(monkeypatch):
        yield fake


def add_one(cuda, staging, host, *, write=True, fails=()):
    """Add 1 to `host`, chunk by chunk; the work raises in the chunks of `fails`."""
    for number, part in enumerate(host.split(CHUNK)):
        try:
            with staging.chunk(part, write=write) as chunk:
                cuda.work.do("work", reads=[chunk], writes=[chunk])
                chunk.add_(1)
                if number in fails:
                    raise KeyboardInterrupt
        except KeyboardInterrupt:
            pass


@pytest.mark.parametrize("write", [True, False])
@pytest.mark.parametrize("fails", [(), (0,), (4,), (3, 4, 5, 6)])
def test_nothing_races(cuda, write, fails):
    staging, host = Staging(CPU, CHUNK, cuda=cuda), torch.zeros(10 * CHUNK - 3)
    add_one(cuda, staging, host, write=write, fails=fails)
    assert cuda.races() == []
    staging.wait()
    assert cuda.under_way(host) == []
    done = torch.ones(10, CHUNK)
    done[list(fails)] = 0
    assert torch.equal(host, done.flatten()[: len(host)] if write else torch.zeros(len(host)))


def test_copies_and_work_run_at_the_same_time(cuda):
    staging = Staging(CPU, CHUNK, cuda=cuda)
    for _ in range(2):  # also across tensors
        add_one(cuda, staging, torch.zeros(4 * CHUNK))
    arrives, leaves, works = staging._in.name, staging._out.name, "work"
    pairs = {frozenset(name.split(" on ")[1] for name in pair) for pair in cuda.at_once()}
    assert {frozenset(pair) for pair in ((arrives, works), (works, leaves), (arrives, leaves))} <= pairs
    # The copy of a chunk to the device waits until the previous chunk in the same buffer was copied back, and for
    # nothing later.
    arriving = [step for step in cuda.steps if step.name.endswith(arrives)]
    leaving = [number for number, step in enumerate(cuda.steps) if step.name.endswith(leaves)]
    for chunk, step in enumerate(arriving):
        assert sum(number in step.after for number in leaving) == max(chunk - BUFFERS + 1, 0)


def test_the_fake_detects_a_missing_wait(cuda, monkeypatch):
    monkeypatch.setattr("tests.fake_cuda.Stream.wait_event", lambda _self, _event: None)
    staging, host = Staging(CPU, CHUNK, cuda=cuda), torch.zeros(4 * CHUNK)
    add_one(cuda, staging, host)
    assert cuda.races()
    assert cuda.under_way(host)


@pytest.fixture
def streamed(cuda):
    backend = StreamedBackend(CPU, kernels=interpreted.KERNELS, chunk=CHUNK)
    backend._staging = Staging(CPU, CHUNK, cuda=cuda)
    return backend


@pytest.mark.usefixtures("like_the_device")
def test_only_the_end_of_a_pass_waits(cuda, streamed):
    masters = [torch.zeros(40), torch.zeros(5, 4)]
    slices = [Slice(4, 40), LowRank(5, (5, 4), 1)]
    results = [streamed.accumulate(masters[i], TERMS, slices[i], torch.float32) for i in (0, 1)]
    assert cuda.host == frozenset()
    assert [report.elements for report in streamed.settle(results)] == [40, 20]
    assert all(cuda.under_way(master) == [] for master in masters)
    assert cuda.races() == []


@pytest.mark.usefixtures("like_the_device")
def test_nothing_runs_after_an_exception(cuda, streamed, monkeypatch):
    master, earlier = torch.zeros(4 * CHUNK), torch.zeros(CHUNK)
    streamed.accumulate(earlier, TERMS, Slice(4, CHUNK), torch.float32)
    accumulate, started = streamed._launch.accumulate, []

    def interrupted(*arguments, **options):
        started.append(1)
        if len(started) == 3:
            raise KeyboardInterrupt
        return accumulate(*arguments, **options)

    monkeypatch.setattr(streamed._launch, "accumulate", interrupted)
    with pytest.raises(KeyboardInterrupt):
        streamed.accumulate(master, TERMS, Slice(5, 4 * CHUNK), torch.float32)
    assert cuda.under_way(master) == cuda.under_way(earlier) == []
