"""Canonical bytes of rows: equal in every process for equal values, and different for different ones.

A row of plain JSON is its JSON text with sorted keys. Any other value in it is replaced by its type and its content:
bytes, dates, numbers of numpy, arrays, tensors and images whole, sets in sorted order, other objects by what they
pickle to. A value without content, such as a lock, is refused. Knows nothing of runs or functions.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence, Set
from typing import Any, Final

from es_llm.data.contents import NoContentError, array, image, pickled, scalar, tensor

_DEEPEST: Final = 200
"""Nesting depth beyond which a value is assumed to contain itself."""
_MARK: Final = "\0es_llm"
"""First item of the list that replaces a value which JSON doesn't have; no text of real data begins like that."""


def canonical(value: Any) -> bytes:
    """The bytes of a row or of a value in it.

    Raises:
        NoContentError: the value, or one in it, has no content that another process could compare.
    """
    try:
        plain = value if _has_text_keys(value) else _by_pairs(value, 0)
        return json.dumps(plain, sort_keys=True, default=_stand_in).encode()
    except NoContentError:
        raise
    except Exception as error:
        raise _refusal(value, error) from error


def _has_text_keys(value: Any) -> bool:
    """True if all keys of all dicts are text. JSON would write other keys as text too: 1 as "1"."""
    waiting, seen = [value], set()
    while waiting:
        inner = waiting.pop()
        if not isinstance(inner, dict | list | tuple) or id(inner) in seen:
            continue
        seen.add(id(inner))
        if not isinstance(inner, dict):
            waiting.extend(inner)
        elif all(isinstance(key, str) for key in inner):
            waiting.extend(inner.values())
        else:
            return False
    return True


def _refusal(value: Any, error: Exception) -> NoContentError:
    if isinstance(error, RecursionError) or str(error).startswith("Circular reference"):
        return NoContentError(f"{_type_of(value)} that contains itself")
    return NoContentError(f"{_type_of(value)} ({type(error).__name__}: {error})")


def _stand_in(value: Any, depth: int = 0) -> Any:
    """The marked list that replaces a value which JSON doesn't have."""
    return [_MARK, *_content(value, depth)]


def _by_pairs(value: Any, depth: int) -> Any:
    """A copy of a value in which dicts with keys that aren't text are lists of pairs, sorted by their bytes."""
    _require_end(value, depth)
    if isinstance(value, dict):
        if all(isinstance(key, str) for key in value):
            return {key: _by_pairs(inner, depth + 1) for key, inner in value.items()}
        pairs = [(canonical(_by_pairs(key, depth + 1)), _by_pairs(value[key], depth + 1)) for key in value]
        return [_MARK, "mapping", *([key.decode(), inner] for key, inner in sorted(pairs, key=lambda pair: pair[0]))]
    if isinstance(value, list | tuple):
        return [_by_pairs(inner, depth + 1) for inner in value]
    return value


def _content(value: Any, depth: int) -> list[Any]:
    _require_end(value, depth)
    try:
        parts = _parts(value, depth)
        return [_type_of(value), *(part if isinstance(part, str) else _inside(part, depth) for part in parts)]
    except NoContentError:
        raise
    except Exception as error:  # closed images, tensors without data, locks, what a library forbids
        raise _refusal(value, error) from error


def _parts(value: Any, depth: int) -> tuple[Any, ...]:
    """The parts of a value's content; text is canonical already."""
    known = scalar(value) or array(value) or tensor(value) or image(value)
    if known is None and isinstance(value, Set):
        known = tuple(sorted(_inside(inner, depth) for inner in value))
    elif known is None and isinstance(value, Mapping):
        known = tuple(sorted(_inside([key, value[key]], depth) for key in value))
    elif known is None and isinstance(value, Sequence) and type(value).__module__ in ("builtins", "collections"):
        known = tuple(_inside(inner, depth) for inner in value)
    return known if known is not None else pickled(value)


def _inside(value: Any, depth: int) -> str:
    if value is None or isinstance(value, bool | int | float | str):
        return json.dumps(value)
    if isinstance(value, list | tuple):
        _require_end(value, depth)
        return json.dumps([_inside(inner, depth + 1) for inner in value])
    return json.dumps(_content(value, depth + 1))


def _type_of(value: Any) -> str:
    """Name of a value's type. Images of all file formats have the same one."""
    cls = type(value)
    pillow = sys.modules.get("PIL.Image")
    if pillow is not None and isinstance(value, pillow.Image):
        cls = pillow.Image
    return f"{cls.__module__}.{cls.__qualname__}".removeprefix("builtins.")


def _require_end(value: Any, depth: int) -> None:
    if depth > _DEEPEST:
        raise NoContentError(f"{_type_of(value)} that contains itself")
