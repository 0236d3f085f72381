"""Slices of tensors, single or fused as in engines, have the weights of the whole tensors, on every instruction set."""

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from es_llm import _core
from es_llm._core import LowRank, Noise, Slice, Terms
from es_llm.noise.cpu import CpuBackend

NOISE = Noise(5, 6, 7)
TERMS = Terms(5, 6, np.float32([1e-2, -3e-3, 0.5]), [7, 2, 2**32 - 1])
DTYPES = [torch.float32, torch.bfloat16, torch.float16]
BACKEND = CpuBackend()


@pytest.fixture(autouse=True)
def as_it_was():
    yield
    _core.set_kernel_path(None)
    _core.set_kernel_threads(0)


def weights(shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(3)) * 0.02


def same(left, right):
    kind = torch.int32 if left.dtype is torch.float32 else torch.int16
    return torch.equal(left.contiguous().view(kind), right.contiguous().view(kind))


def whole(tensor, shape):
    return Slice(tensor, math.prod(shape))


def slice_along(tensor, shape, dim, start, stop):
    """Indices [start, stop) of one dimension of a whole tensor."""
    inner = math.prod(shape[dim + 1 :])
    columns, stride = (stop - start) * inner, shape[dim] * inner
    size = math.prod(shape[:dim]) * columns
    return Slice(tensor, size, element=start * inner, **({"columns": columns, "stride": stride} if columns else {}))


@st.composite
def cut_tensors(draw):
    """(shape, dim, borders): a tensor cut into slices along one dimension."""
    shape = tuple(draw(st.lists(st.integers(1, 40), min_size=1, max_size=3)))
    dim = draw(st.integers(0, len(shape) - 1))
    inner = draw(st.lists(st.integers(0, shape[dim]), max_size=3))
    return shape, dim, sorted([0, *inner, shape[dim]])


@given(
    cut=cut_tensors(),
    dtype=st.sampled_from(DTYPES),
    path=st.sampled_from(_core.kernel_paths()),
    threads=st.integers(1, 3),
)
@settings(max_examples=150, deadline=None)
def test_slices_make_the_whole(cut, dtype, path, threads):
    _core.set_kernel_path(None)
    shape, dim, borders = cut
    master = weights(shape)
    live, moved = torch.empty(shape, dtype=dtype), master.clone()
    BACKEND.perturb(live, master, NOISE, -0.25, whole(9, shape))
    report = BACKEND.accumulate(moved, TERMS, whole(9, shape), dtype)
    _core.set_kernel_path(path)
    _core.set_kernel_threads(threads)
    digest, elements = 0, 0
    for start, stop in itertools.pairwise(borders):
        part = slice_along(9, shape, dim, start, stop)
        values = master.narrow(dim, start, stop - start).contiguous()
        out = torch.empty(values.shape, dtype=dtype)
        BACKEND.perturb(out, values, NOISE, -0.25, part)
        assert same(out, live.narrow(dim, start, stop - start))
        elements += BACKEND.accumulate(values, TERMS, part, dtype).moved
        assert same(values, moved.narrow(dim, start, stop - start))
        digest += BACKEND.digest(values, part)
    assert digest % 2**64 == BACKEND.digest(moved, whole(9, shape))
    assert elements == report.moved


@given(
    shape=st.tuples(st.integers(1, 60), st.integers(1, 60)),
    dim=st.integers(0, 1),
    border=st.integers(0, 60),
    rank=st.integers(1, 5),
    dtype=st.sampled_from(DTYPES),
    path=st.sampled_from(_core.kernel_paths()),
)
@settings(max_examples=100, deadline=None)
def test_blocks_make_the_matrix(shape, dim, border, rank, dtype, path):
    border = min(border, shape[dim])
    master = weights(shape)
    live, moved = torch.empty(shape, dtype=dtype), master.clone()
    BACKEND.perturb(live, master, NOISE, -0.25, LowRank(9, shape, rank))
    BACKEND.accumulate(moved, TERMS, LowRank(9, shape, rank), dtype)
    _core.set_kernel_path(path)
    for start, stop in ((0, border), (border, shape[dim])):
        values = master.narrow(dim, start, stop - start).contiguous()
        part = LowRank(9, tuple(values.shape), rank, **{("row", "column")[dim]: start})
        out = torch.empty(values.shape, dtype=dtype)
        BACKEND.perturb(out, values, NOISE, -0.25, part)
        assert same(out, live.narrow(dim, start, stop - start))
        BACKEND.accumulate(values, TERMS, part, dtype)
        assert same(values, moved.narrow(dim, start, stop - start))
    _core.set_kernel_path(None)


@pytest.mark.parametrize("shard", [0, 1])
@pytest.mark.parametrize("dtype", DTYPES)
def test_fused_tensors_of_an_engine(shard, dtype):
    """Heads 0-1 or 2-3 of q, one head of k and of v, in one tensor; and a half each of gate and up."""
    shapes = {3: (64, 48), 4: (32, 48), 5: (32, 48), 6: (80, 48), 7: (80, 48)}
    masters = {tensor: weights(shape) + tensor for tensor, shape in shapes.items()}
    perturbed = {}
    for tensor, master in masters.items():
        perturbed[tensor] = torch.empty(shapes[tensor], dtype=dtype)
        BACKEND.perturb(perturbed[tensor], master, NOISE, 0.5, whole(tensor, shapes[tensor]))
    for tensors in ((3, 4, 5), (6, 7)):
        rows = {t: slice(shapes[t][0] // 2 * shard, shapes[t][0] // 2 * (shard + 1)) for t in tensors}
        joined = torch.cat([masters[tensor][rows[tensor]] for tensor in tensors])
        fused = torch.nn.Parameter(torch.zeros(joined.shape, dtype=dtype))
        sizes = [shapes[tensor][0] // 2 for tensor in tensors]
        for tensor, live, master in zip(tensors, fused.detach().split(sizes), joined.split(sizes), strict=True):
            part = slice_along(tensor, shapes[tensor], 0, rows[tensor].start, rows[tensor].stop)
            BACKEND.perturb(live, master, NOISE, 0.5, part)
        assert same(fused.data, torch.cat([perturbed[tensor][rows[tensor]] for tensor in tensors]))


def test_a_slice_beyond_2_to_the_32_elements():
    last = Slice(9, 2**20, element=2**41 - 2**20)
    master = weights((1, 2**20))
    live, tail = torch.empty_like(master), torch.empty(1, 5)
    BACKEND.perturb(live, master, NOISE, 1.0, last)
    corner = Slice(9, 5, element=2**41 - 5, columns=5, stride=2**20)
    BACKEND.perturb(tail, master[:, -5:].contiguous(), NOISE, 1.0, corner)
    assert same(tail, live[:, -5:])
