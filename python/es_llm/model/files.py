"""Finds a model's files and checks that they are complete, before a model is built from them: directories, safetensors,
GGUF. Knows nothing about modules."""

from __future__ import annotations

import json
import os
from importlib import resources
from pathlib import Path
from typing import Any, Final

from safetensors import SafetensorError, safe_open

from es_llm.errors import ModelError
from es_llm.pointer import refuse_pointer

EMBEDDED: Final = "embedded"
"""Name of the model that ships with the package."""

CONFIG: Final = "config.json"
WEIGHTS: Final = "model.safetensors"
INDEX: Final = "model.safetensors.index.json"
_GGUF: Final = ".gguf"
_JOURNAL: Final = "journal.es"
_ADAPTER: Final = "adapter_config.json"
_SMALL: Final = (".json", ".jinja", ".txt", ".model", ".py", ".vocab", ".tiktoken")
"""Suffixes of a model's files beside its weights."""
_TEMPLATES: Final = ("additional_chat_templates",)
"""Directories of templates inside a model's directory."""


def resolve(name_or_path: str | os.PathLike[str] | None) -> str:
    """The source of a model: a local directory, a GGUF file, or a hub id.

    Raises:
        ModelError: the name can only be a path, and there is no such directory or GGUF file; or the directory holds
            directories of models, such as the directory of a run.
    """
    if name_or_path is None or name_or_path == EMBEDDED:
        return str(resources.files("es_llm") / "assets" / "countdown-tiny")
    source = os.path.expanduser(os.fspath(name_or_path))
    if os.path.isdir(source):
        _refuse_parent(Path(source))
        return source
    if _is_gguf(source):
        if os.path.isfile(source):
            return source
        raise ModelError(f"model {source!r}: no such file")
    if os.path.isfile(source) and source.endswith(".safetensors"):
        raise ModelError(f"model {source!r}: no such directory, it is a file; name the directory that it is in")
    like_a_path = source.startswith((".", os.sep)) or source.count("/") > 1 or "\\" in source
    if not source or like_a_path or os.path.exists(source):
        raise ModelError(f"model {source!r}: no such directory")
    return source


def gguf_file(source: str) -> Path | None:
    """The GGUF file of a source: the source itself, or the only GGUF file of a directory without other weights. None
    if there is no such file.

    Raises:
        ModelError: a directory that holds several GGUF files and no other weights, a Git LFS pointer, or a file that
            isn't GGUF.
    """
    path = Path(source)
    if path.is_dir():
        if (path / CONFIG).exists() or _has_weights(path):
            return None
        found = sorted(entry for entry in path.iterdir() if _is_gguf(entry.name) and entry.is_file())
        if len(found) > 1:
            raise ModelError(f"{path}: {len(found)} GGUF files, name one of them: {some([f.name for f in found])}")
        if not found:
            return None
        path = found[0]
    elif not (_is_gguf(source) and path.is_file()):
        return None
    refuse_pointer(path, ModelError)
    with path.open("rb") as file:
        head = file.read(4)
    if not head.startswith(b"GGUF"):
        raise ModelError(f"{path}: not a GGUF file, expected it to begin with 'GGUF', got {head!r}")
    return path


def check_directory(directory: Path) -> None:
    """Check, without building the model, that the files are there and complete.

    Raises:
        ModelError: there is no config.json or no safetensors, a shard is missing, truncated or broken, a file is a Git
            LFS pointer, or the directory holds an adapter's configuration.
    """
    read_config(directory)
    refuse_pointers(directory)
    for path in weight_files(directory):
        refuse_pointer(path, ModelError)
        weight_names(path)


def weight_files(directory: Path) -> list[Path]:
    """The safetensors files of a model's directory, in the order of their names.

    Raises:
        ModelError: there are none, or the index is broken.
    """
    if not _has_weights(directory):
        found = sorted(path.name for path in directory.iterdir())
        raise ModelError(f"{directory}: no {WEIGHTS} (pickled weights are refused), got {some(found)}")
    single = directory / WEIGHTS
    return [single] if single.exists() else _shards(directory / INDEX)


def weight_names(path: Path) -> list[str]:
    """The names of the weights in a safetensors file.

    Raises:
        ModelError: the file is missing, truncated or broken.
    """
    try:
        with safe_open(path, framework="pt") as shard:
            return list(shard.keys())
    except (OSError, SafetensorError) as error:
        raise ModelError(f"{path}: not a whole safetensors file: {error}") from error


def read_config(directory: Path) -> dict[str, Any]:
    """The content of a directory's config.json.

    Raises:
        ModelError: there is no config.json, it can't be read, or the directory holds an adapter.
    """
    if directory.is_dir():
        _refuse_adapter(directory)
    if not (directory / CONFIG).is_file():
        found = sorted(path.name for path in directory.iterdir()) if directory.is_dir() else []
        raise ModelError(f"{directory}: no {CONFIG}, got {some(found) or 'an empty or missing directory'}")
    return _read_json(directory / CONFIG)


def refuse_pointers(directory: Path) -> None:
    """Refuse Git LFS pointers among the small files that loaders of models and tokenizers read: configurations,
    vocabularies, templates, code. `check_directory` checks the files of weights: a directory may also hold pointers of
    weights in other formats, which are not read.

    Raises:
        ModelError: a file is a pointer.
    """
    for part in (directory, *(directory / name for name in _TEMPLATES)):
        for path in sorted(part.iterdir()) if part.is_dir() else ():
            if path.suffix in _SMALL or "token" in path.name:
                refuse_pointer(path, ModelError)


def some(names: list[str], limit: int = 5) -> str:
    """The first `limit` names, and the number of the others, for a message."""
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more


def _is_gguf(name: str) -> bool:
    return name.lower().endswith(_GGUF)


def _has_weights(directory: Path) -> bool:
    return (directory / WEIGHTS).exists() or (directory / INDEX).exists()


def _refuse_adapter(directory: Path) -> None:
    """Refuse an adapter, which holds only the weights that are added to a base model. An adapter's configuration beside
    a whole model is refused too: transformers would load the adapter or its base model instead."""
    adapter = directory / _ADAPTER
    if not adapter.is_file():
        return
    if _has_weights(directory):
        raise ModelError(
            f"{directory}: an adapter's configuration ({_ADAPTER}) beside a whole model, expected one of the two: "
            f"remove {_ADAPTER} if the model holds what was trained, as after PEFT's `merge_and_unload`"
        )
    base = _read_json(adapter).get("base_model_name_or_path")
    raise ModelError(
        f"{directory}: an adapter ({_ADAPTER}) of the model {base!r}, expected a whole model: merge it into its base "
        "by PEFT's `merge_and_unload`, and save the result"
    )


def _refuse_parent(directory: Path) -> None:
    """Refuse the directory of a run, and any other directory that holds models only in its subdirectories."""
    run = (directory / _JOURNAL).is_file()
    own = [path for path in directory.iterdir() if path.name == CONFIG or "token" in path.name or _is_gguf(path.name)]
    if (own and not run) or _has_weights(directory):
        return
    held = [path for path in directory.iterdir() if (path / CONFIG).is_file()]
    held.sort(key=lambda path: (path.name != "model", -len(path.name), path.name))
    if not held and not run:
        return
    what = "the directory of a run" if run else f"no {CONFIG}"
    if not held:
        raise ModelError(f"{directory}: {what}, without a trained model so far: expected a model's directory")
    if held[0].name == "model":
        raise ModelError(f"{directory}: {what}, expected a model's directory: the trained model is in {held[0]}")
    raise ModelError(
        f"{directory}: {what}, expected a model's directory: name one of those in it, such as {held[0]}, got "
        f"{some([path.name for path in held])}"
    )


def _shards(index: Path) -> list[Path]:
    refuse_pointer(index, ModelError)
    content = _read_json(index)
    names = content.get("weight_map")
    if not isinstance(names, dict) or not names:
        raise ModelError(f"{index}: expected a `weight_map` from weights to files, got {type(names).__name__}")
    return [index.parent / name for name in sorted({str(name) for name in names.values()})]


def _read_json(path: Path) -> dict[str, Any]:
    refuse_pointer(path, ModelError)
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(f"{path}: not readable as JSON: {error}") from error
    if not isinstance(content, dict):
        raise ModelError(f"{path}: expected a JSON object, got {type(content).__name__}")
    return content
