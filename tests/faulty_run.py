"""`es-llm` with faults on some ranks: `python -m tests.faulty_run RANK:KIND:CALL[,...] ARGUMENTS OF ES_LLM`.

At the CALL-th unit of rank RANK the fault of KIND occurs: `raise` a MemoryError, `exit` (SystemExit), `hang` forever,
hold the GIL and hang (`seize`), send SIGTERM to itself (`term`), or flip a low (`flip`) or a high (`break`) bit of a
master weight. With `slow`, that unit and all later units take 0.05 s longer. With `stop`, the rank stops itself
(SIGSTOP) just before it opens the run for the CALL-th time. With one of `kill_worker.POINTS`, the rank kills itself at
that point of iteration CALL.
"""

import os
import re
import signal
import sys
import time

from es_llm.cli.main import main
from tests.kill_worker import POINTS, arm_kill

STATE = {"units": 0, "leads": 0, "weights": None}


def arm_stop(call):
    """Make the rank stop itself (SIGSTOP) just before it opens the run as the leader."""
    from es_llm.trainer.loop.session import Session

    lead = Session.lead

    def stopped(self, team):
        STATE["leads"] += 1
        if STATE["leads"] == call:
            os.kill(os.getpid(), signal.SIGSTOP)
        lead(self, team)

    Session.lead = stopped


def arm(kind, call):
    """Make the fault occur in the rollouts."""
    from es_llm.model.weights import Weights
    from es_llm.rollout.engines.hf import HFEngine

    evaluate, init = HFEngine.evaluate, Weights.__init__

    def faulty(self, members, prompts):
        STATE["units"] += 1
        if STATE["units"] == call:
            if kind == "raise":
                raise MemoryError("no memory on this rank")
            if kind == "exit":
                sys.exit(3)
            if kind == "hang":
                time.sleep(1e6)
            if kind == "seize":
                re.match(r"(a+)+b", "a" * 60)
            if kind == "term":
                os.kill(os.getpid(), signal.SIGTERM)
            if kind in ("flip", "break"):
                bits = STATE["weights"].master[3].view(-1)[7:8].numpy().view("uint32")
                bits ^= 1 << (12 if kind == "flip" else 30)
        if kind == "slow" and STATE["units"] >= call:
            time.sleep(0.05)
        return evaluate(self, members, prompts)

    def remember(self, *args, **options):
        init(self, *args, **options)
        STATE["weights"] = self

    HFEngine.evaluate, Weights.__init__ = faulty, remember


if __name__ == "__main__":
    faults, *words = sys.argv[1:]
    own = os.environ.get("OMPI_COMM_WORLD_RANK", os.environ.get("PMI_RANK", "0"))
    for fault in faults.split(","):
        rank, kind, call = fault.split(":")
        if rank == own and kind in POINTS:
            arm_kill(int(call), kind)
        elif rank == own and kind == "stop":
            arm_stop(int(call))
        elif rank == own:
            arm(kind, int(call))
    sys.exit(main(words))
