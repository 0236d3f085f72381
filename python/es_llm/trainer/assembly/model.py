"""The model under training: loaded or given, and its base model once more beside it."""

from __future__ import annotations

import copy
import os
from typing import Any, final

import torch

from es_llm.config.adopt import ModelSource
from es_llm.errors import ConfigError
from es_llm.model.live import DTYPES, cast_parameters
from es_llm.model.loading import EMBEDDED, load_model, load_tokenizer, stored_dtype, use_attention


@final
class TrainedModel:
    """The module under training with its tokenizer, and how to get its base model again."""

    def __init__(self, model: Any, processing_class: Any, source: ModelSource) -> None:
        if isinstance(model, os.PathLike):
            model = os.fspath(model)
        self._source, self.revision = source, source.model_revision
        self.is_named = model is None or isinstance(model, str)
        origin = getattr(getattr(model, "config", None), "_name_or_path", None)
        self.name: str | None = (model or EMBEDDED) if self.is_named else origin
        self.module = self.load_base() if self.is_named else model
        if processing_class is None:
            if not self.name:
                raise ConfigError("`processing_class` must be given with a model that doesn't know where it came from")
            processing_class = load_tokenizer(
                self.name, revision=source.model_revision, trust_remote_code=source.trust_remote_code
            )
        self.tokenizer = processing_class
        self._kl_base: Any = None

    def load_base(self) -> Any:
        """Load the base model again; only for a model that was given by name."""
        source = self._source
        base = load_model(self.name, revision=source.model_revision, trust_remote_code=source.trust_remote_code)
        return use_attention(base, source.attn_implementation)

    def stored_dtype(self) -> str | None:
        """The live type if none is asked for: that of the checkpoint, but float32 for the embedded model, whose file is
        float16 only to be small. None for a module that was given: it keeps its types."""
        if not self.is_named:
            return None
        return "float32" if self.name in (None, EMBEDDED) else stored_dtype(self.name, revision=self.revision)

    def keep_base(self) -> None:
        """Remember the weights as they are now as the base of `eval_kl`, if they can't be loaded again."""
        if not self.is_named:
            self._kl_base = copy.deepcopy(self.module).eval()

    def kl_base(self, dtype: str | None) -> Any:
        """The base model of `eval_kl`, in the types and on the device of the module; loaded at the first call."""
        if self._kl_base is None:
            self._kl_base = self._beside(self.load_base(), dtype)
        return self._kl_base

    def compare_with(self, model_name_or_path: str, dtype: str | None) -> None:
        """Make another model the base of `eval_kl`."""
        self._kl_base = self._beside(load_model(model_name_or_path), dtype)

    def _beside(self, model: Any, dtype: str | None) -> Any:
        live = next(self.module.parameters())
        cast_parameters(model, dtype or _main_dtype(self.module), live.device)
        return model.eval()


def _main_dtype(model: torch.nn.Module) -> str | None:
    """The type of most weights; None if it can't be a live type."""
    sizes: dict[torch.dtype, int] = {}
    for weight in model.parameters():
        sizes[weight.dtype] = sizes.get(weight.dtype, 0) + weight.numel()
    name = str(max(sizes, key=lambda dtype: sizes[dtype])).removeprefix("torch.")
    return name if name in DTYPES else None
