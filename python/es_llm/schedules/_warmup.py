"""The warm-up that the schedules share."""

from __future__ import annotations

from es_llm.errors import ConfigError


def warmed_up(iteration: int, warmup: int) -> float:
    """The factor of a warm-up: 1 / warmup in the first iteration, 1 from iteration `warmup` on. transformers begins at
    0, but a rate or sigma of 0 would waste an iteration.

    Raises:
        ConfigError: `warmup` is no number of iterations.
    """
    if isinstance(warmup, bool) or not isinstance(warmup, int) or warmup < 0:
        raise ConfigError(f"`num_warmup_steps` must be an integer >= 0, got {warmup!r}")
    return min(1.0, (iteration + 1) / warmup) if warmup else 1.0


def progress(iteration: int, warmup: int, total: int) -> float:
    """Share in [0, 1) of the iterations after the warm-up that are done before this one; 0 during the warm-up."""
    return max(0, iteration - warmup) / max(1, total - warmup)
