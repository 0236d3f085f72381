"""Files that appear whole or not at all."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from uuid import uuid4

from es_llm.errors import JournalError


def write_whole(path: Path, text: str) -> None:
    """Write a file (temporary file, fsync, rename). The temporary one has a name of its own: a leader that was stopped
    here may find that another one has written the same file meanwhile.

    Raises:
        JournalError: the disk refuses it; names the file.
    """
    temporary = path.with_name(f".{path.name}.{uuid4().hex}.tmp")
    try:
        with open(temporary, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise JournalError(f"{str(path)!r} can't be written: {error}") from error
