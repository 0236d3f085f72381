"""Reward files that start threads when they are imported. A forked worker would wait forever for these threads."""

from __future__ import annotations

import os
import sys
import time

import pytest

from es_llm.rewards.batch import DIED, TIMEOUT
from es_llm.rewards.call import load_reward
from es_llm.rewards.workers.spawn import other_threads
from tests.hostile import batch, below, kinds

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")

IMPORTS = {
    "torch": """
import torch
torch.set_num_threads(4)
WEIGHTS = torch.randn(400, 400)
(WEIGHTS @ WEIGHTS).sum()
torch.ones(4_000_000).sum()
def work():
    torch.ones(4_000_000).sum()
    (WEIGHTS @ WEIGHTS).sum()
""",
    "thread": """
import queue, threading
IN, OUT = queue.Queue(), queue.Queue()
def serve():
    while True:
        OUT.put(IN.get())
threading.Thread(target=serve, daemon=True).start()
def work():
    IN.put(1)
    OUT.get()
""",
    "pool": """
from concurrent.futures import ThreadPoolExecutor
POOL = ThreadPoolExecutor(2)
list(POOL.map(abs, range(8)))
def work():
    list(POOL.map(abs, range(8)))
""",
    "tokenizers": """
import os
os.environ["TOKENIZERS_PARALLELISM"] = "true"
os.environ["RAYON_NUM_THREADS"] = "3"
from tokenizers import Tokenizer, models, pre_tokenizers
TOKENIZER = Tokenizer(models.BPE())
TOKENIZER.encode_batch(["a b"] * 1000)
def work():
    TOKENIZER.encode_batch(["a b"] * 1000)
""",
}
REWARD = """
import os, time
def reward(completions, log_metric, **columns):
    log_metric("parent", os.getppid())
    if completions[0] == "sleep":
        time.sleep(1000)
    if completions[0] == "exit":
        os._exit(3)
    work()
    return [float(len(text)) for text in completions]
"""


def loaded(rewards, tmp_path, source, **options):
    path = tmp_path / "threaded.py"
    path.write_text(source + REWARD)
    return rewards(load_reward(f"{path}:reward"), **options)


@pytest.mark.parametrize("kind", IMPORTS)
def test_threads_that_an_import_starts_run_in_every_worker(rewards, tmp_path, capfd, kind):
    reward_set = loaded(rewards, tmp_path, IMPORTS[kind], timeout_s=5, memory_mb=4000)
    outcome = reward_set.submit(batch(["a", "bb", "ccc", "sleep", "exit", "d"])).result()
    assert outcome.rewards == [1.0, 2.0, 3.0, None, None, 1.0]
    assert kinds(outcome, "reward") == {3: TIMEOUT, 4: DIED}
    assert reward_set.rewards(batch(["a"] * 20)) == [1.0] * 20
    reward_set.close()
    assert capfd.readouterr().err.count("running, which forked workers would lack") == 1


def test_loading_does_not_count_as_a_completions_time(rewards, tmp_path):
    slow = "import sys, time\nif 'es_llm.rewards.workers.server' not in sys.modules:\n    time.sleep(1.5)\n"
    reward_set = loaded(rewards, tmp_path, IMPORTS["thread"] + slow, timeout_s=0.5, workers=1)
    assert kinds(reward_set.submit(batch(["a", "sleep", "a"])).result(), "reward") == {1: TIMEOUT}


def test_closures_and_several_functions_are_sent_to_such_workers(rewards, tmp_path):
    factor = 3.0

    async def scaled(completions, **columns):
        return [factor * len(text) for text in completions]

    path = tmp_path / "threaded.py"
    path.write_text(IMPORTS["thread"] + REWARD)
    reward_set = rewards(scaled, load_reward(f"{path}:reward"), timeout_s=5)
    assert reward_set.rewards(batch(["a", "bb"])) == [4.0, 8.0]


@pytest.mark.parametrize("deed", ["raise OSError('no second time')", "import os; os._exit(7)"])
def test_a_file_that_loads_only_once_is_reported(rewards, tmp_path, deed):
    in_worker = "'es_llm.rewards.workers.server' not in sys.modules and sys.argv[0].endswith('worker.py')"
    source = f"import sys\nif {in_worker}:\n    {deed}\n"
    reward_set = loaded(rewards, tmp_path, source + IMPORTS["thread"])
    outcome = reward_set.submit(batch(["a", "b"])).result()
    assert kinds(outcome, "reward") == {0: DIED, 1: DIED}
    assert ("no second time" if "raise" in deed else "exit code 7") in outcome.results["reward"].failures[0].reason


def test_workers_are_forked_if_there_are_no_threads(rewards, tmp_path, capfd):
    harmless = "import threading\nimport pyarrow\nthread = threading.Thread(target=abs, args=(1,))\nthread.start()\n"
    reward_set = loaded(rewards, tmp_path, harmless + "def work():\n    pass\n", workers=1)
    reward_set.rewards(batch(["a"]))
    start = time.monotonic()
    reward_set.submit(batch(["exit"])).result()
    assert reward_set.rewards(batch(["a"])) == [1.0]
    assert time.monotonic() - start < 2
    assert "threads" not in capfd.readouterr().err


def test_such_workers_end_with_the_server(rewards, tmp_path):
    reward_set = loaded(rewards, tmp_path, IMPORTS["thread"])
    before = below(os.getpid())
    reward_set.rewards(batch(["a"] * 4))
    assert len(below(os.getpid()) - before) == 3
    os.kill(min(below(os.getpid()) - before), 9)
    assert reward_set.rewards(batch(["a"] * 4)) == [1.0] * 4
    end = time.monotonic() + 10
    while len(below(os.getpid()) - before) > 3:
        assert time.monotonic() < end
        time.sleep(0.05)


def test_threads_are_counted():
    import threading

    before, stop = other_threads(), threading.Event()
    threads = [threading.Thread(target=stop.wait) for _ in range(3)]
    for thread in threads:
        thread.start()
    assert other_threads() == before + 3
    stop.set()
    for thread in threads:
        thread.join()
