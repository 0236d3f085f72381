"""Data sets by name: a hub id, a file (json, jsonl, csv, parquet, arrow), a directory of them or of `save_to_disk`.

Loading is the `datasets` library's; code that comes with a data set is never run.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from es_llm.errors import ConfigError

FORMATS: Final = {".json": "json", ".jsonl": "json", ".csv": "csv", ".parquet": "parquet", ".arrow": "arrow"}
_NO_ROWS: Final = "corresponds to no data"
"""What `datasets` says of a split without rows."""


def load_split(name: str, split: str, *, config: str | None = None, streaming: bool = False) -> Any:
    """One split, as a `datasets.Dataset` or, with `streaming`, an `IterableDataset`.

    Args:
        name: hub id, file or directory. A file has the split "train" alone.
        split: its name, or a slice such as "train[:100]".
        config: which of several configurations.
        streaming: read rows as they are needed.

    Raises:
        ConfigError: it can't be found or read, or has no such split; says what `datasets` said.
    """
    datasets = _library()
    place = Path(name)
    try:
        if place.is_file():
            kind = FORMATS.get(place.suffix.lower())
            if kind is None:
                raise ConfigError(f"`dataset_name` {name!r} must be one of {', '.join(FORMATS)}, got {place.suffix!r}")
            if place.stat().st_size == 0:
                raise ConfigError(f"`dataset_name` {name!r} has no rows, expected at least one: the file is empty")
            return _sliced(
                split,
                streaming,
                lambda part: datasets.load_dataset(kind, data_files=str(place), split=part, streaming=streaming),
            )
        if _is_saved(place):
            return _saved(datasets, place, split, streaming)
        return _sliced(
            split, streaming, lambda part: datasets.load_dataset(name, config, split=part, streaming=streaming)
        )
    except ConfigError:
        raise
    except Exception as error:  # `datasets` raises many classes
        where = f"`dataset_name` {name!r}, split {split!r},"
        if _NO_ROWS in str(error):
            raise ConfigError(f"{where} has no rows, expected at least one") from error
        raise ConfigError(f"{where} can't be loaded: {_told(error)}") from error


def has_split(name: str, split: str, *, config: str | None = None) -> bool:
    """Whether a data set has a split of this name.

    Raises:
        ConfigError: the data set can't be found or read.
    """
    datasets = _library()
    place = Path(name)
    if place.is_file():
        return split.partition("[")[0] == "train"
    try:
        if _is_saved(place):
            loaded = datasets.load_from_disk(str(place))
            return split.partition("[")[0] in (loaded if isinstance(loaded, Mapping) else ("train",))
        return split.partition("[")[0] in datasets.get_dataset_split_names(name, config)
    except Exception as error:
        raise ConfigError(f"`dataset_name` {name!r} can't be loaded: {_told(error)}") from error


def renamed(dataset: Any, columns: Mapping[str, str], known: Sequence[str] | None = None) -> Any:
    """The data set with columns renamed, old name -> new name. A column that has a new name already is dropped.

    Raises:
        ConfigError: an old name isn't there, or two get the same name.
    """
    names = list(known if known is not None else dataset.column_names or [])
    for old in columns:
        if names and old not in names:
            raise ConfigError(f"`dataset_columns`: no column {old!r}, the data set has {sorted(names)}")
    if len(set(columns.values())) < len(columns):
        raise ConfigError(f"`dataset_columns`: two columns get one name in {dict(columns)}")
    taken = [new for new in columns.values() if new in names and new not in columns]
    if taken:
        dataset = dataset.remove_columns(taken)
    return dataset.rename_columns({old: new for old, new in columns.items() if old != new})


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


def _is_saved(place: Path) -> bool:
    """Whether `save_to_disk` wrote the directory."""
    return (place / "state.json").is_file() or (place / "dataset_dict.json").is_file()


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
