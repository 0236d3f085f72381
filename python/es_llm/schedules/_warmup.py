"""What the schedules share: warm-up, progress, and the check of a floor."""

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


def require_floor(name: str, value: float) -> float:
    """The value of an argument that is the last factor of a schedule.

    Raises:
        ConfigError: it is no number in [0, 1].
    """
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0.0 <= value <= 1.0:
        raise ConfigError(f"`{name}` must be a number in [0, 1], got {value!r}")
    return float(value)
