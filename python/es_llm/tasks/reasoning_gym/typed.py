"""Values as JSON text that keeps their types: a tuple stays a tuple, a key that is a number stays a number.

A row's columns may pass through JSON, Arrow or another process before a reward reads them, and text passes through all
of these unchanged. A value of JSON's own types is written as JSON. Any other value is an object with the key `!`, the
name of its type. Reading builds the types in `_TYPES` and runs nothing else.
"""

from __future__ import annotations

import datetime
import json
from collections import Counter, OrderedDict, deque
from collections.abc import Callable
from decimal import Decimal
from fractions import Fraction
from typing import Any, Final

_TAG: Final = "!"
_OF: Final = "of"
_WIDE: Final = 1 << 64
"""Integers from this size on are written in hexadecimal: Python reads at most 4,300 decimal digits."""


def to_text(value: Any) -> str:
    """A value as text.

    Raises:
        TypeError: the value holds an unsupported type; names the type and the path to it.
        RecursionError: the value contains itself, or is nested too deeply.
    """
    return json.dumps(_plain(value, "value"))


def from_text(text: str) -> Any:
    """The value that `to_text` wrote, with the same types. Each call returns a new value."""
    return _restored(json.loads(text))


def _plain(value: Any, where: str) -> Any:
    kind = type(value)
    if kind is int:
        return value if abs(value) < _WIDE else {_TAG: "int", _OF: hex(value)}
    if value is None or kind in (bool, float, str):
        return value
    if kind is list:
        return _items(value, where)
    if kind is dict and all(type(key) is str for key in value) and _TAG not in value:
        return {key: _plain(each, f"{where}[{key!r}]") for key, each in value.items()}
    for name, (known, parts, _) in _TYPES.items():
        if kind is known:
            return {_TAG: name, _OF: _items(parts(value), where)}
    return _numpy(value, where)


def _items(values: Any, where: str) -> list[Any]:
    return [_plain(each, f"{where}[{index}]") for index, each in enumerate(values)]


def _numpy(value: Any, where: str) -> Any:
    import numpy as np

    if not isinstance(value, np.generic | np.ndarray) or type(value) not in (np.ndarray, value.dtype.type):
        raise TypeError(f"{where} is a {type(value).__module__}.{type(value).__qualname__}, which text can't keep")
    if value.dtype.names is not None:
        raise TypeError(f"{where} is an array of records, which text can't keep")
    plain = value.astype("int64") if value.dtype.kind in "mM" else value
    items = _items(np.asarray(plain).ravel().tolist(), where)
    shape = list(value.shape) if isinstance(value, np.ndarray) else None
    return {_TAG: "numpy", _OF: [value.dtype.str, shape, items]}


def _restored(value: Any) -> Any:
    if isinstance(value, list):
        return [_restored(each) for each in value]
    if not isinstance(value, dict):
        return value
    if value.keys() != {_TAG, _OF}:
        return {key: _restored(each) for key, each in value.items()}
    name, of = value[_TAG], value[_OF]
    if name == "int":
        return int(of, 16)
    parts = _restored(of)
    if name == "numpy":
        return _array(*parts)
    if name not in _TYPES:
        raise ValueError(f"text of a value has the unknown type {name!r}, expected one of {', '.join(_TYPES)}")
    return _TYPES[name][2](parts)


def _array(dtype: str, shape: list[int] | None, items: list[Any]) -> Any:
    import numpy as np

    flat = np.empty(len(items), "int64" if np.dtype(dtype).kind in "mM" else dtype)
    for index, each in enumerate(items):  # one at a time: an item of an object array may be a list
        flat[index] = each
    flat = flat.view(dtype) if np.dtype(dtype).kind in "mM" else flat
    return flat[0] if shape is None else flat.reshape(shape)


_TYPES: Final[dict[str, tuple[type, Callable[[Any], Any], Callable[[list[Any]], Any]]]] = {
    "tuple": (tuple, list, tuple),
    "set": (set, list, set),
    "frozenset": (frozenset, list, frozenset),
    "deque": (deque, list, deque),
    "dict": (dict, dict.items, dict),
    "OrderedDict": (OrderedDict, OrderedDict.items, OrderedDict),
    "Counter": (Counter, Counter.items, lambda parts: Counter(dict(parts))),
    "range": (range, lambda each: (each.start, each.stop, each.step), lambda parts: range(*parts)),
    "bytes": (bytes, list, bytes),
    "complex": (complex, lambda each: (each.real, each.imag), lambda parts: complex(*parts)),
    "Decimal": (Decimal, lambda each: (str(each),), lambda parts: Decimal(*parts)),
    "Fraction": (Fraction, lambda each: (each.numerator, each.denominator), lambda parts: Fraction(*parts)),
    "datetime": (
        datetime.datetime,
        lambda each: (each.isoformat(),),
        lambda parts: datetime.datetime.fromisoformat(*parts),
    ),
    "date": (datetime.date, lambda each: (each.isoformat(),), lambda parts: datetime.date.fromisoformat(*parts)),
    "time": (datetime.time, lambda each: (each.isoformat(),), lambda parts: datetime.time.fromisoformat(*parts)),
    "timedelta": (
        datetime.timedelta,
        lambda each: (each.days, each.seconds, each.microseconds),
        lambda parts: datetime.timedelta(*parts),
    ),
}
"""name -> (type, function that lists the parts of a value, function that builds a value from its parts)."""
