"""Git LFS pointers: short text files that stand for files that were not downloaded."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from es_llm.errors import EsError

_POINTER: Final = b"version https://git-lfs"
"""The first bytes of every pointer."""


def refuse_pointer(path: Path, error: type[EsError], where: str | None = None) -> None:
    """Refuse a Git LFS pointer, whatever its name. A path that isn't a file passes.

    Args:
        path: the file.
        error: the class to raise.
        where: the name of the file in the message; default: its path.

    Raises:
        EsError: the file is a pointer, or can't be read; an error of the class `error`.
    """
    name = where or str(path)
    try:
        if not path.is_file():
            return
        with path.open("rb") as file:
            head = file.read(len(_POINTER))
    except OSError as caught:
        raise error(f"{name}: can't be read: {caught}") from caught
    if head == _POINTER:
        raise error(
            f"{name}: a Git LFS pointer, not the file itself: run `git lfs pull` in the directory that was cloned"
        )
