"""Whether a run can learn: names the reason, with its figure and what to change, within three iterations.

A run can't learn while all members have the same fitness, since equal fitness moves nothing; nor once its weights give
broken answers. Every finding is reported once. Knows figures only: no texts, no files, no ranks.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, NamedTuple

from es_llm.config import ESConfig
from es_llm.trainer.answers import Comparison, Reference

STREAK: Final = 3
"""Iterations in a row after which a missing signal is reported; at the third iteration of a call two are enough."""

MOSTLY: Final = 0.9
"""Share of answers that counts as nearly all."""

STILL: Final = 0.01
"""An update that changes a smaller share of the live weights than this moves nothing."""

BROKEN: Final = 0.2
"""Members' or later answers are broken if at most this share of what was sound (or right) before still is."""

WINDOW: Final = 4
EXPECTED: Final = 12
"""Right answers are lost if in the last 2 to `WINDOW` iterations at least `EXPECTED` were to be expected, and hardly
any is right. With fewer, chance would do it once in a long run."""

PAPER_SIGMA: Final = 1e-3
"""Qiu et al. (arXiv 2509.24372) use 5e-4 to 1.5e-3 for language models, and sigma / 2 as the learning rate."""


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """Of one iteration. `fitness`: the known fitness of members. `completions`, `failures`, `empty`, `cut_off`: counts
    over all members. `comparison`: see there. `step` counts from 1."""

    step: int
    fitness: tuple[float, ...]
    completions: int
    failures: int
    empty: int
    cut_off: int
    comparison: Comparison | None

    @property
    def flat(self) -> bool:
        """True if no two members differ in fitness: the update is zero."""
        return len(set(self.fitness)) <= 1

    def share(self, count: int) -> float:
        """A count as a share of the completions."""
        return count / max(1, self.completions)


class Finding(NamedTuple):
    """Why a run can't learn: a word for it, and a sentence with the figure and what to change."""

    reason: str
    message: str


class Diagnosis:
    """Takes the evidence of each iteration, in order, and gives new findings.

    Args:
        config: the options whose values stand in the messages. A run of fewer than `STREAK` iterations is judged at its
            last one.
        why_failed: the text of the first failures of rewards.
    """

    def __init__(self, config: ESConfig, *, why_failed: Callable[[], str] = str) -> None:
        self._config, self._why_failed = config, why_failed
        self._seen = self._flat_in_a_row = self._still_in_a_row = 0
        self._broken_in_a_row: dict[str, int] = {}
        self._spread_before = False
        self._references: list[Reference] = []
        self._reported: set[str] = set()
        self.flat_iterations = 0

    def observe(self, evidence: Evidence) -> list[Finding]:
        """The findings of this iteration that weren't reported before."""
        self._seen += 1
        findings = [*self._collapse(evidence), *self._no_spread(evidence)]
        if any(finding.reason in _OF_COLLAPSE for finding in findings) or self._reported & _OF_COLLAPSE:
            findings = [finding for finding in findings if finding.reason not in _OF_BROKEN_ANSWERS]
        new = [finding for finding in findings if finding.reason not in self._reported]
        self._reported.update(finding.reason for finding in new)
        if not evidence.flat:
            self._spread_before = True
        return new

    def moved(self, step: int, ratio: float, *, flat: bool) -> list[Finding]:
        """The finding of an update that changed this share of the live weights; `flat`: it was zero on purpose."""
        self._still_in_a_row = self._still_in_a_row + 1 if ratio < STILL and not flat else 0
        if "learning rate too small" in self._reported or not self._enough(self._still_in_a_row, step):
            return []
        self._reported.add("learning rate too small")
        message = (
            f"the updates changed hardly any weight of the model ({ratio:.1%}) for "
            f"{_iterations(self._still_in_a_row)}: `learning_rate` {self._config.learning_rate:g} is too small; "
            "the paper takes sigma / 2"
        )
        return [Finding("learning rate too small", message)]

    def _enough(self, streak: int, step: int) -> bool:
        """True if a missing signal has lasted for as many iterations as it takes to report it."""
        early, last = self._seen == STREAK and streak >= STREAK - 1, step >= self._config.max_steps
        return streak >= STREAK or early or (last and streak == self._seen > 0)

    # ---- equal fitness --------------------------------------------------------------------------------

    def _no_spread(self, evidence: Evidence) -> list[Finding]:
        if evidence.failures == evidence.completions:
            self.flat_iterations += 1
            self._flat_in_a_row += 1
            return [self._all_failed(evidence)]
        if not evidence.flat:
            self._flat_in_a_row = 0
            return []
        self.flat_iterations += 1
        self._flat_in_a_row += 1
        if not self._enough(self._flat_in_a_row, evidence.step):
            return []
        return [self._flat(evidence)]

    def _all_failed(self, evidence: Evidence) -> Finding:
        return Finding(
            "no reward",
            "no completion has a reward, so the weights stay as they are"
            f"{self._why_failed()} (`failure_policy` raise would end such a run)",
        )

    def _flat(self, evidence: Evidence) -> Finding:
        """The reason for equal fitness: the first that fits."""
        compared, config = evidence.comparison, self._config
        value = f" {evidence.fitness[0]:.4g}" if evidence.fitness else ""
        head = f"all members have the same fitness{value} for {_iterations(self._flat_in_a_row)}, so nothing moves"
        empty, cut_off = evidence.share(evidence.empty), evidence.share(evidence.cut_off)
        if empty >= MOSTLY:
            return Finding(
                "empty answers", f"{head}: {empty:.0%} of the answers are empty. {self._why_empty(compared)}"
            )
        longer = f"{cut_off:.0%} of the answers are cut off at `max_completion_length` {config.max_completion_length}"
        if compared is not None and compared.alike:
            message = f"{head}: all members give equal answers"
            if compared.identical is not None:
                message += f", {compared.identical:.0%} of them those of the unperturbed weights"
            message += f". `sigma` {config.sigma:g} is too small; try --sigma {_larger(config.sigma):.2g}"
            return Finding("sigma too small", f"{message}. Also, {longer}" if cut_off >= MOSTLY else message)
        if cut_off >= MOSTLY:
            return Finding("answers cut off", f"{head}: {longer}. Raise it, or ask for shorter answers in the prompt")
        return Finding(
            "constant reward", f"{head}, though answers differ: the reward is constant. {self._constant(compared)}"
        )

    def _why_empty(self, compared: Comparison | None) -> str:
        if compared is not None and compared.reference is not None and compared.reference.empty < 0.5:
            return f"The unperturbed weights' aren't: `sigma` {self._config.sigma:g} is too large; lower it"
        return (
            "The model ends its answer at once: check the form of the prompt (an instruct model wants its chat "
            "template, see `chat`) and the end-of-sequence tokens"
        )

    def _constant(self, compared: Comparison | None) -> str:
        advice = (
            "Check the reward function, or take easier or harder prompts, more prompts or members, or a reward with "
            "steps between wrong and right"
        )
        if self._spread_before:
            rate = self._config.learning_rate
            return (
                f"It had a spread before: if the model has collapsed, `learning_rate` {rate:g} is too large. {advice}"
            )
        if compared is not None and compared.identical is not None and compared.identical <= 1 - MOSTLY:
            identical, sigma = compared.identical, self._config.sigma
            return (
                f"Only {identical:.0%} of the members' answers equal the unperturbed weights': `sigma` {sigma:g} "
                f"may be too large. {advice}"
            )
        return advice

    # ---- collapse ---------------------------------------------------------------------------------------

    def _collapse(self, evidence: Evidence) -> list[Finding]:
        """Answers that the noise, or the updates, have broken."""
        compared = evidence.comparison
        if compared is None or compared.reference is None:
            return []
        self._references.append(compared.reference)
        return [
            *self._members_collapse(compared, compared.reference, evidence.step),
            *self._weights_collapse(evidence.step),
        ]

    def _members_collapse(self, compared: Comparison, reference: Reference, step: int) -> list[Finding]:
        """The noise breaks what the unperturbed weights do well."""
        lost = compared.lost is not None and reference.rights >= 2 and compared.lost >= 1 - BROKEN
        if not self._again("members", lost or _is_broken(reference.sound, compared.sound), step):
            return []
        figure = (
            f"the members lose {compared.lost:.0%} of the answers that the unperturbed weights give right"
            if lost
            else f"{1 - compared.sound:.0%} of the members' answers are empty or cut off, but only "
            f"{1 - reference.sound:.0%} of the unperturbed weights'"
        )
        sigma = self._config.sigma
        wanted = min(PAPER_SIGMA, sigma / 3) if sigma > 10 * PAPER_SIGMA else sigma / 3
        return [Finding("sigma too large", f"{figure}: `sigma` {sigma:g} is too large; try --sigma {wanted:.2g}")]

    def _weights_collapse(self, step: int) -> list[Finding]:
        """The unperturbed weights themselves give broken answers, and did not before."""
        first, now, config = self._references[0], self._references[-1], self._config
        wrong = self._lost_right_answers()
        if not (self._again("weights", _is_broken(first.sound, now.sound), step) or wrong):
            return []
        figure = wrong or (
            f"{1 - now.sound:.0%} of the unperturbed weights' answers are empty or cut off, at first "
            f"{1 - first.sound:.0%} were"
        )
        rate, sigma = config.learning_rate, config.sigma
        wanted = min(rate / 3, sigma / 2) if rate > 2 * sigma else rate / 3
        message = f"{figure}: the model has collapsed. `learning_rate` {rate:g} is too large; try --learning_rate"
        return [Finding("learning rate too large", f"{message} {wanted:.2g}")]

    def _lost_right_answers(self) -> str:
        """The figure, if of the last iterations' prompts hardly any is answered right, though most should be by what
        the iterations before gave."""
        for window in range(2, WINDOW + 1):
            before, late = self._references[:-window], self._references[-window:]
            if not before:
                break
            share = sum(one.rights for one in before) / sum(one.answers for one in before)
            answers, rights = sum(one.answers for one in late), sum(one.rights for one in late)
            if share * answers >= EXPECTED and rights <= BROKEN / 2 * share * answers:
                return f"the unperturbed weights answer {rights} of {answers} prompts right, before {share:.0%}"
        return ""

    def _again(self, what: str, broken: bool, step: int) -> bool:
        """True if this was so in two iterations in a row, or in the run's last one."""
        self._broken_in_a_row[what] = self._broken_in_a_row.get(what, 0) + 1 if broken else 0
        return self._broken_in_a_row[what] >= 2 or (broken and step >= self._config.max_steps)


def _iterations(number: int) -> str:
    return f"{number} iteration" + ("s" if number > 1 else "")


def _larger(sigma: float) -> float:
    return PAPER_SIGMA if sigma < PAPER_SIGMA / 3 else 3 * sigma


_OF_COLLAPSE: Final = {"sigma too large", "learning rate too large"}
_OF_BROKEN_ANSWERS: Final = {"empty answers", "answers cut off", "constant reward"}
"""What a collapse brings with it: not reported beside its reason."""


def _is_broken(before: float, now: float) -> bool:
    return before >= 0.5 and now <= BROKEN * before
