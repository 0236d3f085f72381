"""The known answers in data/noise_vectors.txt, for the numpy reference and for the Rust kernels."""

import numpy as np
import pytest

from es_llm import _core
from es_llm.noise import reference
from tests.vectors import CHECKS, bits, vectors, words


class Rust:
    """The kernels of `_core`, with the reference's signatures."""

    @staticmethod
    def philox4x32(counter, key):
        return np.array(_core.philox4x32(counter.tolist(), key), np.uint32)

    @staticmethod
    def noise(address, count):
        out = np.empty(count, np.float32)
        _core.fill(out, **vars(address))
        return out

    @staticmethod
    def rounded(values, dtype):
        live = np.empty(len(values), np.float32 if dtype == "float32" else np.uint16)
        _core.round_into(live, values, dtype=dtype)
        return live

    @staticmethod
    def perturbed(master, *, scale, dtype, address):
        live = np.empty(len(master), np.float32 if dtype == "float32" else np.uint16)
        _core.perturb_into(live, master, dtype=dtype, scale=scale, **vars(address))
        return live

    @staticmethod
    def accumulated(master, **update):
        moved = master.copy()
        _core.accumulate(moved, dtype="bfloat16", **update)
        return moved

    @staticmethod
    def digest(master, **place):
        return _core.digest(master, **place)


backends = pytest.mark.parametrize("backend", [reference, Rust], ids=["numpy", "rust"])


@backends
def test_philox(backend):
    for (counter, key), expected in vectors("philox"):
        assert backend.philox4x32(words(counter), tuple(words(key).tolist())).tolist() == bits(words(expected))


def test_normals():
    for (group,), expected in vectors("normal"):
        assert bits(reference.normals(words(group)[None])[0]) == bits(words(expected))


@backends
@pytest.mark.parametrize("check", CHECKS)
def test_known_answers(check, backend):
    check(backend)
