"""What a task is: rows to train and to evaluate on, and functions that reward completions.

Knows nothing about models, tokenizers or the optimizer. A row is a mapping with the key `prompt` (text or messages) and
one key per column that the reward functions need. The functions receive each column as a list, as in TRL.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from es_llm.data.messages import TextPrompts
from es_llm.data.stream import is_stream
from es_llm.errors import ConfigError
from es_llm.types import RewardFunction, Row

Adapt: TypeAlias = Callable[[Mapping[str, Any]], Row]
"""Converts a row of a data set to a row of a task."""


@dataclass(frozen=True, kw_only=True)
class Task:
    """A named problem.

    name: shown in messages and directory names.
    train: rows to train on; may be a stream.
    eval: held-out rows; may be empty.
    reward_funcs: empty only for the task `rows`, whose rewards the user names.
    metric_funcs: name -> function with the contract of rewards; evaluation reports its mean over completions.
    answer_of: returns the answer in the text of a completion, or None. Majority votes compare these answers.
    text_prompts: what the task's text prompts are. The run's option `chat` decides how they reach the model.
    """

    name: str
    train: Iterable[Row]
    eval: Sequence[Row]
    reward_funcs: tuple[RewardFunction, ...]
    metric_funcs: Mapping[str, RewardFunction] = field(default_factory=dict)
    answer_of: Callable[[str], str | None] = str.strip
    text_prompts: TextPrompts = TextPrompts()


@dataclass(frozen=True, kw_only=True)
class Splits:
    """Rows to train and to evaluate on, as a data set has them. `train` may be a `datasets.IterableDataset`."""

    train: Iterable[Mapping[str, Any]]
    eval: Iterable[Mapping[str, Any]]

    def adapted(self, adapt: Adapt) -> tuple[Iterable[Row], list[Row]]:
        """Train and eval rows, each converted by `adapt`. A stream stays a stream.

        Raises:
            ConfigError: a row lacks a column or value that the task needs; names the row and the column.
        """
        return _adapted(self.train, adapt, "train"), list(_each(self.eval, adapt, "eval"))


def question_task(name: str, splits: Splits, adapt: Adapt, **parts: Any) -> Task:
    """A task of plain questions, with the rows of `splits.adapted(adapt)`. `parts`: further fields of the task."""
    train, held_out = splits.adapted(adapt)
    return Task(name=name, train=train, eval=held_out, text_prompts=TextPrompts(questions=True), **parts)


def rows(*, data: Splits | None = None) -> Task:
    """The task `rows`: the rows of a data set as they are, with a `prompt` each. The user names the rewards.

    Raises:
        ConfigError: there is no data set.
    """
    if data is None:
        raise ConfigError("task `rows` needs `dataset_name`, got none")
    return Task(name="rows", train=data.train, eval=list(data.eval), reward_funcs=())


def own_problems(
    problems: Callable[[str, int, int], list[Row]],
    *,
    train_size: int,
    eval_size: int,
    seed: int,
    data: Splits | None = None,
) -> Splits:
    """The rows of `data`, or without it both splits of a task's own problems.

    Args:
        problems: returns the rows of (split "train" or "eval", number of rows, seed).

    Raises:
        ConfigError: a size or the seed is negative.
    """
    for option, value in (("train_size", train_size), ("eval_size", eval_size), ("seed", seed)):
        if value < 0:
            raise ConfigError(f"`{option}` must be >= 0, got {value}")
    return data or Splits(train=problems("train", train_size, seed), eval=problems("eval", eval_size, seed))


def column(row: Mapping[str, Any], *names: str) -> Any:
    """The value in the first of these columns that the row has.

    Raises:
        KeyError: the row has none of the columns.
        ValueError: the row has one of the columns, but no value in it.
    """
    for name in names:
        if row.get(name) is not None:
            return row[name]
    if empty := [name for name in names if name in row]:
        raise ValueError(f"{' and '.join(map(repr, empty))} must have a value, got None")
    raise KeyError(" or ".join(map(repr, names)))


def question_prompt(row: Mapping[str, Any], *names: str, ending: str) -> Any:
    """The row's own `prompt`; without one, the question in the first of these columns, followed by `ending`.

    Raises:
        KeyError: the row has none of the columns.
        ValueError: the column holds no text, or blank text.
    """
    if row.get("prompt") is not None:
        return row["prompt"]
    question = column(row, *names)
    if not isinstance(question, str) or not question.strip():
        raise ValueError(f"{' or '.join(map(repr, names))} must be text, not blank, got {question!r}")
    return question + ending


def _adapted(rows: Iterable[Mapping[str, Any]], adapt: Adapt, split: str) -> Iterable[Row]:
    if is_stream(rows):
        return _AdaptedStream(rows, adapt)
    return list(_each(rows, adapt, split))


def _each(rows: Iterable[Mapping[str, Any]], adapt: Adapt, split: str) -> Iterator[Row]:
    for number, row in enumerate(rows):
        try:
            yield adapt(row)
        except (LookupError, TypeError, ValueError, AttributeError) as error:
            names = sorted(map(str, row))
            raise ConfigError(
                f"row {number} of `{split}` can't be used by this task: {error}; it has the columns {names} "
                "(see `dataset_columns`)"
            ) from error


class _AdaptedStream:
    def __init__(self, stream: Any, adapt: Adapt) -> None:
        self._stream, self._adapt = stream, adapt

    def shuffle(self, *, seed: int, buffer_size: int) -> _AdaptedStream:
        return _AdaptedStream(self._stream.shuffle(seed=seed, buffer_size=buffer_size), self._adapt)

    def set_epoch(self, epoch: int) -> None:
        self._stream.set_epoch(epoch)

    def __iter__(self) -> Iterator[Row]:
        return _each(self._stream, self._adapt, "train")
