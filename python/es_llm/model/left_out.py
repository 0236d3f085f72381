"""Weights of a model's files that its class leaves out, such as the vision part of a model that is loaded for text.

transformers' classes declare which weights they ignore (`_keys_to_ignore_on_load_unexpected`), and ignore them without
a message. An export would lack these weights, so they are copied into it unchanged.
"""

from __future__ import annotations

import json
import logging
import re
import shutil
import weakref
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from es_llm.errors import ModelError
from es_llm.model.files import CONFIG, INDEX, WEIGHTS, read_config, some, weight_files, weight_names

logger = logging.getLogger(__name__)

NOTE: Final = "left_out.json"
"""File of an export that lists the weights that were copied unchanged from the base model."""

_SHARD: Final = "model-left-out.safetensors"
_COMPUTED: Final = re.compile(
    r"(rotary_emb\.(original_)?inv_freq|position_ids|attention\.(masked_)?bias|attn\.(masked_)?bias)$"
)
"""Names of tables that old files hold and that later code computes."""

_PROCESSORS: Final = ("preprocessor_config.json", "processor_config.json", "video_preprocessor_config.json")


@dataclass(frozen=True)
class LeftOut:
    """The weights that a class left out of a model's directory."""

    directory: Path
    model_class: str
    names: tuple[str, ...]

    def message(self) -> str:
        """One line for the log."""
        return (
            f"{self.directory}: {len(self.names)} weights have no part in {self.model_class}, which is trained: "
            f"{some(self.patterns())}; exports keep them as they are"
        )

    def patterns(self) -> list[str]:
        """The names as a short list: a pattern and a number for each group of weights with the same first words."""
        groups: dict[str, int] = {}
        for name in self.names:
            head = ".".join(name.split(".")[: 2 if name.startswith("model.") else 1])
            groups[head] = groups.get(head, 0) + 1
        return [f"{head}.* ({count})" if count > 1 else head for head, count in groups.items()]

    def keep(self, export: Path) -> None:
        """Add the weights to an exported directory, with a note. If the base model has several parts and the trained
        model is its text part, the export also gets the base model's configuration. If the base model's files can't be
        read, a warning is logged, and the export holds the trained weights alone.

        Raises:
            OSError, SafetensorError: the files can't be written.
        """
        try:
            kept = dict(self._tensors())
            base = read_config(self.directory)
        except (OSError, SafetensorError, ModelError) as error:
            lost = len(self.names)
            logger.warning("%s lacks %d weights of the base model, which can't be read: %s", export, lost, error)
            return
        save_file(kept, export / _SHARD, metadata={"format": "pt"})
        files = [path for path in weight_files(export) if path.name != _SHARD]
        where = {name: path.name for path in files for name in weight_names(path)}
        where |= dict.fromkeys(self.names, _SHARD)
        if (export / WEIGHTS).exists():  # an index names its files otherwise than WEIGHTS
            (export / WEIGHTS).rename(export / "model-trained.safetensors")
            where = {name: "model-trained.safetensors" if file == WEIGHTS else file for name, file in where.items()}
        size = sum((export / name).stat().st_size for name in sorted(set(where.values())))
        _write(export / INDEX, {"metadata": {"total_size": size}, "weight_map": where})
        whole = self._restore_config(export, base)
        note = {
            "what": f"weights of the base model that {self.model_class} leaves out; kept as they were, not trained",
            "configuration": "that of the base model" if whole else f"that of {self.model_class}",
            "weights": list(self.names),
        }
        _write(export / NOTE, note)

    def _tensors(self) -> Iterator[tuple[str, Any]]:
        wanted = set(self.names)
        for path in weight_files(self.directory):
            with safe_open(path, framework="pt") as shard:
                for name in shard.keys():  # noqa: SIM118 - a safetensors file is no dict
                    if name in wanted:
                        yield name, shard.get_tensor(name)

    def _restore_config(self, export: Path, base: dict[str, Any]) -> bool:
        own = read_config(export)
        text = base.get("text_config")
        if not isinstance(text, dict) or text.get("model_type") != own.get("model_type"):
            return False
        if base.get("model_type") == own.get("model_type"):
            return False
        dtype = own.get("dtype")
        _write(export / CONFIG, {**base, "dtype": dtype, "text_config": {**text, "dtype": dtype}})
        for name in _PROCESSORS:
            if (self.directory / name).is_file():
                shutil.copyfile(self.directory / name, export / name)
        return True


_KNOWN: weakref.WeakKeyDictionary[Any, LeftOut] = weakref.WeakKeyDictionary()


def left_out_of(model: Any) -> LeftOut | None:
    """The weights that were left out when `model` was loaded from a directory. None if there are none, or if the model
    was not loaded from a directory."""
    return _KNOWN.get(model)


def note_left_out(model: Any, directory: Path) -> None:
    """Find the weights in the files that the class of `model` ignores, and keep their names for `left_out_of`."""
    patterns = sorted(getattr(model, "_keys_to_ignore_on_load_unexpected", None) or ())
    if not patterns:
        return
    ignored = re.compile("|".join(f"({pattern})" for pattern in patterns))
    own = model.state_dict().keys()
    try:
        names = [name for path in weight_files(directory) for name in weight_names(path)]
    except ModelError:  # transformers loaded files of other names
        return
    left = [name for name in names if ignored.search(name) and name not in own and not _COMPUTED.search(name)]
    if left:
        _KNOWN[model] = LeftOut(directory, type(model).__name__, tuple(sorted(left)))


def _write(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
