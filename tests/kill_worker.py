"""Trains small runs in forked children of a process that has imported everything, so that a kill costs little time.

`python -m tests.kill_worker` reads one JSON request per line: {"dir", "resume", "kill"}. `kill` decides when the child
kills itself: null (never), {"after_s": seconds}, or {"step", "point"} with one of POINTS or SNAPSHOT_POINTS. The answer
is one JSON line: {"code", "sha256"}.
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

POINTS = ("before_journal", "torn_record", "after_journal", "after_update", "after_digest")
SNAPSHOT_POINTS = ("before_swap", "after_swap", "in_cleaning")
"""Points of the writing of a snapshot. `step` is then the number of iterations of the snapshot."""
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
    from es_llm.comm import SingleMailbox
    from es_llm.config.resolve import resolve
    from es_llm.team import Team
    from tests.commands import REWARD

    kill = request["kill"]
    options = {
        "population_size": 4, "prompts_per_iteration": 4, "max_completion_length": 6, "max_steps": STEPS, "seed": 3,
        "sigma": 0.02, "learning_rate": 0.02, "reward_funcs": [REWARD],
        "task_args": {"train_size": 30, "eval_size": 4}, "output_dir": request["dir"],
        "save_steps": 2, "save_total_limit": 1,
    }  # fmt: skip
    if request["resume"]:
        options["resume_from_checkpoint"] = request["dir"]
    if kill and "after_s" in kill:
        threading.Thread(target=_die_after, args=(kill["after_s"],), daemon=True).start()
    trainer = assemble(*resolve(options), Team(SingleMailbox()))
    if kill and "point" in kill:
        arm_kill(kill["step"], kill["point"])
    trainer.train()
    return 0


def _die_after(seconds: float) -> None:
    time.sleep(seconds)
    _die()


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def arm_kill(step: int, point: str) -> None:
    """Make this process kill itself at `point` of iteration `step`."""
    from es_llm.checkpoint import export, snapshot
    from es_llm.checkpoint.run_files import RunFiles
    from es_llm.model.weights import Weights

    def armed(cls, name, iteration_of, before, after):
        method = getattr(cls, name)

        def run(self, what, *rest, **named):
            here = iteration_of(what) == step
            if here and before == point:
                _die()
            answer = method(self, what, *rest, **named)
            if here and after == point:
                _die()
            return answer

        setattr(cls, name, run)

    def deadly(module, name, when):
        function = getattr(module, name)

        def run(*what, **named):
            here = point == when and f"checkpoint-{step}" in str(what)
            if here and when != "after_swap":
                _die()
            function(*what, **named)
            if here:
                _die()

        setattr(module, name, run)

    deadly(export, "_swap", "before_swap")
    deadly(export, "_swap", "after_swap")
    deadly(snapshot, "_remove", "in_cleaning")
    armed(Weights, "update", lambda record: record.iteration, None, "after_update")
    armed(RunFiles, "append_digest", lambda iteration: iteration, None, "after_digest")
    armed(RunFiles, "append_record", lambda record: record.iteration, "before_journal", "after_journal")
    if point == "torn_record":
        _tear(RunFiles, step)


def _tear(cls, step: int) -> None:
    """Write the record, remove its last bytes (like a disk that loses power), and die."""
    method = cls.append_record

    def run(self, record):
        method(self, record)
        if record.iteration == step:
            os.truncate(self.directory.journal, self.directory.journal.stat().st_size - 9)
            _die()

    cls.append_record = run


if __name__ == "__main__":
    serve()
