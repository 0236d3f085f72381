"""What the journal's header holds of a run. A name counts where nothing else says what it stands for: rows, files of
rows and files of reward functions count by their content, wherever they are.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

from es_llm import _core
from es_llm.checkpoint.identity import reference_name
from es_llm.config import ScriptArguments
from es_llm.config.fields import identity_of
from es_llm.data.loading import content_of
from es_llm.rewards.loading import file_of
from es_llm.trainer.assembly.arguments import IGNORED_COLUMNS
from es_llm.units.run_state import RunState


def data_identity(run: RunState, script: ScriptArguments | None) -> dict[str, Any]:
    """What data and rewards have to be for the same bits. Made once: files may change while the run goes on.

    Raises:
        ConfigError: a column of the data that functions read can't be known again.
    """
    rewards = run.rewards
    data = run.prompts.fingerprint(lambda column: column not in IGNORED_COLUMNS and rewards.uses(column))
    named: dict[str, Any] = {"train_dataset": data, "reward_funcs": rewards.names}
    if script is None:
        return {**named, "script": None}
    streamed = "stream" in data
    return {**named, "script": _of_script(script, streamed), **_of_files(script, streamed)}


def run_identity(run: RunState, data: Mapping[str, Any]) -> dict[str, Any]:
    """What has to be the same for the same bits: options, the weights as they are now, data and rewards."""
    weights = run.weights
    return {
        "noise_version": _core.NOISE_VERSION,
        "config": identity_of(run.config),
        "model": {
            "base_sha256": weights.sha256(),
            "frozen_sha256": weights.frozen_sha256(),
            "parameters": weights.table.to_json(),
        },
        **data,
    }


def _of_script(script: ScriptArguments, streamed: bool) -> dict[str, Any]:
    """Options of the command line. Rows are compared whole, so their name doesn't count; of a stream only the first are
    known, so the name of a hub's does."""
    named = script.dataset_name if streamed and _files(script) is None else None
    functions = [reference_name(reference) for reference in script.reward_funcs]
    return {**identity_of(script), "dataset_name": named, "reward_funcs": functions}


def _of_files(script: ScriptArguments, streamed: bool) -> dict[str, Any]:
    """SHA-256 of the files of a stream, and of the file that each reward function is read from; None if none is."""
    files = [file_of(reference) for reference in script.reward_funcs]
    return {
        "dataset_files": _files(script) if streamed else None,
        "reward_files": [None if path is None else hashlib.sha256(path.read_bytes()).hexdigest() for path in files],
    }


def _files(script: ScriptArguments) -> str | None:
    if script.dataset_name is None:
        return None
    return content_of(script.dataset_name, config=script.dataset_config)
