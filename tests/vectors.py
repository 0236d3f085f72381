"""The known answers in data/noise_vectors.txt, with one check per kind of line.

A check takes an object with the functions of `es_llm.noise.reference`. `OfTensors` gives a `NoiseBackend` these
functions."""

import zlib
from pathlib import Path

import numpy as np
import torch

from es_llm._core import LowRank, Noise, Slice, Terms
from es_llm.noise import reference

VECTORS = Path(__file__).parent / "data" / "noise_vectors.txt"


def vectors(kind):
    """(groups of inputs, outputs) of each line of one kind, as lists of strings."""
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


def number(word):
    return float(floats([word])[0])


def bits(values):
    return (values.view(np.uint32) if values.dtype == np.float32 else values).tolist()


def crc32(values):
    """CRC-32 of the values as little-endian words."""
    return f"{zlib.crc32(values.astype(values.dtype.newbyteorder('<')).tobytes()):08x}"


def long_master(count):
    """The masters of the lines that start with "long"."""
    return np.float32(0.02) * reference.values(Noise(10, 0, 0), Slice(0, count))


def noise_at(group, size):
    """The noise and the slice of `run_seed iteration pair tensor element [columns stride]`."""
    run_seed, iteration, pair, *where = map(int, group)
    return Noise(run_seed, iteration, pair), slice_of(where, size)


def slice_of(where, size):
    """The slice of `tensor element [columns stride]`."""
    tensor, *rest = map(int, where)
    return Slice(tensor, size, **dict(zip(("element", "columns", "stride"), rest, strict=False)))


def block_of(where):
    """The block of `tensor rank row column rows columns`."""
    tensor, rank, row, column, rows, columns = map(int, where)
    return LowRank(tensor, (rows, columns), rank, row=row, column=column)


def terms_of(group, pairs, coefficients):
    """The terms of `run_seed iteration ...`."""
    return Terms(int(group[0]), int(group[1]), floats(coefficients), [int(pair) for pair in pairs])


class AtOnce:
    """A `NoiseBackend` that settles each call before it returns: the result is a number, and all writes are done."""

    def __init__(self, backend):
        self.backend, self.device = backend, getattr(backend, "device", torch.device("cpu"))

    def __getattr__(self, name):
        def at_once(*arguments, **options):
            (result,) = self.backend.settle([getattr(self.backend, name)(*arguments, **options)])
            return result

        return at_once


class OfTensors:
    """The functions of the reference, computed by a `NoiseBackend` on tensors of its device."""

    def __init__(self, backend):
        self.backend = AtOnce(backend)
        self.device = self.backend.device

    def values(self, noise, at, kind="dense"):
        out = torch.empty(at.size, device=self.device)
        self.backend.fill(out, noise, at, kind)
        return out.cpu().numpy()

    def rounded(self, values, dtype):
        live = self._live(len(values), dtype)
        self.backend.round(live, self._tensor(values))
        return self._array(live)

    def perturbed(self, master, noise, scale, at, dtype):
        live = self._live(master.shape, dtype)
        self.backend.perturb(live, self._tensor(master), noise, scale, at)
        return self._array(live)

    def accumulated(self, master, terms, at):
        moved = self._tensor(master)
        self.backend.accumulate(moved, terms, at, torch.bfloat16)
        return self._array(moved)

    def digest(self, master, at):
        return self.backend.digest(self._tensor(master), at)

    def _tensor(self, values):
        return torch.from_numpy(values.copy()).to(self.device)

    def _live(self, shape, dtype):
        return torch.empty(shape, dtype=getattr(torch, dtype), device=self.device)

    def _array(self, tensor):
        if tensor.dtype == torch.float32:
            return tensor.cpu().numpy()
        return tensor.view(torch.int16).cpu().numpy().view(np.uint16)


def check_noise(backend):
    for (group,), expected in vectors("noise"):
        assert bits(backend.values(*noise_at(group, len(expected)))) == bits(words(expected))


def check_rounding(backend):
    for ((dtype,), values), expected in vectors("round"):
        assert bits(backend.rounded(floats(values), dtype)) == bits(words(expected))


def check_perturbed_weights(backend, kind="perturb"):
    for ((dtype, scale, *group), master), expected in vectors(kind):
        noise, at = noise_at(group, len(master))
        live = backend.perturbed(floats(master), noise, number(scale), at, dtype)
        assert bits(live) == bits(words(expected))


def check_accumulated_masters(backend, kind="accumulate"):
    for (group, pairs, coefficients, master), expected in vectors(kind):
        terms, at = terms_of(group, pairs, coefficients), slice_of(group[2:], len(master))
        assert bits(backend.accumulated(floats(master), terms, at)) == bits(words(expected))


def check_digests(backend, kind="digest"):
    for (group, master), (expected,) in vectors(kind):
        assert backend.digest(floats(master), slice_of(group, len(master))) == int(expected, 16)


def check_factors(backend):
    for ((kind, *group),), expected in vectors("factor"):
        assert bits(backend.values(*noise_at(group, len(expected)), kind)) == bits(words(expected))


def check_perturbed_shards(backend):
    check_perturbed_weights(backend, "shard_perturb")


def check_accumulated_shards(backend):
    check_accumulated_masters(backend, "shard_accumulate")


def check_digests_of_shards(backend):
    check_digests(backend, "shard_digest")


def check_perturbed_blocks(backend):
    for ((dtype, scale, *group), master), expected in vectors("low_rank_perturb"):
        noise, at = Noise(*map(int, group[:3])), block_of(group[3:])
        live = backend.perturbed(floats(master).reshape(at.shape), noise, number(scale), at, dtype)
        assert bits(live.reshape(-1)) == bits(words(expected))


def check_accumulated_blocks(backend):
    for (group, pairs, coefficients, master), expected in vectors("low_rank_accumulate"):
        terms, at = terms_of(group, pairs, coefficients), block_of(group[2:])
        moved = backend.accumulated(floats(master).reshape(at.shape), terms, at)
        assert bits(moved.reshape(-1)) == bits(words(expected))


def check_long_noise(backend):
    for ((count, kind, *group),), (expected,) in vectors("long_noise"):
        assert crc32(backend.values(*noise_at(group, int(count)), kind)) == expected


def check_long_perturbed_weights(backend):
    for ((count, dtype, scale, *group),), (expected,) in vectors("long_perturb"):
        noise, at = noise_at(group, int(count))
        live = backend.perturbed(long_master(int(count)), noise, number(scale), at, dtype)
        assert crc32(live) == expected


def check_long_accumulated_masters(backend):
    for ((count, *group), pairs, coefficients), (expected,) in vectors("long_accumulate"):
        terms, at = terms_of(group, pairs, coefficients), slice_of(group[2:], int(count))
        assert crc32(backend.accumulated(long_master(int(count)), terms, at)) == expected


CHECKS = [
    check_noise,
    check_rounding,
    check_perturbed_weights,
    check_accumulated_masters,
    check_digests,
    check_factors,
    check_perturbed_shards,
    check_accumulated_shards,
    check_digests_of_shards,
    check_perturbed_blocks,
    check_accumulated_blocks,
    check_long_noise,
    check_long_perturbed_weights,
    check_long_accumulated_masters,
]
"""The checks that every backend must pass. The lines "philox" and "normal" test steps that few backends expose."""
