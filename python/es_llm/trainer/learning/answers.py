"""Compares the answers of members: with each other, within pairs, and with the unperturbed model.

Texts never leave the rank that generated them. For the first `TRACED_PROMPTS` prompts and the first `TRACED_MEMBERS`
members of an iteration a rank reports 9 bytes per answer: a checksum of its tokens, its reward, and whether it is empty
or cut off. That is at most 4.6 kB per iteration, for any population size.

Knows nothing of what the figures mean for the run: see `diagnosis`.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from es_llm.rollout.engine import Completion
from es_llm.units.run_state import TRACED_PROMPTS

TRACED_MEMBERS: Final = 64

_ANSWER: Final = np.dtype([("tokens", "<u4"), ("reward", "<f4"), ("flags", "u1")])
_EMPTY, _CUT_OFF = 1, 2

Answers = NDArray[Any]
"""Traced answers: a structured array of shape (P,) of one member, or (M, P) of several."""


@dataclass(frozen=True, kw_only=True)
class _Shares:
    empty: float
    cut_off: float

    @property
    def sound(self) -> float:
        """Share of answers that have text and end by themselves."""
        return max(0.0, 1.0 - self.empty - self.cut_off)


@dataclass(frozen=True, kw_only=True)
class Comparison(_Shares):
    """Shares in [0, 1] over the traced answers of an iteration; None if there is nothing to compare.

    cells: number of compared answers of members.
    pair_identical: share of (pair, prompt) for which both members give the same answer.
    alike: True if for every prompt all members give the same answer.
    distinct: number of different answers to a prompt divided by the number of members; mean over the prompts.
    spread: share of prompts for which members got different rewards.
    empty, cut_off: share of members' answers without text; of those that the length limit ended.
    identical: share of members' answers that equal the unperturbed model's answer.
    lost: share of members' answers with a reward below 1, to prompts for which the unperturbed model gets at least 1.
    worse: share of members' answers with a lower reward than the unperturbed model's answer.
    noisy: share of prompts for which equal answers got different rewards.
    reference: the answers of the unperturbed model.
    """

    cells: int
    pair_identical: float | None
    alike: bool
    distinct: float
    spread: float
    identical: float | None
    lost: float | None
    worse: float | None
    noisy: float
    reference: Reference | None

    def metrics(self) -> dict[str, float]:
        """Metrics by name, without those that are None."""
        named = {
            "answers/identical_ratio": self.identical,
            "answers/identical_pairs_ratio": self.pair_identical,
            "answers/distinct_ratio": self.distinct,
            "answers/lost_ratio": self.lost,
            "answers/worse_ratio": self.worse,
            "answers/prompts_with_spread_ratio": self.spread,
            "answers/noisy_prompts_ratio": self.noisy,
        }
        if self.reference is not None:
            named |= {
                "reference/reward": self.reference.reward,
                "reference/right_ratio": self.reference.rights / self.reference.answers,
                "reference/empty_ratio": self.reference.empty,
                "reference/clipped_ratio": self.reference.cut_off,
            }
        return {name: value for name, value in named.items() if value is not None}


@dataclass(frozen=True, kw_only=True)
class Reference(_Shares):
    """The answers of the unperturbed model.

    answers: their number.
    distinct: number of different answers.
    reward: mean reward; None without rewards.
    rights: number of answers with a reward of at least 1.
    empty, cut_off: share in [0, 1] of answers without text; of those that the length limit ended.
    """

    answers: int
    distinct: int
    reward: float | None
    rights: int


def encode_answers(completions: Sequence[Completion], rewards: Sequence[float | None]) -> bytes:
    """The first answers of a member as bytes; a missing reward is NaN."""
    traced = np.zeros(min(TRACED_PROMPTS, len(completions)), _ANSWER)
    for row, completion, reward in zip(traced, completions, rewards, strict=False):
        row["tokens"] = zlib.crc32(np.array(completion.token_ids, "<i8").tobytes())
        row["reward"] = np.nan if reward is None else reward
        row["flags"] = _EMPTY * (not completion.text.strip()) + _CUT_OFF * (not completion.finished)
    return traced.tobytes()


def decode_answers(data: bytes) -> Answers:
    """Answers from the bytes of `encode_answers`, shape (P,)."""
    return np.frombuffer(data, _ANSWER)


def compare(members: Mapping[int, Answers], pairs: Mapping[int, int], reference: Answers | None) -> Comparison | None:
    """Compare the answers of one iteration.

    Args:
        members: index of a member -> its answers, to the same P prompts.
        pairs: index of a member -> its noise pair. Members that share a pair are mirrored.
        reference: the answers of the unperturbed model to the same prompts, or None.
    """
    if not members:
        return None
    answers_MP = np.stack([members[index] for index in sorted(members)])
    tokens_MP, rewards_MP, flags_MP = answers_MP["tokens"], answers_MP["reward"], answers_MP["flags"]
    own = None if reference is None or len(reference) != answers_MP.shape[1] else reference
    different = [len(np.unique(column)) for column in tokens_MP.T]
    return Comparison(
        cells=tokens_MP.size,
        pair_identical=_pair_identical(tokens_MP, [pairs[index] for index in sorted(members)]),
        alike=max(different) == 1,
        distinct=float(np.mean(different)) / len(tokens_MP),
        spread=float(np.mean([len(np.unique(column)) > 1 for column in rewards_MP.T])),
        empty=_share(flags_MP & _EMPTY),
        cut_off=_share(flags_MP & _CUT_OFF),
        identical=None if own is None else _share(tokens_MP == own["tokens"]),
        lost=None if own is None else _lost(rewards_MP, own["reward"]),
        worse=None if own is None or not np.isfinite(own["reward"]).all() else _share(rewards_MP < own["reward"]),
        noisy=float(np.mean([_is_noisy(*columns) for columns in zip(tokens_MP.T, rewards_MP.T, strict=True)])),
        reference=None if own is None else _reference(own),
    )


def _reference(answers: Answers) -> Reference:
    rewards = answers["reward"][np.isfinite(answers["reward"])]
    return Reference(
        answers=len(answers),
        distinct=len(np.unique(answers["tokens"])),
        reward=float(rewards.mean()) if len(rewards) else None,
        rights=int((rewards >= 1.0).sum()),
        empty=_share(answers["flags"] & _EMPTY),
        cut_off=_share(answers["flags"] & _CUT_OFF),
    )


def _pair_identical(tokens_MP: NDArray[Any], pairs: Sequence[int]) -> float | None:
    rows: dict[int, list[int]] = {}
    for row, pair in enumerate(pairs):
        rows.setdefault(pair, []).append(row)
    both = [pair for pair in rows.values() if len(pair) == 2]
    return _share([tokens_MP[first] == tokens_MP[second] for first, second in both]) if both else None


def _is_noisy(tokens_M: NDArray[Any], rewards_M: NDArray[Any]) -> bool:
    """True if members with one answer got different rewards. Failed rewards don't count."""
    known = np.isfinite(rewards_M)
    tokens, rewards = tokens_M[known], rewards_M[known]
    return any(len(np.unique(rewards[tokens == answer])) > 1 for answer in np.unique(tokens))


def _lost(rewards_MP: NDArray[Any], reference_P: NDArray[Any]) -> float | None:
    right_P = reference_P >= 1.0
    return _share(~(rewards_MP[:, right_P] >= 1.0)) if right_P.any() else None


def _share(cells: Any) -> float:
    return float(np.mean(np.asarray(cells) != 0))
