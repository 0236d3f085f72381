"""The kernels on numpy arrays and torch tensors: accepted and refused arguments, and equal bits on any number of
threads."""

import os
import subprocess
import sys

import numpy as np
import pytest
import torch

from es_llm import _core
from es_llm._core import LowRank, Noise, Slice, Terms
from es_llm.errors import KernelError
from es_llm.noise.backend import backend_for
from es_llm.noise.checks import dtype_name
from es_llm.noise.cpu import CpuBackend

NOISE = Noise(1, 2, 3)
DTYPES = [torch.float32, torch.bfloat16, torch.float16]


@pytest.fixture
def backend():
    return CpuBackend()


@pytest.fixture
def threads():
    yield _core.set_kernel_threads
    _core.set_kernel_threads(0)


def patterns(count):
    """Random f32 bit patterns: all exponents, infinities, NaNs, and ties of both 16-bit types."""
    words = np.random.default_rng(3).integers(0, 2**32, count, dtype=np.uint32)
    words[::3] &= np.uint32(0xFFFF8000)
    words[1::3] &= np.uint32(0xFFFFF000)
    words[2::5] = words[2::5] & np.uint32(0x80FFFFFF) | np.uint32(0x38000000)
    return torch.from_numpy(words.view(np.float32))


@pytest.mark.parametrize("dtype", DTYPES)
def test_rounding_is_torchs(backend, dtype):
    values = patterns(1_000_000)
    live = torch.empty_like(values, dtype=dtype)
    backend.round(live, values)
    expected = values.to(dtype)
    assert torch.equal(live.isnan(), expected.isnan())
    kind = torch.int32 if dtype is torch.float32 else torch.int16
    number = ~values.isnan()
    assert torch.equal(live.view(kind)[number], expected.view(kind)[number])


@pytest.mark.parametrize("dtype", DTYPES)
def test_perturbed_weights_of_any_shape(backend, dtype):
    master = torch.randn(5, 7, 3)
    live = torch.nn.Parameter(torch.empty(5, 7, 3, dtype=dtype))
    backend.perturb(live, master, NOISE, -0.25, Slice(4, 105))
    noise = torch.empty(105)
    backend.fill(noise, NOISE, Slice(4, 105))
    exact = master.double() - 0.25 * noise.double().reshape(5, 7, 3)
    assert torch.equal(live.data, exact.float().to(dtype))


def test_shards_make_the_whole(backend):
    whole, parts = torch.zeros(1000), torch.zeros(1000)
    terms = Terms(1, 2, np.float32([0.5, -1]), [9, 2])
    report = backend.accumulate(whole, terms, Slice(4, 1000), torch.bfloat16)
    shards = [
        backend.accumulate(parts[start:stop], terms, Slice(4, stop - start, element=start), torch.bfloat16)
        for start, stop in ((0, 333), (333, 334), (334, 1000))
    ]
    assert torch.equal(whole, parts)
    total = shards[0] + shards[1] + shards[2]
    assert (total.elements, total.moved, total.nonfinite) == (report.elements, report.moved, report.nonfinite)
    assert total.update_norm == pytest.approx(report.update_norm)
    assert total.cosine == pytest.approx(report.cosine)
    assert 0.999 < report.cosine <= 1
    digests = [backend.digest(parts[a:b], Slice(4, b - a, element=a)) for a, b in ((0, 10), (10, 1000))]
    assert sum(digests) % 2**64 == backend.digest(whole, Slice(4, 1000))


def test_the_report_of_weights_that_did_not_move(backend):
    master = torch.ones(100)
    report = backend.accumulate(master, Terms(1, 2, np.float32([1e-4])), Slice(4, 100), torch.bfloat16)
    assert (report.elements, report.moved) == (100, 0)
    assert np.isnan(report.cosine)
    assert "moved=0" in repr(report)


def test_threads_never_change_the_bits(threads):
    results = set()
    for count in (1, 2, 3, 8):
        threads(count)
        assert _core.kernel_threads() == count
        master = np.ones(300_001, np.float32)
        at, terms = Slice(3, 300_001, element=7), Terms(1, 2, np.float32([1e-3, 1e-3]), [1, 2])
        report = _core.accumulate(master, terms, at, dtype="float16")
        results.add((master.tobytes(), report.update_norm, report.cosine, _core.digest(master, at)))
    assert len(results) == 1
    threads(0)
    assert _core.kernel_threads() >= 1


def test_kernels_keep_denormals_that_the_caller_flushes(backend, threads):
    master = torch.tensor([1e-40, -1e-42, 1.0]).repeat(100_000)  # several chunks: other threads work too
    live = torch.empty_like(master)
    if not torch.set_flush_denormal(True):
        pytest.skip("this machine can't flush denormals")
    try:
        threads(3)  # new threads, which inherit the mode of this one
        backend.perturb(live, master, NOISE, 0.0, Slice(4, len(master)))
    finally:
        torch.set_flush_denormal(False)
    assert live.numpy().tobytes() == master.numpy().tobytes()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
def test_the_kernels_work_after_a_fork():
    script = """
import os, signal, numpy as np
from es_llm import _core
def draw():
    out = np.empty(200_000, np.float32)
    _core.fill(out, _core.Noise(1, 2, 3), _core.Slice(4, 200_000))
    return out.tobytes()
expected = draw()
child = os.fork()
if child == 0:
    signal.alarm(20)
    os._exit(0 if draw() == expected else 1)
assert os.waitpid(child, 0)[1] == 0
"""
    subprocess.run([sys.executable, "-c", script], check=True, timeout=60)


def test_importing_the_kernels_loads_no_torch():
    script = (
        "import sys, es_llm.noise.cpu, es_llm.noise.reference, es_llm.noise.backend; assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", script], check=True, timeout=60)


REFUSED = {
    "contiguous": lambda: (torch.empty(4, 4).T, torch.empty(4, 4)),
    "must be float32": lambda: (torch.empty(4), torch.empty(4, dtype=torch.float64)),
    "live weights must be": lambda: (torch.empty(4, dtype=torch.int32), torch.empty(4)),
    "same number of elements": lambda: (torch.empty(5), torch.empty(4)),
    "must be on cpu, got meta": lambda: (torch.empty(4, device="meta"), torch.empty(4)),
    "must be a torch tensor": lambda: (np.float32(3), torch.empty(4)),
}


@pytest.mark.parametrize("message", REFUSED)
def test_refused_tensors(backend, message):
    live, master = REFUSED[message]()
    with pytest.raises(KernelError, match=message):
        backend.round(live, master)


def test_overlapping_tensors_are_refused(backend):
    memory = torch.zeros(100)
    for live, master in ((memory, memory), (memory[:60], memory[40:]), (memory.view(torch.bfloat16)[:100], memory)):
        with pytest.raises(KernelError, match="share memory"):
            backend.round(live, master)
    backend.round(memory[:50], memory[50:])


def test_refused_arrays():
    master = np.zeros(8, np.float32)
    frozen = np.zeros(8, np.float32)
    frozen.flags.writeable = False
    odd = np.zeros(33, np.uint8)[1:].view(np.float32)
    cases = [
        ([0.0] * 8, "numpy array"),
        (np.zeros(8), "float32"),
        (master[::2], "contiguous"),
        (np.zeros((4, 2), np.float32).T, "contiguous"),
        (frozen, "can't write"),
        (odd, "aligned"),
        (np.zeros(8, ">f4"), "float32"),
    ]
    for array, message in cases:
        with pytest.raises(KernelError, match=message):
            _core.fill(array, NOISE, Slice(4, 8))
    with pytest.raises(KernelError, match="`dtype` must be"):
        _core.round(master.copy(), master, dtype="int8")
    with pytest.raises(KernelError, match="uint16"):
        _core.round(master.copy(), master, dtype="bfloat16")
    with pytest.raises(KernelError, match=r"`live` must be contiguous \(C order\), got strides \[8\] for shape \[2\]"):
        _core.round(np.zeros(4, np.float32)[::2], np.zeros(2, np.float32), dtype="float32")
    with pytest.raises(KernelError, match="`master` must not share memory with another argument"):
        _core.round(master, master, dtype="float32")
    with pytest.raises(KernelError, match="`master` must have the 9 values of its slice, got 8"):
        _core.digest(master, Slice(4, 9))
    with pytest.raises(KernelError, match="`master` must have the 6 values of its slice, got 8"):
        _core.perturb(master.copy(), master, NOISE, 1.0, LowRank(4, (2, 3), 1), dtype="float32")
    with pytest.raises(KernelError, match=r"`counters` must have the shape \(n, 4\), got \[8\]"):
        _core.philox4x32(np.zeros(8, np.uint32), (0, 0))
    with pytest.raises(KernelError, match="kernel threads"):
        _core.set_kernel_threads(100_000)


def test_refused_paths_and_threads():
    assert _core.kernel_path() == _core.kernel_paths()[-1]
    assert _core.kernel_paths()[0] == "plain"
    with pytest.raises(KernelError, match='"plain", "neon", "avx2" or "avx512", got "sse"'):
        _core.set_kernel_path("sse")
    absent = "avx2" if "neon" in _core.kernel_paths() else "neon"
    with pytest.raises(KernelError, match=absent):
        _core.set_kernel_path(absent)
    with pytest.raises(KernelError, match="kernel threads must be an integer >= 0, got -1"):
        _core.set_kernel_threads(-1)


@pytest.mark.parametrize("path", _core.kernel_paths())
@pytest.mark.parametrize("dtype", DTYPES)
def test_large_tensors_written_past_the_cache_at_any_alignment(backend, dtype, path):
    """From a few megabytes on, kernels write live weights past the cache if the alignment allows it."""
    count = 2_100_000
    master = patterns(count)
    for start in (0, 1, 16, 33):
        live = torch.zeros(count, dtype=dtype)
        _core.set_kernel_path(path)
        backend.round(live[start:], master[start:])
        _core.set_kernel_path("plain")
        expected = torch.zeros(count, dtype=dtype)
        for first in range(start, count, 300_000):
            part = slice(first, min(first + 300_000, count))
            backend.round(expected[part], master[part])
        _core.set_kernel_path(None)
        kind = torch.int32 if dtype is torch.float32 else torch.int16
        assert torch.equal(live.view(kind), expected.view(kind))


def test_empty_arrays(backend):
    empty = torch.empty(0)
    backend.fill(empty, NOISE, Slice(1, 0))
    backend.round(torch.empty(0), empty)
    assert backend.digest(empty, Slice(1, 0)) == 0


def test_a_backend_for_each_device():
    assert isinstance(backend_for(torch.device("cpu")), CpuBackend)
    with pytest.raises(KernelError, match="meta"):
        backend_for(torch.device("meta"))


def test_names_of_types():
    assert [dtype_name(dtype) for dtype in DTYPES] == ["float32", "bfloat16", "float16"]
    assert dtype_name("float16") == "float16"
    with pytest.raises(KernelError, match="int8"):
        dtype_name(torch.int8)


def test_an_update_of_zero_changes_no_bit():
    master = np.array([-0.0, 0.0, 1.0, -2.5, 1e-42, -0.0] * 50, np.float32)
    before = master.tobytes()
    _core.accumulate(master, Terms(1, 0, np.zeros(2, np.float32)), Slice(0, 300), dtype="float32")
    assert master.tobytes() == before


def test_a_view_of_negated_values_is_refused(backend):
    live = torch.zeros(4)
    for negated in (torch._neg_view(torch.ones(4)), torch._neg_view(torch.ones(4, dtype=torch.bfloat16))):
        with pytest.raises(KernelError, match=r"must hold its own values, got a view of negated ones"):
            backend.round(negated, live)
    with pytest.raises(KernelError, match=r"`master` must hold its own values"):
        backend.round(live, torch._neg_view(torch.ones(4)))
