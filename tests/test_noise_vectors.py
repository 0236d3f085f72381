"""The known answers in data/noise_vectors.txt, for the numpy reference and for the Rust kernels."""

from pathlib import Path

import numpy as np
import pytest

from es_llm import _core
from es_llm.noise import reference
from es_llm.noise.address import NoiseAddress

VECTORS = Path(__file__).parent / "data" / "noise_vectors.txt"


def vectors(kind):
    """(groups of inputs, outputs) of one kind, as lists of words."""
    found = []
    for line in VECTORS.read_text().splitlines():
        if line.startswith(f"{kind} "):
            inputs, outputs = line.removeprefix(f"{kind} ").split(" = ")
            found.append(([group.split() for group in inputs.split(" : ")], outputs.split()))
    assert len(found) > 1
    return found


def words(group):
    return np.array([int(word, 16) for word in group], np.uint16 if len(group[0]) == 4 else np.uint32)


def floats(group):
    return words(group).view(np.float32)


def bits(values):
    return (values.view(np.uint32) if values.dtype == np.float32 else values).tolist()


def place(group):
    names = ("run_seed", "iteration", "pair", "tensor", "element")
    return dict(zip(names, map(int, group), strict=True))


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
def test_noise(backend):
    for (group,), expected in vectors("noise"):
        assert bits(backend.noise(NoiseAddress(**place(group)), len(expected))) == bits(words(expected))


@backends
def test_rounding(backend):
    for ((dtype,), values), expected in vectors("round"):
        assert bits(backend.rounded(floats(values), dtype)) == bits(words(expected))


@backends
def test_perturbed_weights(backend):
    for ((dtype, scale, *group), master), expected in vectors("perturb"):
        address = NoiseAddress(**place(group))
        live = backend.perturbed(floats(master), scale=float(floats([scale])[0]), dtype=dtype, address=address)
        assert bits(live) == bits(words(expected))


@backends
def test_accumulated_masters(backend):
    for (group, pairs, coefficients, master), expected in vectors("accumulate"):
        run_seed, iteration, tensor, element = map(int, group)
        moved = backend.accumulated(
            floats(master),
            pairs=[int(pair) for pair in pairs],
            coefficients=floats(coefficients),
            run_seed=run_seed,
            iteration=iteration,
            tensor=tensor,
            element=element,
        )
        assert bits(moved) == bits(words(expected))


@backends
def test_digests(backend):
    for ((tensor, element), master), (expected,) in vectors("digest"):
        assert backend.digest(floats(master), tensor=int(tensor), element=int(element)) == int(expected, 16)
