"""The content of values that JSON doesn't have: numbers and arrays of numpy, tensors, images, what objects pickle to.

Each function returns the parts of a value's content, or None for a value of another type. Parts may be any values.
"""

from __future__ import annotations

import copyreg
import datetime
import enum
import hashlib
import sys
from decimal import Decimal
from fractions import Fraction
from pathlib import PurePath
from types import BuiltinFunctionType, FunctionType
from typing import Any, Final
from uuid import UUID

_BY_TEXT: Final = (datetime.date, datetime.time, datetime.timedelta, Decimal, Fraction, PurePath, UUID, complex)
"""Types whose `str` holds the whole value."""


class NoContentError(ValueError):
    """A value without content that another process could compare; the message is its type."""


def scalar(value: Any) -> tuple[Any, ...] | None:
    """Bytes, values that are their text, names of enum members, classes and functions."""
    if isinstance(value, bytes | bytearray | memoryview):
        return (_sha256(bytes(value)),)
    if isinstance(value, _BY_TEXT):
        return str(value), str(getattr(value, "tzinfo", None)), getattr(value, "fold", 0)
    if isinstance(value, enum.Enum):
        return (value.name,)
    if isinstance(value, type):
        return (f"{value.__module__}.{value.__qualname__}",)
    return (_name_of(value),) if isinstance(value, FunctionType | BuiltinFunctionType) else None


def array(value: Any) -> tuple[Any, ...] | None:
    """Type, shape and bytes of an array or a number of numpy; the items of an array of objects."""
    numpy = sys.modules.get("numpy")
    if numpy is None or not (type(value) is numpy.ndarray or isinstance(value, numpy.generic)):
        return None
    whole = numpy.asarray(value)
    if whole.dtype.hasobject:
        return str(whole.dtype), list(whole.shape), whole.tolist()
    if not _is_packed(whole.dtype):
        return str(whole.dtype), list(whole.shape), *_without_padding(whole)
    plain = whole.astype(whole.dtype.newbyteorder("<"), copy=False)
    return plain.dtype.str, str(plain.dtype.descr), list(whole.shape), _sha256(plain.tobytes())


def _is_packed(dtype: Any) -> bool:
    """True if each byte of a numpy type belongs to a value: no padding between fields, and none of a long double."""
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


def _without_padding(whole: Any) -> tuple[Any, ...]:
    """Content of an array with padding: field by field, and long doubles by their text."""
    if whole.dtype.names is not None:
        return tuple([name, *(array(sys.modules["numpy"].asarray(whole[name])) or ())] for name in whole.dtype.names)
    return ([str(item) for item in whole.ravel()],)


def tensor(value: Any) -> tuple[Any, ...] | None:
    """Type, shape and bytes of a torch tensor, on any device."""
    torch = sys.modules.get("torch")
    if torch is None or not isinstance(value, torch.Tensor):
        return None
    if value.is_nested:
        return "nested", list(value.detach().unbind())
    plain = value.detach().to_dense() if value.layout != torch.strided else value.detach()
    plain = plain.resolve_conj().resolve_neg()
    data = plain.cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes() if plain.numel() else b""
    return str(plain.dtype), list(plain.shape), _sha256(data)


def image(value: Any) -> tuple[Any, ...] | None:
    """Mode, size, palette and pixels of an image of PIL; of one with several frames those of each, and the index of the
    current frame. The file that it came from doesn't count."""
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
    value.load()
    palette = value.getpalette() if value.mode in ("P", "PA") else None
    transparency = value.info.get("transparency")
    if palette is not None and value.palette.mode != "RGB" and transparency is None:
        palette = [value.palette.mode, *value.getpalette(None)]  # with the alpha of each color
    return [value.mode, list(value.size), palette, transparency, _sha256(value.tobytes())]


def pickled(value: Any) -> tuple[Any, ...]:
    """How pickle would make an object: function, arguments, state and items."""
    registered = copyreg.dispatch_table.get(type(value))
    parts = value.__reduce_ex__(4) if registered is None else registered(value)
    if isinstance(parts, str):
        return (parts,)
    make, given, state, items, pairs = (*parts, None, None, None)[:5]
    return _name_of(make), list(given), state, list(items or ()), list(pairs or ())


def _name_of(value: Any) -> str:
    """The name by which another process finds a function or class."""
    name = getattr(value, "__qualname__", "<")
    if "<" in name:
        raise NoContentError(f"function {name}")
    return f"{getattr(value, '__module__', '')}.{name}"


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
