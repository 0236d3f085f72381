"""The known answers in data/noise_vectors.txt, for the numpy reference and for the Rust kernels."""

import pytest

from es_llm import _core
from es_llm.noise import reference
from es_llm.noise.cpu import CpuBackend
from tests.vectors import CHECKS, OfTensors, bits, vectors, words


@pytest.fixture(params=_core.kernel_paths())
def rust(request):
    """The Rust kernels, on each instruction set of this machine."""
    _core.set_kernel_path(request.param)
    yield OfTensors(CpuBackend())
    _core.set_kernel_path(None)


def test_philox():
    for groups, expected in vectors("philox"):
        counter, key = (words(group) for group in groups)
        assert reference.philox4x32(counter, key.tolist()).tolist() == bits(words(expected))
        assert _core.philox4x32(counter[None], tuple(key.tolist())).tolist() == [bits(words(expected))]


def test_normals():
    for (group,), expected in vectors("normal"):
        assert bits(reference.normals(words(group)[None])[0]) == bits(words(expected))


@pytest.mark.parametrize("check", CHECKS)
def test_known_answers_of_numpy(check):
    check(reference)


@pytest.mark.parametrize("check", CHECKS)
def test_known_answers_of_rust(check, rust):
    check(rust)
