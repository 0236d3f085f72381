"""Models and tokenizers from a local directory, the hub, or the package; every fault found before any work."""

from __future__ import annotations

import json
import os
from importlib import resources
from pathlib import Path
from typing import Any, Final

import torch
from safetensors import SafetensorError, safe_open

from es_llm.errors import ModelError
from es_llm.model.live import DTYPES

EMBEDDED: Final = "embedded"
"""Name of the model that ships with the package."""

_GENERIC_TOKENIZERS: Final = ("PreTrainedTokenizerFast", "TokenizersBackend")


def load_model(
    name_or_path: str | os.PathLike[str] | None = None,
    *,
    revision: str | None = None,
    trust_remote_code: bool = False,
) -> Any:
    """A causal language model in float32 and eval mode, from safetensors only (no pickle).

    Args:
        name_or_path: a local directory, a hub id, or None or "embedded" for the model in the package.
        revision: branch, tag or commit of a hub id.
        trust_remote_code: run code that comes with the model.

    Raises:
        ModelError: nothing there, files missing or broken, or weights that don't fit the configuration.
    """
    from transformers import AutoModelForCausalLM

    place = resolve(name_or_path)
    if os.path.isdir(place):
        check_directory(Path(place))
    try:
        model, info = AutoModelForCausalLM.from_pretrained(
            place,
            dtype=torch.float32,
            use_safetensors=True,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # they are refused below, with their names
            revision=revision or "main",
            trust_remote_code=trust_remote_code,
        )
    except Exception as error:  # whatever a library's loader throws at a broken file
        raise ModelError(_failure("model", place, error)) from error
    for kind in ("mismatched_keys", "missing_keys", "unexpected_keys"):
        if keys := sorted(_weight(key) for key in info.get(kind) or ()):
            what = kind.removesuffix("_keys")
            raise ModelError(f"{place}: {len(keys)} {what} weights for {type(model).__name__}: {_some(keys)}")
    return model.eval()


def load_tokenizer(
    name_or_path: str | os.PathLike[str] | None = None,
    *,
    revision: str | None = None,
    trust_remote_code: bool = False,
) -> Any:
    """The tokenizer of a model, padding on the left; a missing pad token is the end-of-sequence token.

    Raises:
        ModelError: nothing there, broken files, or neither a pad nor an end-of-sequence token.
    """
    place = resolve(name_or_path)
    try:
        tokenizer = _tokenizer_class(place, revision).from_pretrained(
            place, revision=revision or "main", trust_remote_code=trust_remote_code, padding_side="left"
        )
    except Exception as error:  # whatever a library's loader throws at a broken file
        raise ModelError(_failure("tokenizer", place, error)) from error
    if tokenizer.pad_token is None:
        if tokenizer.eos_token is None:
            raise ModelError(f"{place}: the tokenizer has neither a pad nor an end-of-sequence token, expected one")
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def stored_dtype(name_or_path: str | os.PathLike[str] | None = None, *, revision: str | None = None) -> str | None:
    """The type that the model's configuration records: "float32", "bfloat16", "float16", or None for no or
    another type.

    Raises:
        ModelError: there is no readable configuration.
    """
    place = resolve(name_or_path)
    if os.path.isdir(place):
        config = _read_config(Path(place))
    else:
        from transformers import PretrainedConfig

        try:
            config, _ = PretrainedConfig.get_config_dict(place, revision=revision or "main")
        except Exception as error:  # whatever a library's loader throws at a broken file
            raise ModelError(_failure("configuration", place, error)) from error
    dtype = str(config.get("dtype") or config.get("torch_dtype")).removeprefix("torch.")
    return dtype if dtype in DTYPES else None


def resolve(name_or_path: str | os.PathLike[str] | None) -> str:
    """A local directory or a hub id.

    Raises:
        ModelError: a name that can only be a path, and there is no such directory.
    """
    if name_or_path is None or name_or_path == EMBEDDED:
        return str(resources.files("es_llm") / "assets" / "countdown-tiny")
    place = os.path.expanduser(os.fspath(name_or_path))
    if os.path.isdir(place):
        return place
    like_a_path = place.startswith((".", os.sep)) or place.count("/") > 1 or "\\" in place or os.path.exists(place)
    if like_a_path or not place:
        raise ModelError(f"model {place!r}: no such directory")
    return place


def check_directory(directory: Path) -> None:
    """Check what can be checked without building the model: the files are there and whole.

    Raises:
        ModelError: no config.json, no safetensors, a shard that is missing, truncated or broken.
    """
    _read_config(directory)
    index = directory / "model.safetensors.index.json"
    single = directory / "model.safetensors"
    if not single.exists() and not index.exists():
        found = sorted(path.name for path in directory.iterdir())
        raise ModelError(f"{directory}: no model.safetensors (pickled weights are refused), got {_some(found)}")
    for path in [single] if single.exists() else _shards(index):
        try:
            with safe_open(path, framework="pt") as shard:
                shard.keys()
        except (OSError, SafetensorError) as error:
            raise ModelError(f"{path}: not a whole safetensors file: {error}") from error


def _tokenizer_class(place: str, revision: str | None) -> Any:
    """Whose `from_pretrained` to call. A generic class means that tokenizer.json says it all; AutoTokenizer puts
    the architecture's own class in its place for some architectures (Qwen2's is one), with other tokens."""
    from transformers import AutoTokenizer, PreTrainedTokenizerFast
    from transformers.models.auto.tokenization_auto import get_tokenizer_config

    declared = get_tokenizer_config(place, revision=revision or "main").get("tokenizer_class")
    return PreTrainedTokenizerFast if declared in _GENERIC_TOKENIZERS else AutoTokenizer


def _shards(index: Path) -> list[Path]:
    content = _read_json(index)
    names = content.get("weight_map")
    if not isinstance(names, dict) or not names:
        raise ModelError(f"{index}: expected a `weight_map` from weights to files, got {type(names).__name__}")
    return [index.parent / name for name in sorted({str(name) for name in names.values()})]


def _read_config(directory: Path) -> dict[str, Any]:
    if not (directory / "config.json").is_file():
        found = sorted(path.name for path in directory.iterdir()) if directory.is_dir() else []
        raise ModelError(f"{directory}: no config.json, got {_some(found) or 'an empty or missing directory'}")
    return _read_json(directory / "config.json")


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(f"{path}: not readable as JSON: {error}") from error
    if not isinstance(content, dict):
        raise ModelError(f"{path}: expected a JSON object, got {type(content).__name__}")
    return content


def _weight(key: Any) -> str:
    """A weight's name; one of the wrong size comes with its shape in the files and the one expected."""
    if isinstance(key, str):
        return key
    name, got, expected = key
    return f"{name} (got {list(got)}, expected {list(expected)})"


def _failure(what: str, place: str, error: BaseException) -> str:
    """The message for a loader's error; says how the hub comes into it."""
    message = f"the {what} of {place!r} can't be loaded: {' '.join(str(error).split())}"
    if os.path.isdir(place):
        return message
    from huggingface_hub import constants

    reason = "HF_HUB_OFFLINE is set" if constants.HF_HUB_OFFLINE else "check the name and the connection to the hub"
    return f"{message} (there is no such local directory; {reason})"


def _some(names: list[str], limit: int = 5) -> str:
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more
