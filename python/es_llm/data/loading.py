"""Data sets by name: a hub id, a file (see `es_llm.data.files`), a directory of files or of `save_to_disk`.

`es_llm.data.files` reads JSON and CSV files on this machine, with each value exactly as in the file. The library
`datasets` loads everything else. Code that comes with a data set is never run.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from es_llm.data.directory import is_saved, library, path_of, text_files
from es_llm.data.files import TEXTS, columns_of_stream, format_of, read_rows, stream_rows
from es_llm.data.text import require_content
from es_llm.errors import ConfigError

logger = logging.getLogger(__name__)

_NO_ROWS: Final = "corresponds to no data"
"""Part of the message of `datasets` for a split without rows."""
_DATES: Final = ("timestamp", "date", "time", "duration")


def load_split(name: str, split: str, *, config: str | None = None, streaming: bool = False) -> Any:
    """One split: a list of rows or a `datasets.Dataset`; with `streaming`, a `datasets.IterableDataset`.

    Args:
        name: hub id, file or directory. A file has the split "train" alone.
        split: its name, or a slice such as "train[:100]".
        config: which of several configurations.
        streaming: read rows when they are needed.

    Raises:
        ConfigError: the data set can't be found or read, or has no such split; names the file and the line, or quotes
            the message of `datasets`.
    """
    datasets = library()
    path = path_of(name)
    where = f"`dataset_name` {name!r}, split {split!r},"
    try:
        if path.is_file():
            kind = format_of(path, f"`dataset_name` {name!r}")
            require_content(path, f"`dataset_name` {name!r}")
            if kind not in TEXTS:
                options = {"data_files": str(path), "streaming": streaming}
                return _sliced(split, streaming, lambda part: datasets.load_dataset(kind, split=part, **options))
        if (files := text_files(path, config)) is not None:
            return _text_split(datasets, files, split, streaming, where)
        if is_saved(path):
            return _saved(datasets, path, split, streaming)
        source = str(path) if path.is_dir() else name
        loaded = _sliced(
            split, streaming, lambda part: datasets.load_dataset(source, config, split=part, streaming=streaming)
        )
    except ConfigError:
        raise
    except Exception as error:  # `datasets` raises many classes
        if _NO_ROWS in str(error):
            raise ConfigError(f"{where} has no rows, expected at least one") from error
        raise ConfigError(f"{where} can't be loaded: {_message(error)}") from error
    _warn_of_dates(name, loaded)
    return loaded


def has_split(name: str, split: str, *, config: str | None = None) -> bool:
    """True if the data set has a split of this name.

    Raises:
        ConfigError: the data set can't be found or read.
    """
    datasets = library()
    path, part = path_of(name), split.partition("[")[0]
    if path.is_file():
        return part == "train"
    try:
        if (files := text_files(path, config)) is not None:
            return part in files
        if is_saved(path):
            return part in _saved_splits(datasets, path)
        return part in datasets.get_dataset_split_names(str(path) if path.is_dir() else name, config)
    except ConfigError:
        raise
    except Exception as error:
        raise ConfigError(f"`dataset_name` {name!r} can't be loaded: {_message(error)}") from error


def renamed(dataset: Any, columns: Mapping[str, str]) -> Any:
    """The data set with renamed columns, old name -> new name. An existing column with a new name is dropped.

    Raises:
        ConfigError: the data set has no column of an old name, or two columns get the same name.
    """
    names = _columns(dataset)
    for old in columns:
        if names and old not in names:
            raise ConfigError(f"`dataset_columns`: no column {old!r}, the data set has {sorted(names)}")
    if len(set(columns.values())) < len(columns):
        raise ConfigError(f"`dataset_columns`: two columns get the same name in {dict(columns)}")
    taken = [new for new in columns.values() if new in names and new not in columns]
    if isinstance(dataset, list):
        return [{columns.get(name, name): row[name] for name in row if name not in taken} for row in dataset]
    if taken:
        dataset = dataset.remove_columns(taken)
    return dataset.rename_columns({old: new for old, new in columns.items() if old != new})


def _columns(dataset: Any) -> list[str]:
    """The columns of a data set. For a list or a stream, the columns of its first row."""
    known = getattr(dataset, "column_names", None)
    return list(known) if known else list(next(iter(dataset), {}))


def _text_split(datasets: Any, files: Mapping[str, Sequence[Path]], split: str, streaming: bool, where: str) -> Any:
    """The rows of a split of JSON and CSV files, or a stream of them."""
    if streaming:
        return _sliced(split, True, lambda part: _text_stream(datasets, files, part, where))
    read: dict[str, list[Any]] = {}
    for name in files:
        if name in split:
            read[name] = read_rows(files[name])
    sizes = {name: len(read.get(name, ())) for name in files}
    parts = datasets.ReadInstruction.from_spec(split).to_absolute(sizes)
    rows = [row for part in parts for row in read[part.splitname][part.from_ : part.to]]
    if not rows:
        raise ConfigError(f"{where} has no rows, expected at least one")
    return rows


def _text_stream(datasets: Any, files: Mapping[str, Sequence[Path]], split: str, where: str) -> Any:
    if split not in files:
        raise ConfigError(f"{where} can't be loaded: there is no such split, only {sorted(files)}")
    columns = columns_of_stream(files[split])
    if not columns:
        raise ConfigError(f"{where} has no rows, expected at least one")
    given = {"paths": [str(path) for path in files[split]], "columns": tuple(columns)}
    return datasets.IterableDataset.from_generator(stream_rows, gen_kwargs=given)


def _warn_of_dates(name: str, loaded: Any) -> None:
    """Warn if the library `datasets`, which reads the hub's JSON and CSV files, has read text as dates."""
    info = getattr(loaded, "info", None)
    if getattr(info, "builder_name", None) not in TEXTS:
        return
    features = getattr(loaded, "features", None) or {}
    dates = [column for column, kind in features.items() if str(getattr(kind, "dtype", "")).startswith(_DATES)]
    if dates:
        logger.warning(
            "`dataset_name` %r: the library datasets reads the columns %s as dates, which changes their text; to get "
            "the original text, download the files and name their directory",
            name,
            dates,
        )


def _sliced(split: str, streaming: bool, load: Callable[[str], Any]) -> Any:
    """A split, or a slice of it such as "test[10:20]". Slices streams too, which `datasets` doesn't do."""
    name, bracket, _ = split.partition("[")
    if not (streaming and bracket):
        return load(split)
    start, stop = _rows(split)
    stream = load(name).skip(start)
    return stream if stop is None else stream.take(max(0, stop - start))


def _rows(split: str) -> tuple[int, int | None]:
    """(first row, row after the last one) of a slice such as "test[10:20]".

    Raises:
        ConfigError: the slice has another form.
    """
    start, colon, stop = split.partition("[")[2].rstrip("]").partition(":")
    if not colon or not all(text.isdigit() or not text for text in (start, stop)):
        raise ConfigError(f"split {split!r} of a stream or of a saved data set must be like train[0:100]")
    return int(start or 0), int(stop) if stop else None


def _message(error: Exception) -> str:
    """The message of an error of `datasets`, or its class if it has none, and its cause."""
    message = str(error) or repr(error)
    return f"{message}: {error.__cause__}" if error.__cause__ is not None else message


def _saved_splits(datasets: Any, path: Path) -> Mapping[str, Any]:
    loaded = datasets.load_from_disk(str(path))
    return loaded if isinstance(loaded, Mapping) else {"train": loaded}


def _saved(datasets: Any, path: Path, split: str, streaming: bool) -> Any:
    splits, (name, bracket, _) = _saved_splits(datasets, path), split.partition("[")
    if name not in splits:
        raise ConfigError(f"`dataset_name` {str(path)!r} has no split {name!r}, only {sorted(splits)}")
    loaded = splits[name]
    if bracket:
        start, stop = _rows(split)
        loaded = loaded.select(range(min(start, len(loaded)), len(loaded) if stop is None else min(stop, len(loaded))))
    return loaded.to_iterable_dataset() if streaming else loaded
