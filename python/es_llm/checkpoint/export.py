"""The trained model as a Hugging Face directory that other tools load: safetensors in the live type.

Knows nothing of journals. The directory appears whole: all files are written to a temporary sibling, flushed
to the disk, and renamed; an older export is moved aside first and removed last.
"""

from __future__ import annotations

import copy
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file

from es_llm.errors import ModelError
from es_llm.model.left_out import left_out_of
from es_llm.rollout.ends import end_ids

_EXPORT_DIRECTORIES: Final = {"additional_chat_templates"}
_EXPORT_SUFFIXES: Final = {".json", ".safetensors", ".txt", ".model", ".jinja", ".md", ".py"}


def export_model(
    directory: str | os.PathLike[str],
    model: Any,
    tokenizer: Any,
    *,
    state: Mapping[str, Any] | None = None,
    notes: Mapping[str, Mapping[str, Any]] | None = None,
    tensors: Mapping[str, Mapping[str, torch.Tensor]] | None = None,
) -> None:
    """Write `model`, its generation defaults and `tokenizer` to `directory`, replacing an older export.

    The live weights are written as they are: call `Weights.unperturb()` first.

    Args:
        directory: appears whole.
        model: a transformers model.
        tokenizer: its tokenizer.
        state: names -> tensors to write instead of the module's own.
        notes: name -> content of JSON files to write beside them.
        tensors: name -> tensors by name, of safetensors files to write beside them.

    Weights that the model's files hold and its class leaves out are kept, where names allow it; see `LeftOut.keep`.

    Raises:
        ModelError: the directory holds files that are no export, or the disk refuses; an older export is
            still there, at worst under the name that the message gives.
    """
    target = Path(os.path.abspath(directory))
    require_replaceable(target)
    staged = target.with_name(f".{target.name}.new")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(staged, ignore_errors=True)
        with _plain_generation_config(model):
            model.save_pretrained(staged, state_dict=None if state is None else dict(state))
        _write_generation_config(model, tokenizer, staged)
        tokenizer.save_pretrained(staged)
        if (left := left_out_of(model)) is not None:
            left.keep(staged)
        for name, note in (notes or {}).items():
            (staged / name).write_text(json.dumps(note, indent=2) + "\n", encoding="utf-8")
        for name, named in (tensors or {}).items():
            save_file({key: tensor.contiguous() for key, tensor in named.items()}, staged / name)
        mode = (staged / "config.json").stat().st_mode
        for path in staged.rglob("*"):
            if path.is_file():
                path.chmod(mode)  # safetensors makes its file readable by the owner alone, whatever the umask
            _sync(path)
        _sync(staged)
        _swap(staged, target)
    except Exception as error:
        if not _is_of_the_disk(error):
            raise
        raise ModelError(f"{target}: the model can't be exported: {error}") from error
    finally:
        shutil.rmtree(staged, ignore_errors=True)


def require_replaceable(target: Path) -> None:
    """Refuse to replace a directory that is not an export, such as a run's directory."""
    if not target.exists():
        return
    if not target.is_dir():
        raise ModelError(f"{target}: expected a directory for the exported model, got a file")
    strange = [path.name for path in sorted(target.iterdir()) if not _is_of_an_export(path)]
    if strange:
        raise ModelError(
            f"{target}: holds files that no export wrote ({', '.join(strange[:5])}); "
            "an export replaces its directory, so choose a new directory"
        )


def _is_of_an_export(path: Path) -> bool:
    if path.is_dir():
        return path.name in _EXPORT_DIRECTORIES
    return path.suffix in _EXPORT_SUFFIXES


def _is_of_the_disk(error: Exception) -> bool:
    """Whether a full disk can cause this error: safetensors has its own class, and tokenizers raises `Exception`."""
    return isinstance(error, OSError | SafetensorError) or type(error) is Exception


@contextmanager
def _plain_generation_config(model: Any) -> Iterator[None]:
    """Hide the generation defaults from `save_pretrained`, which refuses published ones that it finds odd."""
    saved = getattr(model, "generation_config", None)
    if saved is None:
        yield
        return
    model.generation_config = type(saved)()
    try:
        yield
    finally:
        model.generation_config = saved


def _write_generation_config(model: Any, tokenizer: Any, directory: Path) -> None:
    """Write the generation defaults, with all tokens that ended answers in training: other tools read only these."""
    if getattr(model, "generation_config", None) is None:
        return
    defaults = copy.deepcopy(model.generation_config)
    ends = end_ids(model, tokenizer)
    named = defaults.eos_token_id
    if set(ends) != set(named if isinstance(named, list | tuple) else [named]):
        defaults.eos_token_id = list(ends) if len(ends) > 1 else ends[0]
    defaults.to_json_file(directory / "generation_config.json", use_diff=True)


def _swap(staged: Path, target: Path) -> None:
    old = target.with_name(f".{target.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if target.exists():
        target.rename(old)
        try:
            staged.rename(target)
        except OSError as error:
            raise ModelError(f"{target}: the export can't be renamed: {error}; the older one is {old}") from error
    else:
        staged.rename(target)
    _sync(target.parent)
    shutil.rmtree(old, ignore_errors=True)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
