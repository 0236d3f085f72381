"""Any data set of the library reasoning-gym: `--task reasoning_gym:mini_sudoku`, and a hundred more by their names.

The library generates the problems and scores the answers. Options of its generators are task options.
"""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Sequence
from typing import Any, Final

from es_llm.data.messages import TextPrompts
from es_llm.errors import ConfigError, RewardError
from es_llm.plugins import import_optional
from es_llm.rewards.text import completion_text
from es_llm.tasks.answer_limits import OverTimeError, TimeLimit, digits
from es_llm.tasks.base import Splits, Task
from es_llm.tasks.reasoning_gym.typed import from_text, to_text
from es_llm.types import Row

INSTRUCTION = "Write your final answer between <answer> and </answer>."
LIMIT_S: Final = 5.0
"""Seconds that the library's scorer may take for one answer."""
MAX_DIGITS: Final = 20_000
"""Upper bound of the digits that powers and factorials in an answer may have, unless the right answer has as many."""

_WORD: Final = re.compile(r"[^\W\d_]+")
_ODD: Final = frozenset(name + unit for name in ("nan", "inf", "infinity") for unit in ("", "i", "j"))
_LETTERS: Final = frozenset("abcdefghijklmnopqrstuvwxyz")


def build(
    *,
    dataset: str = "",
    train_size: int = 800,
    eval_size: int = 200,
    seed: int = 0,
    data: Splits | None = None,
    **generator: Any,
) -> Task:
    """The task.

    Args:
        dataset: name of the generator.
        train_size: number of problems to train on.
        eval_size: number of problems held out.
        seed: of the problems to train on. The held-out problems have the seed `seed` + 2**20.
        data: refused, since the problems are generated.
        generator: options of the generator.
    """
    if data is not None:
        raise ConfigError("task `reasoning_gym` generates its problems; leave `dataset_name` out")
    create = _library()
    try:
        sets = [
            create(dataset, size=size, seed=seed + offset, **generator)
            for size, offset in ((train_size, 0), (eval_size, 1 << 20))
            if size
        ]
    except Exception as error:  # the library raises many classes
        raise ConfigError(f"task `reasoning_gym:{dataset}` can't be built: {error}") from error
    options = _as_text(dataset, generator)
    rows = [[_row(dataset, item, options) for item in items] for items in sets]
    train = rows.pop(0) if train_size else []
    return Task(
        name=f"reasoning_gym:{dataset}",
        train=train,
        eval=rows[0] if rows else [],
        reward_funcs=(reasoning_gym_score,),
        answer_of=tagged_answer,
        text_prompts=TextPrompts(questions=True),
    )


def reasoning_gym_score(
    completions: Sequence[Any],
    entry: Sequence[str],
    dataset: Sequence[str],
    options: Sequence[str] | None = None,
    **columns: Any,
) -> list[float]:
    """The library's own score, in [0, 1], of the text between the last answer tags, or of a completion without tags.

    An answer is wrong (0.0) if the library's scorer can't read it, if its numbers would have more than `MAX_DIGITS`
    digits, or if scoring takes more than `LIMIT_S` seconds. A number that isn't finite (`nan`, `inf+1j`) is wrong too,
    unless the right answer is the same text: NaN compares in odd ways, and one scorer accepts it.

    Args:
        completions: of the model.
        entry: the library's problems, as `typed.to_text` writes them.
        dataset: the names of the generators.
        options: of the generators, as `typed.to_text` writes them; None: their defaults.
        columns: other columns, not used.

    Raises:
        RewardError: the library is missing, or its scorer fails on a problem whatever the answer is.
    """
    options = options if options is not None else ["{}"] * len(entry)
    return [
        _reward(_scorer(name, given), tagged_answer(completion_text(completion)), text, name)
        for completion, text, name, given in zip(completions, entry, dataset, options, strict=True)
    ]


def tagged_answer(text: str) -> str:
    """The text between the last answer tags, or the whole text if it has none."""
    if "</answer>" in text:
        text = text.rpartition("</answer>")[0].rpartition("<answer>")[2]
    return text.strip()


def _reward(scorer: Any, answer: str, text: str, name: str) -> float:
    """The score of an answer to the problem `text`. Each call of the scorer gets a copy, which it may change."""
    right = str(from_text(text)["answer"])
    if digits(answer) > MAX_DIGITS >= digits(right):
        return 0.0
    if _not_finite(answer) and answer.lower() != right.strip().lower():
        return 0.0
    try:
        return _score(scorer, answer, from_text(text))
    except OverTimeError:
        return 0.0
    except ImportError as error:
        raise RewardError(f"the scorer of `reasoning_gym:{name}` lacks a library: {error}") from error
    except (Exception, SystemExit) as error:  # the library raises many classes; four of its scorers call `eval`
        if _works(scorer, from_text(text), answer):
            return 0.0
        raise RewardError(
            f"the scorer of `reasoning_gym:{name}` fails on the problem itself: {type(error).__name__}: {error}"
        ) from error


def _not_finite(answer: str) -> bool:
    """True if a text is numbers, real or complex, and one of them isn't finite. It may hold names of unknowns too."""
    words = set(_WORD.findall(answer.lower()))
    return bool(words & _ODD) and words <= _ODD | _LETTERS


def _works(scorer: Any, entry: dict[str, Any], answer: str) -> bool:
    """True if the scorer works on this problem, so that the answer is at fault.

    The scorer works if it can score the right answer. If the problem has no right answer, the scorer works if it fails
    on the same answer to a problem of the library's own as well.
    """
    try:
        if entry["answer"] is not None:
            _score(scorer, entry["answer"], entry)
            return True
    except (Exception, SystemExit, OverTimeError):
        return False
    try:
        _score(scorer, answer, scorer[0])
    except (Exception, SystemExit, OverTimeError):
        return True
    return False


def _score(scorer: Any, answer: Any, entry: dict[str, Any]) -> float:
    """The library's score, clamped to [0, 1]; 0 for NaN."""
    with TimeLimit(LIMIT_S):
        score = float(scorer.score_answer(answer=answer, entry=entry))
    return min(max(score, 0.0), 1.0) if not math.isnan(score) else 0.0


@functools.lru_cache(maxsize=64)
def _scorer(name: str, options: str) -> Any:
    """The scorer of a data set: a data set of one problem with the same options, since scorers may read them."""
    try:
        create = _library()
    except ConfigError as error:
        raise RewardError(str(error)) from error
    return create(name, **(from_text(options) | {"size": 1, "seed": 0}))


def _row(name: str, item: dict[str, Any], options: str) -> Row:
    prompt = f"{item['question'].rstrip()}\n{INSTRUCTION}\n"
    entry = {key: item[key] for key in ("question", "answer", "metadata")}
    return {"prompt": prompt, "entry": _as_text(name, entry), "dataset": name, "options": options}


def _as_text(name: str, value: Any) -> str:
    try:
        return to_text(value)
    except (TypeError, RecursionError) as error:
        raise ConfigError(
            f"task `reasoning_gym:{name}` has a problem that can't be sent to its scorer: {error}"
        ) from error


def _library() -> Any:
    need, remedy = "task `reasoning_gym` needs reasoning-gym", "`pip install 'es_llm[tasks]'`"
    return import_optional("reasoning_gym", need, remedy).create_dataset
