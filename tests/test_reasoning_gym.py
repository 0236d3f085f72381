"""For every data set of reasoning-gym the reward is the library's score, for right, wrong and hostile answers."""

from __future__ import annotations

import copy
import datetime
import json
import math
from collections import Counter, OrderedDict, deque
from decimal import Decimal
from fractions import Fraction

import numpy as np
import pytest

from es_llm.errors import ConfigError, RewardError
from es_llm.tasks import load_task
from es_llm.tasks import reasoning_gym as task
from es_llm.tasks.reasoning_gym.typed import from_text, to_text

library = pytest.importorskip("reasoning_gym")
from reasoning_gym.factory import DATASETS  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore")  # the library leaves files open, and numpy warns of odd answers

NAMES = sorted(set(DATASETS) - {"composite"})
SLOW = {"knight_swap", "futoshiki", "puzzle24", "zebra_puzzles"}
"""Data sets whose problems take up to seconds to generate."""
HOSTILE = [
    "", "words", "nan", "inf", "-1", "[]", "{}", "null", "²³", "٣", "1/0", "9" * 5000, "(" * 500, "x" * 20_000,
    "[[1,2],[3]]", '{"a":1}', "exit()", "1x2x3", "\x00", "\ud800", "1e400", "9**9**9**9**9", "99999999!", "9^9^9^9",
]  # fmt: skip


def scored(rows, answers):
    columns = {name: [row[name] for row in rows] for name in ("entry", "dataset", "options")}
    return task.reasoning_gym_score([f"so <answer>{answer}</answer>" for answer in answers], **columns)


def examples(entry):
    """Right answers of an entry: its own, and those in its metadata."""
    metadata = entry["metadata"]
    names = ("possible_answer", "example_answer", "example_correct_answer")
    found = [entry["answer"], *(metadata.get(name) for name in names)]
    return [each if isinstance(each, str) else json.dumps(each) for each in found if each is not None]


def test_every_data_set_scores_as_the_library_does():
    faults = []
    for name in NAMES:
        size = 1 if name in SLOW else 2
        theirs = library.create_dataset(name, size=size, seed=5)
        entries = [theirs[index] for index in range(size)]
        rows = load_task(f"reasoning_gym:{name}", train_size=size, eval_size=0, seed=5).train
        for index, (row, entry) in enumerate(zip(rows, entries, strict=True)):
            if from_text(row["entry"]) != {key: entry[key] for key in ("question", "answer", "metadata")}:
                faults.append(f"{name}: row {index} isn't the library's")
            answers = [*examples(entry), *examples(entries[(index + 1) % size]), "17", ""]
            got = scored([row] * len(answers), answers)
            expected = [theirs_score(theirs, answer.strip(), entry) for answer in answers]
            if got != expected:
                faults.append(f"{name}: row {index}: got {got}, the library gives {expected}")
            if entry["answer"] is not None and got[0] != 1.0:
                faults.append(f"{name}: row {index}: the right answer gets {got[0]}")
    assert not faults, "\n".join(faults)


def theirs_score(scorer, answer, entry):
    try:
        return scorer.score_answer(answer=answer, entry=copy.deepcopy(entry))
    except Exception:
        return 0.0


def test_an_answer_that_the_library_cannot_read_is_wrong():
    faults = []
    for name in NAMES:
        (row,) = load_task(f"reasoning_gym:{name}", train_size=1, eval_size=0, seed=7).train
        for answer in HOSTILE:
            try:
                (score,) = scored([row], [answer])
            except BaseException as error:
                faults.append(f"{name}: {answer[:20]!r} raises {error!r}")
                continue
            if not 0.0 <= score <= 1.0:
                faults.append(f"{name}: {answer[:20]!r} scores {score}")
    assert not faults, "\n".join(faults)


NOT_FINITE = ["nan", "NaN", "-nan", "inf", "-INF", "Infinity", "nan+1j", "1+nanj", "1 - nani", "(nan)", "inf+infj",
              "[nan]", "x = nan", "nan, inf"]  # fmt: skip


@pytest.mark.parametrize("name", ["complex_arithmetic", "decimal_arithmetic", "chain_sum", "polynomial_equations"])
def test_a_number_that_is_not_finite_is_wrong(name):
    (row,) = load_task(f"reasoning_gym:{name}", train_size=1, eval_size=0, seed=3).train
    assert scored([row] * len(NOT_FINITE), NOT_FINITE) == [0.0] * len(NOT_FINITE)
    assert scored([row], [from_text(row["entry"])["answer"]]) == [1.0]


def test_nan_is_right_where_the_right_answer_is_this_text(monkeypatch):
    monkeypatch.setattr(task, "_scorer", lambda name, options: Odd(1.0))
    for right, expected in (("nan", 1.0), ("NaN", 1.0), ("3", 0.0), ("nan nan", 0.0)):
        row = {"entry": to_text({"answer": right, "metadata": {}}), "dataset": "odd", "options": "{}"}
        assert scored([row, row], ["nan", "grandma nan"]) == [expected, 1.0]


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("decimal_arithmetic", {"min_num_decimal_places": 5, "max_num_decimal_places": 6, "precision": 12}),
        ("word_ladder", {"min_word_length": 3, "max_word_length": 5}),
        ("time_intervals", {"max_date_difference_days": 10}),
        ("graph_color", {"num_colors": 4}),
    ],
)
def test_scorers_know_the_options_of_their_data_set(name, options):
    theirs = library.create_dataset(name, size=5, seed=5, **options)
    rows = load_task(f"reasoning_gym:{name}", train_size=5, eval_size=0, seed=5, **options).train
    answers = [examples(theirs[index])[0] for index in range(5)]
    expected = [theirs.score_answer(answer=answer, entry=theirs[index]) for index, answer in enumerate(answers)]
    assert scored(rows, answers) == expected
    assert expected == [1.0] * 5
    assert json.loads(rows[0]["options"]) == options


@pytest.mark.parametrize("name", ["chain_sum", "boxnet"])
def test_a_broken_row_is_no_wrong_answer(name):
    """One of these data sets has right answers, the other one has none."""
    (row,) = load_task(f"reasoning_gym:{name}", train_size=1, eval_size=0).train
    entry = from_text(row["entry"])
    broken = row | {"entry": to_text(entry | {"answer": entry["answer"] and 17, "metadata": None})}
    answer = "[1]" if name == "chain_sum" else '[{"Agent[0.5, 0.5]": "move(box_red, square[0.5, 1.5])"}]'
    with pytest.raises(RewardError, match=f"`reasoning_gym:{name}` fails on the problem itself"):
        scored([broken], [answer])


class Odd:
    """A scorer that returns `value`, or raises it, unless the answer is right."""

    def __init__(self, value):
        self.value = value

    def score_answer(self, answer, entry):
        entry["metadata"].clear()
        if answer == "right":
            return 1.0
        if isinstance(self.value, BaseException):
            raise self.value
        return self.value

    def __getitem__(self, index):
        return {"answer": "right", "metadata": {}}


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (math.nan, 0.0), (math.inf, 1.0), (-3, 0.0), (17.5, 1.0), (True, 1.0), (np.float32(0.5), 0.5),
        (None, 0.0), ("text", 0.0), (ValueError("no"), 0.0), (KeyError("no"), 0.0), (RecursionError(), 0.0),
        (SystemExit(3), 0.0), (MemoryError(), 0.0),
    ],
)  # fmt: skip
def test_what_scorers_give_is_a_score(value, expected, monkeypatch):
    monkeypatch.setattr(task, "_scorer", lambda name, options: Odd(value))
    row = {"entry": to_text({"answer": "right", "metadata": {1: 2}}), "dataset": "odd", "options": "{}"}
    assert scored([row] * 2, ["words", "right"]) == [expected, 1.0]


def test_a_library_that_is_missing_is_no_wrong_answer(monkeypatch):
    monkeypatch.setattr(task, "_scorer", lambda name, options: Odd(ImportError("sympy")))
    row = {"entry": to_text({"answer": "right", "metadata": {}}), "dataset": "odd", "options": "{}"}
    with pytest.raises(RewardError, match="`reasoning_gym:odd` lacks a library: sympy"):
        scored([row], ["words"])


VALUES = [
    None, True, 1, 1.5, -0.0, math.inf, "text \ud800 \u00e9", [1, (2, [3])], {"a": {1: "b", (1, 2): {3}}},
    {"!": 1, "of": 2}, 10**5000, -(1 << 64), {1, 2}, frozenset({(1, 2)}), b"\x00\xff", 1 + 2j, Decimal("0.10"),
    Fraction(1, 3),
    datetime.datetime(2024, 1, 2, 3, 4, 5, 6, datetime.timezone.utc), datetime.date(2024, 1, 2), datetime.time(1, 2),
    datetime.timedelta(1, 2, 3), Counter("aab"), OrderedDict([(2, 1), (1, 2)]), deque([1, 2]), range(1, 9, 2),
    np.str_("x"), np.int64(3), np.float32(0.1), np.bool_(True), np.datetime64("2024-01-02T03", "ns"),
    (), {}, {None: None, False: 0, 1.5: [()]},
]  # fmt: skip


@pytest.mark.parametrize("value", VALUES, ids=lambda value: type(value).__name__)
def test_text_keeps_types(value):
    again = from_text(to_text(value))
    assert again == value
    assert isinstance(value, int) or repr(again) == repr(value)  # a long one has no repr
    assert type(again) is type(value)


@pytest.mark.parametrize(
    "value",
    [
        np.arange(6, dtype=np.int8).reshape(2, 3), np.zeros((0, 4)), np.array([["a", "bc"]]),
        np.array([(1, 2), [3], None], object),
    ],
)  # fmt: skip
def test_text_keeps_arrays(value):
    again = from_text(to_text(value))
    assert again.dtype == value.dtype
    assert again.shape == value.shape
    assert again.tolist() == value.tolist()


def test_what_text_cannot_keep_is_refused():
    class Own(dict):
        pass

    with pytest.raises(TypeError, match=r"value\['a'\]\[1\] is a .*Own, which text can't keep"):
        to_text({"a": [1, Own()]})
    with pytest.raises(ConfigError, match="`reasoning_gym:x` has a problem that can't be sent to its scorer: value"):
        task._as_text("x", object())
