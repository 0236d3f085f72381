"""Why a run can't learn: names the reason, with a figure and what to change, within three iterations.

A run can't learn while all members have the same fitness (the update is zero), after its answers have broken, or while
its updates are far too small. Every finding is reported once. `collapse` has the rules for answers that break. Knows
figures only: no texts, no files, no ranks.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, NamedTuple

from es_llm.config import ESConfig
from es_llm.rewards.reward_set import RewardSet
from es_llm.rollout import BUILTIN
from es_llm.trainer.learning.answers import Comparison
from es_llm.trainer.learning.collapse import PAPER_SIGMA, Collapse
from es_llm.units.counts import Counts

STREAK: Final = 3
"""Iterations in a row after which a missing signal is reported; at the third iteration of a call two suffice."""

MOSTLY: Final = 0.9
"""Share of answers that is nearly all of them."""

STILL: Final = 0.01
"""An update that changes a smaller share of the live weights than this moves nothing."""

LONG_RUN: Final = 500
LEAST_TRAVEL: Final = 0.1
"""The learning rate is too small if `LONG_RUN` updates in one direction (or the run's, if longer) move a weight by
less than this share of sigma."""

COLLAPSES: Final = ("sigma too large", "learning rate too large")
_BESIDE_COLLAPSE: Final = {"empty answers", "answers cut off", "constant reward", "sigma too small"}
"""Consequences of a collapse: not reported in addition to it."""


@dataclass(frozen=True, kw_only=True)
class Figures:
    """Figures of an iteration. Only `counts.waited_us` depends on the assignment of units.

    step: the iteration, counted from 1.
    fitness: of the members whose fitness is known.
    counts: of all members' completions.
    failures: number of completions without a reward.
    comparison: of members' answers; None without traced answers.
    rewards: metrics of the reward functions.
    logged: what reward functions logged themselves.
    """

    step: int
    fitness: tuple[float, ...]
    counts: Counts
    failures: int
    comparison: Comparison | None
    rewards: dict[str, float]
    logged: dict[str, float]

    @property
    def flat(self) -> bool:
        """True if no two members differ in fitness: the update is zero."""
        return len(set(self.fitness)) <= 1

    def share(self, count: int) -> float:
        """A count as a share of the completions."""
        return count / max(1, self.counts.completions)


class Finding(NamedTuple):
    """Why a run can't learn: the reason, and a sentence with the figure and what to change."""

    reason: str
    message: str


def failures_of(rewards: RewardSet) -> str:
    """Text for a message: the first failure of each reward function that failed, and the functions that gave None for
    every completion."""
    silent = {name: f"; `{name}` gave None for every completion" for name in rewards.names if name in rewards.silent}
    failed = {name: f"; `{name}`: {failure.last_line}" for name, failure in rewards.examples.items()}
    return "".join((silent | failed).get(name, "") for name in rewards.names)


class Diagnosis:
    """Takes the figures of each iteration, in order, and returns new findings."""

    def __init__(self, config: ESConfig, *, why_failed: Callable[[], str] = str) -> None:
        self._config, self._why_failed = config, why_failed
        self._seen = self._flat_in_a_row = self._noisy_in_a_row = self._still_in_a_row = self._zero_in_a_row = 0
        self._spread_before = False
        self._collapse = Collapse(config)
        self._reported: set[str] = set()
        self.flat_iterations = 0

    def recall(self, reason: str) -> bool:
        """Take over a finding of an earlier call. True for a collapse: it is final, so it isn't reported again."""
        if reason in COLLAPSES:
            self._reported.add(reason)
        return reason in COLLAPSES

    def observe(self, figures: Figures) -> list[Finding]:
        """The findings of this iteration that were not reported before."""
        self._seen += 1
        findings = [Finding(*found) for found in self._collapse.observe(figures.step, figures.comparison)]
        findings += self._no_signal(figures)
        if self._reported.union(finding.reason for finding in findings).intersection(COLLAPSES):
            findings = [finding for finding in findings if finding.reason not in _BESIDE_COLLAPSE]
        new = [finding for finding in findings if finding.reason not in self._reported]
        self._reported.update(finding.reason for finding in new)
        self._spread_before |= not figures.flat
        return new

    def moved(self, step: int, ratio: float, *, flat: bool, zero: bool) -> list[Finding]:
        """The finding, if any, of an update that changed this share of the live weights. A `flat` update, of equal
        fitness, is ignored. `zero`: all coefficients are 0."""
        if flat:
            return []
        self._zero_in_a_row = self._zero_in_a_row + 1 if zero else 0
        if zero:
            return self._zero(step)
        config = self._config
        travel = max(config.max_steps, LONG_RUN) * config.learning_rate / config.population_size**0.5
        still = ratio < STILL or travel < LEAST_TRAVEL * config.sigma
        self._still_in_a_row = self._still_in_a_row + 1 if still else 0
        if "learning rate too small" in self._reported or not self._enough(self._still_in_a_row, step):
            return []
        self._reported.add("learning rate too small")
        figure = f"the updates change {ratio:.1%} of the weights of the model"
        if ratio >= STILL:
            steps = max(config.max_steps, LONG_RUN)
            figure += f", and {steps} of them in one direction move a weight by {travel / config.sigma:.1g} sigma"
        message = f"{figure}: `learning_rate` {config.learning_rate:g} is too small; the paper takes sigma / 2"
        return [Finding("learning rate too small", message)]

    def _zero(self, step: int) -> list[Finding]:
        """The finding that the shaping rule gives nothing to move along."""
        config, reason = self._config, "shaped fitness zero"
        if reason in self._reported or not self._enough(self._zero_in_a_row, step):
            return []
        self._reported.add(reason)
        zero = "the same for both members of each pair" if config.antithetic else "0 for all members"
        streak = f"{self._zero_in_a_row} iteration" + ("s" if self._zero_in_a_row > 1 else "")
        message = (
            f"the members' fitness differs, but their shaped fitness (`shaping` {config.shaping}) is {zero} for "
            f"{streak}, so nothing moves"
        )
        return [Finding(reason, message)]

    def flat_warning(self, iterations: int) -> str | None:
        """A warning if many of the iterations moved nothing; a few are normal where rewards are 0 or 1."""
        if 10 * self.flat_iterations < max(1, iterations):
            return None
        return (
            f"in {self.flat_iterations} of the iterations all members had the same fitness, or none: the weights "
            "did not change"
        )

    def _enough(self, streak: int, step: int) -> bool:
        """True if a signal has been missing for enough iterations to be reported."""
        early, last = self._seen == STREAK and streak >= STREAK - 1, step >= self._config.max_steps
        return streak >= STREAK or early or (last and streak == self._seen > 0)

    def _no_signal(self, figures: Figures) -> list[Finding]:
        compared = figures.comparison
        noisy = compared is not None and compared.alike and compared.noisy > 0
        self._noisy_in_a_row = self._noisy_in_a_row + 1 if noisy else 0
        if not figures.flat:
            self._flat_in_a_row = 0
            return [self._noise()] if self._enough(self._noisy_in_a_row, figures.step) else []
        self.flat_iterations += 1
        self._flat_in_a_row += 1
        if figures.failures == figures.counts.completions:
            return [self._all_failed()]
        return [self._flat(figures)] if self._enough(self._flat_in_a_row, figures.step) else []

    def _all_failed(self) -> Finding:
        return Finding(
            "no reward",
            "no completion has a reward, so the weights do not change"
            f"{self._why_failed()} (`failure_policy` raise would end such a run)",
        )

    def _noise(self) -> Finding:
        return Finding(
            "sigma too small",
            "all members give equal answers, and the reward function gives equal answers different rewards: the "
            f"weights move at random. {self._too_small('is')}",
        )

    def _flat(self, figures: Figures) -> Finding:
        compared, config, streak = figures.comparison, self._config, self._flat_in_a_row
        value = f" {figures.fitness[0]:.4g}" if figures.fitness else ""
        iterations = f"{streak} iteration" + ("s" if streak > 1 else "")
        head = f"all members have the same fitness{value} for {iterations}, so nothing moves"
        empty, cut_off = figures.share(figures.counts.empty), figures.share(figures.counts.cut_off)
        if empty >= MOSTLY:
            return Finding(
                "empty answers", f"{head}: {empty:.0%} of the answers are empty. {self._why_empty(compared)}"
            )
        clipped = f"{cut_off:.0%} of the answers are cut off at `max_completion_length` {config.max_completion_length}"
        if compared is not None and compared.alike:
            return self._alike(head, compared, clipped if cut_off >= MOSTLY else "")
        if cut_off >= MOSTLY:
            return Finding("answers cut off", f"{head}: {clipped}. Raise it, or ask for shorter answers in the prompt")
        failed = figures.share(figures.failures)
        cause = "the answers differ, the rewards don't"
        if failed:
            cause = f"{failed:.0%} of the rewards failed, the others are equal{self._why_failed()}"
        return Finding("constant reward", f"{head}: {cause}. {self._constant(compared)}")

    def _alike(self, head: str, compared: Comparison, clipped: str) -> Finding:
        """The reason for equal answers: a collapse if the model's reward has fallen, else noise that is too small."""
        message = f"{head}: all members give equal answers"
        if compared.identical is not None:
            message += f", {compared.identical:.0%} of them equal to the unperturbed model's"
        if self._spread_before and self._collapse.has_fallen:
            return Finding(COLLAPSES[1], f"{message}, and its reward has fallen: {self._collapse.rate_advice()}")
        plausible = self._config.sigma >= PAPER_SIGMA / 3
        if clipped and plausible:
            return Finding(
                "answers cut off",
                f"{message}, and {clipped}. Raise it. {self._too_small('may be')}",
            )
        message = f"{message}. {self._too_small('may be' if plausible and self._flat_in_a_row < 2 else 'is')}"
        return Finding("sigma too small", f"{message}. Also, {clipped}" if clipped else message)

    def _too_small(self, verb: str) -> str:
        sigma = self._config.sigma
        larger = PAPER_SIGMA if sigma < PAPER_SIGMA / 3 else 3 * sigma
        advice = f"`sigma` {sigma:g} {verb} too small; try --sigma {larger:.2g}"
        engine = self._config.engine
        if engine not in BUILTIN:
            advice += f"; or the engine {engine!r} doesn't call `live.switch` for each member"
        return advice

    def _why_empty(self, compared: Comparison | None) -> str:
        if compared is not None and compared.reference is not None and compared.reference.empty < 0.5:
            return f"The unperturbed model's answers are not: `sigma` {self._config.sigma:g} is too large; lower it"
        return (
            "The model ends its answer at once: check the form of the prompt (an instruct model wants its chat "
            "template, see `chat`) and the end-of-sequence tokens"
        )

    def _constant(self, compared: Comparison | None) -> str:
        advice = (
            "Check the reward function, or take easier or harder prompts, more prompts or members, or a reward with "
            "steps between wrong and right"
        )
        config = self._config
        if self._spread_before:
            rate = f"`learning_rate` {config.learning_rate:g} is too large"
            return f"The rewards differed before: if the model has collapsed, {rate}. {advice}"
        if compared is not None and compared.identical is not None and compared.identical <= 1 - MOSTLY:
            share = f"{compared.identical:.0%} of the members' answers equal the unperturbed model's"
            return f"Only {share}: `sigma` {config.sigma:g} may be too large. {advice}"
        return advice
