"""`es-llm` with a fault on one rank: `python -m tests.faulty_run RANK KIND CALL es_llm's words`.

At the CALL-th unit of that rank: `raise` a MemoryError, `hang` for ever, `seize` the GIL and hang, send itself SIGTERM
(`term`), or flip one bit of a master weight (`flip`).
"""

import os
import re
import signal
import sys
import time

from es_llm.cli.main import main

STATE = {"units": 0, "weights": None}


def arm(kind, call):
    """Put the fault into the rollouts."""
    from es_llm.model.weights import Weights
    from es_llm.rollout.hf import HFEngine

    evaluate, init = HFEngine.evaluate, Weights.__init__

    def faulty(self, prompts):
        STATE["units"] += 1
        if STATE["units"] == call:
            if kind == "raise":
                raise MemoryError("no memory on this rank")
            if kind == "hang":
                time.sleep(1e6)
            if kind == "seize":
                re.match(r"(a+)+b", "a" * 60)
            if kind == "term":
                os.kill(os.getpid(), signal.SIGTERM)
            if kind == "flip":
                bits = STATE["weights"].master[3].view(-1)[7:8].numpy().view("uint32")
                bits ^= 1 << 12
        return evaluate(self, prompts)

    def remember(self, *args, **options):
        init(self, *args, **options)
        STATE["weights"] = self

    HFEngine.evaluate, Weights.__init__ = faulty, remember


if __name__ == "__main__":
    rank, kind, call, *words = sys.argv[1:]
    if os.environ.get("OMPI_COMM_WORLD_RANK", "0") == rank:
        arm(kind, int(call))
    sys.exit(main(words))
