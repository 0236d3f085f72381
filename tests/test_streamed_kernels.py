"""Masters in host memory, streamed through the device: the bits of the Rust kernels, whatever the chunks."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from es_llm._core import LowRank, Slice
from es_llm.errors import KernelError
from es_llm.noise import reference
from es_llm.noise.cpu import CpuBackend
from es_llm.noise.streamed import StreamedBackend, pieces
from tests import interpreted
from tests.interpreted import like_the_device  # noqa: F401 - a fixture
from tests.test_cuda_kernels import DTYPES, NOISE, quick, row_slices, same, terms, weights
from tests.vectors import AtOnce

pytestmark = pytest.mark.usefixtures("like_the_device")


@pytest.fixture(params=["interpreter", pytest.param("gpu", marks=pytest.mark.gpu)])
def streamed(request):
    """Returns a function that creates the backend with a given chunk size."""
    if request.param == "interpreter":
        return lambda chunk: AtOnce(StreamedBackend(torch.device("cpu"), kernels=interpreted.KERNELS, chunk=chunk))
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    return lambda chunk: AtOnce(StreamedBackend(torch.device("cuda"), chunk=chunk))


def host(backend, tensor):
    """A copy in host memory, which is pinned if there is a GPU."""
    copy = tensor.clone()
    return copy.pin_memory() if backend.device.type == "cuda" else copy


@quick
@given(
    shard=st.builds(
        lambda rows, columns, gap, element: Slice(
            77, rows * columns, element=element, columns=columns, stride=columns + gap
        ),
        rows=st.integers(1, 5),
        columns=st.integers(1, 50),
        gap=st.integers(0, 9),
        element=st.integers(0, 9),
    ),
    dtype=st.sampled_from(DTYPES),
    chunk=st.sampled_from([16, 48, 64]),
)
def test_chunks_of_shards(streamed, shard, dtype, chunk):
    backend = streamed(chunk)
    master = weights(shard.size)
    update = terms([1e-3, -2e-3], [3, 1])
    live = torch.empty(shard.size, dtype=dtype, device=backend.device)
    moved = host(backend, master)
    wrong = backend.perturb(live, moved, NOISE, 0.01, shard)
    expected, after = torch.empty(shard.size, dtype=dtype), master.clone()
    for part, at in row_slices(shard):
        CpuBackend().perturb(expected[part], master[part], NOISE, 0.01, at)
        CpuBackend().accumulate(after[part], update, at, dtype)
    assert same(live, expected)
    assert wrong == shard.size - int(torch.isfinite(expected).sum())
    report = backend.accumulate(moved, update, shard, dtype)
    assert same(moved, after)
    assert report.elements == shard.size
    digest = sum(CpuBackend().digest(after[part], at) for part, at in row_slices(shard))
    assert backend.digest(moved, shard) == digest % 2**64
    backend.round(live, moved)
    CpuBackend().round(expected, after)
    assert same(live, expected)


@pytest.mark.parametrize(("shape", "chunk"), [((7, 20), 48), ((3, 100), 64), ((2, 8), 16)])
def test_chunks_of_low_rank_noise(streamed, shape, chunk):
    backend = streamed(chunk)
    master = weights(shape[0] * shape[1]).reshape(shape)
    block = LowRank(77, shape, 2, row=3, column=5)
    moved = host(backend, master)
    live = torch.empty(shape, dtype=torch.bfloat16, device=backend.device)
    backend.perturb(live, moved, NOISE, -0.5, block)
    acc = reference.low_rank_sum(terms([-0.5], [NOISE.pair]), block)
    expected = torch.empty(shape, dtype=torch.bfloat16)
    CpuBackend().round(expected, master + torch.from_numpy(acc))
    assert same(live, expected)
    update = terms([0.25, -0.125], [4, 9])
    report = backend.accumulate(moved, update, block, torch.bfloat16)
    acc = reference.low_rank_sum(update, block)
    assert same(moved, torch.from_numpy(np.where(acc == 0, master.numpy(), master.numpy() + acc)))
    assert report.update_norm == pytest.approx(np.sqrt((acc.astype(np.float64) ** 2).sum()), rel=1e-12)


def test_long_runs_in_large_chunks(streamed):
    backend = streamed(4096)
    master = weights(10_000)
    live, expected = torch.empty(10_000, dtype=torch.bfloat16, device=backend.device), torch.empty(10_000).bfloat16()
    backend.perturb(live, host(backend, master), NOISE, 0.5, Slice(77, 10_000))
    CpuBackend().perturb(expected, master, NOISE, 0.5, Slice(77, 10_000))
    assert same(live, expected)
    out = torch.empty(64, device=backend.device)
    backend.fill(out, NOISE, Slice(77, 64))
    known = torch.empty(64)
    CpuBackend().fill(known, NOISE, Slice(77, 64))
    assert same(out, known)


def test_refused_tensors(streamed):
    backend = streamed(16)
    master, live = torch.ones(8), torch.zeros(8, device=backend.device)
    with pytest.raises(KernelError, match="same number"):
        backend.round(live[:7], master)
    with pytest.raises(KernelError, match="must be on cpu"):
        backend.digest(torch.empty(4, device="meta"), Slice(1, 4))
    with pytest.raises(KernelError, match="must have the 9 values of its slice"):
        backend.perturb(live, master, NOISE, 1.0, Slice(77, 9))
    with pytest.raises(KernelError, match="multiple of 16"):
        streamed(17)
    assert backend.digest(torch.empty(0), Slice(1, 0)) == 0


def elements(at):
    """The elements of a slice's values."""
    return [at.element + i // at.columns * at.stride + i % at.columns for i in range(at.size)]


def test_the_pieces_of_a_slice():
    rows = [Slice(1, 60, element=8, columns=6, stride=9), Slice(1, 90, element=1, columns=45, stride=50)]
    for at in (Slice(1, 100, element=3), Slice(1, 0), *rows):
        for limit in (16, 32, 1000):
            taken = []
            for first, piece in pieces(at, limit):
                assert piece.size <= limit
                taken += [(first + i, element) for i, element in enumerate(elements(piece))]
            assert taken == list(enumerate(elements(at)))


def test_the_pieces_of_a_matrix():
    for shape in ((7, 20), (3, 100), (1, 16)):
        for limit in (16, 48, 1000):
            rebuilt = np.zeros(shape, int)
            for first, piece in pieces(LowRank(1, shape, 2, row=3, column=5), limit):
                assert (piece.rank, piece.size <= limit) == (2, True)
                row, column = piece.row - 3, piece.column - 5
                assert first == row * shape[1] + column
                rebuilt[row : row + piece.shape[0], column : column + piece.shape[1]] += 1
            assert (rebuilt == 1).all()
