"""The kernels on numpy arrays and torch tensors: what they accept, what they refuse, and that threads don't count."""

import os
import subprocess
import sys

import numpy as np
import pytest
import torch

from es_llm import _core
from es_llm.errors import KernelError, NoiseAddressError
from es_llm.noise.backend import backend_for
from es_llm.noise.cpu import CpuBackend, dtype_name

ADDRESS = {"run_seed": 1, "iteration": 2, "pair": 3, "tensor": 4}
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
    backend.round_into(live, values)
    expected = values.to(dtype)
    assert torch.equal(live.isnan(), expected.isnan())
    kind = torch.int32 if dtype is torch.float32 else torch.int16
    number = ~values.isnan()
    assert torch.equal(live.view(kind)[number], expected.view(kind)[number])


@pytest.mark.parametrize("dtype", DTYPES)
def test_perturbed_weights_of_any_shape(backend, dtype):
    master = torch.randn(5, 7, 3)
    live = torch.nn.Parameter(torch.empty(5, 7, 3, dtype=dtype))
    backend.perturb_into(live, master, scale=-0.25, **ADDRESS)
    noise = torch.empty(105)
    backend.fill(noise, **ADDRESS)
    exact = master.double() - 0.25 * noise.double().reshape(5, 7, 3)
    assert torch.equal(live.data, exact.float().to(dtype))


def test_shards_make_the_whole(backend):
    whole, parts = torch.zeros(1000), torch.zeros(1000)
    update = {"pairs": [9, 2], "coefficients": np.float32([0.5, -1]), "run_seed": 1, "iteration": 2, "tensor": 4}
    report = backend.accumulate(whole, live_dtype=torch.bfloat16, **update)
    shards = [
        backend.accumulate(parts[start:stop], live_dtype=torch.bfloat16, element=start, **update)
        for start, stop in ((0, 333), (333, 334), (334, 1000))
    ]
    assert torch.equal(whole, parts)
    total = shards[0] + shards[1] + shards[2]
    assert (total.elements, total.moved, total.nonfinite) == (report.elements, report.moved, report.nonfinite)
    assert total.update_norm == pytest.approx(report.update_norm)
    assert total.cosine == pytest.approx(report.cosine)
    assert 0.999 < report.cosine <= 1
    digests = [backend.digest(parts[a:b], tensor=4, element=a) for a, b in ((0, 10), (10, 1000))]
    assert sum(digests) % 2**64 == backend.digest(whole, tensor=4)


def test_the_report_of_weights_that_did_not_move(backend):
    master = torch.ones(100)
    update = {"pairs": [1], "run_seed": 1, "iteration": 2, "tensor": 4}
    report = backend.accumulate(master, live_dtype="bfloat16", coefficients=np.float32([1e-4]), **update)
    assert (report.elements, report.moved) == (100, 0)
    assert np.isnan(report.cosine)
    assert "moved=0" in repr(report)


def test_numpy_arrays_are_welcome(backend):
    master, live = np.ones(10, np.float32), np.empty(10, np.float16)
    backend.perturb_into(live, master, scale=0.5, **ADDRESS)
    noise = np.empty(10, np.float32)
    backend.fill(noise, **ADDRESS)
    assert (live == (1 + 0.5 * noise.astype(np.float64)).astype(np.float32).astype(np.float16)).all()


def test_threads_never_change_the_bits(threads):
    results = set()
    for count in (1, 2, 3, 8):
        threads(count)
        assert _core.kernel_threads() == count
        master = np.ones(300_001, np.float32)
        report = _core.accumulate(
            master,
            dtype="float16",
            pairs=[1, 2],
            coefficients=np.float32([1e-3, 1e-3]),
            run_seed=1,
            iteration=2,
            tensor=3,
            element=7,
        )
        results.add((master.tobytes(), report.update_norm, report.cosine, _core.digest(master, tensor=3)))
    assert len(results) == 1
    threads(0)
    assert _core.kernel_threads() >= 1


def test_flushed_denormals_of_the_caller_do_not_count(backend, threads):
    master = torch.tensor([1e-40, -1e-42, 1.0]).repeat(100_000)  # several chunks: the calling thread isn't alone
    live = torch.empty_like(master)
    if not torch.set_flush_denormal(True):
        pytest.skip("this machine can't flush denormals")
    try:
        threads(3)  # new threads, which inherit the mode of this one
        backend.perturb_into(live, master, scale=0.0, **ADDRESS)
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
    _core.fill(out, run_seed=1, iteration=2, pair=3, tensor=4)
    return out.tobytes()
expected = draw()
child = os.fork()
if child == 0:
    signal.alarm(20)
    os._exit(0 if draw() == expected else 1)
assert os.waitpid(child, 0)[1] == 0
"""
    subprocess.run([sys.executable, "-c", script], check=True, timeout=60)


def test_importing_the_room_loads_no_torch():
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
        backend.round_into(live, master)


def test_overlapping_tensors_are_refused(backend):
    memory = torch.zeros(100)
    for live, master in ((memory, memory), (memory[:60], memory[40:]), (memory.view(torch.bfloat16)[:100], memory)):
        with pytest.raises(KernelError, match="share memory"):
            backend.round_into(live, master)
    backend.round_into(memory[:50], memory[50:])


def test_refused_arrays():
    master = np.zeros(8, np.float32)
    frozen = np.zeros(8, np.float32)
    frozen.flags.writeable = False
    odd = np.zeros(33, np.uint8)[1:].view(np.float32)
    fill = {**ADDRESS}
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
            _core.fill(array, **fill)
    with pytest.raises(KernelError, match="`dtype` must be"):
        _core.round_into(master.copy(), master, dtype="int8")
    with pytest.raises(KernelError, match="uint16"):
        _core.round_into(master.copy(), master, dtype="bfloat16")
    update = {"dtype": "float32", "run_seed": 1, "iteration": 2, "tensor": 4}
    with pytest.raises(KernelError, match="same length"):
        _core.accumulate(master, pairs=[1, 2], coefficients=np.float32([1]), **update)
    with pytest.raises(KernelError, match="share memory"):
        _core.accumulate(master, pairs=[1, 2], coefficients=master[:2], **update)
    with pytest.raises(KernelError, match="kernel threads"):
        _core.set_kernel_threads(100_000)


def test_refused_paths_ranks_and_kinds():
    assert _core.kernel_path() == _core.kernel_paths()[-1]
    assert _core.kernel_paths()[0] == "plain"
    with pytest.raises(KernelError, match='"plain", "neon", "avx2" or "avx512", got "sse"'):
        _core.set_kernel_path("sse")
    absent = "avx2" if "neon" in _core.kernel_paths() else "neon"
    with pytest.raises(KernelError, match=absent):
        _core.set_kernel_path(absent)
    with pytest.raises(KernelError, match="kernel threads must be an integer >= 0, got -1"):
        _core.set_kernel_threads(-1)
    with pytest.raises(KernelError, match="`kind` must be"):
        _core.fill(np.zeros(4, np.float32), kind="sparse", **ADDRESS)
    master = np.zeros((2, 3), np.float32)
    update = {"dtype": "float32", "pairs": [1], "coefficients": np.ones(1, np.float32)}
    for rank in (-1, 0, _core.MAX_RANK + 1):
        with pytest.raises(KernelError, match=rf"`rank` must be in \[1, 1024\], got {rank}"):
            _core.accumulate_low_rank(master, rank=rank, run_seed=1, iteration=2, tensor=4, **update)
    with pytest.raises(NoiseAddressError, match="`row`"):
        _core.accumulate_low_rank(master, rank=1, row=-1, run_seed=1, iteration=2, tensor=4, **update)
    with pytest.raises(KernelError, match="matrix"):
        _core.accumulate_low_rank(master[0], rank=1, run_seed=1, iteration=2, tensor=4, **update)
    assert not master.any()


@pytest.mark.parametrize("path", _core.kernel_paths())
@pytest.mark.parametrize("dtype", DTYPES)
def test_large_tensors_written_past_the_cache_at_any_alignment(backend, dtype, path):
    """From a few megabytes on, live weights go past the cache, if their lines allow it."""
    count = 2_100_000
    master = patterns(count)
    for start in (0, 1, 16, 33):
        live = torch.zeros(count, dtype=dtype)
        _core.set_kernel_path(path)
        backend.round_into(live[start:], master[start:])
        _core.set_kernel_path("plain")
        expected = torch.zeros(count, dtype=dtype)
        for first in range(start, count, 300_000):
            part = slice(first, min(first + 300_000, count))
            backend.round_into(expected[part], master[part])
        _core.set_kernel_path(None)
        kind = torch.int32 if dtype is torch.float32 else torch.int16
        assert torch.equal(live.view(kind), expected.view(kind))


def test_empty_arrays(backend):
    empty = torch.empty(0)
    backend.fill(empty, **ADDRESS)
    backend.round_into(torch.empty(0), empty)
    assert backend.digest(empty, tensor=1) == 0


def test_a_backend_for_each_device():
    assert isinstance(backend_for(torch.device("cpu")), CpuBackend)
    with pytest.raises(KernelError, match="meta"):
        backend_for(torch.device("meta"))


def test_names_of_types():
    assert [dtype_name(dtype) for dtype in DTYPES] == ["float32", "bfloat16", "float16"]
    assert dtype_name(np.dtype(np.float16)) == "float16"
    with pytest.raises(KernelError, match="int8"):
        dtype_name(torch.int8)


def test_an_update_of_zero_changes_no_bit():
    master = np.array([-0.0, 0.0, 1.0, -2.5, 1e-42, -0.0] * 50, np.float32)
    before = master.tobytes()
    _core.accumulate(
        master, dtype="float32", pairs=[0, 1], coefficients=np.zeros(2, np.float32), run_seed=1, iteration=0, tensor=0
    )
    assert master.tobytes() == before


def test_what_is_no_array_is_named(backend):
    live, master = torch.zeros(3, 4), torch.zeros(3, 4)
    update = {"run_seed": 1, "iteration": 2, "tensor": 4, "pairs": [1], "coefficients": np.float32([1])}
    low_rank = {**ADDRESS, "rank": 1, "scale": 1.0}
    with pytest.raises(KernelError, match=r"`master` must be a torch tensor, got NoneType"):
        backend.digest(None, tensor=0)
    with pytest.raises(KernelError, match=r"`live` must be a torch tensor, got list"):
        backend.perturb_low_rank_into([0.0], master, **low_rank)
    with pytest.raises(KernelError, match=r"`master` must be a torch tensor"):
        backend.perturb_low_rank_into(live, 3, **low_rank)
    with pytest.raises(KernelError, match=r"`master` must be a numpy array of float32, got <class 'list'>"):
        _core.perturb_low_rank_into(live.numpy(), [1.0], dtype="float32", **low_rank)
    with pytest.raises(KernelError, match=r"`pairs` must be a sequence of integers, got None"):
        backend.accumulate(master, live_dtype="float32", **{**update, "pairs": None})
    with pytest.raises(NoiseAddressError, match=r"`pairs` must be an integer, got .a."):
        backend.accumulate(master, live_dtype="float32", **{**update, "pairs": ["a"]})
    with pytest.raises(KernelError, match=r"`coefficients` must have one dimension, got shape \(1, 1\)"):
        backend.accumulate(master, live_dtype="float32", **{**update, "coefficients": np.float32([[1]])})
    with pytest.raises(KernelError, match=r"`live` must be contiguous \(C order\), got strides \[8\] for shape \[2\]"):
        _core.round_into(np.zeros(4, np.float32)[::2], np.zeros(2, np.float32), dtype="float32")
    with pytest.raises(KernelError, match=r"`rank` must be in \[1, 1024\], got 1.5"):
        backend.perturb_low_rank_into(live, master, **{**low_rank, "rank": 1.5})


def test_a_view_of_negated_values_is_refused(backend):
    live = torch.zeros(4)
    for negated in (torch._neg_view(torch.ones(4)), torch._neg_view(torch.ones(4, dtype=torch.bfloat16))):
        with pytest.raises(KernelError, match=r"must hold its own values, got a view of negated ones"):
            backend.round_into(negated, live)
    with pytest.raises(KernelError, match=r"`master` must hold its own values"):
        backend.round_into(live, torch._neg_view(torch.ones(4)))
