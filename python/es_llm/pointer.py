"""Git LFS pointers: short texts that stand for files which weren't fetched."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from es_llm.errors import EsError

_POINTER: Final = b"version https://git-lfs"
"""How every pointer begins."""


def refuse_pointer(path: Path, error: type[EsError], where: str | None = None) -> None:
    """Refuse a Git LFS pointer, whatever its name; what isn't a file passes.

    Args:
        path: the file.
        error: the class to raise.
        where: what the message calls the file; its path by default.

    Raises:
        EsError: of the class `error`; the file is a pointer, or can't be read.
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
