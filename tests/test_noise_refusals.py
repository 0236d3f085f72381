"""What the kernels refuse: the same on every backend, to the letter, with nothing written."""

import numpy as np
import pytest
import torch

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
WORDS = {"run_seed": 1, "iteration": 2, "tensor": 4}
ONES = np.ones(2, np.float32)
CALLS = {
    "fill": {"pair": 3},
    "perturb_into": {"pair": 3, "scale": 1.0},
    "perturb_low_rank_into": {"pair": 3, "scale": 1.0, "rank": 1},
    "round_into": {},
    "accumulate": {"pairs": [1, 2], "coefficients": ONES, "live_dtype": "float32"},
    "accumulate_low_rank": {"pairs": [1, 2], "coefficients": ONES, "live_dtype": "float32", "rank": 1},
    "digest": {},
}
PERTURB, UPDATE = ("perturb_into", "perturb_low_rank_into"), ("accumulate", "accumulate_low_rank")
LOW_RANK = ("perturb_low_rank_into", "accumulate_low_rank")
ROWS = ("perturb_into", "accumulate", "digest")

REFUSED = [
    (PERTURB, {"scale": 1e39}, KernelError, "`scale` must be a number that is finite in float32, got 1e+39"),
    (PERTURB, {"scale": 10**400}, KernelError, "`scale`"),
    (PERTURB, {"scale": float("nan")}, KernelError, "got nan"),
    (PERTURB, {"scale": "1"}, KernelError, "got '1'"),
    (PERTURB, {"scale": None}, KernelError, "got None"),
    (PERTURB, {"pair": 2**32}, NoiseAddressError, "`pair` must be in [0, 4294967296), got 4294967296"),
    (PERTURB, {"run_seed": "1"}, NoiseAddressError, "`run_seed` must be an integer, got '1'"),
    (UPDATE, {"pairs": None}, KernelError, "`pairs` must be a sequence of integers, got None"),
    (UPDATE, {"pairs": "12"}, KernelError, "`pairs` must be a sequence of integers, got '12'"),
    (UPDATE, {"pairs": np.zeros((2, 1), np.uint32)}, KernelError, "`pairs` must be a sequence"),
    (UPDATE, {"pairs": [1]}, KernelError, "must have the same length, got 1 and 2"),
    (UPDATE, {"pairs": [1, "a"]}, NoiseAddressError, "`pairs` must be an integer, got 'a'"),
    (UPDATE, {"pairs": [1, -1]}, NoiseAddressError, "`pairs` must be in [0, 4294967296), got -1"),
    (UPDATE, {"coefficients": np.ones(4, np.float32)[::2]}, KernelError, "`coefficients` must be contiguous"),
    (UPDATE, {"coefficients": np.ones(2)}, KernelError, "numpy array of float32, got one of float64"),
    (UPDATE, {"coefficients": [1.0, 2.0]}, KernelError, "numpy array of float32, got [1.0, 2.0]"),
    (UPDATE, {"coefficients": ONES.reshape(1, 2)}, KernelError, "must have one dimension, got shape (1, 2)"),
    (UPDATE, {"live_dtype": "int8"}, KernelError, "live weights must be float32, bfloat16 or float16, got int8"),
    (LOW_RANK, {"rank": 0}, KernelError, "`rank` must be in [1, 1024], got 0"),
    (LOW_RANK, {"rank": 1.5}, KernelError, "`rank` must be in [1, 1024], got 1.5"),
    (LOW_RANK, {"row": 2**42}, NoiseAddressError, "2**42"),
    (LOW_RANK, {"column": "1"}, NoiseAddressError, "`column` must be an integer, got '1'"),
    (LOW_RANK, {"master": torch.zeros(8)}, KernelError, "must be a matrix for low-rank noise, got shape (8,)"),
    (("perturb_low_rank_into",), {"live": torch.zeros(2, 4)}, KernelError, "one shape for low-rank noise"),
    (ROWS, {"columns": 2}, KernelError, "`columns` and `stride` go together"),
    (ROWS, {"columns": 3, "stride": 9}, KernelError, "`columns` must be >= 1 and divide"),
    (ROWS, {"columns": 4, "stride": 3}, KernelError, "`stride` must be >= `columns`"),
    (ROWS, {"element": -1}, NoiseAddressError, "`element` must be in"),
    (("fill", *ROWS), {"element": 2**42 - 1}, NoiseAddressError, "2**42"),
    (("fill",), {"kind": "sparse"}, KernelError, "`kind` must be one of dense, low_rank_a, low_rank_b, got 'sparse'"),
    (("round_into", *PERTURB), {"live": torch.zeros(7)}, KernelError, "same number of elements, got 7 and 8"),
    (("round_into", *PERTURB), {"live": torch.zeros(4, 2).int()}, KernelError, "live weights must be"),
    (("round_into", *PERTURB), {"live": "master"}, KernelError, "must not share memory"),
    (CALLS, {"master": torch.ones(4, 2).double()}, KernelError, "must be float32, got torch.float64"),
    (CALLS, {"master": torch.ones(2, 4).T}, KernelError, "must be contiguous"),
    (CALLS, {"master": torch.ones(4, 2, device="meta")}, KernelError, "must be on cpu, got meta"),
    (CALLS, {"master": torch._neg_view(torch.ones(4, 2))}, KernelError, "must hold its own values"),
    (CALLS, {"master": None}, KernelError, "must be a torch tensor, got NoneType"),
]


def refusal(backend, name, changes):
    """The error of a call, and its words."""
    options = {**CALLS[name], **changes}
    master = options.pop("master", torch.ones(4, 2))
    live = options.pop("live", torch.zeros(4, 2))
    before = [tensor.clone() for tensor in (live, master) if isinstance(tensor, torch.Tensor)]
    live = master if isinstance(live, str) else live
    words = {} if name == "round_into" else {"tensor": 4} if name == "digest" else WORDS
    tensors = (live, master) if name in ("round_into", *PERTURB) else (master,)
    with pytest.raises((KernelError, NoiseAddressError)) as caught:
        getattr(backend, name)(*tensors, **{**words, **options})
    for tensor, old in zip((live, master), before, strict=False):
        assert tensor.device.type == "meta" or torch.equal(tensor, old)
    return caught.type, str(caught.value)


@pytest.mark.parametrize(
    ("name", "changes", "error", "message"),
    [(name, *refused) for names, *refused in REFUSED for name in names],
)
def test_every_backend_refuses_alike(name, changes, error, message):
    said = {refusal(backend, name, changes) for backend in BACKENDS.values()}
    assert len(said) == 1, said
    ((kind, words),) = said
    assert kind is error
    assert message in words


@pytest.mark.parametrize("backend", BACKENDS.values(), ids=BACKENDS)
def test_what_any_backend_takes(backend):
    """Words and pairs are any integers, and a scale is any real number."""
    for pairs in ((1, 2), range(1, 3), np.uint32([1, 2]), np.int64([1, 2]), np.uint32([1, 0, 2])[::2]):
        master = torch.ones(4, 2)
        backend.accumulate(master, live_dtype="float32", pairs=pairs, coefficients=ONES, **WORDS)
        expected = torch.ones(4, 2)
        CpuBackend().accumulate(expected, live_dtype="float32", pairs=[1, 2], coefficients=ONES, **WORDS)
        assert torch.equal(master, expected)
    for scale in (1, np.float32(1), np.float64(1), True):
        live = torch.empty(4, 2)
        backend.perturb_into(live, torch.ones(4, 2), pair=np.uint8(3), scale=scale, **WORDS)
        expected = torch.empty(4, 2)
        CpuBackend().perturb_into(expected, torch.ones(4, 2), pair=3, scale=1.0, **WORDS)
        assert torch.allclose(live, expected, rtol=1e-6)
