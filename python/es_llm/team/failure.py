"""Why a rank can't go on, as a text that travels."""

from __future__ import annotations

import json
import traceback

from es_llm import errors
from es_llm.errors import CommunicationError, EsError, LeftOutError


def is_fatal(error: BaseException) -> bool:
    """Whether it concerns all ranks: an error of input or of the disk, not of one machine."""
    return isinstance(error, EsError) and not isinstance(error, LeftOutError)


def encode_failure(error: BaseException) -> str:
    """An error as JSON: its class and message, and the traceback of one that is no `EsError`."""
    known = is_fatal(error)
    trace = "" if known else "".join(traceback.format_exception(error))
    return json.dumps({"class": type(error).__name__, "text": str(error), "traceback": trace})


def decode_failure(text: str | bytes) -> EsError:
    """The error that a rank told: an `EsError` as it was, any other one as a `CommunicationError`. It is shared."""
    told = json.loads(text)
    if told["traceback"]:
        error: EsError = CommunicationError(f"a rank failed:\n{told['traceback']}")
    else:
        kind = getattr(errors, told["class"], EsError)
        error = kind(told["text"])
    error.shared = True
    return error


def describe_failure(text: str) -> tuple[str, bool]:
    """What a person reads of it, and whether it is an `EsError`: one that concerns all ranks."""
    told = json.loads(text)
    return told["traceback"].rstrip() or f"{told['class']}: {told['text']}", not told["traceback"]
