"""Hostile rewards in killable workers: they affect their own completion only, and leave no process behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from es_llm.rewards.batch import DIED, TIMEOUT
from es_llm.rewards.workers import pool
from tests.hostile import HOSTILE, batch, below, hostile, kinds, obey, odd

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


@pytest.mark.parametrize(("deed", "kind"), HOSTILE.items())
def test_a_hostile_completion_fails_alone(rewards, deed, kind):
    function = odd if deed in ("long", "text", "none") else hostile
    texts = ["good", deed, "good", "good"]
    outcome = rewards(function).submit(batch(texts)).result()
    assert kinds(outcome, function.__name__) == {1: kind}
    assert outcome.rewards[1] is None
    good = [1.0, 1.0, 1.0] if function is odd else [0.0, 2.0, 3.0]
    assert [outcome.rewards[index] for index in (0, 2, 3)] == good


def test_all_kinds_in_one_batch_and_again(rewards):
    deeds = [deed for deed in HOSTILE if deed not in ("long", "text", "none")]
    texts = [text for deed in deeds for text in (deed, "good")]
    made = rewards(hostile)
    first, second = made.submit(batch(texts)), made.submit(batch(texts))
    for outcome in (first.result(), second.result()):
        assert kinds(outcome, "hostile") == {2 * index: HOSTILE[deed] for index, deed in enumerate(deeds)}
        assert outcome.rewards[1::2] == [float(index) for index in range(1, len(texts), 2)]


def test_eight_hang_at_once_and_a_thousand_good_ones_follow(rewards):
    made = rewards(hostile)
    pending = [made.submit(batch(["sleep"] * 8)), *(made.submit(batch(["good"] * 100)) for _ in range(10))]
    first, *others = (each.result() for each in pending)
    assert kinds(first, "hostile") == dict.fromkeys(range(8), TIMEOUT)
    for outcome in others:
        assert outcome.rewards == [float(index) for index in range(100)]
        assert not outcome.results["hostile"].failures


def test_a_worker_that_ends_is_noticed_without_a_time_limit(rewards):
    outcome = rewards(hostile, timeout_s=0).submit(batch(["good", "_exit 0", "good", "kill", "good"])).result()
    assert kinds(outcome, "hostile") == {1: DIED, 3: DIED}
    assert "exit code 0" in outcome.results["hostile"].failures[0].reason
    assert outcome.rewards[::2] == [0.0, 2.0, 4.0]


def test_a_completion_that_times_out_in_a_batch_costs_one_time_limit(rewards, tmp_path):
    def slow(completions, **columns):
        with (tmp_path / "calls").open("a") as calls:
            calls.write(completions[0])
        return [float(obey(completions[0], 1))]

    made = rewards(slow, workers=1)
    made.rewards(batch(["."] * 200))  # now the pool sends many completions to a worker at once
    (tmp_path / "calls").unlink()
    outcome = made.submit(batch(["."] * 20 + ["sleep"] + ["."] * 20)).result()
    assert kinds(outcome, "slow") == {20: TIMEOUT}
    assert outcome.rewards == [1.0] * 20 + [None] + [1.0] * 20
    assert (tmp_path / "calls").read_text().count("sleep") == 1


def test_time_in_which_all_processes_are_stopped_does_not_count(rewards, monkeypatch):
    """A stopped trainer doesn't check the server. This test's process isn't stopped, so the check is switched off."""
    monkeypatch.setattr(pool, "_CHECK_S", 1000.0)

    def slow(completions, **columns):
        time.sleep(1.0)
        return [1.0]

    made = rewards(slow, timeout_s=2.5)
    pending = made.submit(batch(["a", "b"]))
    time.sleep(0.2)
    family = below(os.getpid())
    for pid in family:
        os.kill(pid, signal.SIGSTOP)
    time.sleep(4)
    for pid in sorted(family, reverse=True):
        os.kill(pid, signal.SIGCONT)
    assert pending.result().rewards == [1.0, 1.0]


def test_a_fork_bomb_is_bounded(rewards):
    made = rewards(hostile, timeout_s=30)
    most, stop = [0], threading.Event()

    def watch():
        while not stop.wait(0.01):
            most[0] = max(most[0], len(below(os.getpid())))

    watcher = threading.Thread(target=watch)
    watcher.start()
    outcome = made.submit(batch(["bomb", "good"])).result()
    stop.set()
    watcher.join()
    assert kinds(outcome, "hostile") == {0: DIED}
    assert "started" in outcome.results["hostile"].failures[0].reason
    assert outcome.rewards[1] == 1.0
    assert 4 < most[0] < 2000
    assert made.rewards(batch(["good"] * 20)) == [float(index) for index in range(20)]


@pytest.mark.parametrize("deed", ["grandchild", "daemon", "fork"])
def test_processes_that_a_function_starts_are_killed(rewards, deed):
    """The fixture checks at its end that no process is left."""
    made = rewards(hostile)
    assert made.rewards(batch(["good", deed, "good"])) == [0.0, 1.0, 2.0]
    assert made.rewards(batch(["good"] * 3)) == [0.0, 1.0, 2.0]


def test_a_grandchild_ends_with_its_worker(rewards):
    made = rewards(hostile, workers=1)
    made.rewards(batch(["grandchild"]))
    assert len(below(os.getpid())) >= 3
    made.rewards(batch(["loop"]))  # its worker is killed
    end = time.monotonic() + 5
    while len(below(os.getpid())) > 2 and time.monotonic() < end:
        time.sleep(0.05)
    assert len(below(os.getpid())) <= 2, "the server and one worker"


def test_the_server_may_die(rewards):
    made = rewards(hostile)
    assert made.rewards(batch(["good"])) == [0.0]
    pending = made.submit(batch(["good"] * 50))
    server = min(below(os.getpid()))
    os.kill(server, signal.SIGKILL)
    assert pending.result().rewards == [float(index) for index in range(50)]


def test_the_workers_end_with_a_trainer_that_is_killed(tmp_path):
    code = (
        "import sys, os, time\n"
        "sys.path.insert(0, os.getcwd())\n"
        "from tests.hostile import hostile, batch\n"
        "from es_llm.rewards.reward_set import RewardSet\n"
        "from es_llm.rewards.workers.protocol import WorkerLimits\n"
        "made = RewardSet([hostile], limits=WorkerLimits(workers=2, timeout_s=100))\n"
        "made.submit(batch(['sleep', 'grandchild', 'sleep']))\n"
        "time.sleep(1.5)\n"
        "print('ready', flush=True)\n"
        "time.sleep(100)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "ready\n"
    family = below(process.pid)
    assert len(family) >= 3
    process.kill()
    process.communicate()
    end = time.monotonic() + 10
    while any(Path(f"/proc/{pid}").exists() for pid in family):
        assert time.monotonic() < end, "a process is left"
        time.sleep(0.05)


def test_a_server_that_hangs_in_an_import_ends_with_a_trainer_that_is_killed(tmp_path):
    mark, path = tmp_path / "pid", tmp_path / "hangs.py"
    path.write_text(
        "import os, sys, time\n"
        "if 'es_llm.rewards.workers.server' in sys.modules:\n"
        f"    with open({str(mark)!r}, 'w') as file:\n"
        "        print(os.getpid(), file=file)\n"
        "    time.sleep(600)\n"
        "def f(completions, **columns):\n"
        "    return [1.0]\n"
    )
    code = (
        "from es_llm.rewards.call import load_reward\n"
        "from es_llm.rewards.reward_set import RewardSet\n"
        "from es_llm.rewards.workers.protocol import WorkerLimits\n"
        f"RewardSet([load_reward({str(path) + ':f'!r})], limits=WorkerLimits(workers=1)).open()\n"
    )
    process = subprocess.Popen([sys.executable, "-c", code])
    while not mark.exists() or not mark.read_text().endswith("\n"):
        assert process.poll() is None
        time.sleep(0.05)
    process.kill()
    process.wait()
    stat = Path(f"/proc/{mark.read_text().strip()}/stat")
    end = time.monotonic() + 10
    while stat.exists() and stat.read_text().rpartition(")")[2].split()[0] != "Z":
        assert time.monotonic() < end, "a process is left"
        time.sleep(0.05)


def test_large_batches_and_answers_go_both_ways_at_once(rewards):
    """More bytes than a pipe holds, in both directions, while neither side waits."""

    def echo(completions, log_extra, **columns):
        log_extra("text", list(completions))
        return [1.0] * len(completions)

    def twice(completions, log_extra, **columns):
        log_extra("text", [2 * text for text in completions])
        return [2.0] * len(completions)

    made = rewards(echo, twice, timeout_s=30)
    pending = [made.submit(batch(["x" * 20_000] * 64)) for _ in range(20)]
    for each in pending:
        outcome = each.result()
        assert outcome.rewards == [3.0] * 64
        assert {len(text) for text in outcome.results["twice"].extra["text"]} == {40_000}


def test_a_worker_that_is_stopped_while_idle_delays_no_other_worker(rewards):
    def stopping(completions, **columns):
        if completions[0] == "stop later":
            parent = os.getpid()
            if os.fork() == 0:
                time.sleep(0.3)
                os.kill(parent, signal.SIGSTOP)
                time.sleep(1000)
        return [1.0]

    made = rewards(stopping, workers=2)
    assert made.rewards(batch(["stop later"])) == [1.0]
    time.sleep(0.6)
    assert made.rewards(batch(["y" * 2_000_000] * 6)) == [1.0] * 6


def test_a_server_that_a_function_stops_is_replaced(rewards):
    def stopping(completions, **columns):
        if completions[0] == "stop":
            os.kill(os.getppid(), signal.SIGSTOP)
            time.sleep(1000)
        return [1.0]

    made = rewards(stopping, timeout_s=30)
    outcome = made.submit(batch(["good", "stop"])).result()
    assert outcome.rewards == [None, None], "again and again"
    assert made.rewards(batch(["good"])) == [1.0]


def test_garbage_on_a_workers_files_fails_one_completion_only(rewards):
    def noisy(completions, **columns):
        if completions[0] == "noise":
            for descriptor in range(3, 64):
                try:
                    os.write(descriptor, b"\x10\0\0\0")
                except OSError:
                    continue
        return [1.0]

    outcome = rewards(noisy).submit(batch(["good", "noise", "good"])).result()
    assert outcome.rewards[0] == outcome.rewards[2] == 1.0
    assert kinds(outcome, "noisy") in ({1: DIED}, {})


def test_a_server_that_dies_beside_a_forked_child_is_replaced(rewards):
    def forks(completions, **columns):
        if completions[0] == "fork":
            if os.fork() == 0:
                os.setsid()
                time.sleep(5)
                os._exit(0)
            time.sleep(1000)
        return [1.0]

    made = rewards(forks, timeout_s=30)
    pending = made.submit(batch(["fork"]))
    again = made.submit(batch(["good"]))
    assert again.result().rewards == [1.0]
    os.kill(min(below(os.getpid())), signal.SIGKILL)
    assert made.submit(batch(["good"])).result().rewards == [1.0]
    del pending
    time.sleep(5)  # the child has no parent any more, and ends by itself


@pytest.mark.parametrize("end", ["", "sys.exit(3)", "raise ValueError", "rewards.close()", "pending = submit()"])
def test_no_server_starts_while_a_program_exits(end, tmp_path):
    """No server starts, even if requests are open, since nothing waits for them."""
    log, path = tmp_path / "log", tmp_path / "judge.py"
    path.write_text(
        "import os, sys, time\n"
        "if 'es_llm.rewards.workers.server' in sys.modules:\n"
        f"    with open({str(log)!r}, 'a') as file:\n"
        "        print(os.getpid(), file=file)\n"
        "def f(completions, **columns):\n"
        "    return [1.0]\n"
    )
    code = (
        "import atexit, sys, time\n"
        "from es_llm.rewards.batch import Batch\n"
        "from es_llm.rewards.call import load_reward\n"
        "from es_llm.rewards.reward_set import RewardSet\n"
        "from es_llm.rewards.workers.protocol import WorkerLimits\n"
        "def submit():\n"
        "    return rewards.submit(Batch.of([{'prompt': 'p'}] * 200, ['a'] * 200, [[0]] * 200))\n"
        "atexit.register(time.sleep, 1.0)\n"  # runs after the pool's handler
        f"rewards = RewardSet([load_reward({str(path) + ':f'!r})], limits=WorkerLimits(workers=1))\n"
        "submit().result()\n"
        f"{end}\n"
    )
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert process.returncode == {"sys.exit(3)": 3, "raise ValueError": 1}.get(end, 0), process.stderr
    assert "RuntimeError" not in process.stderr
    assert len(log.read_text().splitlines()) == 1
