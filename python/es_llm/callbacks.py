"""Callbacks of a run, in transformers' interface but with `ESConfig` as `args`; and the progress lines."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState

from es_llm.config import ESConfig
from es_llm.errors import ConfigError


class Callbacks:
    """The callbacks of one trainer, with the state and control they share.

    The trainer obeys these fields of `control`: `should_training_stop`, `should_evaluate`, `should_log`, `should_save`.
    """

    def __init__(self, callbacks: Sequence[Any], config: ESConfig, model: Any, processing_class: Any) -> None:
        instances = [item() if isinstance(item, type) else item for item in callbacks]
        for callback in instances:
            if not isinstance(callback, TrainerCallback):
                raise ConfigError(f"`callbacks` must hold transformers.TrainerCallback objects, got {callback!r}")
        self._callbacks: list[Any] = instances
        self._config = config
        self._given = {"model": model, "processing_class": processing_class}
        self.state = TrainerState()
        self.state.max_steps = config.max_steps
        self.control = TrainerControl()

    def begin_run(self, directory: Path) -> None:
        """Set the directory of the run in the options that callbacks get as `args`."""
        name = self._config.run_name or directory.name
        self._config = replace(self._config, output_dir=str(directory), run_name=name)

    @property
    def callbacks(self) -> list[Any]:
        """The callbacks, in calling order."""
        return list(self._callbacks)

    def add_callback(self, callback: Any) -> None:
        """Append a callback (object or class)."""
        self._callbacks.append(callback() if isinstance(callback, type) else callback)

    def pop_callback(self, callback: Any) -> Any:
        """Remove and return a callback object, or the first object of a class; None if there is none."""
        for held in self._callbacks:
            if _is(held, callback):
                self._callbacks.remove(held)
                return held
        return None

    def remove_callback(self, callback: Any) -> None:
        """Remove a callback object, or all objects of a class."""
        self._callbacks = [held for held in self._callbacks if not _is(held, callback)]

    def call(self, event: str, **given: Any) -> None:
        """Call `event` (such as "on_step_end") on each callback in order. If it returns a control, use that one."""
        for callback in self._callbacks:
            answer = getattr(callback, event)(self._config, self.state, self.control, **self._given, **given)
            if answer is not None:
                self.control = answer


def _is(held: Any, callback: Any) -> bool:
    return isinstance(held, callback) if isinstance(callback, type) else held is callback


def make_trackers(config: ESConfig) -> list[Any]:
    """Callbacks for the trackers in `report_to`. Called before anything large is loaded."""
    if not config.report_to:
        return []
    from transformers.integrations import get_reporting_integration_callbacks

    callbacks: list[Any] = []
    for name in config.report_to:
        try:
            callbacks.extend(cls() for cls in get_reporting_integration_callbacks(name))
        except Exception as error:  # each tracker raises other classes
            raise ConfigError(f"`report_to` {name!r} can't be used: {error}") from error
    return callbacks


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
