"""The journal's header: everything that has to be the same for the same bits, and facts for readers.

Rows, files of rows and files of reward functions are compared by content, wherever they are. A name is compared only
where nothing else identifies the data.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, final

import torch
import transformers

import es_llm
from es_llm import _core, optimizers, rollout, schedules
from es_llm.checkpoint.identity import EXTENSIONS, encode_header, normalized
from es_llm.config import ESConfig, ScriptArguments
from es_llm.config.fields import identity_of
from es_llm.data.directory import content_of
from es_llm.noise.perturbation import PERTURBATIONS
from es_llm.plugins import file_of, sha256_of
from es_llm.tasks import file_of as task_file_of
from es_llm.trainer.assembly.model import TrainedModel
from es_llm.trainer.assembly.rows import IGNORED_COLUMNS
from es_llm.units.run_state import RunState


@final
class RunHeader:
    """Makes the header of a run's journal. Reads data and files of functions once: they may change during the run."""

    def __init__(
        self, run: RunState, model: TrainedModel, script: ScriptArguments | None, task_name: str | None
    ) -> None:
        self._run, self._model, self._script, self._task_name = run, model, script, task_name
        self._data = _data_identity(run, script)
        self._extensions = _extension_files(run.config)

    def text(self) -> str:
        """The header for the weights as they are now."""
        about = {
            "model_name_or_path": self._model.name,
            "revision": self._model.revision,
            "es_llm": es_llm.__version__,
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            "device": str(self._run.weights.device),
            "options": self.options,
        }
        return encode_header(self._identity(), about)

    def extensions(self) -> list[str]:
        """A line for people with the pieces of the run that aren't built in; no line without any."""
        named = [(option, getattr(self._run.config, option)) for option in self._extensions]
        if self._script is not None:
            named += [("task", self._script.task)] if "task_file" in self._data else []
            named += [("reward_funcs", reference) for reference in self._script.reward_funcs]
        return [f"extensions: {', '.join(f'{option} {name}' for option, name in named)}"] if named else []

    @property
    def options(self) -> dict[str, Any]:
        """All options by name, for `config.json`."""
        return {**(asdict(self._script) if self._script else {}), **asdict(self._run.config)}

    @property
    def run_name(self) -> str:
        """Name of the model and of the task or its data, for the default directory of a run."""
        model, data = Path(self._model.name or "model").name or "model", self._script and self._script.dataset_name
        task = self._task_name or (data and Path(data).stem)
        return re.sub(r"[^\w.-]+", "-", f"{model}-{task}" if task else model)

    def renew_team(self, header: str | None = None) -> None:
        """Begin a collective call of the run. Ranks compare the header's identity; default: that of the weights now."""
        text, config = self.text() if header is None else header, self._run.config
        digest = hashlib.sha256(json.dumps(json.loads(text)["identity"], sort_keys=True).encode()).digest()
        identity = int.from_bytes(digest[:8], "little")
        self._run.team.renew(identity, assignment=config.assignment, unit_timeout_s=config.unit_timeout_s)

    def _identity(self) -> dict[str, Any]:
        weights = self._run.weights
        identity = {
            "noise_version": _core.NOISE_VERSION,
            "config": {**identity_of(self._run.config), **self._reference()},
            "model": {
                "base_sha256": weights.sha256(),
                "frozen_sha256": weights.frozen_sha256(),
                "parameters": weights.table.to_json(),
            },
            **self._data,
        }
        if self._extensions:
            identity["extension_files"] = self._extensions
        return normalized(identity)

    def _reference(self) -> dict[str, int]:
        """How often the unperturbed model answers, if its answers share a batch with those of members."""
        return {"reference_steps": self._run.config.reference_steps} if self._run.joins_reference else {}


def _extension_files(config: ESConfig) -> dict[str, str | None]:
    """SHA-256 of the files of an engine, optimizer, ... that isn't built in, by option."""
    builtin = {
        "engine": rollout.BUILTIN,
        "optimizer": optimizers.BUILTIN,
        "shaping rule": _core.SHAPING_RULES,
        "schedule": schedules.BUILTIN,
        "perturbation": PERTURBATIONS,
    }
    return {
        option: sha256_of(file_of(kind, getattr(config, option), attribute="build"))
        for option, kind in EXTENSIONS.items()
        if getattr(config, option) not in builtin[kind]
    }


def _data_identity(run: RunState, script: ScriptArguments | None) -> Mapping[str, Any]:
    """What data and rewards have to be for the same bits."""
    rewards = run.rewards
    data = run.prompts.fingerprint(lambda column: column not in IGNORED_COLUMNS and rewards.uses(column))
    named: dict[str, Any] = {"train_dataset": data, "reward_funcs": rewards.names}
    if script is None:
        return {**named, "script": None}
    streamed, content = "stream" in data, None
    if script.dataset_name is not None:
        content = content_of(script.dataset_name, config=script.dataset_config)
    # Rows are compared whole, so their name doesn't count. Of a stream only the first rows are known, so its name
    # counts, unless its files are known.
    name = script.dataset_name if streamed and content is None else None
    task = task_file_of(script.task) if script.task is not None else None
    return {
        **named,
        "script": {**identity_of(script), "dataset_name": name},
        "dataset_files": content if streamed else None,
        "reward_files": [sha256_of(file_of("reward", reference)) for reference in script.reward_funcs],
        **({"task_file": sha256_of(task)} if task is not None else {}),
    }
