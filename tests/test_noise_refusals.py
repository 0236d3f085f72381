"""Value objects and kernels refuse bad arguments. All backends refuse bad tensors with the same message, and write
nothing."""

import numpy as np
import pytest
import torch

from es_llm._core import LowRank, Noise, Slice, Terms
from es_llm.errors import KernelError, NoiseAddressError
from es_llm.noise.cpu import CpuBackend
from es_llm.noise.streamed import StreamedBackend
from tests import interpreted
from tests.vectors import AtOnce

BACKENDS = {
    "cpu": AtOnce(CpuBackend()),
    "cuda": interpreted.backend(),
    "streamed": AtOnce(StreamedBackend(torch.device("cpu"), kernels=interpreted.KERNELS, chunk=16)),
}
ONES = np.ones(2, np.float32)
NOISE, WHOLE, MATRIX = Noise(1, 2, 3), Slice(4, 8), LowRank(4, (4, 2), 1)
TERMS = Terms(1, 2, ONES, [1, 2])


@pytest.mark.parametrize("value", [1.5, "1", None, -1, 2**64])
@pytest.mark.parametrize(
    ("word", "make"),
    [
        ("run_seed", lambda value: Noise(value, 0, 0)),
        ("iteration", lambda value: Noise(0, value, 0)),
        ("pair", lambda value: Noise(0, 0, value)),
        ("tensor", lambda value: Slice(value, 1)),
        ("size", lambda value: Slice(0, value)),
        ("element", lambda value: Slice(0, 1, element=value)),
        ("stride", lambda value: Slice(0, 1, columns=1, stride=value)),
        ("tensor", lambda value: LowRank(value, (1, 1), 1)),
        ("row", lambda value: LowRank(0, (1, 1), 1, row=value)),
        ("column", lambda value: LowRank(0, (1, 1), 1, column=value)),
        ("run_seed", lambda value: Terms(value, 0, ONES)),
        ("iteration", lambda value: Terms(0, value, ONES)),
        ("pairs", lambda value: Terms(0, 0, ONES, [0, value])),
    ],
)
def test_words_are_checked_by_name(word, make, value):
    if value is None and word in ("element", "stride", "row", "column"):
        return  # the default, or `columns` without `stride`
    with pytest.raises(NoiseAddressError, match=rf"`{word}` must be an integer in \[0, 2\*\*(32|64)\), got {value}"):
        make(value)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: Slice(2**20, 1), NoiseAddressError, "`tensor` must be < 1048576 (2^20), got 1048576"),
        (lambda: Slice(0, 2, element=2**42 - 1), NoiseAddressError, "elements must end at or before"),
        (lambda: Slice(0, 8, columns=2, stride=2**41), NoiseAddressError, "elements must end at or before"),
        (lambda: Slice(0, 8, columns=2), KernelError, "`columns` and `stride` must be given together"),
        (
            lambda: Slice(0, 8, columns=3, stride=9),
            KernelError,
            "`columns` divide the number of values, got 9, 3 and 8",
        ),
        (
            lambda: Slice(0, 8, columns=0, stride=9),
            KernelError,
            "`columns` divide the number of values, got 9, 0 and 8",
        ),
        (lambda: Slice(0, 8, columns=4, stride=3), KernelError, "`stride` must be at least `columns`"),
        (lambda: LowRank(0, (8,), 1), KernelError, "low-rank noise is for matrices, got shape (8,)"),
        (lambda: LowRank(0, (2, 4), 0), KernelError, "`rank` must be in [1, 1024], got 0"),
        (lambda: LowRank(0, (2, 4), 1025), KernelError, "`rank` must be in [1, 1024], got 1025"),
        (lambda: LowRank(0, (2, 4), 1.5), KernelError, "`rank` must be in [1, 1024], got 1.5"),
        (lambda: LowRank(0, (8, 2), 1, row=2**42 - 7), NoiseAddressError, "(2^42)"),
        (lambda: LowRank(2**20, (8, 2), 1), NoiseAddressError, "`tensor`"),
        (lambda: Terms(0, 0, ONES, 3), KernelError, "`pairs` must be a sequence of integers, got 3"),
        (lambda: Terms(0, 0, ONES, [1]), KernelError, "must have the same length, got 1 and 2"),
        (lambda: Terms(0, 0, ONES, [1, 2**32]), NoiseAddressError, "`pairs`"),
        (lambda: Terms(0, 0, np.ones(4, np.float32)[::2]), KernelError, "`coefficients` must be contiguous"),
        (lambda: Terms(0, 0, np.ones(2)), KernelError, "`coefficients` must be an array of float32, got float64"),
        (lambda: Terms(0, 0, [1.0, 2.0]), KernelError, "`coefficients` must be a numpy array of float32"),
        (
            lambda: Terms(0, 0, ONES.reshape(1, 2)),
            KernelError,
            "must have one dimension, got shape [1, 2]",
        ),
    ],
)
def test_values_out_of_range_are_refused(make, error, message):
    with pytest.raises(error) as caught:
        make()
    assert message in str(caught.value)


def test_terms_are_copies_and_pairs_have_a_default():
    coefficients = np.float32([1, 2, 3])
    terms = Terms(5, 6, coefficients)
    coefficients[:] = 0
    assert (terms.run_seed, terms.iteration, len(terms)) == (5, 6, 3)
    assert terms.pairs.tolist() == [0, 1, 2]
    assert terms.coefficients.tolist() == [1, 2, 3]
    for pairs in (range(1, 4), np.uint32([1, 2, 3]), np.int64([1, 2, 3]), np.uint32([1, 0, 2, 0, 3])[::2]):
        assert Terms(5, np.uint8(6), np.float32([1, 2, 3]), pairs).pairs.tolist() == [1, 2, 3]


def test_values_are_equal_by_content():
    assert Noise(1, 2, 3) == Noise(np.uint64(1), np.int32(2), 3) != Noise(1, 2, 4)
    assert len({Noise(1, 2, 3), Noise(1, 2, 3), Noise(2, 2, 3)}) == 2
    assert LowRank(4, (4, 2), 1) == MATRIX != LowRank(4, (4, 2), 2)
    assert Slice(4, 8, columns=2, stride=2) == WHOLE == Slice(4, 8, columns=8, stride=100)  # one row of elements
    assert (WHOLE.columns, WHOLE.stride, WHOLE.rows, WHOLE.end) == (8, 8, 1, 8)
    rows = Slice(4, 6, element=3, columns=2, stride=5)
    assert (rows.rows, rows.end) == (3, 15)
    assert repr(rows) == "Slice(tensor=4, size=6, element=3, columns=2, stride=5)"
    assert repr(MATRIX) == "LowRank(tensor=4, shape=(4, 2), rank=1, row=0, column=0)"
    assert (repr(NOISE), repr(TERMS)) == (
        "Noise(run_seed=1, iteration=2, pair=3)",
        "Terms(run_seed=1, iteration=2, pairs=2)",
    )


CALLS = {
    "fill": lambda backend, _live, master, options: backend.fill(master, NOISE, WHOLE, **options),
    "perturb": lambda backend, live, master, options: backend.perturb(
        live, master, NOISE, **{"scale": 1.0, "at": WHOLE, **options}
    ),
    "round": lambda backend, live, master, _options: backend.round(live, master),
    "accumulate": lambda backend, _live, master, options: backend.accumulate(
        master, TERMS, **{"at": WHOLE, "live_dtype": torch.float32, **options}
    ),
    "digest": lambda backend, _live, master, _options: backend.digest(master, WHOLE),
}
PERTURB, BOTH = ("perturb",), ("perturb", "accumulate")

REFUSED = [
    (PERTURB, {"scale": 1e39}, "`scale` must be a number that is finite in float32, got 1e+39"),
    (PERTURB, {"scale": 10**400}, "`scale`"),
    (PERTURB, {"scale": float("nan")}, "got nan"),
    (PERTURB, {"scale": "1"}, "got '1'"),
    (PERTURB, {"scale": None}, "got None"),
    (("accumulate",), {"live_dtype": "int8"}, "live weights must be float32, bfloat16, float16, got int8"),
    (("fill",), {"kind": "sparse"}, "`kind` must be one of dense, low_rank_a, low_rank_b, got 'sparse'"),
    (BOTH, {"at": Slice(4, 7)}, "must have the 7 values of its slice, got 8"),
    (BOTH, {"at": LowRank(4, (2, 4), 1)}, "must have the shape (2, 4) of its slice, got (4, 2)"),
    (("round", *PERTURB), {"live": torch.zeros(4, 2).int()}, "live weights must be"),
    (("round",), {"live": torch.zeros(7)}, "same number of elements, got 7 and 8"),
    (PERTURB, {"live": torch.zeros(7)}, "`live` must have the 8 values of its slice, got 7"),
    (PERTURB, {"live": torch.zeros(2, 4), "at": MATRIX}, "`live` must have the shape (4, 2)"),
    (("round", *PERTURB), {"live": "master"}, "must not share memory"),
    (CALLS, {"master": torch.ones(4, 2).double()}, "must be float32, got torch.float64"),
    (CALLS, {"master": torch.ones(2, 4).T}, "must be contiguous"),
    (CALLS, {"master": torch.ones(4, 2, device="meta")}, "must be on cpu, got meta"),
    (CALLS, {"master": torch._neg_view(torch.ones(4, 2))}, "must hold its own values"),
    (CALLS, {"master": None}, "must be a torch tensor, got NoneType"),
    (("fill", "accumulate", "digest"), {"master": torch.ones(9)}, "must have the 8 values of its slice, got 9"),
]


def refusal(backend, name, changes):
    """The message of a call's KernelError."""
    options = dict(changes)
    master = options.pop("master", torch.ones(4, 2))
    live = options.pop("live", torch.zeros(4, 2))
    before = [tensor.clone() for tensor in (live, master) if isinstance(tensor, torch.Tensor)]
    live = master if isinstance(live, str) else live
    with pytest.raises(KernelError) as caught:
        CALLS[name](backend, live, master, options)
    for tensor, old in zip((live, master), before, strict=False):
        assert tensor.device.type == "meta" or torch.equal(tensor, old)
    return str(caught.value)


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [(name, *refused) for names, *refused in REFUSED for name in names],
)
def test_every_backend_refuses_with_the_same_message(name, changes, message):
    (found,) = {refusal(backend, name, changes) for backend in BACKENDS.values()}
    assert message in found


@pytest.mark.parametrize("backend", BACKENDS.values(), ids=BACKENDS)
def test_a_scale_is_any_real_number(backend):
    for scale in (1, np.float32(1), np.float64(1), True):
        live, expected = torch.empty(4, 2), torch.empty(4, 2)
        backend.perturb(live, torch.ones(4, 2), NOISE, scale, WHOLE)
        CpuBackend().perturb(expected, torch.ones(4, 2), NOISE, 1.0, WHOLE)
        assert torch.allclose(live, expected, rtol=1e-6)
