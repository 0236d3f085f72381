"""The known answers in data/noise_vectors.txt, one check per kind of line; a backend is anything with the functions of
`es_llm.noise.reference`. `OfTensors` makes one of a `NoiseBackend` and torch tensors."""

from pathlib import Path

import numpy as np
import torch

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


class OfTensors:
    """A `NoiseBackend` on tensors of one device, with the reference's functions."""

    def __init__(self, backend, device):
        self.backend, self.device = backend, device

    def noise(self, address, count):
        out = torch.empty(count, device=self.device)
        self.backend.fill(out, **vars(address))
        return out.cpu().numpy()

    def rounded(self, values, dtype):
        live = self._live(len(values), dtype)
        self.backend.round_into(live, self._tensor(values))
        return self._array(live)

    def perturbed(self, master, *, scale, dtype, address):
        live = self._live(len(master), dtype)
        self.backend.perturb_into(live, self._tensor(master), scale=scale, **vars(address))
        return self._array(live)

    def accumulated(self, master, **update):
        moved = self._tensor(master)
        self.backend.accumulate(moved, live_dtype="bfloat16", **update)
        return self._array(moved)

    def digest(self, master, **place):
        return self.backend.digest(self._tensor(master), **place)

    def _tensor(self, values):
        return torch.from_numpy(values.copy()).to(self.device)

    def _live(self, count, dtype):
        return torch.empty(count, dtype=getattr(torch, dtype), device=self.device)

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
        live = backend.perturbed(floats(master), scale=float(floats([scale])[0]), dtype=dtype, address=address)
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


CHECKS = [check_noise, check_rounding, check_perturbed_weights, check_accumulated_masters, check_digests]
"""For every backend; the lines "philox" and "normal" bind those that show these steps."""
