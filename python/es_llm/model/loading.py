"""Models and tokenizers from a local directory, the hub, or the package; every fault found before any work."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Final

import torch

from es_llm.errors import ModelError
from es_llm.model.files import EMBEDDED, check_directory, gguf_file, read_config, refuse_pointers, resolve, some
from es_llm.model.gguf import explained, load_gguf_model, tokenizer_options
from es_llm.model.left_out import note_left_out
from es_llm.model.live import DTYPES
from es_llm.model.wrapped import advice, wrapper_of

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
        ModelError: nothing there, files missing or broken, or weights that don't fit the configuration.
    """
    place = resolve(name_or_path)
    gguf = gguf_file(place)
    if gguf is None and os.path.isdir(place):
        check_directory(Path(place))
    try:
        if gguf is not None:
            model, info = load_gguf_model(gguf)
        else:
            model, info = _from_pretrained(place, revision=revision or "main", trust_remote_code=trust_remote_code)
    except ModelError:
        raise
    except Exception as error:  # whatever a library's loader throws at a broken file
        raise ModelError(_failure("model", place, error, gguf)) from error
    _refuse_wrapped(place, info)
    for kind in ("mismatched_keys", "missing_keys", "unexpected_keys"):
        if keys := sorted(_weight(key) for key in info.get(kind) or ()):
            what = kind.removesuffix("_keys")
            raise ModelError(f"{place}: {len(keys)} {what} weights for {type(model).__name__}: {some(keys)}")
    if gguf is None and (directory := _directory(place, revision)) is not None:
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
        ModelError: nothing there, broken files, or neither a pad nor an end-of-sequence token.
    """
    place = resolve(name_or_path)
    gguf = gguf_file(place)
    if gguf is None and os.path.isdir(place):
        refuse_pointers(Path(place))
    options: dict[str, Any] = {"revision": revision or "main", "trust_remote_code": trust_remote_code}
    try:
        if gguf is not None:
            from transformers import AutoTokenizer

            tokenizer = AutoTokenizer.from_pretrained(gguf.parent, padding_side="left", **tokenizer_options(gguf))
        else:
            tokenizer = _tokenizer_class(place, revision).from_pretrained(place, padding_side="left", **options)
    except ModelError:
        raise
    except Exception as error:  # whatever a library's loader throws at a broken file
        raise ModelError(_failure("tokenizer", place, error, gguf)) from error
    if tokenizer.pad_token is None:
        if tokenizer.eos_token is None:
            raise ModelError(f"{place}: the tokenizer has neither a pad nor an end-of-sequence token, expected one")
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def stored_dtype(name_or_path: str | os.PathLike[str] | None = None, *, revision: str | None = None) -> str | None:
    """The type that the model's configuration records: "float32", "bfloat16", "float16", or None for no or
    another type. That of a GGUF file is "float32", which its weights of few bits become.

    Raises:
        ModelError: there is no readable configuration.
    """
    place = resolve(name_or_path)
    if gguf_file(place) is not None:
        return "float32"
    if os.path.isdir(place):
        config = read_config(Path(place))
    else:
        from transformers import PretrainedConfig

        try:
            config, _ = PretrainedConfig.get_config_dict(place, revision=revision or "main")
        except Exception as error:  # whatever a library's loader throws at a broken file
            raise ModelError(_failure("configuration", place, error)) from error
    for part in (config, config.get("text_config")):  # a model of several parts may say it of its text part alone
        if isinstance(part, dict) and (recorded := part.get("dtype") or part.get("torch_dtype")):
            dtype = str(recorded).removeprefix("torch.")
            return dtype if dtype in DTYPES else None
    return None


def _from_pretrained(place: str, **where: Any) -> tuple[Any, dict[str, Any]]:
    """The model, and what transformers reports of the loading."""
    from transformers import AutoModelForCausalLM

    model, info = AutoModelForCausalLM.from_pretrained(
        place,
        dtype=torch.float32,
        use_safetensors=True,
        output_loading_info=True,
        ignore_mismatched_sizes=True,  # they are refused by the caller, with their names
        **where,
    )
    return model, info


def _directory(place: str, revision: str | None) -> Path | None:
    """Where the files of a model lie on this machine; None: the hub's cache doesn't have them as expected."""
    if os.path.isdir(place):
        return Path(place)
    from transformers.utils import cached_file

    try:
        config = cached_file(place, "config.json", revision=revision or "main", local_files_only=True)
    except Exception:  # it was just loaded from there; without its files there is nothing to say about them
        return None
    return Path(config).parent if config else None


def _tokenizer_class(place: str, revision: str | None) -> Any:
    """Whose `from_pretrained` to call. A generic class means that tokenizer.json says it all; AutoTokenizer puts
    the architecture's own class in its place for some architectures (Qwen2's is one), with other tokens."""
    from transformers import AutoTokenizer, PreTrainedTokenizerFast
    from transformers.models.auto.tokenization_auto import get_tokenizer_config

    declared = get_tokenizer_config(place, revision=revision or "main").get("tokenizer_class")
    return PreTrainedTokenizerFast if declared in _GENERIC_TOKENIZERS else AutoTokenizer


def _refuse_wrapped(place: str, info: dict[str, Any]) -> None:
    """Refuse weights of a module around the model, for which all of the model's own are missing."""
    unexpected = info.get("unexpected_keys") or ()
    prefix = wrapper_of(info.get("missing_keys") or (), unexpected)
    if prefix is not None:
        raise ModelError(
            f"{place}: the names of {len(unexpected)} weights begin with {prefix!r}, expected them without it: "
            f"{advice(prefix)}"
        )


def _weight(key: Any) -> str:
    """A weight's name; one of the wrong size comes with its shape in the files and the one expected."""
    if isinstance(key, str):
        return key
    name, got, expected = key
    return f"{name} (got {list(got)}, expected {list(expected)})"


def _failure(what: str, place: str, error: BaseException, gguf: Path | None = None) -> str:
    """The message for a loader's error; says how the hub comes into it."""
    cause = str(error) if gguf is None else explained(gguf, error)
    message = f"the {what} of {place!r} can't be loaded: {' '.join(cause.split())}"
    if os.path.exists(place):
        return message
    from huggingface_hub import constants

    reason = "HF_HUB_OFFLINE is set" if constants.HF_HUB_OFFLINE else "check the name and the connection to the hub"
    return f"{message} (there is no such local directory; {reason})"
