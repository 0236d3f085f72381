"""Loads models from GGUF files, by transformers and the `gguf` package: quantized weights become float32."""

from __future__ import annotations

import copy
import importlib
from pathlib import Path
from typing import Any, Final

import torch

from es_llm.errors import ModelError

_PACKAGES: Final = ("gguf", "accelerate")
_CUT: Final = ("cannot reshape array", "requires a buffer of at least", "out of bounds for axis", "larger dtype")
"""Parts of the messages that readers raise for a truncated file."""


def load_gguf_model(path: Path) -> tuple[Any, dict[str, Any]]:
    """A float32 module with the weights of the file, and the loading report of transformers.

    transformers attaches a quantizer to the module, and a module with a quantizer can't be saved. So the weights move
    to a module of the same class without one.

    Raises:
        ModelError: a package is missing.
        Exception: any class that transformers raises for a broken file.
    """
    import transformers

    require_packages(path)
    options: dict[str, Any] = {}
    if kept := getattr(transformers, "GgufConfig", None):  # later versions can keep the weights quantized
        options["quantization_config"] = kept(dequantize=True)
    loaded, info = transformers.AutoModelForCausalLM.from_pretrained(
        path.parent, gguf_file=path.name, dtype=torch.float32, output_loading_info=True, **options
    )
    config = copy.deepcopy(loaded.config)
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    with torch.device("meta"):
        model = type(loaded)(config)
    buffers = dict(loaded.named_buffers())
    model.load_state_dict(loaded.state_dict(), strict=True, assign=True)
    for name, _ in list(model.named_buffers()):  # buffers that no file holds have no values on the meta device
        owner, _, own = name.rpartition(".")
        setattr(model.get_submodule(owner), own, buffers[name])
    model.tie_weights()
    model.generation_config = loaded.generation_config
    return model.eval(), info


def require_packages(path: Path) -> None:
    """Check that the packages are installed that transformers needs for a GGUF file.

    Raises:
        ModelError: a package is missing or fails on import; names the package and the command that installs it.
    """
    for package in _PACKAGES:
        try:
            importlib.import_module(package)
        except ImportError as error:
            raise ModelError(
                f"{path} needs the package `{package}` ({error}); install it: pip install 'es_llm[gguf]'"
            ) from error


def explained(path: Path, error: BaseException) -> str:
    """The message for a loader's error. A truncated file gets a message that names its size."""
    if not any(words in str(error) for words in _CUT):
        return str(error)
    size = path.stat().st_size
    return f"the file is not whole: it has {size} bytes and ends before its data do; fetch it again ({error})"
