"""Slices of tensors, alone and fused as engines do: their weights are those of the whole. On every instruction set."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from es_llm import _core
from es_llm.errors import KernelError, NoiseAddressError
from es_llm.noise import reference
from es_llm.noise.address import NoiseAddress
from es_llm.noise.cpu import CpuBackend
from es_llm.noise.fused import Slice, split
from es_llm.noise.shard import shard_of

ADDRESS = {"run_seed": 5, "iteration": 6, "pair": 7}
MEMBERS = {"pairs": [7, 2, 2**32 - 1], "coefficients": np.float32([1e-2, -3e-3, 0.5]), "run_seed": 5, "iteration": 6}
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
    BACKEND.perturb_into(live, master, scale=-0.25, tensor=9, **ADDRESS)
    whole = BACKEND.accumulate(moved, live_dtype=dtype, tensor=9, **MEMBERS)
    _core.set_kernel_path(path)
    _core.set_kernel_threads(threads)
    digest, elements = 0, 0
    for start, stop in itertools.pairwise(borders):
        part = Slice(9, shape, dim, start, stop)
        values = master.narrow(dim, start, stop - start).contiguous()
        out = torch.empty(part.own_shape, dtype=dtype)
        BACKEND.perturb_into(out, values, scale=-0.25, tensor=9, **part.place, **ADDRESS)
        assert same(out, live.narrow(dim, start, stop - start))
        elements += BACKEND.accumulate(values, live_dtype=dtype, tensor=9, **part.place, **MEMBERS).moved
        assert same(values, moved.narrow(dim, start, stop - start))
        digest += BACKEND.digest(values, tensor=9, **part.place)
    assert digest % 2**64 == BACKEND.digest(moved, tensor=9)
    assert elements == whole.moved


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
    BACKEND.perturb_low_rank_into(live, master, rank=rank, scale=-0.25, tensor=9, **ADDRESS)
    BACKEND.accumulate_low_rank(moved, rank=rank, live_dtype=dtype, tensor=9, **MEMBERS)
    _core.set_kernel_path(path)
    for part in (Slice(9, shape, dim, 0, border), Slice(9, shape, dim, border)):
        values = master.narrow(dim, part.start, part.end - part.start).contiguous()
        out = torch.empty(part.own_shape, dtype=dtype)
        BACKEND.perturb_low_rank_into(out, values, rank=rank, scale=-0.25, tensor=9, **part.corner, **ADDRESS)
        assert same(out, live.narrow(dim, part.start, part.end - part.start))
        BACKEND.accumulate_low_rank(values, rank=rank, live_dtype=dtype, tensor=9, **part.corner, **MEMBERS)
        assert same(values, moved.narrow(dim, part.start, part.end - part.start))
    _core.set_kernel_path(None)


@pytest.mark.parametrize("shard", [0, 1])
@pytest.mark.parametrize("dtype", DTYPES)
def test_an_engine_s_fused_tensors(shard, dtype):
    """Heads 0-1 or 2-3 of q, one head of k and of v, in one tensor; and a half each of gate and up."""
    shapes = {3: (64, 48), 4: (32, 48), 5: (32, 48), 6: (80, 48), 7: (80, 48)}
    masters = {tensor: weights(shape) + tensor for tensor, shape in shapes.items()}
    whole = {}
    for tensor, master in masters.items():
        whole[tensor] = torch.empty(shapes[tensor], dtype=dtype)
        BACKEND.perturb_into(whole[tensor], master, scale=0.5, tensor=tensor, **ADDRESS)
    for tensors in ((3, 4, 5), (6, 7)):
        halves = [(shapes[tensor][0] // 2 * shard, shapes[tensor][0] // 2 * (shard + 1)) for tensor in tensors]
        parts = [Slice(tensor, shapes[tensor], 0, *half) for tensor, half in zip(tensors, halves, strict=True)]
        joined = torch.cat([masters[part.tensor][part.start : part.end] for part in parts])
        fused = torch.nn.Parameter(torch.zeros(joined.shape, dtype=dtype))
        for part, live, master in zip(parts, split(fused, parts), split(joined, parts), strict=True):
            BACKEND.perturb_into(live, master, scale=0.5, tensor=part.tensor, **part.place, **ADDRESS)
        assert same(fused.data, torch.cat([whole[part.tensor][part.start : part.end] for part in parts]))


def test_a_slice_beyond_2_to_the_32_elements():
    part = Slice(9, (2**21, 2**20), dim=1, start=2**20 - 5)
    assert part.place == {"element": 2**20 - 5, "columns": 5, "stride": 2**20}
    last = Slice(9, (2**21, 2**20), start=2**21 - 1)
    master = weights((1, 2**20))
    live, tail = torch.empty_like(master), torch.empty(1, 5)
    BACKEND.perturb_into(live, master, scale=1.0, tensor=9, **last.place, **ADDRESS)
    assert last.place["element"] > 2**40
    corner = {"element": 2**41 - 5, "columns": 5, "stride": 2**20}
    BACKEND.perturb_into(tail, master[:, -5:].contiguous(), scale=1.0, tensor=9, **corner, **ADDRESS)
    assert same(tail, live[:, -5:])


def test_refused_slices():
    for error, message, make in (
        (KernelError, "`dim`", lambda: Slice(1, (4, 4), 2)),
        (KernelError, "start <= stop", lambda: Slice(1, (4, 4), 0, 3, 2)),
        (KernelError, "start <= stop", lambda: Slice(1, (4, 4), 0, 0, 5)),
        (KernelError, "matrices", lambda: Slice(1, (4, 4, 4)).corner),
        (NoiseAddressError, "2\\*\\*42", lambda: Slice(1, (2**22, 2**21))),
        (NoiseAddressError, "`tensor`", lambda: Slice(2**20, (4, 4))),
        (TypeError, "integer", lambda: Slice(1, (4, 4), 0, 1.5)),
    ):
        with pytest.raises(error, match=message):
            make()


def test_refused_fused_tensors():
    q, k = Slice(3, (8, 4)), Slice(4, (4, 4))
    assert [view.shape[0] for view in split(torch.empty(12, 4), [q, k])] == [8, 4]
    tied = Slice(3, (8, 4), 0, 6, 8)
    for message, fused, parts in (
        ("contiguous", torch.empty(4, 12).T, [q, k]),
        ("can't hold", torch.empty(13, 4), [q, k]),
        ("can't hold", torch.empty(12, 5), [q, k]),
        ("overlap", torch.empty(10, 4), [q, tied]),
        ("can't hold", torch.tensor(1.0), []),
    ):
        with pytest.raises(KernelError, match=message):
            split(fused, parts)


@pytest.mark.parametrize("value", [1.5, "1", None])
def test_words_that_are_no_integers_are_refused_by_name(value):
    with pytest.raises(NoiseAddressError, match=f"`pair` must be an integer, got {value!r}"):
        NoiseAddress(1, 2, value, 3)
    with pytest.raises(NoiseAddressError, match="`element` must be an integer"):
        shard_of(4, element=value, columns=None, stride=None)


def test_numpy_integers_are_words_like_any_other():
    master = np.arange(8, dtype=np.float32)
    assert reference.digest(master, tensor=np.int32(5)) == reference.digest(master, tensor=5)
    address = NoiseAddress(1, 0, 0, np.int32(1), np.int32(2**31 - 2))
    assert np.array_equal(reference.noise(address, 8), reference.noise(NoiseAddress(1, 0, 0, 1, 2**31 - 2), 8))


def test_a_live_matrix_of_another_shape_is_refused():
    live, master = torch.zeros(4, 3), torch.zeros(3, 4)
    words = {"rank": 1, "scale": 1.0, "run_seed": 1, "iteration": 0, "pair": 0, "tensor": 0}
    with pytest.raises(KernelError, match=r"one shape for low-rank noise, got \(4, 3\) and \(3, 4\)"):
        CpuBackend().perturb_low_rank_into(live, master, **words)
