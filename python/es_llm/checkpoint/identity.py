"""The identity of a run, as the journal's header holds it: what has to be the same for the same bits."""

from __future__ import annotations

import json
import logging
import os
from pathlib import PurePath
from typing import Any

from es_llm.config import ESConfig
from es_llm.config.fields import identity_of
from es_llm.errors import ResumeError

logger = logging.getLogger(__name__)

FORMAT = "es_llm run"


def encode_header(identity: dict[str, Any], about: dict[str, Any]) -> str:
    """The header's JSON text: `identity` decides the bits; `about` is for readers (versions, names)."""
    return json.dumps({"format": FORMAT, "identity": identity, "about": about}, sort_keys=True)


def decode_header(text: str, where: str) -> dict[str, Any]:
    """The header as a mapping with the keys `identity` and `about`.

    Raises:
        ResumeError: the header was not written by a run of es_llm.
    """
    try:
        header = json.loads(text)
        if header["format"] != FORMAT:
            raise ValueError(header["format"])
        header["identity"], header["about"]
    except (ValueError, KeyError, TypeError) as error:
        raise ResumeError(f"{where}: the journal's header is not that of an es_llm run ({error})") from error
    return dict(header)


def require_same_identity(saved: dict[str, Any], own: dict[str, Any], where: str) -> None:
    """Refuse to go on with a run under other options.

    Args:
        saved: the header of the journal (see `decode_header`).
        own: that of the run that wants to go on.
        where: the journal.

    Raises:
        ResumeError: names each field that differs, with both values.
    """
    before, now = normalized(saved["identity"]), normalized(own["identity"])
    if "reward_files" not in saved["identity"]:  # a journal of an earlier version, which had names alone
        for identity in (before, now):
            for name in _OF_FILES:
                identity.pop(name, None)
        if isinstance(now.get("script"), dict) and isinstance(before.get("script"), dict):
            now["script"]["dataset_name"] = before["script"].get("dataset_name")
    _accept_new_options(before, now)
    _accept_equal_rows(before, now)
    _accept_equal_files(before, now)
    _accept_edits(saved, own, before, now)
    differences = _differences(before, now, "")
    if differences:
        raise ResumeError(f"{where} holds a run with other options: " + "; ".join(differences) + _data_of(saved, own))


def reference_name(reference: str) -> str:
    """A plug-in's reference without the directory of its file: `file.py:name` or `file.py`."""
    path, colon, name = reference.rpartition(":") if ":" in reference else (reference, "", "")
    return f"{PurePath(path.replace(os.sep, '/')).name}{colon}{name}"


_OF_FILES = ("dataset_files", "reward_files")


def normalized(identity: dict[str, Any]) -> dict[str, Any]:
    """An identity as plain JSON, with the files of reward functions and of the engine without their directories."""
    copy: dict[str, Any] = json.loads(json.dumps(identity))
    config, script = copy.get("config"), copy.get("script")
    if isinstance(config, dict) and "engine" in config:
        config["engine"] = reference_name(config["engine"])
    if isinstance(script, dict):
        script["reward_funcs"] = [reference_name(reference) for reference in script.get("reward_funcs", [])]
    return copy


def _accept_new_options(before: dict[str, Any], now: dict[str, Any]) -> None:
    """An option that didn't exist when the run began is no difference while it has its default. What it changes of the
    prompts, the rows' own digest tells."""
    saved, own = before.get("config"), now.get("config")
    if not isinstance(saved, dict) or not isinstance(own, dict):
        return
    defaults = identity_of(ESConfig())
    for name in own.keys() - saved.keys():
        if own[name] == defaults.get(name):
            del own[name]


def _accept_equal_rows(before: dict[str, Any], now: dict[str, Any]) -> None:
    """Rows are equal if the columns that functions read are, or all are. Earlier versions compared all columns, under
    the name `sha256`."""
    saved, own = before.get("train_dataset"), now.get("train_dataset")
    if not isinstance(saved, dict) or not isinstance(own, dict) or "all_sha256" not in own:
        return
    whole = own.pop("all_sha256")
    if "all_sha256" not in saved:
        own["sha256"] = whole
        return
    of_all = whole, own.pop("left_out", None)
    if of_all == (saved.pop("all_sha256"), saved.pop("left_out", None)):  # an edited function reads other columns
        own["sha256"] = saved["sha256"]


def _accept_equal_files(before: dict[str, Any], now: dict[str, Any]) -> None:
    """A function is known again by its name and the content of its file, where both are known: whatever the file's
    name. Earlier versions knew no content of modules that were named by dots."""
    files, references = _files_of(before), _references_of(before)
    own_files, own_references = _files_of(now), _references_of(now)
    if not len(files) == len(references) == len(own_files) == len(own_references):
        return
    for index, (reference, own_reference) in enumerate(zip(references, own_references, strict=True)):
        if reference == own_reference and files[index] is None:
            own_files[index] = None
            continue
        is_equal = files[index] is not None and files[index] == own_files[index]
        if is_equal and _function_of(reference) == _function_of(own_reference):
            own_references[index] = reference


def _files_of(identity: dict[str, Any]) -> list[Any]:
    files = identity.get("reward_files")
    return files if isinstance(files, list) else []


def _references_of(identity: dict[str, Any]) -> list[Any]:
    script = identity.get("script")
    return script.get("reward_funcs", []) if isinstance(script, dict) else []


def _function_of(reference: str) -> str:
    """The name of a function in `file.py:function` or `package.module.function`."""
    return reference.rpartition(":" if ":" in reference else ".")[2]


def _accept_edits(saved: dict[str, Any], own: dict[str, Any], before: dict[str, Any], now: dict[str, Any]) -> None:
    """A file of rewards that was edited where it is, maybe mended, is a warning; another one elsewhere is refused."""
    references = [header["about"].get("options", {}).get("reward_funcs") for header in (saved, own)]
    if references[0] != references[1] or before.get("reward_files") == now.get("reward_files"):
        return
    logger.warning(
        "the files of `reward_funcs` %s have changed since the run began: its next iterations are scored by what they "
        "are now",
        references[1],
    )
    now["reward_files"] = before["reward_files"]


def _data_of(saved: dict[str, Any], own: dict[str, Any]) -> str:
    """Where the data came from, if they differ."""
    names = ("train_dataset", "dataset_files")
    if all(saved["identity"].get(name) == own["identity"].get(name) for name in names):
        return ""
    was, is_now = (header["about"].get("options", {}).get("dataset_name") for header in (saved, own))
    return "" if is_now is None else f"; the rows of `dataset_name` {is_now!r} aren't those of the run, from {was!r}"


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
