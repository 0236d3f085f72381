"""Progress of a run in plain lines, on rank 0."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from transformers import TrainerCallback


class ProgressCallback(TrainerCallback):  # type: ignore[misc]
    """Prints one line per logged iteration: reward of the population, seconds per iteration, time left."""

    def __init__(self, opening: Sequence[str]) -> None:
        """`opening` are the first lines of a run."""
        self._opening = opening
        self._begin: tuple[float, int] | None = None

    def on_train_begin(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        """Print the opening lines, and where a resumed run continues."""
        if not state.is_world_process_zero:
            return
        for line in self._opening:
            _print(line)
        if state.global_step > 0:
            _print(f"train continues after iteration {state.global_step}/{state.max_steps}")

    def on_step_begin(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        """Start the clock at the first iteration that this process leads."""
        if self._begin is None:
            self._begin = (time.perf_counter(), state.global_step)

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **given: Any) -> None:
        """Print one line for an iteration or an evaluation."""
        if not state.is_world_process_zero or not logs:
            return
        if any(name.startswith("eval_") for name in logs):
            figures = "  ".join(f"{name.removeprefix('eval_')} {_figure(value)}" for name, value in logs.items())
            _print(f"eval  iteration {state.global_step:>4}/{state.max_steps}  {figures}")
        elif "reward" in logs:
            _print(
                f"train iteration {state.global_step:>4}/{state.max_steps}  reward {logs['reward']:.4f}  "
                f"std {logs['reward_std']:.4f}  best {logs['fitness/max']:.4f}  {self._pace(state)}".rstrip()
            )

    def _pace(self, state: Any) -> str:
        """Seconds per iteration and seconds left, or an empty text."""
        if self._begin is None:  # an earlier leader began this iteration
            return ""
        begin, first = self._begin
        per_iteration = (time.perf_counter() - begin) / max(1, state.global_step - first)
        left = per_iteration * (state.max_steps - state.global_step)
        return f"{per_iteration:.2f} s/iteration  {left:.0f} s left"


def _print(line: str) -> None:
    print(line, flush=True)


def _figure(value: Any) -> str:
    return f"{value:.4f}" if isinstance(value, float) else str(value)
