"""Stop strings: an answer ends with the token that completes one of them.

An automaton reads the bytes of the text (Aho and Corasick, 1975). Its state is the longest end of the text that a stop
string begins with. The state after a token is looked up in a table, so a decoder decodes no text and doesn't wait for
the device, and a stop string may begin and end anywhere: within tokens, or in tokens that cut a character in two.

As with transformers' `stop_strings`, a stop string may begin in the prompt, special tokens have the text that the
tokenizer shows for them, and the answer keeps the whole of its last token.

Legend: S states, V vocabulary, R rows.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any, Final, TypeAlias, final

import numpy as np
import torch
from numpy.typing import NDArray

Texts: TypeAlias = Callable[[Sequence[Sequence[int]]], Sequence[str]]
"""Token ids of some rows -> the text of each, with special tokens."""

_FALLBACK: Final = re.compile("<0x([0-9A-F]{2})>")
"""A token for one byte, in vocabularies of SentencePiece."""


@final
class StopStrings:
    """The stop strings of a run, for a vocabulary.

    Args:
        strings: at least one, none empty.
        tokens: what each token adds to the text, see `token_bytes`.
        device: of the decoder.
    """

    def __init__(self, strings: Sequence[str], tokens: Sequence[bytes], device: torch.device) -> None:
        stops = [text.encode() for text in strings]
        self._tokens, self._longest = tokens, max(map(len, stops))
        self._states = {begun: state for state, begun in enumerate(_begun(stops))}
        self._end = len(self._states)
        table_SV = _after_tokens(_after_bytes(stops, self._states), tokens)
        self.table_SV = torch.from_numpy(table_SV).to(device)

    def watch(self, prompts: Sequence[Sequence[int]]) -> Callable[[torch.Tensor, torch.Tensor], torch.Tensor]:
        """Begin R answers. Returns a function that is called with each next token of a row: (rows (B,), their tokens
        (B,)) -> True where an answer has ended (B,)."""
        state_R = torch.tensor([self._begun_in(prompt) for prompt in prompts], device=self.table_SV.device)

        def have_ended(row_B: torch.Tensor, token_B: torch.Tensor) -> torch.Tensor:
            state_B = self.table_SV[state_R[row_B], token_B].long()
            state_R[row_B] = state_B
            return state_B == self._end

        return have_ended

    def length(self, prompt: Sequence[int], answer: Sequence[int]) -> int | None:
        """Number of the answer's tokens up to the one that completes a stop string; None if none does."""
        state = self._begun_in(prompt)
        for count, token in enumerate(answer, 1):
            state = int(self.table_SV[state, token])
            if state == self._end:
                return count
        return None

    def _begun_in(self, prompt: Sequence[int]) -> int:
        """The state after a prompt. Stop strings within the prompt end nothing."""
        text = b"".join(self._tokens[token] for token in prompt[-self._longest :])
        ends = (text[start:] for start in range(max(0, len(text) - self._longest), len(text) + 1))
        return next(self._states[end] for end in ends if end in self._states)


def token_bytes(tokenizer: Any, size: int, texts: Texts) -> list[bytes]:
    """The bytes that each of the ids below `size` adds to a text; none for an id without a token.

    The tokens of byte-level vocabularies, and those for single bytes, may be parts of characters. The text of any other
    token is what decoding it behind another token adds.
    """
    found, others = [b""] * size, []
    added = getattr(tokenizer, "added_tokens_decoder", {})
    byte_of = _byte_alphabet() if _is_byte_level(tokenizer) else {}
    for token, number in tokenizer.get_vocab().items():
        if number >= size:
            continue
        if number not in added and byte_of and byte_of.keys() >= set(token):
            found[number] = bytes(byte_of[character] for character in token)
        elif number not in added and (one := _FALLBACK.fullmatch(token)):
            found[number] = bytes.fromhex(one[1])
        else:
            others.append(number)
    before = list(tokenizer("a", add_special_tokens=False)["input_ids"])
    (start,) = texts([before])
    for number, text in zip(others, texts([[*before, number] for number in others]), strict=True):
        found[number] = text[len(start) :].encode()
    return found


def _is_byte_level(tokenizer: Any) -> bool:
    decoder = getattr(getattr(tokenizer, "backend_tokenizer", None), "decoder", None)
    return hasattr(tokenizer, "byte_decoder") or (decoder is not None and b"ByteLevel" in decoder.__getstate__())


def _byte_alphabet() -> dict[str, int]:
    """GPT-2's character for each byte: printable ones for themselves, further characters for the others in order."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + index): byte for index, byte in enumerate(others)}


def _begun(stops: Sequence[bytes]) -> list[bytes]:
    """What a text may have begun of the stop strings: all their beginnings, shortest first."""
    return sorted({stop[:size] for stop in stops for size in range(len(stop))}, key=lambda begun: (len(begun), begun))


def _after_bytes(stops: Sequence[bytes], states: dict[bytes, int]) -> NDArray[np.int32]:
    """The state after each state and byte (S + 1, 256). The last state is the end, which nothing leaves."""
    end = len(states)
    after = np.zeros((end + 1, 256), np.int32)
    after[end] = end
    for begun, state in states.items():
        if begun:  # as after the longest end of it that a stop string begins with too
            shorter = (begun[start:] for start in range(1, len(begun) + 1))
            after[state] = after[next(states[text] for text in shorter if text in states)]
        for stop in stops:
            if not stop.startswith(begun) or stop == begun:
                continue
            longer = stop[: len(begun) + 1]
            if after[state, longer[-1]] != end:
                after[state, longer[-1]] = end if stop == longer else states[longer]
    return after


def _after_tokens(after_bytes: NDArray[np.int32], tokens: Sequence[bytes]) -> NDArray[Any]:
    """The state after each state and token (S + 1, V)."""
    states, sizes = len(after_bytes), np.array([len(token) for token in tokens])
    order = np.argsort(-sizes, kind="stable")
    starts = (np.cumsum(sizes) - sizes)[order]
    text = np.frombuffer(b"".join(tokens), np.uint8)
    after = np.repeat(np.arange(states, dtype=np.int16 if states < 2**15 else np.int32)[:, None], len(tokens), 1)
    for offset in range(sizes.max()):
        longer = int((sizes > offset).sum())
        after[:, :longer] = after_bytes[after[:, :longer], text[starts[:longer] + offset]]
    unsorted = np.empty_like(after)
    unsorted[:, order] = after
    return unsorted
