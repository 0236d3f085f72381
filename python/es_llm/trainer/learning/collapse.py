"""Finds answers that break: by the noise (members compared with the unperturbed model), or by the updates (the
unperturbed model compared with earlier iterations). Knows figures only."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from es_llm.config import ESConfig
from es_llm.trainer.learning.answers import Comparison, Reference

BROKEN: Final = 0.2
"""Members are broken if they keep at most this share of the unperturbed model's sound (or right) answers."""

FIRST: Final = 3
CELLS: Final = 12
CHANGED, WORSE = 0.9, 0.85
"""Members are broken too if in the first `FIRST` iterations (at least two, with `CELLS` answers) the share `CHANGED` of
their answers differs from the unperturbed model's, and the share `WORSE` gets a lower reward. The rule is for the first
iterations only: near its optimum a model is better than all of its members."""

WINDOW: Final = 4
SIGNIFICANT: Final = 4.0
"""The unperturbed model is broken if the last 2 to `WINDOW` iterations have at most half of the expected sound (or
right) answers, and the difference is at least `SIGNIFICANT` standard deviations of a binomial count."""

PAPER_SIGMA: Final = 1e-3
"""Qiu et al. (arXiv 2509.24372) use 5e-4 to 1.5e-3 for language models, and sigma / 2 as the learning rate."""


class Collapse:
    """Takes the comparison of each iteration, in order."""

    def __init__(self, config: ESConfig) -> None:
        self._config = config
        self._in_a_row: dict[str, int] = {}
        self._references: list[Reference] = []
        self._first: list[tuple[int, float, float]] = []

    def observe(self, step: int, compared: Comparison | None) -> list[tuple[str, str]]:
        """(reason, message) of each collapse in this iteration, also if it was returned before."""
        if compared is None or compared.reference is None:
            return []
        self._references.append(compared.reference)
        figures = {
            "sigma too large": self._members(compared, compared.reference, step),
            "learning rate too large": self._weights(step),
        }
        advice = {"sigma too large": self._sigma_advice, "learning rate too large": self.rate_advice}
        return [(reason, f"{figure}: {advice[reason]()}") for reason, figure in figures.items() if figure]

    @property
    def has_fallen(self) -> bool:
        """True if the unperturbed model's reward is lower than in its first iteration."""
        rewards = [one.reward for one in self._references if one.reward is not None]
        return len(rewards) > 1 and rewards[-1] < rewards[0]

    def rate_advice(self) -> str:
        """Advice for updates that are too large."""
        rate, sigma = self._config.learning_rate, self._config.sigma
        wanted = min(rate / 3, sigma / 2) if rate > 2 * sigma else rate / 3
        return (
            f"the model has collapsed. `learning_rate` {rate:g} is too large; start again with --learning_rate "
            f"{wanted:.2g}"
        )

    def _sigma_advice(self) -> str:
        sigma = self._config.sigma
        wanted = min(PAPER_SIGMA, sigma / 3) if sigma > 10 * PAPER_SIGMA else sigma / 3
        return f"`sigma` {sigma:g} is too large; try --sigma {wanted:.2g}"

    def _members(self, compared: Comparison, reference: Reference, step: int) -> str:
        """Text with the figures if the noise breaks answers; empty if it doesn't."""
        lost = compared.lost is not None and reference.rights >= 2 and compared.lost >= 1 - BROKEN
        broken = reference.sound >= 0.5 and compared.sound <= BROKEN * reference.sound
        if self._again("members", lost or broken, step):
            if lost:
                return f"the members lose {compared.lost:.0%} of the answers that the unperturbed model gives right"
            return (
                f"{1 - compared.sound:.0%} of the members' answers are empty or cut off, and "
                f"{1 - reference.sound:.0%} of the unperturbed model's"
            )
        return self._garbled(compared, step)

    def _garbled(self, compared: Comparison, step: int) -> str:
        """Text with the figures if in the first iterations nearly all answers change and get worse; else empty."""
        if compared.worse is None or compared.identical is None or len(self._references) > FIRST:
            return ""
        self._first.append((compared.cells, compared.cells * compared.identical, compared.cells * compared.worse))
        cells, identical, worse = (sum(figures) for figures in zip(*self._first, strict=True))
        early = len(self._first) < 2 and step < self._config.max_steps
        if early or cells < CELLS or identical > (1 - CHANGED) * cells or worse < WORSE * cells:
            return ""
        return (
            f"{identical / cells:.0%} of the members' answers equal the unperturbed model's, and "
            f"{worse / cells:.0%} get a lower reward"
        )

    def _weights(self, step: int) -> str:
        """Text with the figures if the unperturbed model's answers are broken and weren't before; else empty."""
        first, now = self._references[0], self._references[-1]
        one_answer = now.answers > 1 and now.distinct == 1 and 2 * first.distinct > first.answers
        if self._again("weights", one_answer and self.has_fallen, step):
            return "the unperturbed model gives one answer to all prompts, and its reward has fallen"
        lost = self._fallen(lambda one: one.rights)
        if lost:
            return f"the unperturbed model answers {lost[0]} of {lost[1]} prompts right, before {lost[2]:.0%}"
        unsound = self._fallen(lambda one: round(one.sound * one.answers))
        unknown = first.reward is None or now.reward is None
        if unsound and (unknown or self.has_fallen):
            return (
                f"{1 - unsound[0] / unsound[1]:.0%} of the unperturbed model's answers are empty or cut off, before "
                f"{1 - unsound[2]:.0%}"
            )
        return ""

    def _fallen(self, count: Callable[[Reference], int]) -> tuple[int, int, float] | None:
        """(number now, answers now, share before) if far fewer answers are counted than before; else None."""
        for window in range(2, WINDOW + 1):
            before, late = self._references[:-window], self._references[-window:]
            if not before:
                break
            share = sum(map(count, before)) / sum(one.answers for one in before)
            answers, number = sum(one.answers for one in late), sum(map(count, late))
            deviation = (answers * share * (1 - share) + 1) ** 0.5
            if number <= share * answers / 2 and share * answers - number >= SIGNIFICANT * deviation:
                return number, answers, share
        return None

    def _again(self, what: str, broken: bool, step: int) -> bool:
        """True if `broken` holds in two iterations in a row, or in the run's last one."""
        self._in_a_row[what] = self._in_a_row.get(what, 0) + 1 if broken else 0
        return self._in_a_row[what] >= 2 or (broken and step >= self._config.max_steps)
