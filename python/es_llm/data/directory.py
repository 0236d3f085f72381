"""Data sets of this machine: what a name stands for, which files make up a split, and what is in them."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from es_llm.data.files import FORMATS, TEXTS, suffix_of
from es_llm.data.text import require_content
from es_llm.errors import ConfigError


def place_of(name: str) -> Path:
    """The path that a name stands for, if it stands for one.

    Raises:
        ConfigError: a name that can only be a path, and there is nothing.
    """
    place = Path(name).expanduser()
    like_a_path = name.startswith((".", "~", os.sep)) or suffix_of(place) in FORMATS
    if not name or (like_a_path and not place.exists()):
        raise ConfigError(f"`dataset_name` {name!r} can't be loaded: there is no such file or directory")
    return place


def is_saved(place: Path) -> bool:
    """Whether `save_to_disk` wrote the directory."""
    return (place / "state.json").is_file() or (place / "dataset_dict.json").is_file()


def text_files(datasets: Any, place: Path, config: str | None) -> dict[str, list[Path]] | None:
    """Split -> its JSON or CSV files; None if the data set has another format, or isn't here."""
    if place.is_file():
        return {"train": [place]}
    if not place.is_dir() or is_saved(place):
        return None
    files = _data_files(datasets, place, config)
    if files is None:
        return None
    kinds = {FORMATS.get(suffix_of(path)) for path in _all(files)}
    return files if kinds <= set(TEXTS) else None


def content_of(datasets: Any, name: str, *, config: str | None = None) -> str | None:
    """SHA-256 over the files of a data set of this machine, wherever they are; None for a hub id. Of a file larger than
    1 GiB, its size and 64 blocks of 16 MiB from all over it are read.

    Raises:
        ConfigError: they can't be found.
    """
    place = place_of(name)
    if place.is_file():
        files = [place]
    elif not place.is_dir():
        return None
    else:
        found = None if is_saved(place) else _data_files(datasets, place, config)
        every: Iterable[Path] = place.rglob("*.arrow" if is_saved(place) else "*") if found is None else _all(found)
        files = sorted(path for path in every if path.is_file() and not path.name.startswith((".", "cache-")))
    hasher = hashlib.sha256()
    for path in files:
        hasher.update(_digest(path))
    return hasher.hexdigest()


def _data_files(datasets: Any, place: Path, config: str | None) -> dict[str, list[Path]] | None:
    """Split -> its files, as the library finds them in a directory; None where its description asks for more.

    Raises:
        ConfigError: files of several formats, of which the library would take one without a word; or a file that holds
            no data.
    """
    settings = datasets.load_dataset_builder(str(place), config).config
    if not settings.data_files or getattr(settings, "field", None) or getattr(settings, "sep", ",") not in (",", "\t"):
        return None
    files = {str(split): [Path(path) for path in paths] for split, paths in settings.data_files.items()}
    if not all(path.is_file() for path in _all(files)):
        return None
    _require_one_format(place, _all(files))
    return files


def _all(files: Mapping[str, Sequence[Path]]) -> list[Path]:
    return [path for paths in files.values() for path in paths]


def _require_one_format(place: Path, taken: Sequence[Path]) -> None:
    """Check that the library, which takes the format of most files, leaves out none that are data too.

    Raises:
        ConfigError: it does, or a file holds no data.
    """
    from datasets.data_files import DataFilesDict, get_data_patterns

    found = DataFilesDict.from_patterns(get_data_patterns(str(place)), base_path=str(place))
    candidates = [Path(path) for paths in found.values() for path in paths]
    kinds = {FORMATS.get(suffix_of(path)) for path in taken}
    others = [path for path in candidates if FORMATS.get(suffix_of(path)) not in {None, *kinds}]
    if others and set(map(str, taken)) <= set(map(str, candidates)):
        raise ConfigError(
            f"`dataset_name` {str(place)!r} holds data files of several formats, such as {taken[0].name!r} and "
            f"{others[0].name!r}: keep those of one, or name a file"
        )
    for path in taken:
        require_content(path, f"data file {str(path)!r}")


def _digest(path: Path) -> bytes:
    hasher, size = hashlib.sha256(), path.stat().st_size
    hasher.update(size.to_bytes(8, "little"))
    offsets = range(0, size, _BLOCK) if size <= _LARGE else [(size - _BLOCK) * part // 63 for part in range(64)]
    with path.open("rb") as file:
        for offset in offsets:
            file.seek(offset)
            hasher.update(file.read(_BLOCK))
    return hasher.digest()


_BLOCK: Final = 16 << 20
_LARGE: Final = 1 << 30
