"""What reward functions see, and what they say: TRL's contract, as plain data that travels between processes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from es_llm.types import Row

RAISED, TIMEOUT, DIED, INVALID = "raised", "timeout", "died", "invalid"
FAILURE_KINDS: Final = (RAISED, TIMEOUT, DIED, INVALID)
"""How a function fails on a completion: it raised; took longer than its limit; its process ended (memory, a crash, too
many processes); or it gave something that is no finite number."""


@dataclass(frozen=True, kw_only=True)
class TrainerState:
    """Where the run is: the plain attributes of transformers' `TrainerState`, with values that are equal on all ranks.

    What the ranks don't agree on, or would have to send each other, has the value that it has at the beginning: there
    is no log (`log_history`), and no best model. Each completion is scored by one rank, which counts as the first
    process: what a function prints or writes there is there once.
    """

    global_step: int = 0
    max_steps: int = 0
    epoch: float = 0.0
    logging_steps: int = 0
    eval_steps: int = 0
    save_steps: int = 0
    train_batch_size: int | None = None
    num_train_epochs: int = 0
    num_input_tokens_seen: int = 0
    total_flos: float = 0.0
    log_history: list[dict[str, float]] = field(default_factory=list)
    best_metric: float | None = None
    best_global_step: int | None = None
    best_model_checkpoint: str | None = None
    is_local_process_zero: bool = True
    is_world_process_zero: bool = True
    is_hyper_param_search: bool = False
    trial_name: str | None = None
    trial_params: dict[str, Any] | None = None
    stateful_callbacks: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Batch:
    """B prompts, their completions, and the columns of their rows."""

    prompts: Sequence[Any]
    completions: Sequence[Any]
    completion_ids: Sequence[Sequence[int]]
    columns: Mapping[str, Sequence[Any]]
    state: TrainerState = TrainerState()

    @staticmethod
    def of(
        rows: Sequence[Row],
        completions: Sequence[str],
        completion_ids: Sequence[Sequence[int]],
        state: TrainerState | None = None,
    ) -> Batch:
        """A batch from rows; conversational prompts get conversational completions, as in TRL."""
        names = [name for name in rows[0] if name != "prompt"] if rows else []
        prompts = [row["prompt"] for row in rows]
        answers: list[Any] = [
            text if isinstance(prompt, str) else [{"role": "assistant", "content": text}]
            for prompt, text in zip(prompts, completions, strict=True)
        ]
        columns = {name: [row[name] for row in rows] for name in names}
        return Batch(
            prompts=prompts,
            completions=answers,
            completion_ids=[list(ids) for ids in completion_ids],
            columns=columns,
            state=state or TrainerState(),
        )

    def __len__(self) -> int:
        return len(self.completions)

    def part(self, start: int, stop: int) -> Batch:
        """Completions start..stop."""
        return Batch(
            prompts=self.prompts[start:stop],
            completions=self.completions[start:stop],
            completion_ids=self.completion_ids[start:stop],
            columns={name: values[start:stop] for name, values in self.columns.items()},
            state=self.state,
        )

    @staticmethod
    def joined(parts: Sequence[Batch]) -> Batch:
        """Batches with the same columns, one behind the other."""
        first = parts[0]
        return Batch(
            prompts=[prompt for part in parts for prompt in part.prompts],
            completions=[completion for part in parts for completion in part.completions],
            completion_ids=[ids for part in parts for ids in part.completion_ids],
            columns={name: [value for part in parts for value in part.columns[name]] for name in first.columns},
            state=first.state,
        )


@dataclass(frozen=True)
class Failure:
    """One completion that a function failed on. `place` counts within the batch; `why` is for people."""

    place: int
    kind: str
    why: str

    @property
    def last_line(self) -> str:
        """Of a traceback the line that says what happened."""
        return self.why.rstrip().rpartition("\n")[2]


@dataclass
class Scores:
    """What one function said of a batch.

    `values` has one score per completion, None for "no opinion" and for a failure. `extra` is what it gave to
    `log_extra`, None where it gave nothing; `metrics` what it gave to `log_metric`.
    """

    values: list[float | None]
    failures: list[Failure] = field(default_factory=list)
    extra: dict[str, list[Any]] = field(default_factory=dict)
    metrics: list[tuple[str, float]] = field(default_factory=list)

    @staticmethod
    def failed(size: int, kind: str, why: str) -> Scores:
        """It failed on all completions of the batch."""
        return Scores([None] * size, [Failure(place, kind, why) for place in range(size)])

    @staticmethod
    def joined(parts: Sequence[Scores]) -> Scores:
        """Scores of batches, one behind the other."""
        whole = Scores([])
        for part in parts:
            start, size = len(whole.values), len(part.values)
            whole.values += part.values
            whole.failures += [Failure(start + told.place, told.kind, told.why) for told in part.failures]
            whole.metrics += part.metrics
            for name in {*whole.extra, *part.extra}:
                before = whole.extra.get(name, [None] * start)
                whole.extra[name] = before + part.extra.get(name, [None] * size)
        return whole
