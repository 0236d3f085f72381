"""How large numbers written in LaTeX may become, by reading the text alone: before anything computes them.

`9^{9^{9^{9}}}` is a few characters long and has more digits than there are atoms; a library that computes it never
comes back, from C code that no alarm interrupts. Knows nothing of mathematics but powers, factorials and binomials; the
bound is generous, and takes names for small numbers.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from typing import Final

_TOKEN: Final = re.compile(r"\\[A-Za-z]+|\\.|[0-9]+(?:\.[0-9]*)?|\.[0-9]+|\*\*|.", re.DOTALL)
_NAME: Final = math.log10(2)
_LARGEST: Final = 9.0
"""Decimal logarithm beyond which an exponent counts as that."""
_CHOOSE: Final = {"\\binom", "\\dbinom", "\\tbinom"}
_FORM: Final = {
    "\\frac",
    "\\dfrac",
    "\\tfrac",
    "\\cfrac",
    "\\sqrt",
    "\\left",
    "\\right",
    "\\text",
    "\\mathrm",
    "\\mathbf",
}
"""Commands that are no value themselves: what follows them is."""


def digits(text: str) -> float:
    """A bound on the decimal digits of what the text's numbers, powers, factorials and binomials come to."""
    levels = [_Level()]
    for token in _TOKEN.findall(text):
        level = levels[-1]
        if token in "{([":
            levels.append(_Level())
        elif token in "})]":
            if len(levels) > 1:
                levels.pop()
                levels[-1].value(level.total)
        elif token in ("^", "**"):
            level.raising = True
        elif token in ("!", "\\choose"):
            level.grow(_exponent(level.last))
        elif token in _CHOOSE:
            level.choosing = True
        elif token[0] in "0123456789.":
            level.value(_size(token))
        elif token[0].isdecimal():  # a digit of another script
            level.value(1.0)
        elif token[0].isalpha() or (token[0] == "\\" and token not in _FORM and level.raising):
            level.value(_NAME)
    while len(levels) > 1:
        total = levels.pop().total
        levels[-1].value(total)
    return levels[0].total


@dataclass
class _Level:
    """What stands between two brackets. `total`: digits of all values' product; `last`: of the last one, which may be
    a `tower` of powers, of which these are the digits from below."""

    total: float = 0.0
    last: float = 0.0
    tower: list[float] = field(default_factory=list)
    raising: bool = False
    choosing: bool = False

    def value(self, size: float) -> None:
        """A value, or the exponent of the one before, or the upper number of a binomial: C(n, k) <= 2^n."""
        if self.raising:
            self.raising = False
            self.tower.append(size)
            self.grow(_power(self.tower) / max(self.last, _NAME))
            return
        self.last = _exponent(size) * _NAME if self.choosing else size
        self.tower = [self.last]
        self.choosing = False
        self.total += self.last

    def grow(self, times: float) -> None:
        """The last value has so many times the digits."""
        digits = max(self.last, _NAME) * times
        self.total += digits - self.last
        self.last = digits


def _power(tower: list[float]) -> float:
    """Digits of a power of a power of ..., given the digits of each from below; the upper ones come first."""
    *lower, size = tower
    for base in reversed(lower):
        size = max(base, _NAME) * _exponent(size)
    return size


def _exponent(size: float) -> float:
    """The value of a number with so many digits."""
    return float(10 ** min(size, _LARGEST))


def _size(number: str) -> float:
    """Digits of a number as a fraction."""
    whole, _, decimals = number[:40].partition(".")
    size = math.log10(max(float(number[:40]), 2.0)) if whole.strip("0") else _NAME
    return max(size, float(len(decimals)), float(len(number) if len(number) > 40 else 0))
