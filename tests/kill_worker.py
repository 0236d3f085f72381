"""Trains small runs in forked children of one warm process, so that a kill costs a fraction of a second.

    python -m tests.kill_worker    reads one JSON request per line: {"dir", "resume", "kill"}

`kill` says where the child kills itself: null (never), {"after_s": seconds}, or {"step", "place"} with place one of
PLACES. Answers with one JSON line per request: {"code", "sha256"}.
"""

from __future__ import annotations

import io
import json
import os
import signal
import sys
import threading
import time
from pathlib import Path

PLACES = ("before_journal", "torn_record", "after_journal", "after_update", "after_digest")
STEPS = 4


def serve() -> None:
    """Import everything once, then fork for each request."""
    import es_llm.assemble  # noqa: F401

    for line in sys.stdin:
        request = json.loads(line)
        child = os.fork()
        if child == 0:
            os._exit(_train(request))
        _, status = os.waitpid(child, 0)
        result = Path(request["dir"]) / "result.json"
        sha256 = json.loads(result.read_text())["weights_sha256"] if result.exists() else None
        print(json.dumps({"code": os.waitstatus_to_exitcode(status), "sha256": sha256}), flush=True)


def _train(request: dict) -> int:
    sys.stdout = io.StringIO()
    from es_llm.assemble import assemble
    from es_llm.comm import SingleCommunicator
    from es_llm.config.resolve import resolve
    from tests.commands import REWARD

    kill = request["kill"]
    options = {
        "population_size": 4, "prompts_per_iteration": 4, "max_completion_length": 6, "max_steps": STEPS, "seed": 3,
        "sigma": 0.02, "learning_rate": 0.02, "reward_funcs": [REWARD],
        "task_args": {"train_size": 30, "eval_size": 4}, "output_dir": request["dir"],
    }  # fmt: skip
    if request["resume"]:
        options["resume_from_checkpoint"] = request["dir"]
    if kill and "after_s" in kill:
        threading.Thread(target=_die_after, args=(kill["after_s"],), daemon=True).start()
    trainer = assemble(*resolve(options), SingleCommunicator())
    if kill and "place" in kill:
        _arm(trainer, kill["step"], kill["place"])
    trainer.train()
    return 0


def _die_after(seconds: float) -> None:
    time.sleep(seconds)
    _die()


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _arm(trainer, step: int, place: str) -> None:
    """Put a kill at `place` of iteration `step`."""
    from es_llm.trainer import iteration

    def armed(name, before, after):
        method = getattr(iteration.Iteration, name)

        def run(self, what):
            here = self._run.population.iteration if name != "_digest" else self.record.iteration
            start = self._run.population.iteration
            if before == place and here == step:
                _die()
            method(self, what)
            if after == place and (start == step or (name == "_digest" and here == step)):
                _die()

        setattr(iteration.Iteration, name, run)

    armed("_journal", "before_journal", "after_journal")
    armed("_update", None, "after_update")
    armed("_digest", None, "after_digest")
    if place == "torn_record":
        _tear(iteration.Iteration, step)


def _tear(cls, step: int) -> None:
    """Write the record, take its last bytes away, as a disk that lost power would, and die."""
    method = cls._journal

    def run(self, what):
        method(self, what)
        if self.record.iteration == step:
            path = Path(self._run.config.output_dir) / "journal.es"
            os.truncate(path, path.stat().st_size - 9)
            _die()

    cls._journal = run


if __name__ == "__main__":
    serve()
