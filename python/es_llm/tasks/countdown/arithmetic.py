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
- a leading zero (`05`) is refused, so that each number has one spelling;
- `**`, `//`, adjacent numbers, empty brackets and empty text are refused, and so is division by zero.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Final

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


def evaluate(text: str) -> Evaluated | None:
    """The exact value of `text` and its integer literals. None if the text is not an expression of the grammar, exceeds
    a limit, or divides by zero.

    Time and memory are linear in `len(text)` up to `MAX_LENGTH`. Longer text is refused unread.
    """
    if len(text) > MAX_LENGTH:
        return None
    parser = _Parser()
    position = 0
    try:
        while match := _TOKEN.match(text, position):
            parser.feed(match.group(1))
            position = match.end()
        return parser.finish() if not text[position:].strip(" ") else None
    except (_Refused, ZeroDivisionError):
        return None


class _Refused(Exception):  # noqa: N818 - a verdict on the text
    """The text is not an expression, or exceeds a limit."""


_TOKEN: Final = re.compile(r" *([0-9]+|[-+*/()])")
_SIGNS: Final = {"+": "positive", "-": "negative"}
_PRECEDENCE: Final = {"(": 0, "+": 1, "-": 1, "*": 2, "/": 2, "positive": 3, "negative": 3}
_BINARY: Final[dict[str, Callable[[Fraction, Fraction], Fraction]]] = {
    "+": operator.add,
    "-": operator.sub,
    "*": operator.mul,
    "/": operator.truediv,
}


@dataclass
class _Parser:
    """Shunting-yard parser. `wants_operand`: the grammar expects a factor next, else an operator."""

    values: list[Fraction] = field(default_factory=list)
    operators: list[str] = field(default_factory=list)
    literals: list[int] = field(default_factory=list)
    wants_operand: bool = True

    def feed(self, token: str) -> None:
        if token.isdecimal() and self.wants_operand:
            self._push_literal(token)
            self.wants_operand = False
        elif token in "(+-" and self.wants_operand:
            self.operators.append(_SIGNS.get(token, token))
        elif token == ")" and not self.wants_operand:
            self._apply_from(1)
            if not self.operators:
                raise _Refused
            self.operators.pop()
        elif token in _BINARY and not self.wants_operand:
            self._apply_from(_PRECEDENCE[token])
            self.operators.append(token)
            self.wants_operand = True
        else:
            raise _Refused

    def finish(self) -> Evaluated:
        if self.wants_operand:
            raise _Refused
        self._apply_from(1)
        if self.operators:  # an open bracket
            raise _Refused
        return Evaluated(value=self.values.pop(), literals=tuple(self.literals))

    def _push_literal(self, token: str) -> None:
        has_leading_zero = len(token) > 1 and token[0] == "0"
        if len(token) > MAX_DIGITS or has_leading_zero or len(self.literals) == MAX_OPERANDS:
            raise _Refused
        self.literals.append(int(token))
        self.values.append(Fraction(self.literals[-1]))

    def _apply_from(self, precedence: int) -> None:
        """Apply the operators on top that have this precedence or a higher one."""
        while self.operators and _PRECEDENCE[self.operators[-1]] >= precedence:
            applied, right = self.operators.pop(), self.values.pop()
            if applied in _BINARY:
                right = _BINARY[applied](self.values.pop(), right)
            self.values.append(-right if applied == "negative" else right)
