"""Defaults of a run on the embedded model, `python -m es_llm.train` without a model.

Measured on two cores with two ranks, seed 42: from 0.2 % to 29 % held-out accuracy in 20 iterations and to 32 % in 60
(85 s of training). Half the step (sigma 0.004, learning rate 0.006) is slower: 13 % after 30 iterations on a sister
model. Longer runs go on slowly and may come back: 36 % at 60 and 31 % at 100 iterations in one run.
"""

from __future__ import annotations

from typing import Any

EMBEDDED_DEFAULTS: dict[str, Any] = {
    "population_size": 24,
    "sigma": 0.008,
    "learning_rate": 0.012,
    "max_steps": 60,
    "prompts_per_iteration": 64,
    "max_completion_length": 12,
    "eval_steps": 20,
    "dtype": "float32",
    "task_args": {"style": "compact", "train_size": 16_000, "eval_size": 500},
}
