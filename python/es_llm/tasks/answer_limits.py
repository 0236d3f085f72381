"""Limits on the work that comparing one answer may cause: the size of its numbers, and the time.

A worker's own limit would end such work too, but as a failed reward after `reward_timeout_s`, and not at all where
`reward_workers` is 0. With these limits the answer is wrong, and is so at once.

`digits` bounds the numbers of a text in LaTeX before anything computes them: `9^{9^{9^{9}}}` is a few characters long,
has more digits than there are atoms, and is computed in C code, which no alarm interrupts. It knows powers, factorials
and binomials only. The bound is generous, and counts names as small numbers. `TimeLimit` ends Python code.
"""

from __future__ import annotations

import math
import re
import signal
import sys
import threading
import time
from dataclasses import dataclass, field
from types import FrameType
from typing import Any, Final


def digits(text: str) -> float:
    """Upper bound of the decimal digits of the numbers, powers, factorials and binomials in a text."""
    levels = [_Level()]
    for token in _TOKEN.findall(text):
        level = levels[-1]
        if token in "{([":
            levels.append(_Level())
        elif token in "})]":
            if len(levels) > 1:
                levels.pop()
                levels[-1].add(level.total)
        elif token in ("^", "**"):
            level.raising = True
        elif token in ("!", "\\choose"):
            level.multiply(_exponent(level.last))
        elif token in _CHOOSE:
            level.choosing = True
        elif token[0] in "0123456789.":
            level.add(_size(token))
        elif token[0].isdecimal():  # a digit of another script
            level.add(1.0)
        elif token[0].isalpha() or (token[0] == "\\" and token not in _FORM and level.raising):
            level.add(_NAME)
    while len(levels) > 1:
        total = levels.pop().total
        levels[-1].add(total)
    return levels[0].total


_TOKEN: Final = re.compile(r"\\[A-Za-z]+|\\.|[0-9]+(?:\.[0-9]*)?|\.[0-9]+|\*\*|.", re.DOTALL)
_NAME: Final = math.log10(2)
_MAX_EXPONENT: Final = 9.0
"""Decimal logarithm of the largest exponent; larger ones count as this."""
_CHOOSE: Final = {"\\binom", "\\dbinom", "\\tbinom"}
_NAMES: Final = ("frac", "dfrac", "tfrac", "cfrac", "sqrt", "left", "right", "text", "mathrm", "mathbf")
_FORM: Final = {f"\\{name}" for name in _NAMES}
"""Commands that have no value themselves: the value follows them."""


@dataclass
class _Level:
    """The values between two brackets.

    total: digits of the product of all values.
    last: digits of the last value, which may be a power of a power of ...
    tower: digits of the numbers of that power, from the lowest up.
    raising: the next value is an exponent.
    choosing: the next value is the upper number of a binomial.
    """

    total: float = 0.0
    last: float = 0.0
    tower: list[float] = field(default_factory=list)
    raising: bool = False
    choosing: bool = False

    def add(self, size: float) -> None:
        """Add a value of `size` digits, or take it as the exponent of the value before, or as the upper number of a
        binomial: C(n, k) <= 2^n."""
        if self.raising:
            self.raising = False
            self.tower.append(size)
            self.multiply(_power(self.tower) / max(self.last, _NAME))
            return
        self.last = _exponent(size) * _NAME if self.choosing else size
        self.tower = [self.last]
        self.choosing = False
        self.total += self.last

    def multiply(self, factor: float) -> None:
        size = max(self.last, _NAME) * factor
        self.total += size - self.last
        self.last = size


def _power(tower: list[float]) -> float:
    """Digits of a power of a power of ..., given the digits of each number from below. The upper ones come first."""
    *lower, size = tower
    for base in reversed(lower):
        size = max(base, _NAME) * _exponent(size)
    return size


def _exponent(size: float) -> float:
    return float(10 ** min(size, _MAX_EXPONENT))


def _size(number: str) -> float:
    whole, _, decimals = number[:40].partition(".")
    size = math.log10(max(float(number[:40]), 2.0)) if whole.strip("0") else _NAME
    return max(size, float(len(decimals)), float(len(number) if len(number) > 40 else 0))


class OverTimeError(BaseException):
    """The time is over. Not an `Exception`, so that libraries that catch those let it pass."""


_REPEAT_S: Final = 0.5
"""The alarm rings again after this time: an error that is raised in a destructor is lost."""


class TimeLimit:
    """Context manager that raises `OverTimeError` in its block after `seconds`.

    Works in the main thread of systems with SIGALRM; elsewhere there is no limit. A timer that ran before the block
    continues after it. C code isn't interrupted.

    Raises:
        OverTimeError: the block took longer.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._works = threading.current_thread() is threading.main_thread() and hasattr(signal, "setitimer")

    def __enter__(self) -> None:
        if not self._works:
            return
        self._start = time.monotonic()
        self._hook = sys.unraisablehook
        sys.unraisablehook = self._unraisable
        self._handler = signal.signal(signal.SIGALRM, _ring)
        self._timer = signal.setitimer(signal.ITIMER_REAL, self._seconds, _REPEAT_S)

    def __exit__(self, *given: object) -> None:
        if not self._works:
            return
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, self._handler)
        sys.unraisablehook = self._hook
        left, interval = self._timer
        if left:
            signal.setitimer(signal.ITIMER_REAL, max(1e-3, left - (time.monotonic() - self._start)), interval)

    def _unraisable(self, unraisable: Any) -> None:
        """Report nothing of an alarm in a destructor: the alarm rings again, maybe during the report."""
        if unraisable.exc_type is not OverTimeError:
            self._hook(unraisable)


def _ring(number: int, frame: FrameType | None) -> None:
    """Raise, but not inside `TimeLimit` itself: its timer would run on after the block, and end the process."""
    if frame is None or frame.f_globals is not globals():
        raise OverTimeError
