"""Loads models and tokenizers from a directory, a GGUF file, the hub or the package, and checks them."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import torch

from es_llm.errors import ModelError
from es_llm.model.files import (
    CONFIG,
    EMBEDDED,
    check_directory,
    gguf_file,
    read_config,
    refuse_pointers,
    resolve,
    some,
)
from es_llm.model.gguf import explained, load_gguf_model, require_packages
from es_llm.model.left_out import note_left_out
from es_llm.model.live import DTYPES

__all__ = ["EMBEDDED", "load_model", "load_tokenizer", "stored_dtype"]

_GENERIC_TOKENIZERS: Final = ("PreTrainedTokenizerFast", "TokenizersBackend")


def load_model(
    name_or_path: str | os.PathLike[str] | None = None,
    *,
    revision: str | None = None,
    trust_remote_code: bool = False,
) -> Any:
    """A causal language model in float32 and eval mode, from safetensors or GGUF (no pickle).

    Args:
        name_or_path: a local directory, a GGUF file or a directory with one, a hub id, or None or "embedded" for the
            model in the package.
        revision: branch, tag or commit of a hub id.
        trust_remote_code: run code that comes with the model.

    Raises:
        ModelError: there is no such model, files are missing or broken, or weights don't fit the configuration.
    """
    source = resolve(name_or_path)
    gguf = gguf_file(source)
    if gguf is None and os.path.isdir(source):
        check_directory(Path(source))
    with _failures_of("model", source, gguf):
        if gguf is not None:
            model, info = load_gguf_model(gguf)
        else:
            model, info = _from_pretrained(source, revision=revision or "main", trust_remote_code=trust_remote_code)
    _refuse_wrapped(source, info)
    for kind in ("mismatched_keys", "missing_keys", "unexpected_keys"):
        if keys := sorted(_weight(key) for key in info.get(kind) or ()):
            what = kind.removesuffix("_keys")
            raise ModelError(f"{source}: {len(keys)} {what} weights for {type(model).__name__}: {some(keys)}")
    if gguf is None and (directory := _directory(source, revision)) is not None:
        note_left_out(model, directory)
    return model.eval()


def load_tokenizer(
    name_or_path: str | os.PathLike[str] | None = None,
    *,
    revision: str | None = None,
    trust_remote_code: bool = False,
) -> Any:
    """The tokenizer of a model, padding on the left; a missing pad token is the end-of-sequence token.

    Raises:
        ModelError: there is no such model, files are broken, or there is neither a pad nor an end-of-sequence token.
    """
    source = resolve(name_or_path)
    gguf = gguf_file(source)
    if gguf is None and os.path.isdir(source):
        refuse_pointers(Path(source))
    options: dict[str, Any] = {"revision": revision or "main", "trust_remote_code": trust_remote_code}
    with _failures_of("tokenizer", source, gguf):
        if gguf is not None:
            from transformers import AutoTokenizer

            require_packages(gguf)
            tokenizer = AutoTokenizer.from_pretrained(gguf.parent, padding_side="left", gguf_file=gguf.name)
        else:
            tokenizer = _tokenizer_class(source, revision).from_pretrained(source, padding_side="left", **options)
    if tokenizer.pad_token is None:
        if tokenizer.eos_token is None:
            raise ModelError(f"{source}: the tokenizer has neither a pad nor an end-of-sequence token, expected one")
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def stored_dtype(name_or_path: str | os.PathLike[str] | None = None, *, revision: str | None = None) -> str | None:
    """The type that the model's configuration records: "float32", "bfloat16", "float16", or None for no or
    another type. A GGUF file gives "float32": its quantized weights become float32.

    Raises:
        ModelError: there is no readable configuration.
    """
    source = resolve(name_or_path)
    if gguf_file(source) is not None:
        return "float32"
    if os.path.isdir(source):
        config = read_config(Path(source))
    else:
        from transformers import PretrainedConfig

        with _failures_of("configuration", source):
            config, _ = PretrainedConfig.get_config_dict(source, revision=revision or "main")
    for part in (config, config.get("text_config")):  # a model of several parts may record it in its text part alone
        if isinstance(part, dict) and (recorded := part.get("dtype") or part.get("torch_dtype")):
            dtype = str(recorded).removeprefix("torch.")
            return dtype if dtype in DTYPES else None
    return None


def use_attention(model: Any, implementation: str | None) -> Any:
    """The model, with attention as "eager", "sdpa" or another implementation that transformers knows. None keeps the
    model's own implementation.

    Raises:
        ModelError: the model or this environment has no such implementation.
    """
    if implementation is not None:
        try:
            model.set_attn_implementation(implementation)
        except Exception as error:  # transformers raises ImportError, ValueError or KeyError
            raise ModelError(f"`attn_implementation` {implementation!r} can't be used: {error}") from error
    return model


def _from_pretrained(source: str, **where: Any) -> tuple[Any, dict[str, Any]]:
    """The model, and what transformers reports of the loading."""
    from transformers import AutoModelForCausalLM

    model, info = AutoModelForCausalLM.from_pretrained(
        source,
        dtype=torch.float32,
        use_safetensors=True,
        output_loading_info=True,
        ignore_mismatched_sizes=True,  # the caller refuses them and names them
        **where,
    )
    return model, info


def _directory(source: str, revision: str | None) -> Path | None:
    """The directory of a model's files on this machine; None if the hub's cache has no config.json of the model."""
    if os.path.isdir(source):
        return Path(source)
    from transformers.utils import cached_file

    try:
        config = cached_file(source, CONFIG, revision=revision or "main", local_files_only=True)
    except Exception:  # transformers raises many classes; the model itself is loaded already
        return None
    return Path(config).parent if config else None


def _tokenizer_class(source: str, revision: str | None) -> Any:
    """The class whose `from_pretrained` loads the tokenizer. If the configuration names a generic class, tokenizer.json
    is complete. AutoTokenizer would then use the architecture's own class for some architectures, such as Qwen2, which
    gives other tokens."""
    from transformers import AutoTokenizer, PreTrainedTokenizerFast
    from transformers.models.auto.tokenization_auto import get_tokenizer_config

    declared = get_tokenizer_config(source, revision=revision or "main").get("tokenizer_class")
    return PreTrainedTokenizerFast if declared in _GENERIC_TOKENIZERS else AutoTokenizer


def _refuse_wrapped(source: str, info: dict[str, Any]) -> None:
    """Refuse weights that were saved from a module around the model: their names begin with a prefix."""
    unexpected = info.get("unexpected_keys") or ()
    prefix = _common_prefix(info.get("missing_keys") or (), unexpected)
    if prefix is None:
        return
    if prefix.startswith("base_model."):
        advice = "they were saved from a model with an adapter (PEFT); save what its `merge_and_unload()` returns"
    else:
        advice = (
            "they were saved from a module around the model (such as data parallel, compiled, sharded or a trainer's); "
            f"save the model inside, such as `model.{prefix[:-1]}.save_pretrained`, or cut {prefix!r} off each name"
        )
    raise ModelError(
        f"{source}: the names of {len(unexpected)} weights begin with {prefix!r}, expected them without it: {advice}"
    )


def _common_prefix(missing: Collection[str], unexpected: Collection[str]) -> str | None:
    """The prefix of all unexpected names that makes an unexpected name of a missing one; None if there is none. Weights
    that only the files have, such as those of a tied head or of an adapter, may have the prefix too.

    Args:
        missing: names that the model has and the files lack.
        unexpected: names that the files have and the model lacks.
    """
    found = set(unexpected)
    for name in sorted(missing, key=len, reverse=True):
        for other in sorted(found):
            prefix = other.removesuffix(name)
            if other.endswith(f".{name}") and all(key.startswith(prefix) for key in found):
                return prefix
    return None


def _weight(key: Any) -> str:
    """A weight's name. A weight of the wrong size is named with its shape in the files and the expected shape."""
    if isinstance(key, str):
        return key
    name, got, expected = key
    return f"{name} (got {list(got)}, expected {list(expected)})"


@contextmanager
def _failures_of(what: str, source: str, gguf: Path | None = None) -> Iterator[None]:
    """Turn any error of a loader into a ModelError that names what could not be loaded. For a hub id, the message also
    gives the likely reason."""
    try:
        yield
    except ModelError:
        raise
    except Exception as error:  # loaders raise many classes at a broken file
        cause = str(error) if gguf is None else explained(gguf, error)
        message = f"the {what} of {source!r} can't be loaded: {' '.join(cause.split())}"
        if not os.path.exists(source):
            from huggingface_hub import constants

            offline = constants.HF_HUB_OFFLINE
            reason = "HF_HUB_OFFLINE is set" if offline else "check the name and the connection to the hub"
            message = f"{message} (there is no such local directory; {reason})"
        raise ModelError(message) from error
