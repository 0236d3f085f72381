"""The numpy reference is checked against exact arithmetic, and the Rust kernels against the reference at random
addresses."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from es_llm import _core
from es_llm._core import Noise, Slice, Terms
from es_llm.errors import NoiseAddressError
from es_llm.noise import reference

NOISES = st.builds(Noise, st.integers(0, 2**64 - 1), st.integers(0, 2**32 - 1), st.integers(0, 2**32 - 1))
TENSORS = st.integers(0, _core.MAX_TENSORS - 1)
ELEMENTS = st.one_of(st.integers(0, 3000), st.integers(0, _core.MAX_ELEMENTS - 4000))
FLOATS = st.floats(width=32, allow_nan=False, allow_infinity=False)
MODERATE = st.floats(-(2.0**60), 2.0**60, width=32)


def bits(values):
    return (values.view(np.uint32) if values.dtype == np.float32 else values).tolist()


@given(MODERATE, MODERATE, MODERATE)
@settings(max_examples=500)
def test_fma_rounds_the_exact_value_once(a, b, c):
    exact = Fraction(a) * Fraction(b) + Fraction(c)
    got = reference.fma(np.float32(a), np.float32(b), np.float32(c))[()]
    assert np.isfinite(got)
    distance = abs(Fraction(float(got)) - exact)
    for other in (np.nextafter(got, np.float32(np.inf)), np.nextafter(got, np.float32(-np.inf))):
        away = abs(Fraction(float(other)) - exact)
        assert distance < away or (distance == away and int(got.view(np.uint32)) % 2 == 0)


def test_fma_sees_what_two_roundings_miss():
    # 1 + 2^-24 is a tie for float32. The last bit of the product, 2^-60, decides the rounding.
    a, b, c = np.float32(2.0**-30), np.float32(2.0**-30), np.float32(1 + 2.0**-23)
    tie = np.float32(2.0**-24)
    assert reference.fma(a, b, c) == c
    assert reference.fma(np.float32(1 + 2.0**-12), np.float32(2.0**-24 * (1 - 2.0**-12)), np.float32(1)) == 1
    assert reference.fma(np.float32(1 + 2.0**-12), np.float32(2.0**-24), np.float32(1)) == np.float32(1) + 2 * tie


@given(NOISES, TENSORS, ELEMENTS, st.integers(0, 600))
@settings(max_examples=60, deadline=None)
def test_rust_fills_as_the_reference(noise, tensor, element, count):
    out, at = np.empty(count, np.float32), Slice(tensor, count, element=element)
    _core.fill(out, noise, at)
    assert bits(out) == bits(reference.values(noise, at))


@given(
    NOISES,
    TENSORS,
    ELEMENTS,
    st.lists(FLOATS, min_size=1, max_size=40),
    st.floats(-1, 1, width=32),
    st.sampled_from(["float32", "bfloat16", "float16"]),
)
@settings(max_examples=100, deadline=None)
def test_rust_perturbs_as_the_reference(noise, tensor, element, values, scale, dtype):
    master, at = np.array(values, np.float32), Slice(tensor, len(values), element=element)
    live = np.empty(len(master), np.float32 if dtype == "float32" else np.uint16)
    _core.perturb(live, master, noise, scale, at, dtype=dtype)
    assert bits(live) == bits(reference.perturbed(master, noise, scale, at, dtype))


@given(
    NOISES,
    TENSORS,
    ELEMENTS,
    st.lists(FLOATS, min_size=1, max_size=40),
    st.lists(st.tuples(st.integers(0, 2**32 - 1), st.floats(-1, 1, width=32)), max_size=4),
)
@settings(max_examples=60, deadline=None)
def test_rust_accumulates_and_digests_as_the_reference(noise, tensor, element, values, terms):
    master, at = np.array(values, np.float32), Slice(tensor, len(values), element=element)
    coefficients = np.array([coefficient for _, coefficient in terms], np.float32)
    update = Terms(noise.run_seed, noise.iteration, coefficients, [pair for pair, _ in terms])
    expected = reference.accumulated(master, update, at)
    _core.accumulate(master, update, at, dtype="float32")
    assert bits(master) == bits(expected)
    assert _core.digest(master, at) == reference.digest(expected, at)


def test_the_transform_is_accurate():
    words = np.random.default_rng(0).integers(0, 2**32, (200_000, 4), dtype=np.uint32)
    w0, w1 = words[:, 0], words[:, 1]
    u = ((w0 & 0x7FFFFFFF) | 1).astype(np.float32).astype(np.float64) / 2.0**31
    r, angle = np.sqrt(-2 * np.log(u)), np.pi / 2 * w1.view(np.int32) / 2.0**31
    cosine = np.where(w0 >> 31 == 1, -1, 1) * np.cos(angle)
    got = reference.normals(words)
    for found, exact in ((got[:, 0], r * np.sin(angle)), (got[:, 1], r * cosine)):
        assert (np.abs(found - exact) <= 3e-7 * r).all()


def test_the_logarithm_is_never_negative():
    words = np.concatenate(
        [np.arange(2**20, dtype=np.uint32), np.uint32(2**31 - 1) - np.arange(2**20, dtype=np.uint32)]
    )
    s = reference.minus_two_ln(words)
    assert (s >= 0).all()
    assert s.max() < 6.56**2


@pytest.mark.parametrize(
    ("word", "value"),
    [("run_seed", 2**64), ("iteration", 2**32), ("pair", -1), ("tensor", 2**20), ("element", 2**42)],
)
def test_addresses_out_of_range(word, value):
    words = {"run_seed": 0, "iteration": 0, "pair": 0, word: value}
    where = {"tensor": words.pop("tensor", 0), "element": words.pop("element", 0)}
    with pytest.raises(NoiseAddressError, match=word):
        (Noise(**words), Slice(size=3, **where))


def test_the_last_element():
    noise, last = Noise(0, 0, 0), Slice(0, 1, element=_core.MAX_ELEMENTS - 1)
    out = np.empty(1, np.float32)
    _core.fill(out, noise, last)
    assert bits(out) == bits(reference.values(noise, last))
    with pytest.raises(NoiseAddressError, match="end at or before"):
        Slice(0, 2, element=_core.MAX_ELEMENTS - 1)
