"""A small network learns XOR with ask and tell: no gradients; any function can be the score.

python examples/ask_tell_module.py
"""

import torch

from es_llm import Population

inputs = torch.tensor([[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]])
answers = torch.tensor([[0.0], [1.0], [1.0], [0.0]])
torch.manual_seed(0)
network = torch.nn.Sequential(torch.nn.Linear(2, 8), torch.nn.Tanh(), torch.nn.Linear(8, 1), torch.nn.Sigmoid())


@torch.no_grad()
def score(module: torch.nn.Module) -> float:
    """Higher is better."""
    return -float((module(inputs) - answers).square().mean())


population = Population(network, population_size=50, sigma=0.2, learning_rate=0.2, seed=0)
print(f"before {-score(network):.3f}")
for _ in range(200):
    population.tell([score(population.perturb(member)) for member in population.ask()])
print(f"after {-score(population.weights):.3f}")
