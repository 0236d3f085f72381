"""One iteration, as one rank runs it: the Rust machine says what to do next, this page does it.

perturb   live = round(master + sign * sigma * noise)          for each member of this rank's units
evaluate  completions of one unit -> rewards
exchange  all units' rewards, on every rank
journal   fitness -> coefficients -> record, on the disk before anything else changes
update    master += sum of coefficient * noise, identically on every rank
digest    the ranks' weights compared
"""

from __future__ import annotations

import time
from collections import defaultdict

import numpy as np

from es_llm._core import FitnessTable, RankMachine, Record, Step, UpdateReport, plan_units
from es_llm.errors import DivergenceError
from es_llm.rewards.scoring import Batch
from es_llm.trainer.dispatch import Scores, gather
from es_llm.trainer.state import RunState

REWARD, LENGTH, FINISHED = range(3)
"""Columns of a unit's result: reward (NaN: failed), tokens of the completion, 1.0 if it ended by itself."""


class Iteration:
    """Runs one iteration; afterwards `record`, `scores`, `report` and `seconds` say what happened."""

    record: Record
    scores: Scores
    report: UpdateReport
    failures: int

    def __init__(self, run: RunState) -> None:
        self._run = run
        self._members = run.population.ask()
        self._rows = run.prompts.batch(run.population.iteration)
        self._units = plan_units(len(self._members), len(self._rows), run.config.prompts_per_unit)
        self._own: dict[int, Scores] = {}
        self.seconds: dict[str, float] = defaultdict(float)

    def run(self) -> None:
        """Execute the machine's steps until it is finished.

        Raises:
            JournalError: the record can't be written; nothing was changed.
            DivergenceError: ranks hold different weights.
            PopulationError: a reward failed and the policy is `raise`.
        """
        run, config = self._run, self._run.config
        digest = config.digest_steps > 0 and (run.population.iteration + 1) % config.digest_steps == 0
        machine = RankMachine(rank=run.comm.rank, ranks=run.comm.size, units=self._units, digest=digest)
        do = {
            "perturb": self._perturb,
            "evaluate": self._evaluate,
            "exchange": self._exchange,
            "journal": self._journal,
            "update": self._update,
            "digest": self._digest,
        }
        while (step := machine.next()).kind != "finish":
            start = time.perf_counter()
            do[step.kind](step)
            now = time.perf_counter()
            self.seconds[step.kind] += now - start
            machine.done(now)

    def _perturb(self, step: Step) -> None:
        assert step.member is not None
        run = self._run
        member = self._members[step.member]
        run.weights.perturb(member, run_seed=run.population.run_seed, sigma=run.config.sigma)
        run.engine.weights_changed()

    def _evaluate(self, step: Step) -> None:
        assert step.unit is not None
        unit = self._units[step.unit]
        rows = self._rows[unit.start : unit.stop]
        completions = self._run.engine.evaluate([row["prompt"] for row in rows])
        batch = Batch.of(rows, [c.text for c in completions], [c.token_ids for c in completions])
        rewards = self._run.rewards.score(batch)
        self._own[unit.index] = np.array(
            [
                (np.nan if reward is None else reward, len(completion.token_ids), completion.finished)
                for reward, completion in zip(rewards, completions, strict=True)
            ],
            np.float64,
        )

    def _exchange(self, step: Step) -> None:
        self.scores = gather(self._run.comm, self._units, self._own, columns=3)

    def _journal(self, step: Step) -> None:
        self._run.comm.together(self._write_record)

    def _write_record(self) -> None:
        run, config = self._run, self._run.config
        members, prompts, _ = self.scores.shape
        table = FitnessTable(members, prompts)
        table.fill(np.ascontiguousarray(self.scores[..., REWARD]))
        self.failures = table.failures
        self.record = run.population.tell(
            table.fitness(config.failure_policy),
            sigma=config.sigma,
            learning_rate=config.learning_rate,
            cursor=run.prompts.cursor(run.population.iteration),
        )
        if run.journal is not None:
            run.journal.append_record(self.record)

    def _update(self, step: Step) -> None:
        run = self._run
        self.report = run.weights.update(self.record, run_seed=run.population.run_seed)
        run.population.apply(self.record)

    def _digest(self, step: Step) -> None:
        run = self._run
        own = run.weights.digest()
        digests = [int.from_bytes(part, "little") for part in run.comm.allgather(own.to_bytes(8, "little"))]
        different = [rank for rank, digest in enumerate(digests) if digest != digests[0]]
        if different:
            raise DivergenceError(
                f"after iteration {self.record.iteration} ranks {different} hold other weights than rank 0; "
                "the journal is right: resume from it"
            )
        journal = run.journal
        run.comm.together(lambda: journal.append_digest(self.record.iteration, own) if journal is not None else None)
