"""The Triton kernels give the same bits as the other backends: in the interpreter, and on a GPU if there is one."""

import platform
import sys
import warnings

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from es_llm import _core
from es_llm._core import LowRank, Noise, Slice, Terms
from es_llm.errors import KernelError
from es_llm.model.device import free_memory
from es_llm.noise import cuda, reference
from es_llm.noise.backend import backend_for
from es_llm.noise.cpu import CpuBackend
from es_llm.noise.launch import Launcher
from tests import interpreted
from tests.interpreted import like_the_device  # noqa: F401 - a fixture
from tests.vectors import CHECKS, AtOnce, OfTensors

DTYPES = [torch.float32, torch.bfloat16, torch.float16]
WORDS = {torch.float32: torch.int32, torch.bfloat16: torch.int16, torch.float16: torch.int16}
NOISE = Noise(2**63 + 5, 2**32 - 1, 2**31 + 7)
BORDER = 2**34
"""The first element whose block index needs more than 32 bits."""

pytestmark = pytest.mark.usefixtures("like_the_device")
quick = settings(
    max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)


@pytest.fixture(params=["interpreter", pytest.param("gpu", marks=pytest.mark.gpu)])
def backend(request):
    if request.param == "interpreter":
        return interpreted.backend()
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    return AtOnce(backend_for(torch.device("cuda")))


def on(backend, tensor):
    """A copy on the backend's device."""
    return tensor.clone().to(backend.device)


def terms(coefficients, pairs=None):
    return Terms(NOISE.run_seed, NOISE.iteration, np.float32(coefficients), pairs)


def run(count, element=0, tensor=77):
    return Slice(tensor, count, element=element)


def row_slices(at):
    """(part of the values, slice) of each row."""
    return [
        (
            slice(row * at.columns, (row + 1) * at.columns),
            Slice(at.tensor, at.columns, element=at.element + row * at.stride),
        )
        for row in range(at.rows)
    ]


def same(left, right):
    """Check for equal bits, and for at least one number."""
    left, right = left.cpu(), right.cpu()
    assert left.numel() == right.numel()
    kind = WORDS[left.dtype]
    return torch.equal(left.view(kind), right.view(kind))


def weights(count, seed=0):
    """Finite weights of usual size, with some zeros of both signs, denormals and large values."""
    values = torch.randn(count, generator=torch.Generator().manual_seed(seed)) * 0.05
    odd = torch.tensor([0.0, -0.0, 1e-40, -3e-42, 3e38, -65519.0, 6e-8, 1.0])
    for i, value in enumerate(odd):
        values[i :: 41 + i] = value
    return values


@pytest.mark.parametrize("check", CHECKS)
def test_known_answers(check, backend):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # a warning of numpy about NaNs in the vectors
        check(OfTensors(backend.backend))


@pytest.mark.parametrize("kind", ["dense", "low_rank_a", "low_rank_b"])
@pytest.mark.parametrize("element", [0, 1, 6, 2046, BORDER - 3000, 3 * BORDER - 1029, 2**42 - 4500])
def test_fill(backend, kind, element):
    out = torch.empty(4500, device=backend.device)
    backend.fill(out, NOISE, run(4500, element), kind)
    expected = reference.values(NOISE, run(4500, element), kind)
    assert same(out, torch.from_numpy(expected))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("count", "element"), [(1, 0), (4096, 0), (2500, 0), (2049, 3), (3000, BORDER - 1001)])
def test_perturbed_weights(backend, dtype, count, element):
    master = weights(count)
    expected = torch.empty(count, dtype=dtype)
    CpuBackend().perturb(expected, master, NOISE, -0.25, run(count, element))
    live = torch.empty(count, dtype=dtype, device=backend.device)
    wrong = backend.perturb(live, on(backend, master), NOISE, -0.25, run(count, element))
    assert same(live, expected)
    assert wrong == count - int(torch.isfinite(expected).sum())


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("word", [0xFF800001, 0x7FFFFFFF, 0xFF800000, 0x7F7F7FFF, 0x7F7F8000, 0x477FEFFF, 0xC77FF000])
def test_values_that_are_not_finite(backend, dtype, word):
    for count in (5, 2100):
        master = weights(count)
        master.clamp_(-60000, 60000).view(torch.int32)[count - 2] = np.uint32(word).astype(np.int32).item()
        expected = torch.empty(count, dtype=dtype)
        CpuBackend().round(expected, master)
        live = torch.empty(count, dtype=dtype, device=backend.device)
        assert backend.round(live, on(backend, master)) == count - int(torch.isfinite(expected).sum())
        if dtype is not torch.float32 or word & 0x7FFFFFFF <= 0x7F800000:
            assert same(live, expected)
        with np.errstate(all="ignore"):
            wrong = backend.perturb(live, on(backend, master), NOISE, 0.0, run(count))
        assert wrong == count - int(torch.isfinite(expected).sum())


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("coefficient", [0.0, 1e-3, 3e38])
def test_weights_that_are_not_finite_spoil_no_report(backend, dtype, coefficient):
    master = weights(600)
    odd = torch.tensor([torch.nan, -torch.nan, torch.inf, -torch.inf, 7e4, -7e4, 3.4e38, -3.4e38])
    master[::7] = odd.repeat(11)[:86]
    update = terms([coefficient], [5])
    with np.errstate(all="ignore"):
        total = reference.intended(update, run(600))
        moved, wrong, *sums = reference.update_report(master.numpy(), total, str(dtype).removeprefix("torch."))
    assert np.isfinite(sums).all()
    for kernels, values in ((backend, on(backend, master)), (CpuBackend(), master.clone())):
        with np.errstate(all="ignore"):
            report = kernels.accumulate(values, update, run(600), dtype)
        assert (report.moved, report.nonfinite) == (moved, wrong)
        assert report.update_norm == pytest.approx(sums[0] ** 0.5, rel=1e-9)
        cosine = sums[2] / (sums[0] ** 0.5 * sums[1] ** 0.5) if sums[0] and sums[1] else np.nan
        assert report.cosine == pytest.approx(cosine, rel=1e-9, nan_ok=True)
    assert moved == 0 or coefficient


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("count", "element", "pairs"), [(1, 2, 1), (2048, 0, 3), (1500, BORDER - 600, 2), (9, 0, 30)])
def test_updates(backend, dtype, count, element, pairs):
    master = weights(count)
    coefficients = np.float32([1e-4, -3e-5, 0.0, 1e-42])[np.arange(pairs) % 4]
    update, at = terms(coefficients, [7, 2**32 - 1, *range(pairs - 2)][:pairs]), run(count, element)
    moved, expected = on(backend, master), master.clone()
    report = backend.accumulate(moved, update, at, dtype)
    known = CpuBackend().accumulate(expected, update, at, dtype)
    assert same(moved, expected)
    assert (report.elements, report.moved, report.nonfinite) == (known.elements, known.moved, known.nonfinite)
    assert report.update_norm == pytest.approx(known.update_norm, rel=1e-12)
    assert report.cosine == pytest.approx(known.cosine, rel=1e-12, nan_ok=True)


def test_an_update_of_zero_changes_no_bit(backend):
    master = weights(2000)
    moved = on(backend, master)
    report = backend.accumulate(moved, terms([0, 0]), run(2000), torch.float32)
    assert same(moved, master)
    assert (report.moved, report.update_norm) == (0, 0)
    report = backend.accumulate(moved, terms([]), run(2000), torch.float32)
    assert same(moved, master)


@pytest.mark.parametrize(("count", "element"), [(1, 0), (4096, 4), (2500, 0), (2049, 3), (3000, BORDER - 1001)])
def test_digests(backend, count, element):
    master = weights(count)
    at = run(count, element, tensor=2**20 - 1)
    assert backend.digest(on(backend, master), at) == CpuBackend().digest(master, at)


shards = st.builds(
    lambda rows, columns, gap, element: Slice(
        77, rows * columns, element=element, columns=columns, stride=columns + gap
    ),
    rows=st.integers(1, 5),
    columns=st.integers(1, 40) | st.sampled_from([48, 96, 256, 512, 700, 1000, 2048]),
    gap=st.integers(0, 9) | st.sampled_from([64, 2**33 - 100]),
    element=st.integers(0, 9) | st.integers(BORDER - 900, BORDER + 5) | st.sampled_from([2**40]),
)


@quick
@given(shard=shards, dtype=st.sampled_from(DTYPES), pairs=st.integers(1, 3))
def test_shards_are_parts_of_the_whole(backend, shard, dtype, pairs):
    """Each row has the reference's noise at the elements of that row."""
    master, update = weights(shard.size), terms([1e-3, -2e-3, 5e-4][:pairs])
    live, moved = torch.empty(shard.size, dtype=dtype, device=backend.device), on(backend, master)
    backend.perturb(live, on(backend, master), NOISE, 0.01, shard)
    backend.accumulate(moved, update, shard, dtype)
    digest = 0
    expected, after = torch.empty(shard.size, dtype=dtype), master.clone()
    for part, at in row_slices(shard):
        CpuBackend().perturb(expected[part], master[part], NOISE, 0.01, at)
        CpuBackend().accumulate(after[part], update, at, dtype)
        digest += CpuBackend().digest(after[part], at)
    assert same(live, expected)
    assert same(moved, after)
    assert backend.digest(moved, shard) == digest % 2**64


class Counted:
    """Replaces the kernels' modules by ones that only count: `lanes` is the number of values that the programs have
    lanes for."""

    def __init__(self):
        self.weights = self.update = self
        self.lanes = 0

    def __getattr__(self, _name):
        return self

    def __getitem__(self, grid):
        def start(*_arguments, T=1, B, **_options):
            self.lanes = grid[0] * 4 * T * B

        return start


@pytest.mark.parametrize(("columns", "used"), [(96, 0.75), (512, 1), (1376, 0.75), (4096, 1), (5000, 0.75)])
def test_short_rows_waste_few_lanes(columns, used):
    """An example of short rows: the columns of an output projection that is split over devices."""
    shard, kernels = Slice(77, 8 * columns, columns=columns, stride=8192), Counted()
    launch = Launcher(torch.device("cpu"), kernels)
    master = torch.zeros(shard.size)
    launch.perturb(master, master, launch.counter(), NOISE, 1.0, shard)
    assert shard.size >= used * kernels.lanes
    launch.digest(master, shard)
    assert shard.size >= used * kernels.lanes
    launch.accumulate(master, terms([1]), shard, "float32")
    assert shard.size >= min(used, 96 / 256) * kernels.lanes


def check_both_ends(backend, count):
    """For a long tensor in bfloat16, check all kernels at both ends, and counts and digests of the whole. One value is
    infinite."""
    tail = weights(4000)
    tail[-2] = torch.inf
    ends = ((slice(0, 4000), torch.zeros(4000), 0), (slice(count - 4000, count), tail, count - 4000))
    master = torch.zeros(count, device=backend.device)
    master[-4000:] = tail.to(backend.device)
    live = torch.empty(count, dtype=torch.bfloat16, device=backend.device)
    update = terms([1e-3, -2e-3], [3, 1])
    assert backend.perturb(live, master, NOISE, 0.5, run(count)) == 1
    for part, values, element in ends:
        expected = torch.empty(4000, dtype=torch.bfloat16)
        CpuBackend().perturb(expected, values, NOISE, 0.5, run(4000, element))
        assert same(live[part], expected)
    report = backend.accumulate(master, update, run(count), torch.bfloat16)
    assert (report.elements, report.nonfinite) == (count, 1)
    digests = 0
    for part, values, element in ends:
        at = run(4000, element)
        CpuBackend().accumulate(values, update, at, torch.bfloat16)
        assert same(master[part], values)
        assert backend.digest(master[part], at) == CpuBackend().digest(values, at)
    for first, last in ((0, count // 2 + 1), (count // 2 + 1, count)):
        digests += backend.digest(master[first:last], run(last - first, first))
    assert backend.digest(master, run(count)) == digests % 2**64
    assert backend.round(live, master) == 1
    assert same(live[-4000:], tail.bfloat16())
    matrix = (count // 8, 8)
    assert backend.perturb(live.view(matrix), master.view(matrix), NOISE, 0.5, LowRank(77, matrix, 1)) == 1
    for part, values, element in ends:
        expected = torch.empty(500, 8, dtype=torch.bfloat16)
        block = LowRank(77, (500, 8), 1, row=element // 8)
        CpuBackend().perturb(expected, values.view(500, 8), NOISE, 0.5, block)
        assert same(live[part], expected.view(-1))


def test_both_ends_of_a_tensor():
    check_both_ends(interpreted.backend(), 8016)


@pytest.mark.gpu
def test_beyond_2_to_the_31_elements():
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    there = torch.device("cuda")
    if free_memory(there) < 30 * 2**30:
        pytest.skip("less than 30 GiB of memory on the device")
    check_both_ends(AtOnce(backend_for(there)), 2**31 + 8016)


@quick
@given(
    shape=st.tuples(st.integers(1, 40), st.integers(1, 60) | st.sampled_from([256, 300])),
    rank=st.integers(1, 4),
    pairs=st.integers(1, 3),
    first=st.tuples(st.integers(0, 9), st.integers(0, 9)),
    dtype=st.sampled_from(DTYPES),
)
def test_low_rank_noise(backend, shape, rank, pairs, first, dtype):
    master = weights(shape[0] * shape[1]).reshape(shape)
    block = LowRank(77, shape, rank, row=first[0], column=first[1])
    update = terms([1e-2, -2e-3, 5e-4][:pairs], range(5, 5 + pairs))
    acc = reference.low_rank_sum(update, block)
    moved = on(backend, master)
    report = backend.accumulate(moved, update, block, dtype)
    assert same(moved, torch.from_numpy(reference.moved(master.numpy(), acc)))
    assert report.elements == master.numel()
    known = reference.update_report(master.numpy(), acc, str(dtype).removeprefix("torch."))
    assert (report.moved, report.nonfinite) == known[:2]
    assert report.update_norm == pytest.approx(np.sqrt(known[2]), rel=1e-12)
    live = torch.empty(shape, dtype=dtype, device=backend.device)
    wrong = backend.perturb(live, on(backend, master), NOISE, -0.5, block)
    acc = reference.low_rank_sum(terms([-0.5], [NOISE.pair]), block)
    expected = torch.empty(shape, dtype=dtype)
    CpuBackend().round(expected, master + torch.from_numpy(acc))
    assert same(live, expected)
    assert wrong == master.numel() - int(torch.isfinite(expected).sum())


def overlapping(memory):
    return memory[:60], memory[40:]


REFUSED = {
    "contiguous": lambda new: (new(4, 4).T, new(4, 4)),
    "must be float32": lambda new: (new(4), new(4, dtype=torch.float64)),
    "live weights must be": lambda new: (new(4, dtype=torch.int32), new(4)),
    "same number of elements": lambda new: (new(5), new(4)),
    "must be on": lambda new: (torch.empty(4, device="meta"), new(4)),
    "must be a torch tensor": lambda new: (np.zeros(4, np.float32), new(4)),
    "share memory": lambda new: overlapping(new(100)),
    "negated": lambda new: (new(4), torch._neg_view(new(4))),
}


@pytest.mark.parametrize("message", REFUSED)
def test_refused_tensors(backend, message):
    live, master = REFUSED[message](lambda *shape, **kind: torch.zeros(*shape, device=backend.device, **kind))
    with pytest.raises(KernelError, match=message):
        backend.round(live, master)
    if message == "same number of elements":
        message = "`live` must have the 4 values of its slice, got 5"
    with pytest.raises(KernelError, match=message):
        backend.perturb(live, master, NOISE, 1.0, run(master.numel()))


def test_empty_tensors(backend):
    empty = torch.empty(0, device=backend.device)
    backend.fill(empty, NOISE, run(0))
    assert backend.round(torch.empty_like(empty), empty) == 0
    assert backend.perturb(torch.empty_like(empty), empty, NOISE, 1.0, run(0)) == 0
    assert backend.digest(empty, run(0)) == 0
    assert backend.accumulate(empty, terms([]), run(0), torch.float32).elements == 0
    matrix = torch.empty(0, 3, device=backend.device)
    assert backend.perturb(torch.empty_like(matrix), matrix, NOISE, 1.0, LowRank(1, (0, 3), 1)) == 0
    assert backend.accumulate(matrix, terms([1]), LowRank(1, (0, 3), 1), torch.float32).elements == 0


@pytest.mark.skipif(sys.platform != "linux" or platform.machine() != "x86_64", reason="Triton is not for here")
def test_a_missing_module_of_triton_fails_the_tests():
    with pytest.raises(ImportError):
        interpreted.required("triton.runtime.not_there")


@pytest.mark.skipif(torch.cuda.is_available(), reason="has a CUDA device")
def test_without_a_device():
    with pytest.raises(KernelError, match="sees 0 CUDA devices"):
        backend_for(torch.device("cuda:1"))


def test_only_cuda_devices():
    with pytest.raises(KernelError, match="meta"):
        cuda.cuda_device(torch.device("meta"))


def test_noise_version():
    assert _core.NOISE_VERSION == 1
