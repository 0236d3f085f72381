"""The known answers in data/noise_vectors.txt, one check per kind of line; a backend is anything with the functions of
`es_llm.noise.reference`. `OfTensors` makes one of a `NoiseBackend` and torch tensors."""

import zlib
from pathlib import Path

import numpy as np
import torch

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


def number(word):
    return float(floats([word])[0])


def bits(values):
    return (values.view(np.uint32) if values.dtype == np.float32 else values).tolist()


ADDRESS = ("run_seed", "iteration", "pair", "tensor")
UPDATE = ("run_seed", "iteration", "tensor")
ROWS = ("element", "columns", "stride")
BLOCK = ("rank", "row", "column")


def crc32(values):
    """Of the values' words, little-endian."""
    return f"{zlib.crc32(values.astype(values.dtype.newbyteorder('<')).tobytes()):08x}"


def long_master(count):
    """The masters of long runs."""
    return np.float32(0.02) * reference.noise(NoiseAddress(10, 0, 0, 0), count)


def named(names, group):
    return dict(zip(names, map(int, group), strict=True))


def place(group):
    return named((*ADDRESS, "element"), group)


class AtOnce:
    """A `NoiseBackend` of which every call is a pass of its own: its results are numbers, and all is written."""

    def __init__(self, backend):
        self.backend, self.device = backend, getattr(backend, "device", torch.device("cpu"))

    def __getattr__(self, name):
        def at_once(*arguments, **options):
            (result,) = self.backend.settle([getattr(self.backend, name)(*arguments, **options)])
            return result

        return at_once


class OfTensors:
    """A `NoiseBackend` on tensors of one device, with the reference's functions."""

    def __init__(self, backend):
        self.backend = AtOnce(backend)
        self.device = self.backend.device

    def noise(self, address, count, *, kind="dense"):
        out = torch.empty(count, device=self.device)
        self.backend.fill(out, **vars(address), kind=kind)
        return out.cpu().numpy()

    def rounded(self, values, dtype):
        live = self._live(len(values), dtype)
        self.backend.round_into(live, self._tensor(values))
        return self._array(live)

    def perturbed(self, master, *, scale, dtype, address, **rows):
        live = self._live(len(master), dtype)
        self.backend.perturb_into(live, self._tensor(master), scale=scale, **vars(address), **rows)
        return self._array(live)

    def perturbed_low_rank(self, master, *, scale, dtype, address, **block):
        live = self._live(master.shape, dtype)
        words = {name: getattr(address, name) for name in ADDRESS}
        self.backend.perturb_low_rank_into(live, self._tensor(master), scale=scale, **words, **block)
        return self._array(live)

    def accumulated(self, master, **update):
        moved = self._tensor(master)
        self.backend.accumulate(moved, live_dtype="bfloat16", **update)
        return self._array(moved)

    def accumulated_low_rank(self, master, **update):
        moved = self._tensor(master)
        self.backend.accumulate_low_rank(moved, live_dtype="bfloat16", **update)
        return self._array(moved)

    def digest(self, master, **place):
        return self.backend.digest(self._tensor(master), **place)

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
        assert bits(backend.noise(NoiseAddress(**place(group)), len(expected))) == bits(words(expected))


def check_rounding(backend):
    for ((dtype,), values), expected in vectors("round"):
        assert bits(backend.rounded(floats(values), dtype)) == bits(words(expected))


def check_perturbed_weights(backend):
    for ((dtype, scale, *group), master), expected in vectors("perturb"):
        address = NoiseAddress(**place(group))
        live = backend.perturbed(floats(master), scale=number(scale), dtype=dtype, address=address)
        assert bits(live) == bits(words(expected))


def check_accumulated_masters(backend):
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


def check_digests(backend):
    for ((tensor, element), master), (expected,) in vectors("digest"):
        assert backend.digest(floats(master), tensor=int(tensor), element=int(element)) == int(expected, 16)


def check_factors(backend):
    for ((kind, *group),), expected in vectors("factor"):
        assert bits(backend.noise(NoiseAddress(**place(group)), len(expected), kind=kind)) == bits(words(expected))


def check_perturbed_shards(backend):
    for ((dtype, scale, *group), master), expected in vectors("shard_perturb"):
        address, rows = NoiseAddress(**place(group[:5])), named(ROWS[1:], group[5:])
        live = backend.perturbed(floats(master), scale=number(scale), dtype=dtype, address=address, **rows)
        assert bits(live) == bits(words(expected))


def check_accumulated_shards(backend):
    for (group, pairs, coefficients, master), expected in vectors("shard_accumulate"):
        update = {"pairs": [int(pair) for pair in pairs], "coefficients": floats(coefficients)}
        moved = backend.accumulated(floats(master), **update, **named((*UPDATE, *ROWS), group))
        assert bits(moved) == bits(words(expected))


def check_digests_of_shards(backend):
    for (group, master), (expected,) in vectors("shard_digest"):
        assert backend.digest(floats(master), **named(("tensor", *ROWS), group)) == int(expected, 16)


def check_perturbed_blocks(backend):
    for ((dtype, scale, *group), master), expected in vectors("low_rank_perturb"):
        address, block = NoiseAddress(**named(ADDRESS, group[:4])), named(BLOCK, group[4:7])
        values = floats(master).reshape([int(size) for size in group[7:]])
        live = backend.perturbed_low_rank(values, scale=number(scale), dtype=dtype, address=address, **block)
        assert bits(live.reshape(-1)) == bits(words(expected))


def check_accumulated_blocks(backend):
    for (group, pairs, coefficients, master), expected in vectors("low_rank_accumulate"):
        update = {"pairs": [int(pair) for pair in pairs], "coefficients": floats(coefficients)}
        values = floats(master).reshape([int(size) for size in group[6:]])
        moved = backend.accumulated_low_rank(values, **update, **named((*UPDATE, *BLOCK), group[:6]))
        assert bits(moved.reshape(-1)) == bits(words(expected))


def check_long_noise(backend):
    for ((count, kind, *group),), (expected,) in vectors("long_noise"):
        assert crc32(backend.noise(NoiseAddress(**place(group)), int(count), kind=kind)) == expected


def check_long_perturbed_weights(backend):
    for ((count, dtype, scale, *group),), (expected,) in vectors("long_perturb"):
        address = NoiseAddress(**place(group))
        live = backend.perturbed(long_master(int(count)), scale=number(scale), dtype=dtype, address=address)
        assert crc32(live) == expected


def check_long_accumulated_masters(backend):
    for ((count, *group), pairs, coefficients), (expected,) in vectors("long_accumulate"):
        update = {"pairs": [int(pair) for pair in pairs], "coefficients": floats(coefficients)}
        moved = backend.accumulated(long_master(int(count)), **update, **named((*UPDATE, "element"), group))
        assert crc32(moved) == expected


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
"""For every backend; the lines "philox" and "normal" bind those that show these steps."""
