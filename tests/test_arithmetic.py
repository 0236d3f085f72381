"""The arithmetic parser agrees with a slow, literal evaluator, and hostile text ends in bounded time."""

from __future__ import annotations

import ast
import operator
import re
import time
import warnings
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from es_llm.tasks.countdown import arithmetic
from es_llm.tasks.countdown.arithmetic import evaluate

_OPERATIONS = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
}


def _slow(node: ast.AST) -> Fraction:
    """Value of a Python syntax tree in exact fractions: the definition to compare with."""
    if isinstance(node, ast.Expression):
        return _slow(node.body)
    if isinstance(node, ast.Constant) and type(node.value) is int:
        return Fraction(node.value)
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub | ast.UAdd):
        return -_slow(node.operand) if isinstance(node.op, ast.USub) else _slow(node.operand)
    if isinstance(node, ast.BinOp) and type(node.op) in _OPERATIONS:
        return _OPERATIONS[type(node.op)](_slow(node.left), _slow(node.right))
    raise SyntaxError(f"not in the grammar: {ast.dump(node)}")


def _reference(text: str) -> Fraction | None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SyntaxWarning)  # Python warns of `3(5)`, which we refuse
        try:
            return _slow(ast.parse(text.strip(" "), mode="eval"))
        except (SyntaxError, ZeroDivisionError):
            return None


def _spaced(parts: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    return st.tuples(st.sampled_from(["", " ", "  "]), parts).map("".join)


_numbers = _spaced(st.integers(0, 120).map(str))
_expressions = st.recursive(
    _numbers,
    lambda inner: st.one_of(
        st.tuples(inner, _spaced(st.sampled_from("+-*/")), inner).map("".join),
        _spaced(inner.map(lambda text: f"({text})")),
        st.tuples(st.sampled_from(["-", "+", "- "]), inner).map("".join),
    ),
    max_leaves=12,
)


@given(_expressions)
@settings(max_examples=300, deadline=None)
def test_well_formed_text_has_the_reference_value(text):
    evaluated = evaluate(text)
    assert (None if evaluated is None else evaluated.value) == _reference(text)


@given(st.text(alphabet="0123456789+-*/() ", max_size=14))
@settings(max_examples=600, deadline=None)
def test_any_text_of_the_alphabet_agrees_with_the_reference(text):
    evaluated = evaluate(text)
    # Only Python reads `00` as zero.
    expected = None if re.search("(?<![0-9])0[0-9]", text) else _reference(text)
    assert (None if evaluated is None else evaluated.value) == expected


@given(st.text(max_size=30))
def test_any_text_gives_a_value_or_none(text):
    evaluated = evaluate(text)
    if evaluated is not None:
        assert set(text) <= set("0123456789+-*/() ")


def test_literals_are_returned_in_reading_order():
    assert evaluate("(12 + 3)*-4/12").literals == (12, 3, 4, 12)
    assert evaluate("(12 + 3)*-4/12").value == Fraction(-5)


MALFORMED = [
    "*",
    "1+",
    "*1",
    "()",
    "(1",
    "1)",
    "1(2)",
    "(1)2",
    "(1)(2)",
    "1**2",
    "7//2",
    "1/0",
    "0/0",
    "1/(2-2)",
    "2+(3",
    "2)+(3",
]
MALFORMED += ["01", "00", "1.5", "1e3", "1_000", "0x1", "\u0663", "\uff11", "\u00b2", "\u22121"]


@pytest.mark.parametrize("text", [*MALFORMED, "2 **3", "2 x 3", "", " ", "1 2", "1\n", "\t1", "1\u00a0+2"])
def test_failures(text):
    assert evaluate(text) is None


def test_limits_are_inclusive(monkeypatch):
    for name, limit in {"MAX_LENGTH": 9, "MAX_OPERANDS": 3, "MAX_DIGITS": 3}.items():
        monkeypatch.setattr(arithmetic, name, limit)
    assert evaluate("100+1+100").value == 201
    for text in ["100+1+1000", "1+1+1+1", "1000+1"]:
        assert evaluate(text) is None


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("(" * 10_000 + "1+2" + ")" * 10_000, 3),
        ("-" * 30_001 + "5", -5),
        (" " * 30_000 + "5", 5),
        ("(" * 500_000 + ")" * 500_000, None),
        ("1+" * 500_000 + "1", None),
        ("9" * 1_000_000, None),
        ("(" * 32_000, None),
        ("44**19**35", None),
        ("*".join(["99999999999999999999"] * 64), 99999999999999999999**64),
        ("/".join(["99999999999999999989"] * 63 + ["7"]), Fraction(1, 99999999999999999989**61 * 7)),
    ],
    ids=lambda argument: str(argument)[:12],
)
def test_hostile_text_ends_in_bounded_time(text, value):
    start = time.perf_counter()
    evaluated = evaluate(text)
    assert (None if evaluated is None else evaluated.value) == value
    assert time.perf_counter() - start < 2.0
