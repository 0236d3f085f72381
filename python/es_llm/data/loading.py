"""Data sets by name: a hub id, a file (see `es_llm.data.files`), a directory of them or of `save_to_disk`.

JSON and CSV files of this machine are read here, with each value as the file has it; all else is loaded by the library
`datasets`. Code that comes with a data set is never run.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from es_llm.data import directory
from es_llm.data.directory import is_saved, place_of, text_files
from es_llm.data.files import TEXTS, columns_of_stream, format_of, read_rows, stream_rows
from es_llm.data.text import require_content
from es_llm.errors import ConfigError

logger = logging.getLogger(__name__)

_NO_ROWS: Final = "corresponds to no data"
"""What `datasets` says of a split without rows."""
_DATES: Final = ("timestamp", "date", "time", "duration")


def load_split(name: str, split: str, *, config: str | None = None, streaming: bool = False) -> Any:
    """One split: a list of rows or a `datasets.Dataset`; with `streaming`, a `datasets.IterableDataset`.

    Args:
        name: hub id, file or directory. A file has the split "train" alone.
        split: its name, or a slice such as "train[:100]".
        config: which of several configurations.
        streaming: read rows as they are needed.

    Raises:
        ConfigError: it can't be found or read, or has no such split; says which file and line, or what `datasets` said.
    """
    datasets = _library()
    place = place_of(name)
    where = f"`dataset_name` {name!r}, split {split!r},"
    try:
        if place.is_file() and (kind := _checked(place, name)) not in TEXTS:
            return _sliced(
                split,
                streaming,
                lambda part: datasets.load_dataset(kind, data_files=str(place), split=part, streaming=streaming),
            )
        if (files := text_files(datasets, place, config)) is not None:
            return _text_split(datasets, files, split, streaming, where)
        if is_saved(place):
            return _saved(datasets, place, split, streaming)
        source = str(place) if place.is_dir() else name
        loaded = _sliced(
            split, streaming, lambda part: datasets.load_dataset(source, config, split=part, streaming=streaming)
        )
    except ConfigError:
        raise
    except Exception as error:  # `datasets` raises many classes
        if _NO_ROWS in str(error):
            raise ConfigError(f"{where} has no rows, expected at least one") from error
        raise ConfigError(f"{where} can't be loaded: {_told(error)}") from error
    _warn_of_dates(name, loaded)
    return loaded


def has_split(name: str, split: str, *, config: str | None = None) -> bool:
    """Whether a data set has a split of this name.

    Raises:
        ConfigError: the data set can't be found or read.
    """
    datasets = _library()
    place, part = place_of(name), split.partition("[")[0]
    if place.is_file():
        return part == "train"
    try:
        if (files := text_files(datasets, place, config)) is not None:
            return part in files
        if is_saved(place):
            loaded = datasets.load_from_disk(str(place))
            return part in (loaded if isinstance(loaded, Mapping) else ("train",))
        return part in datasets.get_dataset_split_names(str(place) if place.is_dir() else name, config)
    except ConfigError:
        raise
    except Exception as error:
        raise ConfigError(f"`dataset_name` {name!r} can't be loaded: {_told(error)}") from error


def content_of(name: str, *, config: str | None = None) -> str | None:
    """SHA-256 over the files of a data set of this machine (see `directory.content_of`); None for a hub id.

    Raises:
        ConfigError: they can't be found.
    """
    return directory.content_of(_library(), name, config=config)


def renamed(dataset: Any, columns: Mapping[str, str], known: Sequence[str] | None = None) -> Any:
    """The data set with columns renamed, old name -> new name. A column that has a new name already is dropped.

    Raises:
        ConfigError: an old name isn't there, or two get the same name.
    """
    names = list(known if known is not None else _columns(dataset))
    for old in columns:
        if names and old not in names:
            raise ConfigError(f"`dataset_columns`: no column {old!r}, the data set has {sorted(names)}")
    if len(set(columns.values())) < len(columns):
        raise ConfigError(f"`dataset_columns`: two columns get one name in {dict(columns)}")
    taken = [new for new in columns.values() if new in names and new not in columns]
    if isinstance(dataset, list):
        return [{columns.get(name, name): row[name] for name in row if name not in taken} for row in dataset]
    if taken:
        dataset = dataset.remove_columns(taken)
    return dataset.rename_columns({old: new for old, new in columns.items() if old != new})


def _columns(dataset: Any) -> list[str]:
    """The columns of a data set; of a list or a stream, those of its first row."""
    known = getattr(dataset, "column_names", None)
    return list(known) if known else list(next(iter(dataset), {}))


def _checked(path: Path, name: str) -> str:
    """The format of the file that the user named."""
    kind = format_of(path, f"`dataset_name` {name!r}")
    require_content(path, f"`dataset_name` {name!r}")
    return kind


def _text_split(datasets: Any, files: Mapping[str, Sequence[Path]], split: str, streaming: bool, where: str) -> Any:
    """A split of JSON and CSV files."""
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
    """The library reads a JSON or CSV text that looks like a date as one; of a hub's data set it is the reader."""
    info = getattr(loaded, "info", None)
    if getattr(info, "builder_name", None) not in TEXTS:
        return
    features = getattr(loaded, "features", None) or {}
    dates = [column for column, kind in features.items() if str(getattr(kind, "dtype", "")).startswith(_DATES)]
    if dates:
        logger.warning(
            "`dataset_name` %r: the library datasets reads the columns %s as dates, which changes their text; download "
            "the files and name their directory to get the text as it is",
            name,
            dates,
        )


# ---- splits -----------------------------------------------------------------------------------------


def _sliced(split: str, streaming: bool, load: Callable[[str], Any]) -> Any:
    """A split, or rows of it such as "test[10:20]"; of a stream too, which `datasets` doesn't slice itself."""
    name, bracket, _ = split.partition("[")
    if not (streaming and bracket):
        return load(split)
    start, stop = _rows(split)
    stream = load(name).skip(start)
    return stream if stop is None else stream.take(max(0, stop - start))


def _rows(split: str) -> tuple[int, int | None]:
    """First row and the row after the last one of a slice such as "test[10:20]".

    Raises:
        ConfigError: it is another kind of slice.
    """
    start, colon, stop = split.partition("[")[2].rstrip("]").partition(":")
    if not colon or not all(text.isdigit() or not text for text in (start, stop)):
        raise ConfigError(f"split {split!r} of a stream or of a saved data set must be like train[0:100]")
    return int(start or 0), int(stop) if stop else None


def _told(error: Exception) -> str:
    """What `datasets` said; where that is nothing, which error it was, and what it came from."""
    told = str(error) or repr(error)
    return f"{told}: {error.__cause__}" if error.__cause__ is not None else told


def _saved(datasets: Any, place: Path, split: str, streaming: bool) -> Any:
    loaded = datasets.load_from_disk(str(place))
    name, bracket, _ = split.partition("[")
    if isinstance(loaded, Mapping):
        if name not in loaded:
            raise ConfigError(f"`dataset_name` {str(place)!r} has no split {name!r}, only {sorted(loaded)}")
        loaded = loaded[name]
    elif name != "train":
        raise ConfigError(f"`dataset_name` {str(place)!r} has no split {name!r}, only ['train']")
    if bracket:
        start, stop = _rows(split)
        loaded = loaded.select(range(min(start, len(loaded)), len(loaded) if stop is None else min(stop, len(loaded))))
    return loaded.to_iterable_dataset() if streaming else loaded


def _library() -> Any:
    try:
        import datasets
    except ImportError as error:
        raise ConfigError(
            f"`dataset_name` needs the library datasets ({error}); `pip install 'es_llm[data]'` brings it"
        ) from error
    datasets.disable_progress_bars()
    return datasets
