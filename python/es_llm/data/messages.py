"""Prompts of a data set's rows: text, or messages with `role` and `content`. Everything else is refused with its row.

A message in another format would become an empty or garbled prompt, since chat templates write nothing for a key that a
message lacks. So the format is checked where rows come in, and is the same from there on: plain dicts of plain values.
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
"""Roles that chat templates know. They write any other one down as it is, and no model knows it."""

_SHAREGPT: Final = {"from", "value"}
_TEXT_PARTS: Final = ("text", "input_text", "output_text")


def user_turn(text: str) -> list[Message]:
    """A plain question as messages. Blank lines around it are the raw form's."""
    return [{"role": "user", "content": text.strip()}]


@dataclass(frozen=True, kw_only=True)
class TextPrompts:
    """What the text prompts of a task, or of a data set, are.

    questions: plain questions, which an instruct model gets through its chat template. If false, the text is sent as it
        is, unless the run asks for the template.
    as_messages: the text as messages.
    """

    questions: bool = False
    as_messages: Callable[[str], list[Message]] = user_turn


def checked_prompt(prompt: Any, where: str) -> Prompt:
    """The prompt as text, or as a list of messages with text contents and plain values.

    Text parts of a content are joined by line breaks. Fields without a value are left out: `datasets` adds them to
    messages whose keys differ. Arrays and tuples become lists, dates and decimals text.

    Args:
        prompt: what a row holds.
        where: the row, for messages.

    Raises:
        ConfigError: it is neither text nor messages, is empty, or has messages in another format; names the row.
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
    """Whether a text is a list of messages written down, as a CSV file holds one."""
    return bool(_WRITTEN.fullmatch(text) and _WRITTEN_ROLE.search(text) and _WRITTEN_CONTENT.search(text))


_WRITTEN: Final = re.compile(r"\s*\[?\s*\{.*\}\s*\]?\s*", re.DOTALL)
_WRITTEN_ROLE: Final = re.compile(r"""["'](role|from)["']\s*:\s*["'](system|developer|user|human|assistant|gpt)["']""")
_WRITTEN_CONTENT: Final = re.compile(r"""["'](content|value)["']\s*:""")


def readable(prompt: Prompt) -> str:
    """The prompt for people: text as it is, messages as `role: content`."""
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
    """What is wrong with a message that has no role or no content, and how to write it."""
    empty = [key for key in _OWN if key in message and message[key] is None]
    wrong = f"must have `role` and `content`, got the keys {sorted(map(str, message))}"
    if empty:
        return f"{wrong}, and no value for {' and '.join(f'`{key}`' for key in empty)}"
    if set(message) >= _SHAREGPT:
        return (
            f"{wrong}: a ShareGPT conversation. Write `from` as `role` (human: user, gpt: assistant) and `value` as "
            "`content`, and leave the answer at its end out: `trl.maybe_convert_to_chatml` does the former"
        )
    return f"{wrong}; write its fields under these names"


def _content(content: Any, where: str) -> str:
    """Text, or text parts joined by line breaks."""
    if isinstance(content, str):
        return str(content)
    parts = [content] if isinstance(content, Mapping) else _listed(content)
    if not isinstance(parts, list):
        raise ConfigError(f"{where}: `content` must be text or a list of text parts, got {_described(content)}")
    texts = [_part(part, f"{where}: part {number} of `content`") for number, part in enumerate(parts)]
    return "\n".join(text for text in texts if text is not None)


def _part(part: Any, where: str) -> str | None:
    """The text of a part; None: its text has no value, so it counts as left out."""
    if isinstance(part, str):
        return str(part)
    if not isinstance(part, Mapping):
        raise ConfigError(f"{where} must be text, got {_described(part)}")
    fields = {key: value for key, value in part.items() if value is not None}
    kind = fields.get("type", "text")
    if kind not in _TEXT_PARTS:
        raise ConfigError(f"{where} must be text, got one of type {kind!r}: prompts are text alone, without images")
    if "text" in part and not fields.keys() - {"type"}:
        return None
    if not isinstance(fields.get("text"), str):
        raise ConfigError(f"{where} must have a `text`, got {_described(part)}")
    return str(fields["text"])


def _plain(value: Any, where: str) -> Any:
    """A value as JSON knows it; fields of mappings that have no value are left out."""
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
    """Arrays (of numpy, torch, pandas) and tuples as lists, scalars of arrays as Python's; all else as it is."""
    if isinstance(value, tuple):
        return list(value)
    tolist = getattr(value, "tolist", None)
    return tolist() if callable(tolist) else value


def _described(value: Any) -> str:
    """The value, its type, and what may have happened to it."""
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
