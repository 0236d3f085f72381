"""Rows of JSON and CSV files, with each value exactly as in the file.

Libraries for tables guess a type for each column: text that looks like a date becomes a date, `007` becomes 7, `NA`
becomes None, and an integer of thirty digits becomes a float. A right answer must not change, so Python's own `json`
and `csv` read the files here.

JSON: text stays text, integers keep all digits, other numbers are float64; a column that a row lacks is None.
CSV: every value is text.
"""

from __future__ import annotations

import csv
import itertools
import json
import math
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

from es_llm.data.text import PACKED, lines_of, require_content
from es_llm.errors import ConfigError
from es_llm.types import Row

FORMATS: Final = {
    ".json": "json",
    ".jsonl": "json",
    ".ndjson": "json",
    ".csv": "csv",
    ".tsv": "csv",
    ".parquet": "parquet",
    ".arrow": "arrow",
}
"""Suffix -> name of the format in the library `datasets`."""
TEXTS: Final = ("json", "csv")
"""Formats that this module reads."""
_INSTEAD: Final = {
    ".txt": "plain text has no columns",
    ".xlsx": "save the sheet as CSV",
    ".xls": "save the sheet as CSV",
    ".zip": "unpack it first",
    ".tar": "unpack it first",
    ".tgz": "unpack it first",
    ".pkl": "write the rows as JSON lines",
    ".yaml": "write the rows as JSON lines",
    ".yml": "write the rows as JSON lines",
    ".lz4": f"compressed files must be {', '.join(PACKED)}",
}
_WRAPPERS: Final = ("data", "rows", "examples", "instances")
"""Keys under which a JSON object may hold the list of its rows, beside other values."""
_SEPARATORS: Final = {"\t": "a tab", ";": "';'", "|": "'|'", ",": "','"}
"""Separator of the values of a table -> its name in messages. Separators are tried in this order."""
_PEEKED: Final = 1000
"""Number of rows that determine the columns of a stream."""


def suffix_of(path: Path) -> str:
    """A file's suffix in lower case, without the suffix of its compression."""
    plain = path.with_suffix("") if path.suffix.lower() in PACKED else path
    return plain.suffix.lower()


def format_of(path: Path, where: str) -> str:
    """The format of a data file by its suffix: a value of `FORMATS`.

    Raises:
        ConfigError: an unknown suffix, or a compressed file of a format that has compression of its own.
    """
    kind = FORMATS.get(suffix_of(path))
    packed = path.suffix.lower() in PACKED
    if kind is None or (packed and kind not in TEXTS):
        suffix = path.suffix.lower()
        hint = _INSTEAD.get(suffix) or (kind and f"unpack it: {kind} has its own compression")
        expected = f"{', '.join(FORMATS)} ({', '.join(TEXTS)} also packed as {', '.join(PACKED)})"
        raise ConfigError(f"{where} must be one of {expected}, got {path.suffix!r}" + (f": {hint}" if hint else ""))
    return kind


def read_rows(paths: Sequence[Path]) -> list[Row]:
    """The rows of JSON and CSV files, in order. Each row gets the columns of all rows.

    Raises:
        ConfigError: a file can't be read; names the file and the line.
    """
    rows = [row for path in paths for row in _rows_of_file(path)]
    columns = dict.fromkeys(column for row in rows for column in row)
    return [row if len(row) == len(columns) else {**dict.fromkeys(columns), **row} for row in rows]


def stream_rows(paths: Iterable[str], columns: Sequence[str]) -> Iterator[Row]:
    """The rows of JSON and CSV files, read when they are needed. Each row gets these columns.

    Raises:
        ConfigError: a file can't be read, or a row has another column; names the file and the line.
    """
    for path in map(Path, paths):
        for number, row in enumerate(_rows_of_file(path)):
            if more := [column for column in row if column not in columns]:
                raise ConfigError(
                    f"{str(path)!r} row {number} has the columns {more}, which none of the first {_PEEKED} rows "
                    "has, so the stream doesn't know them; leave `dataset_streaming` out, or add them to the first row"
                )
            yield row if len(row) == len(columns) else {**dict.fromkeys(columns), **row}


def columns_of_stream(paths: Sequence[Path]) -> list[str]:
    """The columns of the first `_PEEKED` rows.

    Raises:
        ConfigError: a file can't be read.
    """
    rows = itertools.chain.from_iterable(map(_rows_of_file, paths))
    return list(dict.fromkeys(column for row in itertools.islice(rows, _PEEKED) for column in row))


def _rows_of_file(path: Path) -> Iterator[Row]:
    where = f"data file {str(path)!r}"
    kind = format_of(path, where)
    require_content(path, where)
    lines = lines_of(path, where)
    if kind == "csv":
        return _csv_rows(lines, "\t" if suffix_of(path) == ".tsv" else ",", where)
    return _json_rows(lines, suffix_of(path) != ".json", where)


def _csv_rows(lines: Iterator[str], delimiter: str, where: str) -> Iterator[Row]:
    csv.field_size_limit(min(sys.maxsize, 2**31 - 1))  # prompts are longer than its 128 KiB
    reader = csv.reader(lines, delimiter=delimiter, strict=True)
    try:
        header = next((fields for fields in reader if fields), [])
        _require_separator(header, delimiter, where)
        names = [name or f"Unnamed: {index}" for index, name in enumerate(header)]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ConfigError(f"{where} has two columns named {twice[0]!r}")
        for fields in reader:
            if not fields:
                continue
            if len(fields) != len(names):
                raise ConfigError(
                    f"{where} line {reader.line_num} has {len(fields)} values, expected {len(names)}: {names}; quote "
                    f"values that hold {delimiter!r}"
                )
            yield dict(zip(names, fields, strict=True))
    except csv.Error as error:
        raise ConfigError(f"{where} line {reader.line_num} isn't CSV: {error}") from error


def _require_separator(header: Sequence[str], expected: str, where: str) -> None:
    """Refuse a header of one column that holds another separator.

    Raises:
        ConfigError: names the separator that the file has and the expected one.
    """
    if len(header) != 1:
        return
    found = next((mark for mark in _SEPARATORS if mark != expected and mark in header[0]), None)
    if found is not None:
        raise ConfigError(
            f"{where} has the one column {header[0]!r}: the separator is {_SEPARATORS[found]}, expected "
            f"{_SEPARATORS[expected]}; name a file with commas .csv, and a file with tabs .tsv"
        )


def _json_rows(lines: Iterator[str], is_lines: bool, where: str) -> Iterator[Row]:
    """Rows of one object per line, or of one document. Files of both kinds occur with either suffix."""
    read: list[str] = []
    for line in lines:
        read.append(line)
        if line.strip():
            break
    else:
        return
    first = read[-1].lstrip()
    if not is_lines and not first.startswith("["):
        is_lines, read = _is_one_of_several(first, lines, read)
    if is_lines and not first.startswith("["):
        for number, line in enumerate(itertools.chain(read, lines), 1):
            if line.strip():
                yield _object(_loads(line.rstrip(), where, number), f"{where} line {number}")
        return
    yield from _rows_of_document(_loads("".join((*read, *lines)), where, 1), where)


def _is_one_of_several(first: str, lines: Iterator[str], read: list[str]) -> tuple[bool, list[str]]:
    """(True if the first line is a whole object and other lines follow it, the lines that were read)."""
    try:
        json.loads(first)
    except ValueError:
        return False, read
    for line in lines:
        read.append(line)
        if line.strip():
            return True, read
    return False, read


def _rows_of_document(document: Any, where: str) -> Iterator[Row]:
    """The rows of a list of objects, of an object of columns, or of an object with a list of rows; else one row."""
    if isinstance(document, list):
        if document and all(isinstance(item, str) for item in document):
            return ({"text": item} for item in document)
        return (_object(item, f"{where} row {number}") for number, item in enumerate(document))
    whole = _object(document, where)
    lists = {name: value for name, value in whole.items() if isinstance(value, list)}
    for name in _WRAPPERS:
        if list(lists) == [name] and (not lists[name] or isinstance(lists[name][0], dict)):
            return (_object(item, f"{where} row {number} of {name!r}") for number, item in enumerate(lists[name]))
    plain = not any(isinstance(item, dict) for values in lists.values() for item in values)  # messages, pairs
    if plain and 0 < len(lists) == len(whole) and len({len(values) for values in lists.values()}) == 1:
        return (dict(zip(lists, row, strict=True)) for row in zip(*lists.values(), strict=True))
    return iter([whole])


def _object(value: Any, where: str) -> Row:
    if not isinstance(value, dict):
        raise ConfigError(f"{where} must be a JSON object of columns, got {str(value)[:80]!r} ({type(value).__name__})")
    return value


def _loads(text: str, where: str, line: int) -> Any:
    """The value of JSON text that begins at this line of the file."""
    try:
        return json.loads(text, parse_float=_number)
    except json.JSONDecodeError as error:
        position = f"line {line + error.lineno - 1} column {error.colno}"
        raise ConfigError(f"{where} {position} isn't JSON: {error.msg}") from error
    except (ValueError, RecursionError) as error:  # an integer of thousands of digits, or lists a thousand deep
        raise ConfigError(f"{where} line {line} has a value that can't be read: {error}") from error


def _number(text: str) -> float:
    number = float(text)
    if math.isinf(number):
        raise ValueError(f"the number {text} is too large for float64; write it as text")
    return number
