"""Prompts of a data set's rows: text, or messages with `role` and `content`. Anything else is refused.

A message in another format would become an empty or garbled prompt, since chat templates write nothing for a missing
key. So the format is checked when rows enter. After the check, messages are dicts of plain values.
"""

from __future__ import annotations

import datetime
import decimal
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from es_llm.errors import ConfigError
from es_llm.types import Message, Prompt

ROLES: Final = ("system", "developer", "user", "assistant", "tool", "function", "ipython", "observation")
"""Roles that chat templates know. A template would copy an unknown role into the prompt, where no model knows it."""

_SHAREGPT: Final = {"from", "value"}
_TEXT_PARTS: Final = ("text", "input_text", "output_text")


def user_turn(text: str) -> list[Message]:
    """A plain question as messages, without the blank lines around it, which belong to the raw form."""
    return [{"role": "user", "content": text.strip()}]


@dataclass(frozen=True, kw_only=True)
class TextPrompts:
    """What the text prompts of a task, or of a data set, are.

    questions: true for plain questions, which an instruct model receives through its chat template. If false, the text
        is sent as it is, unless the run asks for the template.
    as_messages: converts the text to messages.
    """

    questions: bool = False
    as_messages: Callable[[str], list[Message]] = user_turn


def checked_prompt(prompt: Any, where: str) -> Prompt:
    """The prompt as text, or as a list of messages with text contents and plain values.

    Text parts of a content are joined by line breaks. Fields without a value are dropped: `datasets` adds them to
    messages whose keys differ. Arrays and tuples become lists, dates and decimals become text.

    Args:
        prompt: the value in the row.
        where: names the row in error messages.

    Raises:
        ConfigError: the prompt is neither text nor messages, is empty, or has messages in another format.
    """
    if isinstance(prompt, str):
        if not prompt.strip():
            raise ConfigError(f"{where}: `prompt` must be text or messages, not empty, got {_described(prompt)}")
        return str(prompt)
    messages = _listed(prompt)
    if not isinstance(messages, list) or not messages:
        raise ConfigError(f"{where}: `prompt` must be text or messages, not empty, got {_described(prompt)}")
    checked = [_message(message, f"{where}: message {number}") for number, message in enumerate(messages)]
    asked = next((message for message in reversed(checked) if message["role"] == "user"), None)
    if not any(message["content"].strip() for message in checked):
        raise ConfigError(f"{where}: `prompt` must have a message with a content, got {_shortened(checked)}")
    if asked is not None and not asked["content"].strip():
        raise ConfigError(f"{where}: the user's last message must have a content, got {_shortened(checked)}")
    return checked


def is_messages_as_text(text: str) -> bool:
    """True if a text looks like a list of messages, as a CSV file may hold one."""
    return bool(_WRITTEN.fullmatch(text) and _WRITTEN_ROLE.search(text) and _WRITTEN_CONTENT.search(text))


_WRITTEN: Final = re.compile(r"\s*\[?\s*\{.*\}\s*\]?\s*", re.DOTALL)
_WRITTEN_ROLE: Final = re.compile(r"""["'](role|from)["']\s*:\s*["'](system|developer|user|human|assistant|gpt)["']""")
_WRITTEN_CONTENT: Final = re.compile(r"""["'](content|value)["']\s*:""")


def readable(prompt: Prompt) -> str:
    """The prompt as text for people. Messages become lines of `role: content`."""
    if isinstance(prompt, str):
        return prompt
    return "\n".join(f"{message['role']}: {message['content']}" for message in prompt)


def _message(message: Any, where: str) -> Message:
    if not isinstance(message, Mapping):
        nested = "; a prompt is one list of messages" if isinstance(_listed(message), list) else ""
        raise ConfigError(f"{where} must be a mapping with `role` and `content`, got {_described(message)}{nested}")
    fields = {key: value for key, value in message.items() if value is not None}
    needed = ("role",) if fields.get("tool_calls") else _OWN
    if any(key not in fields for key in needed):
        raise ConfigError(f"{where} {_lacks(message)}")
    role = fields["role"]
    if not isinstance(role, str) or role not in ROLES:
        hint = _ROLE_HINTS.get(str(role), "")
        raise ConfigError(f"{where}: `role` must be one of {', '.join(ROLES)}, got {role!r}{hint}")
    content = _content(fields.get("content", ""), where)
    others = {str(key): _plain(value, f"{where}: `{key}`") for key, value in fields.items() if key not in _OWN}
    return {"role": str(role), "content": content, **others}


_OWN: Final = ("role", "content")
_ROLE_HINTS: Final = {
    **dict.fromkeys(("human", "Human", "User", "USER", "prompter", "Prompter"), "; write it as 'user'"),
    **dict.fromkeys(("gpt", "bot", "model", "ai", "AI", "Assistant", "chatgpt"), "; write it as 'assistant'"),
    "System": "; write it as 'system'",
}


def _lacks(message: Mapping[Any, Any]) -> str:
    """Error text for a message without a role or content, with advice how to write it."""
    empty = [key for key in _OWN if key in message and message[key] is None]
    wrong = f"must have `role` and `content`, got the keys {sorted(map(str, message))}"
    if empty:
        return f"{wrong}, and no value for {' and '.join(f'`{key}`' for key in empty)}"
    if set(message) >= _SHAREGPT:
        return (
            f"{wrong}: a ShareGPT conversation. Write `from` as `role` (human: user, gpt: assistant) and `value` as "
            "`content`, as `trl.maybe_convert_to_chatml` does, and remove the answer at the end"
        )
    return f"{wrong}; write its fields under these names"


def _content(content: Any, where: str) -> str:
    """The text of a content, or its text parts joined by line breaks."""
    if isinstance(content, str):
        return str(content)
    parts = [content] if isinstance(content, Mapping) else _listed(content)
    if not isinstance(parts, list):
        raise ConfigError(f"{where}: `content` must be text or a list of text parts, got {_described(content)}")
    texts = [_part(part, f"{where}: part {number} of `content`") for number, part in enumerate(parts)]
    return "\n".join(text for text in texts if text is not None)


def _part(part: Any, where: str) -> str | None:
    """The text of a part; None for a part whose text has no value, which is dropped."""
    if isinstance(part, str):
        return str(part)
    if not isinstance(part, Mapping):
        raise ConfigError(f"{where} must be text, got {_described(part)}")
    fields = {key: value for key, value in part.items() if value is not None}
    kind = fields.get("type", "text")
    if kind not in _TEXT_PARTS:
        raise ConfigError(f"{where} must be text, got a part of type {kind!r}: prompts are text without images")
    if "text" in part and not fields.keys() - {"type"}:
        return None
    if not isinstance(fields.get("text"), str):
        raise ConfigError(f"{where} must have a `text`, got {_described(part)}")
    return str(fields["text"])


def _plain(value: Any, where: str) -> Any:
    """A value of JSON's types. Fields without a value are dropped from mappings."""
    if value is None or isinstance(value, bool | int | float):
        return value
    if isinstance(value, str):
        return str(value)
    if isinstance(value, datetime.date | datetime.time):  # a datetime is a date
        return value.isoformat()
    if isinstance(value, decimal.Decimal | datetime.timedelta):
        return str(value)
    if isinstance(value, Mapping):
        return {str(key): _plain(inner, where) for key, inner in value.items() if inner is not None}
    listed = _listed(value)
    if isinstance(listed, list):
        return [_plain(inner, where) for inner in listed]
    if listed is not value:
        return _plain(listed, where)
    raise ConfigError(f"{where} must be text, a number, a list or a mapping, got {_described(value)}; leave it out")


def _listed(value: Any) -> Any:
    """Arrays (of numpy, torch, pandas) and tuples as lists, their scalars as Python's; all other values unchanged."""
    if isinstance(value, tuple):
        return list(value)
    tolist = getattr(value, "tolist", None)
    return tolist() if callable(tolist) else value


def _described(value: Any) -> str:
    """The value, its type, and a likely cause or advice."""
    described = f"{_shortened(value)} ({type(value).__name__})"
    if isinstance(value, bool):
        return described
    if isinstance(value, datetime.date | datetime.time):
        return f"{described}; write dates that are prompts as text"
    if isinstance(value, float) and math.isnan(value):
        return f"{described}, a missing value"
    if isinstance(value, int | float):
        return f"{described}; write numbers that are prompts as text, in quotes"
    if isinstance(value, Mapping) and set(value) >= set(_OWN):
        many = isinstance(_listed(value["role"]), list)
        return f"{described}; " + ("write one mapping per message" if many else "put the message into a list")
    return described


def _shortened(value: Any, limit: int = 200) -> str:
    shown = repr(value)
    return shown if len(shown) <= limit else f"{shown[: limit // 2]} ... {shown[-limit // 2 :]}"
