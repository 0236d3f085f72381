"""The identity of a run, which the journal's header holds: everything that must be equal for the same bits."""

from __future__ import annotations

import itertools
import json
import logging
import os
from pathlib import PurePath
from typing import Any, Final

from es_llm._core import Journal
from es_llm.config import ESConfig
from es_llm.config.fields import identity_of
from es_llm.errors import ResumeError

logger = logging.getLogger(__name__)

FORMAT = "es_llm run"
EXTENSIONS: Final = {
    "engine": "engine",
    "optim": "optimizer",
    "shaping": "shaping rule",
    "lr_scheduler_type": "schedule",
    "sigma_scheduler_type": "schedule",
    "perturbation": "perturbation",
}
"""Option that may name a file -> kind of extension. A run is known by the file's content, wherever it is."""


def encode_header(identity: dict[str, Any], about: dict[str, Any]) -> str:
    """The header as JSON text: `identity` decides the bits, `about` is information for people (versions, names)."""
    return json.dumps({"format": FORMAT, "identity": identity, "about": about}, sort_keys=True)


def decode_header(text: str, where: str) -> dict[str, Any]:
    """The header as a mapping with the keys `identity` and `about`."""
    try:
        header = json.loads(text)
        if header["format"] != FORMAT:
            raise ValueError(header["format"])
        header["identity"], header["about"]
    except (ValueError, KeyError, TypeError) as error:
        raise ResumeError(f"{where}: the journal's header is not that of an es_llm run ({error})") from error
    return dict(header)


def read_journal(path: str) -> tuple[Journal, dict[str, Any]]:
    """A run's journal and its header (see `decode_header`). Journals of format version 1 are read too: their header
    holds the run seed that later records hold themselves."""
    journal = Journal.read(path)
    header = decode_header(journal.header, path)
    if journal.version == 1:
        journal = journal.with_run_seed(header["identity"]["config"]["seed"])
    return journal, header


def require_same_identity(saved: dict[str, Any], own: dict[str, Any], where: str) -> None:
    """Refuse to resume a run with other options."""
    before, now = normalized(saved["identity"]), normalized(own["identity"])
    _accept_new_options(before, now)
    _accept_equal_rows(before, now)
    _accept_equal_files(before, now)
    _accept_equal_extensions(before, now)
    _accept_edits(saved, own, before, now)
    edited = "; ".join(_edited_files(before, now))
    if differences := _differences(before, now, ""):
        raise ResumeError(
            f"{where} holds a run with other options: {'; '.join(differences)}{edited and f'; {edited}'}"
            f"{_data_of(saved, own)}; a run is resumed with its own options, which its `config.json` holds"
        )
    if edited:
        raise ResumeError(f"{where} holds a run with other files: {edited}; a run is resumed with its own files")


def require_same_optimizer(saved: dict[str, Any], optim: str, sha256: str | None) -> None:
    """Refuse to replay a run with another optimizer than its own.

    Args:
        saved: the identity in the journal's header.
        optim: the optimizer's name, as in the option.
        sha256: of its file; None for a built-in optimizer, or one without a file.
    """
    was, expected = saved["config"].get("optim", "sgd"), saved.get("extension_files", {}).get("optim")
    if sha256 != expected or _after_colon(was) != _after_colon(optim) or (expected is None and was != optim):
        differs = "has other content than" if sha256 != expected and sha256 and expected else "differs from"
        raise ResumeError(
            f"optimizer {optim!r}{_of_file(sha256)} {differs} the run's optimizer {was!r}{_of_file(expected)}; name "
            "the run's own with --optim"
        )


def _of_file(sha256: str | None) -> str:
    return "" if sha256 is None else f" (SHA-256 {sha256})"


def reference_name(reference: str) -> str:
    """The name of an engine, task or reward function without its file's directory: `file.py:name`, or `file.py`."""
    return PurePath(reference.replace(os.sep, "/")).name


def normalized(identity: dict[str, Any]) -> dict[str, Any]:
    """An identity as plain JSON, without the directories of files: of extensions, the task and reward functions."""
    copy: dict[str, Any] = json.loads(json.dumps(identity))
    config, script = copy.get("config"), copy.get("script")
    if isinstance(config, dict):
        config |= {name: reference_name(config[name]) for name in EXTENSIONS if name in config}
    if isinstance(script, dict):
        script["reward_funcs"] = [reference_name(reference) for reference in script.get("reward_funcs", [])]
        if isinstance(script.get("task"), str):
            script["task"] = reference_name(script["task"])
    return copy


def _accept_new_options(before: dict[str, Any], now: dict[str, Any]) -> None:
    """Ignore options that are newer than the journal and have their defaults. The digest of the rows covers what these
    options change in the prompts."""
    saved, own = before.get("config", {}), now.get("config", {})
    defaults = identity_of(ESConfig())
    for name in own.keys() - saved.keys():
        if own[name] == defaults.get(name):
            del own[name]
    if "reference_steps" in own:  # older runs: the answers of the unperturbed model shared no batch with members'
        saved.setdefault("reference_steps", 0)


def _accept_equal_rows(before: dict[str, Any], now: dict[str, Any]) -> None:
    """Accept rows if the columns that functions read are equal, or if all columns are."""
    saved, own = before.get("train_dataset") or {}, now.get("train_dataset") or {}
    whole, own_whole = ([rows.pop(name, None) for name in ("all_sha256", "left_out")] for rows in (saved, own))
    if saved and whole == own_whole:  # an edited function may read other columns
        own["sha256"] = saved["sha256"]


def _accept_equal_files(before: dict[str, Any], now: dict[str, Any]) -> None:
    """Accept a reward function with the same name from a file with the same content, whatever the file's name."""
    (files, references), (own_files, own_references) = map(_reward_functions_of, (before, now))
    if not len(files) == len(references) == len(own_files) == len(own_references):
        return
    for index, (reference, own_reference) in enumerate(zip(references, own_references, strict=True)):
        is_equal = files[index] is not None and files[index] == own_files[index]
        if is_equal and _function_of(reference) == _function_of(own_reference):
            own_references[index] = reference


def _accept_equal_extensions(before: dict[str, Any], now: dict[str, Any]) -> None:
    """Accept an extension or task with the same name in a file with the same content, whatever the file's name."""
    files, own_files = ({**each.get("extension_files", {}), "task": each.get("task_file")} for each in (before, now))
    for option, content in files.items():
        if content is None or content != own_files.get(option):
            continue
        saved, own = (each["script" if option == "task" else "config"] for each in (before, now))
        if _after_colon(saved[option]) == _after_colon(own[option]):
            own[option] = saved[option]


def _after_colon(name: str) -> str:
    """The name of a function in `file.py:function`; empty for `file.py`, and for the name of an entry point."""
    return name.partition(":")[2]


def _reward_functions_of(identity: dict[str, Any]) -> tuple[list[Any], list[Any]]:
    """SHA-256 of the file of each reward function, and their references."""
    return identity.get("reward_files") or [], (identity.get("script") or {}).get("reward_funcs", [])


def _function_of(reference: str) -> str:
    """The name of a function in `file.py:function` or `package.module.function`."""
    return reference.rpartition(":" if ":" in reference else ".")[2]


def _accept_edits(saved: dict[str, Any], own: dict[str, Any], before: dict[str, Any], now: dict[str, Any]) -> None:
    """Accept an edited file of a task or reward if its path is unchanged, with a warning; refuse other files."""
    for option, files in (("reward_funcs", "reward_files"), ("task", "task_file")):
        names = [header["about"].get("options", {}).get(option) for header in (saved, own)]
        if names[0] != names[1] or before.get(files) == now.get(files):
            continue
        logger.warning(
            "the files of `%s` %s have changed since the run began; the next iterations use the changed files",
            option,
            names[1],
        )
        now[files] = before.get(files)


def _edited_files(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """A line for each file of an extension, task or reward function whose content differs. Removes the files from both
    identities."""
    lines, saved, own = [], _files_of(before), _files_of(now)
    for option in {**saved, **own}:
        (was, content), (name, own_content) = (files.get(option, (None, None)) for files in (saved, own))
        if content != own_content and (was == name or (content and own_content)):
            lines.append(f"the content of `{option}` {name!r} differs: its SHA-256 was {content}, now {own_content}")
    for identity in (before, now):
        for files in ("extension_files", "task_file", "reward_files"):
            identity.pop(files, None)
    return lines


def _files_of(identity: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Option -> name and SHA-256 of its file, for the options of extensions, the task and each reward function."""
    names = {**identity.get("config", {}), **(identity.get("script") or {})}
    contents = {**identity.get("extension_files", {}), "task": identity.get("task_file")}
    files = {option: (names.get(option), contents.get(option)) for option in (*EXTENSIONS, "task")}
    functions = itertools.zip_longest(*reversed(_reward_functions_of(identity)))
    return files | {f"reward_funcs[{index}]": function for index, function in enumerate(functions)}


def _data_of(saved: dict[str, Any], own: dict[str, Any]) -> str:
    names = ("train_dataset", "dataset_files")
    if all(saved["identity"].get(name) == own["identity"].get(name) for name in names):
        return ""
    was, is_now = (header["about"].get("options", {}).get("dataset_name") for header in (saved, own))
    if is_now is None:
        return ""
    return f"; the rows of `dataset_name` {is_now!r} differ from those of the run, which came from {was!r}"


def _differences(saved: Any, own: Any, name: str) -> list[str]:
    if isinstance(saved, dict) and isinstance(own, dict):
        names = sorted({*saved, *own})
        return [
            line
            for key in names
            for line in _differences(saved.get(key), own.get(key), f"{name}.{key}" if name else key)
        ]
    if saved == own:
        return []
    return [f"`{name}` was {_short(saved)}, now {_short(own)}"]


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
