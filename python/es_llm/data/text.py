"""Opens text files of rows in any supported compression and encoding."""

from __future__ import annotations

import bz2
import codecs
import gzip
import io
import lzma
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from es_llm.errors import ConfigError
from es_llm.pointer import refuse_pointer

PACKED: Final = (".gz", ".bz2", ".xz", ".zst")
"""Suffixes of compressed files, after the suffix of the format. The first bytes of a file tell its compression."""
_OPENERS: Final[dict[bytes, Any]] = {b"\x1f\x8b": gzip.open, b"BZh": bz2.open, b"\xfd7zXZ\x00": lzma.open}
_ZSTD: Final = b"\x28\xb5\x2f\xfd"
_ZIP: Final = b"PK\x03\x04"
_MARKS: Final = {
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
"""Byte order mark -> encoding. The marks of 32 bits come first, since they begin with those of 16 bits."""
_NOT_DECODED: Final = re.compile("[\udc80-\udcff]")
"""Characters by which `surrogateescape` replaces bytes that aren't UTF-8."""


def require_content(path: Path, where: str) -> None:
    """Check that a data file holds data.

    Raises:
        ConfigError: the file is empty, a Git LFS pointer, or a zip archive.
    """
    with path.open("rb") as file:
        head = file.read(len(_ZIP))
    if not head:
        raise ConfigError(f"{where} has no rows, expected at least one: the file is empty")
    refuse_pointer(path, ConfigError, where)
    if head.startswith(_ZIP):
        raise ConfigError(
            f"{where} is a zip archive (or a spreadsheet), expected the data file itself: unpack it first"
        )


def lines_of(path: Path, where: str) -> Iterator[str]:
    """The lines of a text file, with their line ends, decompressed and decoded as UTF-8 or by the byte order mark.

    Raises:
        ConfigError: the file can't be decompressed or decoded; names the line.
    """
    number = 0
    try:
        with _decompressed(path, where) as raw, _decoded(raw) as text:
            for line in text:
                number += 1
                if _NOT_DECODED.search(line):
                    raise ConfigError(f"{where} line {number} isn't UTF-8, expected text in UTF-8")
                if number == 1 and "\0" in line:
                    raise ConfigError(f"{where} line 1 has zero bytes, expected text in UTF-8: is it UTF-16?")
                yield line
    except (OSError, EOFError, lzma.LZMAError, UnicodeError) as error:
        raise ConfigError(f"{where} can't be read after line {number}: {error}") from error


def _decompressed(path: Path, where: str) -> Any:
    with path.open("rb") as file:
        head = file.read(8)
    for mark, opener in _OPENERS.items():
        if head.startswith(mark):
            return opener(path, "rb")
    if head.startswith(_ZSTD):
        return io.BufferedReader(_zstd(path, where))
    return path.open("rb")


def _zstd(path: Path, where: str) -> Any:
    """The contents of a file in Zstandard, by pyarrow, which `datasets` needs anyway."""
    try:
        import pyarrow
    except ImportError as error:
        raise ConfigError(f"{where} is compressed by Zstandard, which needs the library pyarrow ({error})") from error
    return pyarrow.input_stream(str(path), compression="zstd")


def _decoded(raw: Any) -> io.TextIOWrapper:
    """Text with the file's own line ends, which CSV needs. Bytes that aren't UTF-8 are escaped, to find their line."""
    head = raw.peek(4)[:4]
    encoding = next((name for mark, name in _MARKS.items() if head.startswith(mark)), "utf-8")
    errors = "surrogateescape" if encoding.startswith("utf-8") else "strict"
    return io.TextIOWrapper(raw, encoding=encoding, errors=errors, newline="")
