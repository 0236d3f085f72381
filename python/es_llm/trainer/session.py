"""One call of `train`: replay what was saved, evaluate, iterate, evaluate, leave the directory complete."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from es_llm.callbacks.handler import Callbacks
from es_llm.checkpoint.metrics_log import MetricsLog
from es_llm.checkpoint.replay import replay
from es_llm.checkpoint.run_directory import write_json
from es_llm.trainer.evaluation import Evaluation
from es_llm.trainer.iteration import Iteration
from es_llm.trainer.metrics import iteration_metrics, record_metrics
from es_llm.trainer.opening import OpenRun
from es_llm.trainer.state import RunState


@dataclass(frozen=True, kw_only=True)
class TrainOutput:
    """What `ESTrainer.train` returns. `metrics` is what `result.json` holds; answers are (prompt, completion)."""

    global_step: int
    metrics: dict[str, Any]
    output_dir: str
    answers_before: list[tuple[str, str]]
    answers_after: list[tuple[str, str]]


class Session:
    """Trains a run from where its journal ends to `max_steps`."""

    def __init__(
        self,
        run: RunState,
        callbacks: Callbacks,
        opened: OpenRun,
        evaluate: Callable[[], Evaluation | None],
        export: Callable[[str], None],
        options: dict[str, Any],
    ) -> None:
        self._run = run
        self._callbacks = callbacks
        self._opened = opened
        self._evaluate = evaluate
        self._export = export
        self._options = options
        self._log = MetricsLog(opened.directory.metrics)
        self._evaluations = _saved_evaluations(opened)

    def train(self) -> TrainOutput:
        """Train; see `ESTrainer.train`."""
        run, config, state = self._run, self._run.config, self._callbacks.state
        self._resume()
        run.journal = self._opened.writer
        state.global_step = run.population.iteration
        self._callbacks.control.should_training_stop = False
        self._callbacks.begin_run(self._opened.directory.path)
        self._callbacks.call("on_train_begin")
        before = self._evaluation() if config.eval_on_start else None
        start = time.perf_counter()
        while run.population.iteration < config.max_steps and not self._callbacks.control.should_training_stop:
            self._step()
        seconds = time.perf_counter() - start
        after = self._evaluation()
        result = self._result(seconds, before, after)
        self._export(str(self._opened.directory.model))
        self._lead(lambda: write_json(self._opened.directory.result, result))
        self._callbacks.call("on_train_end")
        if run.journal is not None:
            run.journal.close()
        return TrainOutput(
            global_step=run.population.iteration,
            metrics=result,
            output_dir=str(self._opened.directory.path),
            answers_before=before.answers if before else [],
            answers_after=after.answers if after else [],
        )

    def _resume(self) -> None:
        journal, run = self._opened.journal, self._run
        if journal is not None:
            replay(journal, run.weights, run.population)
        records = journal.records if journal is not None else []
        self._lead(lambda: self._log.rewind(len(records), lambda step: record_metrics(records[step - 1])))
        self._lead(lambda: write_json(self._opened.directory.config, self._options))

    def _step(self) -> None:
        run, config, callbacks = self._run, self._run.config, self._callbacks
        callbacks.call("on_step_begin")
        iteration = Iteration(run)
        sent = run.comm.bytes_sent
        iteration.run()
        step = callbacks.state.global_step = run.population.iteration
        callbacks.call("on_step_end")
        metrics = {**iteration_metrics(iteration), "bytes_sent": run.comm.bytes_sent - sent}
        self._lead(lambda: self._log.write(metrics))
        if step % config.logging_steps == 0 or callbacks.control.should_log:
            callbacks.control.should_log = False
            self._report({name: value for name, value in metrics.items() if name != "step"})
        due = config.eval_steps and step % config.eval_steps == 0 and step < config.max_steps
        if due or callbacks.control.should_evaluate:
            callbacks.control.should_evaluate = False
            self._evaluation()

    def _evaluation(self) -> Evaluation | None:
        """Evaluate now, or take the evaluation of this step from the journal of a resumed run."""
        step = self._run.population.iteration
        if step in self._evaluations:
            return self._evaluations[step]
        start = time.perf_counter()
        evaluation = self._evaluate()
        if evaluation is None:
            return None
        self._evaluations[step] = evaluation
        event = {"event": "evaluation", "step": step, "metrics": evaluation.metrics, "answers": evaluation.answers}
        logs = {f"eval_{name}": value for name, value in evaluation.metrics.items()}
        seconds = time.perf_counter() - start
        self._lead(lambda: self._append_event(event))
        self._lead(lambda: self._log.write({"step": step, **logs, "eval_seconds": seconds}))
        self._report(logs)
        self._callbacks.call("on_evaluate", metrics=logs)
        return evaluation

    def _append_event(self, event: dict[str, Any]) -> None:
        assert self._run.journal is not None
        self._run.journal.append_event(json.dumps(event))

    def _lead(self, work: Callable[[], None]) -> None:
        """Collective: rank 0 does `work`; if it fails, every rank raises its error."""
        self._run.comm.together(work if self._run.comm.rank == 0 else lambda: None)

    def _report(self, logs: dict[str, Any]) -> None:
        self._callbacks.state.log_history.append({**logs, "step": self._callbacks.state.global_step})
        self._callbacks.call("on_log", logs=logs)

    def _result(self, seconds: float, before: Evaluation | None, after: Evaluation | None) -> dict[str, Any]:
        run = self._run
        return {
            "steps": run.population.iteration,
            "seconds": seconds,
            "eval_before": before.metrics if before else None,
            "eval_after": after.metrics if after else None,
            "weights_sha256": run.weights.sha256(),
            "parameters": run.weights.table.elements,
            "ranks": run.comm.size,
        }


def _saved_evaluations(opened: OpenRun) -> dict[int, Evaluation]:
    events = [json.loads(text) for text in opened.journal.events] if opened.journal is not None else []
    return {
        event["step"]: Evaluation(metrics=event["metrics"], answers=[(p, c) for p, c in event["answers"]])
        for event in events
        if event.get("event") == "evaluation"
    }
