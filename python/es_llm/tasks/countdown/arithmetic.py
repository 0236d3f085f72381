"""Exact arithmetic on untrusted text: parsed, never `eval`-ed.

Knows nothing about tasks, prompts or rewards. A model's answer is hostile input. `44**19**35`, a megabyte of digits and
ten thousand nested brackets all take a bounded time, because the parser is iterative and every dimension has a limit
(`MAX_LENGTH`, `MAX_OPERANDS`, `MAX_DIGITS`).

Grammar (ASCII only; blanks are the space character and nothing else):

    expression = term   { ("+" | "-") term }
    term       = factor { ("*" | "/") factor }
    factor     = { "+" | "-" } ( number | "(" expression ")" )
    number     = "0" | nonzero-digit { digit }

The paper's rule is "only digits, + - * / ( ) and spaces". Where it leaves room:

- a sign before a factor is accepted (`-3+5`, `2*-3`), as in Python: it uses only allowed characters and no number;
- a leading zero (`05`) is a failure, so that each number has one spelling;
- `**`, `//`, adjacent numbers, empty brackets and empty text are failures, and so is division by zero.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Final

from es_llm.errors import EsError


class ArithmeticFailure(EsError, ValueError):  # noqa: N818 - a verdict on text, as often a value as an error
    """The text is not an expression of the grammar, exceeds a limit, or divides by zero."""


MAX_LENGTH: Final = 32_768
"""Characters of a text, blanks included."""
MAX_OPERANDS: Final = 64
"""Numbers in an expression. No value has more than `MAX_OPERANDS * MAX_DIGITS` digits."""
MAX_DIGITS: Final = 20
"""Digits of one number."""


@dataclass(frozen=True, kw_only=True)
class Evaluated:
    """Exact value of an expression, and its number literals from left to right."""

    value: Fraction
    literals: tuple[int, ...]


def evaluate(text: str) -> Evaluated:
    """Return the exact value of `text` and its integer literals.

    Time and memory are linear in `len(text)` up to `MAX_LENGTH`. Longer text is refused unread.

    Raises:
        ArithmeticFailure: names the position and the token there.
    """
    if len(text) > MAX_LENGTH:
        raise ArithmeticFailure(f"expression has {len(text)} characters, expected at most {MAX_LENGTH}")
    parser = _Parser()
    position = 0
    while match := _TOKEN.match(text, position):
        parser.feed(match.group(1), match.start(1))
        position = match.end()
    rest = text[position:].lstrip(" ")
    if rest:
        raise ArithmeticFailure(
            f"character {rest[0]!r} at {len(text) - len(rest)}: expected digits, + - * / ( ) or space"
        )
    return parser.finish()


def try_evaluate(text: str) -> Evaluated | None:
    """Like `evaluate`, but returns None for a failure."""
    try:
        return evaluate(text)
    except ArithmeticFailure:
        return None


_TOKEN = re.compile(r" *([0-9]+|[-+*/()])")
_SIGN = {"+": "positive", "-": "negative"}
_PRECEDENCE = {"(": 0, "+": 1, "-": 1, "*": 2, "/": 2, "positive": 3, "negative": 3}


@dataclass
class _Parser:
    """Shunting-yard parser. `wants_operand`: the grammar expects a factor next, else an operator."""

    values: list[Fraction] = field(default_factory=list)
    operators: list[str] = field(default_factory=list)
    literals: list[int] = field(default_factory=list)
    wants_operand: bool = True

    def feed(self, token: str, position: int) -> None:
        if self.wants_operand:
            self._feed_operand(token, position)
        else:
            self._feed_operator(token, position)

    def finish(self) -> Evaluated:
        if self.wants_operand:
            raise ArithmeticFailure("expression ends where a number or an opening bracket was expected")
        while self.operators:
            if self.operators[-1] == "(":
                raise ArithmeticFailure("expression ends with an open bracket")
            self._apply()
        return Evaluated(value=self.values.pop(), literals=tuple(self.literals))

    def _feed_operand(self, token: str, position: int) -> None:
        if token == "(":
            self.operators.append(token)
        elif token in _SIGN:
            self.operators.append(_SIGN[token])
        elif token[0] in "0123456789":
            self._push_literal(token, position)
            self.wants_operand = False
        else:
            raise ArithmeticFailure(f"{token!r} at {position}: expected a number or an opening bracket")

    def _feed_operator(self, token: str, position: int) -> None:
        if token == ")":
            self._close_bracket(position)
        elif token in "+-*/":
            while self.operators and _PRECEDENCE[self.operators[-1]] >= _PRECEDENCE[token]:
                self._apply()
            self.operators.append(token)
            self.wants_operand = True
        else:
            raise ArithmeticFailure(f"{token!r} at {position}: expected an operator or a closing bracket")

    def _push_literal(self, token: str, position: int) -> None:
        if len(token) > MAX_DIGITS:
            raise ArithmeticFailure(f"number at {position} has {len(token)} digits, expected <= {MAX_DIGITS}")
        if len(token) > 1 and token[0] == "0":
            raise ArithmeticFailure(f"number {token!r} at {position} has a leading zero")
        if len(self.literals) == MAX_OPERANDS:
            raise ArithmeticFailure(f"more than {MAX_OPERANDS} numbers")
        self.literals.append(int(token))
        self.values.append(Fraction(self.literals[-1]))

    def _close_bracket(self, position: int) -> None:
        while self.operators and self.operators[-1] != "(":
            self._apply()
        if not self.operators:
            raise ArithmeticFailure(f"closing bracket at {position} has no opening one")
        self.operators.pop()

    def _apply(self) -> None:
        operator = self.operators.pop()
        right = self.values.pop()
        if operator == "positive":
            self.values.append(right)
        elif operator == "negative":
            self.values.append(-right)
        else:
            self.values.append(_binary(operator, self.values.pop(), right))


def _binary(operator: str, left: Fraction, right: Fraction) -> Fraction:
    if operator == "+":
        return left + right
    if operator == "-":
        return left - right
    if operator == "*":
        return left * right
    if right == 0:
        raise ArithmeticFailure("division by zero")
    return left / right
