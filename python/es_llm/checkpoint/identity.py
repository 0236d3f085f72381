"""The identity of a run, as the journal's header holds it: what has to be the same for the same bits."""

from __future__ import annotations

import json
from typing import Any

from es_llm.errors import ResumeError

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

    Raises:
        ResumeError: names each field that differs, with both values.
    """
    differences = _differences(saved, json.loads(json.dumps(own)), "")
    if differences:
        raise ResumeError(f"{where} holds a run with other options: " + "; ".join(differences))


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
