"""The reward of mathematics against a table made by hand, numeric answers, and answers that are hostile."""

from __future__ import annotations

import time
from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from es_llm.rewards.conciseness import conciseness_reward, rescaled_conciseness
from es_llm.rewards.math import LONGEST, last_box, math_accuracy
from es_llm.rewards.numbers import numeric_accuracy, read_answer, read_number


def cases():
    for line in Path(__file__).with_name("data").joinpath("math_cases.txt").read_text().splitlines():
        if line and not line.startswith("#"):
            score, gold, text = line.split("|", 2)
            yield None if score.strip() == "none" else float(score), gold.strip(), text.strip().replace("\\n", "\n")


def test_the_table_is_large_enough():
    assert len(list(cases())) >= 60


@pytest.mark.parametrize(("score", "gold", "text"), list(cases()))
def test_math_case(score, gold, text):
    assert math_accuracy(completions=[text], answer=[gold]) == [score]


def test_messages_are_read_too():
    assert math_accuracy(completions=[[{"role": "assistant", "content": "\\boxed{2}"}]], answer=["2"]) == [1.0]


@pytest.mark.parametrize(
    ("text", "box"),
    [
        ("\\boxed{a{b}c}", "a{b}c"),
        ("\\boxed{\\{1\\}}", "\\{1\\}"),
        ("\\boxed{a} \\boxed{b", None),
        ("\\boxed{" + "a" * LONGEST + "}", "a" * LONGEST),
        ("\\boxed{" + "a" * (LONGEST + 1) + "}", None),
        ("none", None),
    ],
)
def test_boxes(text, box):
    assert last_box(text) == box


@pytest.mark.parametrize(
    "text",
    [
        "\\boxed{" + "(" * 900 + "}",
        "\\boxed{" * 100_000,
        "\\boxed{" + "9" * 999 + "}",
        "\\boxed{9^{9^{9^{9}}}}",
        "{" * 1_000_000,
        "\\boxed{\u0663}",
        "\\boxed{" + "\\frac{1}{" * 80 + "1" + "}" * 80 + "}",
        "#### " + "9" * 1_000_000,
        "1" * 1_000_000,
        "," * 1_000_000,
    ],
)
def test_hostile_answers_take_bounded_time(text):
    """Those that math-verify is slow on cost their worker its time limit at most; here none does."""
    start = time.monotonic()
    assert last_box(text) is None or len(last_box(text)) <= LONGEST
    assert numeric_accuracy(completions=[text], answer=["12"]) == [0.0]
    assert time.monotonic() - start < 2


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("#### 42", 42), ("so\n#### 42\n", 42), ("#### $1,234.50", Fraction("1234.5")), ("#### -7", -7),
        ("#### 3/4", Fraction(3, 4)), ("the answer is 12.", 12), ("12 apples and 13 pears", 13), ("\\boxed{5}", 5),
        ("\\boxed{5} #### 6", 6), ("50%", 50), ("#### -$3", -3), ("1,000,000", 1_000_000), (".5", Fraction(1, 2)),
        ("#### x", None), ("", None), ("none", None), ("#### 1/0", None), ("\u0663", None), ("#### 4 2", 42),
        ("1e5", 5),
    ],
)  # fmt: skip
def test_numbers_in_texts(text, number):
    assert read_answer(text) == number


@given(st.fractions(), st.booleans())
def test_a_number_is_read_as_it_was_written(number, spaced):
    text = f"{number.numerator}/{number.denominator}" if number.denominator != 1 else f"{number.numerator:,}"
    if len(text) <= 60:
        assert read_number(f" {text} " if spaced else text) == number


def test_numeric_scores():
    texts = ["#### 42", "42", "#### 41", "", "it is 42.0"]
    assert numeric_accuracy(completions=texts, answer=["so\n#### 42"] * 5) == [1.0, 1.0, 0.0, 0.0, 1.0]
    assert numeric_accuracy(completions=["3"] * 3, answer=["?", 3, 3.5]) == [None, 1.0, 0.0]


def test_conciseness():
    texts = ["Yellow", "It is yellow.", "", "x" * 2008]
    assert conciseness_reward(completions=texts, answer=["Yellow"] * 4) == [0.0, -7.0, -6.0, -2002.0]
    assert rescaled_conciseness(completions=texts, answer=["Yellow"] * 4) == [
        1.0,
        1 - 7 / 2000,
        1 - 6 / 2000,
        1 - 2002 / 2000,
    ]
