"""Defaults of a run on the embedded model."""

from __future__ import annotations

from typing import Any

EMBEDDED_DEFAULTS: dict[str, Any] = {
    "population_size": 24,
    "sigma": 0.008,
    "learning_rate": 0.012,
    "max_steps": 60,
    "prompts_per_iteration": 64,
    "max_completion_length": 12,
    "dtype": "float32",
    "task_args": {"style": "compact", "train_size": 6400, "eval_size": 500},
}
