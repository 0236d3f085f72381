"""What reward functions receive and what they return: TRL's contract, as plain data that travels between processes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from es_llm.types import Row

RAISED, TIMEOUT, DIED, INVALID = "raised", "timeout", "died", "invalid"
FAILURE_KINDS: Final = (RAISED, TIMEOUT, DIED, INVALID)
"""How a function fails on a completion: it raised an error; it exceeded its time limit; its process ended (memory, a
crash, too many processes); or it returned something that is no finite number."""


@dataclass(frozen=True, kw_only=True)
class TrainerState:
    """Where the run is: the plain attributes of transformers' `TrainerState`, with equal values on all ranks.

    Attributes on which ranks don't agree, or which ranks would have to send each other, keep their initial values: no
    log (`log_history`), and no best model. One rank rewards each completion and counts as the first process, so what a
    function prints or writes for a completion appears once.
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
        """A batch from rows. Completions of prompts that are messages become messages, as in TRL."""
        names = [name for name in rows[0] if name != "prompt"] if rows else []
        prompts = [row["prompt"] for row in rows]
        in_form: list[Any] = [
            text if isinstance(prompt, str) else [{"role": "assistant", "content": text}]
            for prompt, text in zip(prompts, completions, strict=True)
        ]
        columns = {name: [row[name] for row in rows] for name in names}
        return Batch(
            prompts=prompts,
            completions=in_form,
            completion_ids=[list(ids) for ids in completion_ids],
            columns=columns,
            state=state or TrainerState(),
        )

    def __len__(self) -> int:
        return len(self.completions)

    def part(self, which: slice) -> Batch:
        """The completions at these indices."""
        return Batch(
            prompts=self.prompts[which],
            completions=self.completions[which],
            completion_ids=self.completion_ids[which],
            columns={name: values[which] for name, values in self.columns.items()},
            state=self.state,
        )


@dataclass(frozen=True)
class Failure:
    """One completion on which a function failed. `index` counts within the batch; `reason` is text for people."""

    index: int
    kind: str
    reason: str

    @property
    def last_line(self) -> str:
        """The last line of the reason. In a traceback it names the error."""
        return self.reason.rstrip().rpartition("\n")[2]


@dataclass
class RewardResult:
    """What one function returned for a batch.

    rewards: one per completion; None for "no opinion" and for a failure.
    failures: the completions on which the function failed.
    extra: column -> values given to `log_extra`; None for a completion without one.
    metrics: (name, value) given to `log_metric`.
    """

    rewards: list[float | None]
    failures: list[Failure] = field(default_factory=list)
    extra: dict[str, list[Any]] = field(default_factory=dict)
    metrics: list[tuple[str, float]] = field(default_factory=list)

    @staticmethod
    def failed(size: int, kind: str, reason: str) -> RewardResult:
        """The result of a function that failed on all completions of a batch."""
        return RewardResult([None] * size, [Failure(index, kind, reason) for index in range(size)])

    @staticmethod
    def joined(parts: Sequence[RewardResult]) -> RewardResult:
        """The results of consecutive parts of a batch as one."""
        whole = RewardResult([])
        for part in parts:
            start, size = len(whole.rewards), len(part.rewards)
            whole.rewards += part.rewards
            whole.failures += [
                Failure(start + failure.index, failure.kind, failure.reason) for failure in part.failures
            ]
            whole.metrics += part.metrics
            for name in {*whole.extra, *part.extra}:
                before = whole.extra.get(name, [None] * start)
                whole.extra[name] = before + part.extra.get(name, [None] * size)
        return whole
