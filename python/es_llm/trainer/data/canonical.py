"""Canonical bytes of rows: equal in every process for equal values, and different for different ones.

A row of plain JSON is its JSON text with sorted keys. Any other value in it counts by its type and its content: bytes,
dates, numbers of numpy, arrays, tensors and images whole, sets in sorted order, other objects by what they pickle to.
What has no content but its address in memory can't be known again, and is refused. Knows nothing of runs or functions.
"""

from __future__ import annotations

import copyreg
import datetime
import enum
import hashlib
import json
import sys
from collections.abc import Mapping, Sequence, Set
from decimal import Decimal
from fractions import Fraction
from pathlib import PurePath
from types import BuiltinFunctionType, FunctionType
from typing import Any, Final
from uuid import UUID

_DEEPEST: Final = 200
"""Values inside values; more is taken for a value that holds itself."""
_BY_TEXT: Final = (datetime.date, datetime.time, datetime.timedelta, Decimal, Fraction, PurePath, UUID, complex)
"""Types whose text holds all of a value."""
_MARK: Final = "\0es_llm"
"""Begins what stands for a value that JSON hasn't; text of people's data doesn't."""


class NoContentError(ValueError):
    """A value that can't be known again in another process; the message is its type."""


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
    """Whether each key of each mapping that JSON knows is text. JSON would write other keys as text too: 1 as "1"."""
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
    """What is wrong with a value whose content can't be read."""
    if isinstance(error, RecursionError) or str(error).startswith("Circular reference"):
        return NoContentError(f"{_type_of(value)} that holds itself")
    return NoContentError(f"{_type_of(value)} ({type(error).__name__}: {error})")


def _stand_in(value: Any, depth: int = 0) -> Any:
    """What stands for a value that JSON hasn't, made of values that it has; the outermost is marked."""
    return [_MARK, *_content(value, depth)]


def _by_pairs(value: Any, depth: int) -> Any:
    """A value with each mapping whose keys aren't all text as pairs in the order of their bytes, at any depth."""
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
    """Type and content of a value, as a list of what JSON has."""
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
    known = _scalar(value) or _array(value) or _tensor(value) or _image(value)
    if known is None and isinstance(value, Set):
        known = tuple(sorted(_inside(inner, depth) for inner in value))
    elif known is None and isinstance(value, Mapping):
        known = tuple(sorted(_inside([key, value[key]], depth) for key in value))
    elif known is None and isinstance(value, Sequence) and type(value).__module__ in ("builtins", "collections"):
        known = tuple(_inside(inner, depth) for inner in value)
    return known if known is not None else _pickled(value)


def _scalar(value: Any) -> tuple[Any, ...] | None:
    """What a value without parts holds."""
    if isinstance(value, bytes | bytearray | memoryview):
        return (_sha256(bytes(value)),)
    if isinstance(value, _BY_TEXT):
        return str(value), str(getattr(value, "tzinfo", None)), getattr(value, "fold", 0)
    if isinstance(value, enum.Enum):
        return (value.name,)
    if isinstance(value, type):
        return (f"{value.__module__}.{value.__qualname__}",)
    return (_name_of(value),) if isinstance(value, FunctionType | BuiltinFunctionType) else None


def _inside(value: Any, depth: int) -> str:
    """The canonical text of a value inside another one."""
    if value is None or isinstance(value, bool | int | float | str):
        return json.dumps(value)
    if isinstance(value, list | tuple):
        _require_end(value, depth)
        return json.dumps([_inside(inner, depth + 1) for inner in value])
    return json.dumps(_content(value, depth + 1))


def _array(value: Any) -> tuple[Any, ...] | None:
    """Type, shape and bytes of an array or a number of numpy; of objects, each by its own content."""
    numpy = sys.modules.get("numpy")
    if numpy is None or not (type(value) is numpy.ndarray or isinstance(value, numpy.generic)):
        return None
    array = numpy.asarray(value)
    if array.dtype.hasobject:
        return str(array.dtype), list(array.shape), array.tolist()
    if not _is_packed(array.dtype):
        return str(array.dtype), list(array.shape), *_without_padding(array)
    plain = array.astype(array.dtype.newbyteorder("<"), copy=False)
    return plain.dtype.str, str(plain.dtype.descr), list(array.shape), _sha256(plain.tobytes())


def _is_packed(dtype: Any) -> bool:
    """Whether each byte of a numpy type belongs to a value: none lies between fields, or fills a long double."""
    if dtype.subdtype is not None:
        return _is_packed(dtype.subdtype[0])
    if dtype.names is None:
        return bool(dtype.char not in "gG")
    end = 0
    for name in dtype.names:
        field, offset = dtype.fields[name][:2]
        if offset != end or not _is_packed(field):
            return False
        end += field.itemsize
    return bool(end == dtype.itemsize)


def _without_padding(array: Any) -> tuple[Any, ...]:
    """Content of an array that has bytes without meaning: field by field, and long doubles by their text."""
    if array.dtype.names is not None:
        return tuple([name, *(_array(sys.modules["numpy"].asarray(array[name])) or ())] for name in array.dtype.names)
    return ([str(item) for item in array.ravel()],)


def _tensor(value: Any) -> tuple[Any, ...] | None:
    """Type, shape and bytes of a torch tensor, wherever it is."""
    torch = sys.modules.get("torch")
    if torch is None or not isinstance(value, torch.Tensor):
        return None
    if value.is_nested:
        return "nested", list(value.detach().unbind())
    plain = value.detach().to_dense() if value.layout != torch.strided else value.detach()
    plain = plain.resolve_conj().resolve_neg()
    data = plain.cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes() if plain.numel() else b""
    return str(plain.dtype), list(plain.shape), _sha256(data)


def _image(value: Any) -> tuple[Any, ...] | None:
    """Mode, size, palette and pixels of an image of PIL, of each frame if there are several, and which of them it
    shows; not the file that it came from."""
    pillow = sys.modules.get("PIL.Image")
    if pillow is None or not isinstance(value, pillow.Image):
        return None
    if getattr(value, "n_frames", 1) == 1:
        return "image", *_frame(value)
    shown = value.tell()
    try:
        frames = []
        for index in range(value.n_frames):
            value.seek(index)
            frames.append(_frame(value))
    finally:
        value.seek(shown)
    return "frames", shown, frames


def _frame(value: Any) -> list[Any]:
    """Content of the frame that an image shows."""
    value.load()
    palette = value.getpalette() if value.mode in ("P", "PA") else None
    transparency = value.info.get("transparency")
    if palette is not None and value.palette.mode != "RGB" and transparency is None:
        palette = [value.palette.mode, *value.getpalette(None)]  # with the alpha of each colour
    return [value.mode, list(value.size), palette, transparency, _sha256(value.tobytes())]


def _pickled(value: Any) -> tuple[Any, ...]:
    """What an object pickles to: how it is made, and its state. As pickle does, asks the register of types first."""
    registered = copyreg.dispatch_table.get(type(value))
    parts = value.__reduce_ex__(4) if registered is None else registered(value)
    if isinstance(parts, str):
        return (parts,)
    make, given, state, items, pairs = (*parts, None, None, None)[:5]
    return _name_of(make), list(given), state, list(items or ()), list(pairs or ())


def _name_of(value: Any) -> str:
    """The name by which another process finds a function."""
    name = getattr(value, "__qualname__", "<")
    if "<" in name:
        raise NoContentError(f"function {name}")
    return f"{getattr(value, '__module__', '')}.{name}"


def _type_of(value: Any) -> str:
    """The type of a value; images of all files are of one."""
    cls = type(value)
    pillow = sys.modules.get("PIL.Image")
    if pillow is not None and isinstance(value, pillow.Image):
        cls = pillow.Image
    return f"{cls.__module__}.{cls.__qualname__}".removeprefix("builtins.")


def _require_end(value: Any, depth: int) -> None:
    if depth > _DEEPEST:
        raise NoContentError(f"{_type_of(value)} that holds itself")


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
