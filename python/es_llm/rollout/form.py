"""The form in which text prompts reach a model: unchanged, or as a user's message through the chat template.

Rows are converted before anything else sees them, so reward functions, tables and the model all get one form.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, final

from es_llm.config import ESConfig
from es_llm.data.messages import TextPrompts, is_messages_as_text
from es_llm.errors import ConfigError
from es_llm.types import Message, Prompt, Row

_SYSTEM: Final = ("system", "developer")
_WRAPPED, _RAW, _RENDERED, _MESSAGES, _OPEN = "wrapped", "raw", "rendered", "messages", "open"
_AS_MESSAGES: Final = "messages through the tokenizer's chat template"
_CONTINUED: Final = "where the last message is the assistant's, the completion continues it (a prompt holds no answer)"


@final
class PromptForm:
    """The form of a run's prompts, decided by its options, its tokenizer and the kind of its text.

    With `chat` auto, questions of a task go through the chat template of a tokenizer that has one, and all other text
    is sent as it is, as in TRL. Messages always go through the template.
    """

    def __init__(self, config: ESConfig, tokenizer: Any, text: TextPrompts) -> None:
        self._chat, self._system, self._text = config.chat, config.system_prompt, text
        self._seen: set[str] = set()
        self._template = bool(getattr(tokenizer, "chat_template", None))
        if self._chat == "chat" and not self._template:
            raise ConfigError("`chat` chat needs a tokenizer with a chat template, this one has none")
        self._wraps = self._chat == "chat" or (self._chat == "auto" and text.questions and self._template)
        self._marks = template_marks(tokenizer, config.chat_template_kwargs) if self._template else ()

    def rows(self, rows: Sequence[Row], name: str) -> list[Row]:
        """The rows with their prompts in this form."""
        return [{**row, "prompt": self._formed(row["prompt"], f"`{name}` row {at}")} for at, row in enumerate(rows)]

    def sets(self, sets: Mapping[str, Sequence[Row]]) -> dict[str, list[Row]]:
        """Held-out rows by the name of their set, in this form."""
        return {
            name: self.rows(rows, f"eval_dataset[{name!r}]" if name else "eval_dataset") for name, rows in sets.items()
        }

    def describe(self) -> str:
        """One line: the form of the prompts so far, and why they have it."""
        kinds = {_WRAPPED: self._of_text(True), _RAW: self._of_text(False), _MESSAGES: _AS_MESSAGES, _OPEN: _CONTINUED}
        return f"prompts: {'; '.join(form for kind, form in kinds.items() if kind in self._seen)}"

    def _of_text(self, wrapped: bool) -> str:
        how = "text through the tokenizer's chat template" if wrapped else "raw text"
        if self._chat != "auto":
            return f"{how} (`chat` {self._chat})"
        if wrapped:
            return f"{how} (`chat` auto: questions of a task; `chat` raw sends them raw)"
        if not self._template:
            return f"{how} (`chat` auto: the tokenizer has no chat template)"
        if _RENDERED in self._seen:
            return f"{how} (`chat` auto: it begins as text that the chat template wrote)"
        return f"{how} (`chat` auto: text is sent as the data have it; `chat` chat sends it through the chat template)"

    def _formed(self, prompt: Prompt, where: str) -> Prompt:
        if isinstance(prompt, str):
            formed = self._of(prompt, where)
            self._seen.add(_RAW if isinstance(formed, str) else _WRAPPED)
            return formed
        if self._chat == "raw":
            raise ConfigError(f"{where}: `chat` raw sends text prompts alone, got messages")
        self._seen |= {_MESSAGES, _OPEN} if prompt[-1]["role"] == "assistant" else {_MESSAGES}
        return self._with_system(prompt)

    def _of(self, text: str, where: str) -> Prompt:
        if self._chat != "raw" and is_messages_as_text(text):
            raise ConfigError(
                f"{where}: `prompt` is a text that holds messages; expected a list of messages, as in a json, jsonl or "
                f"parquet file (`chat` raw sends the text as it is), got {text[:200]!r}"
            )
        rendered = text.lstrip().startswith(self._marks)
        self._seen |= {_RENDERED} if rendered else set()
        if self._wraps and not rendered:
            messages = self._text.as_messages(text)
            if not any(message["content"].strip() for message in messages):
                raise ConfigError(f"{where}: `prompt` must not be blank, got {text!r}")
            return self._with_system(messages)
        if self._chat == "chat":
            raise ConfigError(
                f"{where}: `prompt` begins as the chat template's text does, so the template wrote it; "
                f"expected plain text, or `chat` raw, got {text[:200]!r}"
            )
        if self._system is not None:
            raise ConfigError(
                f"{where}: `system_prompt` needs a prompt of messages, but this one is sent raw; "
                + _why_raw(self._template, rendered)
            )
        return text

    def _with_system(self, messages: list[Message]) -> list[Message]:
        """The messages, with the run's system prompt in front if they have none."""
        if self._system is None or any(message["role"] in _SYSTEM for message in messages):
            return messages
        return [{"role": "system", "content": self._system}, *messages]


def _why_raw(template: bool, rendered: bool) -> str:
    if not template:
        return "the tokenizer has no chat template"
    return "the chat template wrote the text already" if rendered else "`chat` chat makes it one"


def template_marks(tokenizer: Any, template_kwargs: Mapping[str, Any]) -> tuple[str, ...]:
    """The special tokens that the chat template writes around a message. A text that begins with one of them is assumed
    to be written by the template."""
    try:
        messages = [{"role": "user", "content": "x"}]
        written = str(
            tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True, **template_kwargs)
        )
    except Exception:  # the first prompt will raise it again, and it is reported there
        return ()
    return tuple(token for token in special_tokens(tokenizer) if token in written)


def special_tokens(tokenizer: Any) -> list[str]:
    """The texts of all tokens that `skip_special_tokens` leaves out of decoded text."""
    added = getattr(tokenizer, "added_tokens_decoder", {})
    marked = [token.content for token in added.values() if getattr(token, "special", False)]
    return list(dict.fromkeys([*marked, *getattr(tokenizer, "all_special_tokens", [])]))
