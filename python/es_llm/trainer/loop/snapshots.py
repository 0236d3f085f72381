"""When a training saves a snapshot. The run continues without one that can't be written: its journal is complete."""

from __future__ import annotations

from es_llm.callbacks.handler import Callbacks
from es_llm.checkpoint import events
from es_llm.errors import ModelError
from es_llm.trainer.loop.evaluations import Evaluations
from es_llm.trainer.loop.progress import Progress
from es_llm.trainer.loop.run_log import RunLog
from es_llm.trainer.loop.weight_store import WeightStore
from es_llm.units.run_state import RunState


class SnapshotSchedule:
    """Saves snapshots every `save_steps`, at the end, of the best evaluation, and when a callback asks for one."""

    def __init__(
        self, run: RunState, callbacks: Callbacks, store: WeightStore, log: RunLog, evaluations: Evaluations
    ) -> None:
        self._run, self._callbacks, self._store = run, callbacks, store
        self._log, self._evaluations = log, evaluations
        self._saved = 0

    def save_if_due(self, progress: Progress, *, last: bool = False) -> None:
        """Save a snapshot after the records so far, if one is due. `last`: no iteration follows."""
        config, control, best = self._run.config, self._callbacks.control, self._evaluations.best
        step, steps = self._run.population.iteration, config.save_steps
        regular = steps > 0 and (last or step % steps == 0)
        if not (regular or control.should_save or (best is not None and best.step == step)):
            return
        control.should_save = False
        if step <= max(self._saved, progress.started_at):
            return
        self._saved = step
        directory, kept = self._log.leading.directory.path, None if best is None else best.step
        try:
            self._store.save(directory, progress.records, config.save_total_limit, kept)
        except ModelError as error:
            self._log.happened(events.snapshot_failed(self._log.step, str(error)), f"no snapshot: {error}")
        else:
            self._log.append_event(events.snapshot(step))
            self._callbacks.call("on_save")
