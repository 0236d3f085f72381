"""The implementation to compare with: the torch loop of other ES projects for language models.

For each member and tensor it seeds a `torch.Generator` and draws noise by `torch.randn` in the parameter's type. `add_`
adds the noise before the evaluation and subtracts the same noise after it. The update draws the noise of all N members
again and adds it to a float32 accumulator. The low-rank update concatenates the factors of all members and calls
`addmm_` once, the fastest way in torch.
"""

from __future__ import annotations

import torch


class PeerLoop:
    """Perturbs, restores and updates the weights of a module, as other projects do."""

    def __init__(self, module: torch.nn.Module, *, sigma: float) -> None:
        self.weights = list(module.parameters())
        self.sigma = sigma

    @torch.no_grad()
    def cycle(self, seed: int) -> None:
        """Perturb, then restore by subtraction."""
        for sign in (1, -1):
            for weight in self.weights:
                weight.add_(peer_noise(weight, seed), alpha=sign * self.sigma)

    @torch.no_grad()
    def update(self, seeds: list[int], coefficients: list[float]) -> None:
        """Update tensor by tensor: add up the noise of all members in a float32 accumulator."""
        for weight in self.weights:
            total = torch.zeros(weight.shape, device=weight.device)
            for seed, coefficient in zip(seeds, coefficients, strict=True):
                total.add_(peer_noise(weight, seed), alpha=coefficient)
            weight.add_(total.to(weight.dtype))

    @torch.no_grad()
    def low_rank_update(self, seeds: list[int], coefficients: list[float], rank: int) -> None:
        """weight += sum of coefficient / sqrt(rank) * A B^T, for the matrices."""
        for weight in self.weights:
            if weight.ndim != 2:
                continue
            left, right = [], []
            for seed, coefficient in zip(seeds, coefficients, strict=True):
                generator = torch.Generator(weight.device).manual_seed(seed)
                for factors, size in ((left, weight.shape[0]), (right, weight.shape[1])):
                    shape = (size, rank)
                    factors.append(torch.randn(shape, dtype=weight.dtype, generator=generator, device=weight.device))
                left[-1].mul_(coefficient / rank**0.5)
            weight.addmm_(torch.cat(left, 1), torch.cat(right, 1).T)


def peer_noise(weight: torch.Tensor, seed: int) -> torch.Tensor:
    """The noise of one member for one tensor, as other projects draw it."""
    generator = torch.Generator(weight.device).manual_seed(seed)
    return torch.randn(weight.shape, dtype=weight.dtype, generator=generator, device=weight.device)
