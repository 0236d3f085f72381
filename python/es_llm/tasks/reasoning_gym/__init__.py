"""Any data set of the library reasoning-gym: `--task reasoning_gym:mini_sudoku`, a hundred more by its names.

The library generates the problems and scores the answers; options of its generators are task options.
"""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Sequence
from typing import Any, Final

from es_llm.data.messages import TextPrompts
from es_llm.errors import ConfigError, RewardError
from es_llm.rewards.alarm import OverTimeError, TimeLimit
from es_llm.rewards.text import completion_text
from es_llm.tasks.answer_limits import digits
from es_llm.tasks.base import Splits, Task
from es_llm.tasks.reasoning_gym.typed import from_text, to_text
from es_llm.types import Row

INSTRUCTION = "Write your final answer between <answer> and </answer>."
LIMIT_S: Final = 5.0
"""Seconds that the library's scorer may take for one answer."""
MOST_DIGITS: Final = 20_000
"""Digits that powers and factorials in an answer may come to, by a generous bound, unless the right one has as many."""

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
        train_size: problems to train on.
        eval_size: problems held out, from another seed.
        seed: of the problems; the held-out ones have `seed` + 2**20.
        data: not supported; the problems are generated.
        generator: options of the generator.

    Raises:
        ConfigError: the library is missing, or has no such data set or option.
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
        raise ConfigError(f"task `reasoning_gym:{dataset}` can't be made: {error}") from error
    options = _kept(dataset, generator)
    rows = [[_row(dataset, item, options) for item in made] for made in sets]
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
    """The library's own score of the text between the last answer tags (else of the whole completion), in [0, 1].

    An answer that the library's scorer can't read is wrong: 0.0. So is one whose numbers would have more than
    `MOST_DIGITS` digits, or that takes more than `LIMIT_S` to compare, or whose number isn't finite (`nan`, `inf+1j`),
    unless the right answer is this very text: NaN compares in odd ways, and one scorer takes it for right.

    Args:
        completions: of the model.
        entry: the library's problems, as `typed.to_text` writes them.
        dataset: the names of the generators.
        options: of the generators, as `typed.to_text` writes them; None: their defaults.

    Raises:
        RewardError: the library is missing, or its scorer fails on a problem itself, whatever the answer is.
    """
    made = options if options is not None else ["{}"] * len(entry)
    rows = zip(completions, entry, dataset, made, strict=True)
    return [
        _score(_scorer(name, given), tagged_answer(completion_text(completion)), text, name)
        for completion, text, name, given in rows
    ]


def tagged_answer(text: str) -> str:
    """The text between the last answer tags, else all of it."""
    if "</answer>" in text:
        text = text.rpartition("</answer>")[0].rpartition("<answer>")[2]
    return text.strip()


def _score(scorer: Any, answer: str, text: str, name: str) -> float:
    """Each call of the scorer gets an entry of its own, since scorers may change it."""
    right = str(from_text(text)["answer"])
    if digits(answer) > MOST_DIGITS >= digits(right):
        return 0.0
    if _not_finite(answer) and answer.lower() != right.strip().lower():
        return 0.0
    try:
        return _asked(scorer, answer, from_text(text))
    except OverTimeError:
        return 0.0
    except ImportError as error:
        raise RewardError(f"the scorer of `reasoning_gym:{name}` lacks a library: {error}") from error
    except (Exception, SystemExit) as error:  # the library raises many classes; four of its scorers call `eval`
        if _reads(scorer, from_text(text), answer):
            return 0.0
        raise RewardError(
            f"the scorer of `reasoning_gym:{name}` fails on the problem itself: {type(error).__name__}: {error}"
        ) from error


def _not_finite(answer: str) -> bool:
    """Whether it is numbers, real or complex, of which one isn't finite. Names of unknowns may stand there too."""
    words = set(_WORD.findall(answer.lower()))
    return bool(words & _ODD) and words <= _ODD | _LETTERS


def _reads(scorer: Any, entry: dict[str, Any], answer: str) -> bool:
    """Whether the scorer works on this problem, so that the answer is to blame: it takes the right answer. Where the
    problem comes without a right answer, the same answer fails on the library's own problem as well."""
    try:
        if entry["answer"] is not None:
            _asked(scorer, entry["answer"], entry)
            return True
    except (Exception, SystemExit, OverTimeError):
        return False
    try:
        _asked(scorer, answer, scorer[0])
    except (Exception, SystemExit, OverTimeError):
        return True
    return False


def _asked(scorer: Any, answer: Any, entry: dict[str, Any]) -> float:
    """The library's score, in [0, 1]; NaN counts as 0."""
    with TimeLimit(LIMIT_S):
        score = float(scorer.score_answer(answer=answer, entry=entry))
    return min(max(score, 0.0), 1.0) if not math.isnan(score) else 0.0


@functools.lru_cache(maxsize=64)
def _scorer(name: str, options: str) -> Any:
    """A data set with these options, which its rules may read; its problems don't matter."""
    try:
        create = _library()
    except ConfigError as error:
        raise RewardError(str(error)) from error
    return create(name, **(from_text(options) | {"size": 1, "seed": 0}))


def _row(name: str, item: dict[str, Any], options: str) -> Row:
    prompt = f"{item['question'].rstrip()}\n{INSTRUCTION}\n"
    entry = {key: item[key] for key in ("question", "answer", "metadata")}
    return {"prompt": prompt, "entry": _kept(name, entry), "dataset": name, "options": options}


def _kept(name: str, value: Any) -> str:
    """What travels to the scorer, of which it gets the very types.

    Raises:
        ConfigError: a type that can't be kept.
    """
    try:
        return to_text(value)
    except (TypeError, RecursionError) as error:
        raise ConfigError(
            f"task `reasoning_gym:{name}` has a problem that can't be sent to its scorer: {error}"
        ) from error


def _library() -> Any:
    try:
        import reasoning_gym
    except ImportError as error:
        raise ConfigError(
            f"task `reasoning_gym` needs reasoning-gym ({error}); `pip install 'es_llm[tasks]'`"
        ) from error
    return reasoning_gym.create_dataset
