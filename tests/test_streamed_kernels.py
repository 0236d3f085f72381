"""Masters in host memory, streamed through the device: the bits of the Rust kernels, whatever the chunks."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from es_llm.errors import KernelError, NoiseAddressError
from es_llm.noise import reference
from es_llm.noise.cpu import CpuBackend
from es_llm.noise.shard import Shard
from es_llm.noise.streamed import StreamedBackend
from tests import interpreted
from tests.interpreted import like_the_device  # noqa: F401 - a fixture
from tests.test_cuda_kernels import ADDRESS, DTYPES, UPDATE, quick, same, weights
from tests.vectors import AtOnce

pytestmark = pytest.mark.usefixtures("like_the_device")


@pytest.fixture(params=["interpreter", pytest.param("gpu", marks=pytest.mark.gpu)])
def streamed(request):
    """Makes the backend with chunks of a size."""
    if request.param == "interpreter":
        return lambda chunk: AtOnce(StreamedBackend(torch.device("cpu"), kernels=interpreted.KERNELS, chunk=chunk))
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    return lambda chunk: AtOnce(StreamedBackend(torch.device("cuda"), chunk=chunk))


def host(backend, tensor):
    """A copy in host memory, pinned where there is a device to pin for."""
    copy = tensor.clone()
    return copy.pin_memory() if backend.device.type == "cuda" else copy


def cut(shard):
    return [
        (slice(row * shard.columns, (row + 1) * shard.columns), shard.element + row * shard.stride)
        for row in range(shard.rows)
    ]


@quick
@given(
    shard=st.builds(
        lambda rows, columns, gap, element: Shard(rows * columns, element, columns, columns + gap),
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
    place = {"element": shard.element, "columns": shard.columns, "stride": shard.stride}
    master = weights(shard.size)
    update = {"pairs": [3, 1], "coefficients": np.float32([1e-3, -2e-3]), **UPDATE}
    live = torch.empty(shard.size, dtype=dtype, device=backend.device)
    moved = host(backend, master)
    wrong = backend.perturb_into(live, moved, scale=0.01, **ADDRESS, **place)
    expected, after = torch.empty(shard.size, dtype=dtype), master.clone()
    for part, element in cut(shard):
        CpuBackend().perturb_into(expected[part], master[part], scale=0.01, **ADDRESS, element=element)
        CpuBackend().accumulate(after[part], live_dtype=dtype, **update, element=element)
    assert same(live, expected)
    assert wrong == shard.size - int(torch.isfinite(expected).sum())
    report = backend.accumulate(moved, live_dtype=dtype, **update, **place)
    assert same(moved, after)
    assert report.elements == shard.size
    digest = sum(CpuBackend().digest(after[part], tensor=77, element=element) for part, element in cut(shard))
    assert backend.digest(moved, tensor=77, **place) == digest % 2**64
    backend.round_into(live, moved)
    CpuBackend().round_into(expected, after)
    assert same(live, expected)


@pytest.mark.parametrize(("shape", "chunk"), [((7, 20), 48), ((3, 100), 64), ((2, 8), 16)])
def test_chunks_of_low_rank_noise(streamed, shape, chunk):
    backend = streamed(chunk)
    master = weights(shape[0] * shape[1]).reshape(shape)
    block = {"rank": 2, "row": 3, "column": 5}
    moved = host(backend, master)
    live = torch.empty(shape, dtype=torch.bfloat16, device=backend.device)
    backend.perturb_low_rank_into(live, moved, scale=-0.5, **ADDRESS, **block)
    scale = {"pairs": [ADDRESS["pair"]], "coefficients": np.float32([-0.5])}
    acc = reference.low_rank_sum(shape, **scale, **UPDATE, **block)
    expected = torch.empty(shape, dtype=torch.bfloat16)
    CpuBackend().round_into(expected, master + torch.from_numpy(acc))
    assert same(live, expected)
    members = {"pairs": [4, 9], "coefficients": np.float32([0.25, -0.125])}
    report = backend.accumulate_low_rank(moved, live_dtype="bfloat16", **members, **UPDATE, **block)
    acc = reference.low_rank_sum(shape, **members, **UPDATE, **block)
    assert same(moved, torch.from_numpy(np.where(acc == 0, master.numpy(), master.numpy() + acc)))
    assert report.update_norm == pytest.approx(np.sqrt((acc.astype(np.float64) ** 2).sum()), rel=1e-12)


def test_long_runs_in_large_chunks(streamed):
    backend = streamed(4096)
    master = weights(10_000)
    live, expected = torch.empty(10_000, dtype=torch.bfloat16, device=backend.device), torch.empty(10_000).bfloat16()
    backend.perturb_into(live, host(backend, master), scale=0.5, **ADDRESS)
    CpuBackend().perturb_into(expected, master, scale=0.5, **ADDRESS)
    assert same(live, expected)
    out = torch.empty(64, device=backend.device)
    backend.fill(out, **ADDRESS)
    known = torch.empty(64)
    CpuBackend().fill(known, **ADDRESS)
    assert same(out, known)


def test_what_is_refused(streamed):
    backend = streamed(16)
    master, live = torch.ones(8), torch.zeros(8, device=backend.device)
    with pytest.raises(KernelError, match="same number"):
        backend.round_into(live[:7], master)
    with pytest.raises(KernelError, match="must be on cpu"):
        backend.digest(torch.empty(4, device="meta"), tensor=1)
    with pytest.raises(NoiseAddressError):
        backend.perturb_into(live, master, scale=1.0, **ADDRESS, element=2**42 - 1)
    with pytest.raises(KernelError, match="multiple of 16"):
        streamed(17)
    assert backend.digest(torch.empty(0), tensor=1) == 0
