"""Data sets on this machine: the path of a name, the files of a split, and a hash of their contents."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from es_llm.data.files import FORMATS, TEXTS, suffix_of
from es_llm.data.text import require_content
from es_llm.errors import ConfigError
from es_llm.plugins import import_optional


def path_of(name: str) -> Path:
    """The path that a name stands for. If nothing is there, the name may be a hub id.

    Raises:
        ConfigError: the name can only be a path, and no file or directory is there.
    """
    path = Path(name).expanduser()
    like_a_path = name.startswith((".", "~", os.sep)) or suffix_of(path) in FORMATS
    if not name or (like_a_path and not path.exists()):
        raise ConfigError(f"`dataset_name` {name!r} can't be loaded: there is no such file or directory")
    return path


def is_saved(path: Path) -> bool:
    """True if `save_to_disk` of the library `datasets` wrote the directory."""
    return (path / "state.json").is_file() or (path / "dataset_dict.json").is_file()


def text_files(path: Path, config: str | None) -> dict[str, list[Path]] | None:
    """Split -> its JSON or CSV files; None if the data set has another format, or isn't on this machine."""
    if path.is_file():
        return {"train": [path]}
    if not path.is_dir() or is_saved(path):
        return None
    files = _data_files(path, config)
    if files is None:
        return None
    formats = {FORMATS.get(suffix_of(file)) for file in _all(files)}
    return files if formats <= set(TEXTS) else None


def content_of(name: str, *, config: str | None = None) -> str | None:
    """SHA-256 over the contents of the files of a data set on this machine; None for a hub id.

    The paths of the files don't count. A file of more than 1 GiB counts by its size and 64 blocks of 16 MiB, spread
    evenly over it.

    Raises:
        ConfigError: the files can't be found.
    """
    path = path_of(name)
    if path.is_file():
        files = [path]
    elif not path.is_dir():
        return None
    else:
        found = None if is_saved(path) else _data_files(path, config)
        every: Iterable[Path] = path.rglob("*.arrow" if is_saved(path) else "*") if found is None else _all(found)
        files = sorted(file for file in every if file.is_file() and not file.name.startswith((".", "cache-")))
    hasher = hashlib.sha256()
    for file in files:
        hasher.update(_digest(file))
    return hasher.hexdigest()


def library() -> Any:
    """The package `datasets`, without progress bars.

    Raises:
        ConfigError: it is not installed.
    """
    need, remedy = "`dataset_name` needs the library datasets", "`pip install 'es_llm[data]'` installs it"
    datasets = import_optional("datasets", need, remedy)
    datasets.disable_progress_bars()
    return datasets


def _data_files(path: Path, config: str | None) -> dict[str, list[Path]] | None:
    """Split -> its files, as the library finds them in a directory; None if the directory's description sets options
    that only the library knows.

    Raises:
        ConfigError: files of several formats, of which the library would silently use one; or a file without data.
    """
    settings = library().load_dataset_builder(str(path), config).config
    if not settings.data_files or getattr(settings, "field", None) or getattr(settings, "sep", ",") not in (",", "\t"):
        return None
    files = {str(split): [Path(file) for file in names] for split, names in settings.data_files.items()}
    if not all(file.is_file() for file in _all(files)):
        return None
    _require_one_format(path, _all(files))
    return files


def _all(files: Mapping[str, Sequence[Path]]) -> list[Path]:
    return [file for split in files.values() for file in split]


def _require_one_format(directory: Path, used: Sequence[Path]) -> None:
    """Check that the library, which uses the most frequent format, leaves out no other data file.

    Raises:
        ConfigError: it leaves one out, or a file that it uses holds no data.
    """
    from datasets.data_files import DataFilesDict, get_data_patterns

    found = DataFilesDict.from_patterns(get_data_patterns(str(directory)), base_path=str(directory))
    candidates = [Path(file) for files in found.values() for file in files]
    formats = {FORMATS.get(suffix_of(file)) for file in used}
    others = [file for file in candidates if FORMATS.get(suffix_of(file)) not in {None, *formats}]
    if others and set(map(str, used)) <= set(map(str, candidates)):
        raise ConfigError(
            f"`dataset_name` {str(directory)!r} holds data files of several formats, such as {used[0].name!r} and "
            f"{others[0].name!r}: keep the files of one format, or name a file"
        )
    for file in used:
        require_content(file, f"data file {str(file)!r}")


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
