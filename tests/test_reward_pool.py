"""Hostile rewards in killable workers: they cost themselves alone, and leave nobody behind."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from es_llm.errors import ConfigError, RewardError
from es_llm.rewards import pool
from es_llm.rewards.batch import DIED, INVALID, RAISED, TIMEOUT, Batch
from es_llm.rewards.loading import load_reward
from es_llm.rewards.marks import inline, set_level
from es_llm.rewards.scoring import Limits, RewardSet

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")

LIMIT_S = 0.5
HOSTILE = {
    "loop": TIMEOUT,
    "sleep": TIMEOUT,
    "regex": TIMEOUT,
    "stop": TIMEOUT,
    "raise": RAISED,
    "exit": RAISED,
    "recursion": RAISED,
    "memory": RAISED,
    "interrupt": RAISED,
    "_exit": DIED,
    "_exit 0": DIED,
    "close": DIED,
    "kill": DIED,
    "abort": DIED,
    "short": RAISED,
    "long": RAISED,
    "text": RAISED,
    "none": RAISED,
    "nan": INVALID,
    "inf": INVALID,
    "word": INVALID,
    "object": INVALID,
}


def batch(texts):
    rows = [{"prompt": f"p{place}", "number": place} for place in range(len(texts))]
    return Batch.of(rows, texts, [[place] for place in range(len(texts))])


def hostile(completions, number, **columns):
    """Does what the completion says; else the reward is the row's number."""
    return [_obey(text, place) for text, place in zip(completions, number, strict=True)][: _length(completions)]


def _length(completions):
    return 0 if "short" in completions else None


def _obey(text, place):
    match text:
        case "loop":
            while True:
                pass
        case "sleep":
            time.sleep(1000)
        case "regex":
            re.match(r"(a+)+b", "a" * 60)
        case "stop":
            os.kill(os.getpid(), signal.SIGSTOP)
        case "raise":
            raise ValueError("no")
        case "exit":
            sys.exit(0)
        case "recursion":
            return _obey(text, place)
        case "memory":
            return len(bytearray(10 << 30))
        case "interrupt":
            raise KeyboardInterrupt
        case "_exit":
            os._exit(7)
        case "_exit 0":
            os._exit(0)
        case "close":
            os.closerange(3, 1000)
        case "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        case "abort":
            os.abort()
        case "nan":
            return float("nan")
        case "inf":
            return float("inf")
        case "word":
            return "1.0"
        case "object":
            return object()
        case "fork":
            os.fork()
        case "bomb":
            while True:
                os.fork()
        case "grandchild":
            subprocess.Popen(["sleep", "1000.25"], start_new_session=True)
        case "daemon":
            if os.fork() == 0:
                os.setsid()
                if os.fork() == 0:
                    time.sleep(1000)
                os._exit(0)
    return float(place)


def odd(completions, **columns):
    """Answers that are no list of rewards."""
    match completions[0]:
        case "long":
            return [1.0, 2.0]
        case "text":
            return "1"
        case "none":
            return None
    return [1.0] * len(completions)


def below(pid):
    """All processes below one that live."""
    found = {}
    for place in Path("/proc").iterdir():
        try:
            if place.name.isdigit():
                words = (place / "stat").read_text().rpartition(")")[2].split()
                if words[0] != "Z":
                    found[int(place.name)] = int(words[1])
        except OSError:
            continue
    parents = {pid}
    while True:
        more = {child for child, parent in found.items() if parent in parents} - parents
        if not more:
            return parents - {pid}
        parents |= more


@pytest.fixture
def rewards():
    """Makes sets of functions, and sees that they leave nobody behind."""
    before, made = below(os.getpid()), []

    def make(*functions, workers=2, timeout_s=LIMIT_S, memory_mb=1000, **options):
        made.append(
            RewardSet(functions, limits=Limits(workers=workers, timeout_s=timeout_s, memory_mb=memory_mb), **options)
        )
        return made[-1]

    yield make
    for each in made:
        each.close()
    assert below(os.getpid()) <= before
    for place in Path("/proc").iterdir():
        if place.name.isdigit():
            try:
                assert b"1000.25" not in (place / "cmdline").read_bytes()
            except OSError:
                continue


def kinds(graded, name):
    return {failure.place: failure.kind for failure in graded.scores[name].failures}


@pytest.mark.parametrize(("deed", "kind"), HOSTILE.items())
def test_a_hostile_completion_fails_alone(rewards, deed, kind):
    function = odd if deed in ("long", "text", "none") else hostile
    texts = ["good", deed, "good", "good"]
    graded = rewards(function).submit(batch(texts)).result()
    assert kinds(graded, function.__name__) == {1: kind}
    assert graded.totals[1] is None
    good = [1.0, 1.0, 1.0] if function is odd else [0.0, 2.0, 3.0]
    assert [graded.totals[place] for place in (0, 2, 3)] == good


def test_all_kinds_in_one_batch_and_again(rewards):
    deeds = [deed for deed in HOSTILE if deed not in ("long", "text", "none")]
    texts = [text for deed in deeds for text in (deed, "good")]
    made = rewards(hostile)
    first, second = made.submit(batch(texts)), made.submit(batch(texts))
    for graded in (first.result(), second.result()):
        assert kinds(graded, "hostile") == {2 * place: HOSTILE[deed] for place, deed in enumerate(deeds)}
        assert graded.totals[1::2] == [float(place) for place in range(1, len(texts), 2)]


def test_eight_hang_at_once_and_a_thousand_good_ones_follow(rewards):
    made = rewards(hostile)
    pending = [made.submit(batch(["sleep"] * 8)), *(made.submit(batch(["good"] * 100)) for _ in range(10))]
    first, *others = (each.result() for each in pending)
    assert kinds(first, "hostile") == dict.fromkeys(range(8), TIMEOUT)
    for graded in others:
        assert graded.totals == [float(place) for place in range(100)]
        assert not graded.scores["hostile"].failures


def test_a_worker_that_ends_is_noticed_without_a_time_limit(rewards):
    graded = rewards(hostile, timeout_s=0).submit(batch(["good", "_exit 0", "good", "kill", "good"])).result()
    assert kinds(graded, "hostile") == {1: DIED, 3: DIED}
    assert "exit code 0" in graded.scores["hostile"].failures[0].why
    assert graded.totals[::2] == [0.0, 2.0, 4.0]


def test_a_late_completion_of_a_part_costs_one_time_limit(rewards, tmp_path):
    def slow(completions, **columns):
        with (tmp_path / "calls").open("a") as calls:
            calls.write(completions[0])
        return [float(_obey(completions[0], 1))]

    made = rewards(slow, workers=1)
    made.score(batch(["."] * 200))  # now parts are of many completions
    (tmp_path / "calls").unlink()
    graded = made.submit(batch(["."] * 20 + ["sleep"] + ["."] * 20)).result()
    assert kinds(graded, "slow") == {20: TIMEOUT}
    assert graded.totals == [1.0] * 20 + [None] + [1.0] * 20
    assert (tmp_path / "calls").read_text().count("sleep") == 1


def test_nobody_is_late_by_the_time_that_all_were_stopped(rewards, monkeypatch):
    """The trainer is stopped as well, so it doesn't look; here it must not."""
    monkeypatch.setattr(pool, "_LOOK_S", 1000.0)

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
    assert pending.result().totals == [1.0, 1.0]


def test_a_fork_bomb_is_bounded(rewards):
    made = rewards(hostile, timeout_s=30)
    most, stop = [0], threading.Event()

    def watch():
        while not stop.wait(0.01):
            most[0] = max(most[0], len(below(os.getpid())))

    watcher = threading.Thread(target=watch)
    watcher.start()
    graded = made.submit(batch(["bomb", "good"])).result()
    stop.set()
    watcher.join()
    assert kinds(graded, "hostile") == {0: DIED}
    assert "started" in graded.scores["hostile"].failures[0].why
    assert graded.totals[1] == 1.0
    assert 4 < most[0] < 2000
    assert made.score(batch(["good"] * 20)) == [float(place) for place in range(20)]


@pytest.mark.parametrize("deed", ["grandchild", "daemon", "fork"])
def test_what_a_function_starts_does_not_outlive_it(rewards, deed):
    """That nobody is left is looked at when the fixture ends."""
    made = rewards(hostile)
    assert made.score(batch(["good", deed, "good"])) == [0.0, 1.0, 2.0]
    assert made.score(batch(["good"] * 3)) == [0.0, 1.0, 2.0]


def test_a_grandchild_ends_with_its_worker(rewards):
    made = rewards(hostile, workers=1)
    made.score(batch(["grandchild"]))
    assert len(below(os.getpid())) >= 3
    made.score(batch(["loop"]))  # its worker is killed
    end = time.monotonic() + 5
    while len(below(os.getpid())) > 2 and time.monotonic() < end:
        time.sleep(0.05)
    assert len(below(os.getpid())) <= 2, "the server and one worker"


def test_the_server_may_die(rewards):
    made = rewards(hostile)
    assert made.score(batch(["good"])) == [0.0]
    pending = made.submit(batch(["good"] * 50))
    server = min(below(os.getpid()))
    os.kill(server, signal.SIGKILL)
    assert pending.result().totals == [float(place) for place in range(50)]


def test_the_workers_end_with_a_trainer_that_is_killed(tmp_path):
    code = (
        "import sys, os, time\n"
        "sys.path.insert(0, os.getcwd())\n"
        "from tests.test_reward_pool import hostile, batch\n"
        "from es_llm.rewards.scoring import Limits, RewardSet\n"
        "made = RewardSet([hostile], limits=Limits(workers=2, timeout_s=100))\n"
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
        assert time.monotonic() < end, "somebody is left"
        time.sleep(0.05)


def test_a_server_that_hangs_in_an_import_ends_with_a_trainer_that_is_killed(tmp_path):
    mark, path = tmp_path / "pid", tmp_path / "hangs.py"
    path.write_text(
        "import os, sys, time\n"
        "if 'es_llm.rewards.server' in sys.modules:\n"
        f"    with open({str(mark)!r}, 'w') as file:\n"
        "        print(os.getpid(), file=file)\n"
        "    time.sleep(600)\n"
        "def f(completions, **columns):\n"
        "    return [1.0]\n"
    )
    code = (
        "from es_llm.rewards.loading import load_reward\n"
        "from es_llm.rewards.scoring import Limits, RewardSet\n"
        f"RewardSet([load_reward({str(path) + ':f'!r})], limits=Limits(workers=1)).open()\n"
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
        assert time.monotonic() < end, "somebody is left"
        time.sleep(0.05)


def test_large_batches_and_answers_go_both_ways_at_once(rewards):
    """More than pipes hold, in both directions, while neither side waits."""

    def echo(completions, log_extra, **columns):
        log_extra("text", list(completions))
        return [1.0] * len(completions)

    def twice(completions, log_extra, **columns):
        log_extra("text", [2 * text for text in completions])
        return [2.0] * len(completions)

    made = rewards(echo, twice, timeout_s=30)
    pending = [made.submit(batch(["x" * 20_000] * 64)) for _ in range(20)]
    for each in pending:
        graded = each.result()
        assert graded.totals == [3.0] * 64
        assert {len(text) for text in graded.scores["twice"].extra["text"]} == {40_000}


def test_a_worker_that_is_stopped_while_idle_holds_up_nobody(rewards):
    def stopping(completions, **columns):
        if completions[0] == "stop later":
            parent = os.getpid()
            if os.fork() == 0:
                time.sleep(0.3)
                os.kill(parent, signal.SIGSTOP)
                time.sleep(1000)
        return [1.0]

    made = rewards(stopping, workers=2)
    assert made.score(batch(["stop later"])) == [1.0]
    time.sleep(0.6)
    assert made.score(batch(["y" * 2_000_000] * 6)) == [1.0] * 6


def test_a_server_that_a_function_stops_is_replaced(rewards):
    def stopping(completions, **columns):
        if completions[0] == "stop":
            os.kill(os.getppid(), signal.SIGSTOP)
            time.sleep(1000)
        return [1.0]

    made = rewards(stopping, timeout_s=30)
    graded = made.submit(batch(["good", "stop"])).result()
    assert graded.totals == [None, None], "again and again"
    assert made.score(batch(["good"])) == [1.0]


def test_noise_on_a_workers_files_costs_that_completion_alone(rewards):
    def noisy(completions, **columns):
        if completions[0] == "noise":
            for descriptor in range(3, 64):
                try:
                    os.write(descriptor, b"\x10\0\0\0")
                except OSError:
                    continue
        return [1.0]

    graded = rewards(noisy).submit(batch(["good", "noise", "good"])).result()
    assert graded.totals[0] == graded.totals[2] == 1.0
    assert kinds(graded, "noisy") in ({1: DIED}, {})


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
    assert again.result().totals == [1.0]
    os.kill(min(below(os.getpid())), signal.SIGKILL)
    assert made.submit(batch(["good"])).result().totals == [1.0]
    del pending
    time.sleep(5)  # the child is nobody's any more, and ends by itself


@dataclass
class Rich:
    """A column's value that isn't plain."""

    text: str


def test_columns_that_cannot_travel_are_named(rewards):
    def rich(completions, value, **columns):
        return [float(len(each.text)) for each in value]

    made = rewards(rich)
    columns = {"value": [Rich("abc")]}
    plain = batch(["a"])
    assert made.score(replace(plain, columns=columns)) == [3.0]
    with pytest.raises(ConfigError, match="column 'value' of the data can't be sent"):
        made.submit(replace(plain, columns={"value": [threading.Lock()]}))


def test_a_batch_that_cannot_be_read_fails_and_the_next_one_is_scored(rewards):
    made = rewards(hostile)
    graded = made.submit(replace(batch(["good"] * 2), columns={"number": [Unreadable(), Unreadable()]})).result()
    assert kinds(graded, "hostile") == {0: RAISED, 1: RAISED}
    assert "can't be read" in graded.scores["hostile"].failures[0].why
    assert made.score(batch(["good"] * 2)) == [0.0, 1.0]


class Unreadable:
    def __reduce__(self):
        return (int, ("no number",))


def test_nothing_waits_for_workers_that_were_ended(rewards):
    made = rewards(hostile, timeout_s=30)
    pending = made.submit(batch(["sleep"]))
    made.close()
    assert kinds(pending.result(), "hostile") == {0: DIED}


def test_what_functions_print_is_not_the_programs_output(rewards, capfd):
    def talkative(completions, **columns):
        print("hello from a reward", flush=True)
        return [1.0]

    assert rewards(talkative).score(batch(["a"])) == [1.0]
    told = capfd.readouterr()
    assert "hello" not in told.out
    assert "hello" in told.err


def test_closures_lambdas_and_methods_travel(rewards):
    factor = 3.0

    def scaled(completions, **columns):
        return [factor * len(text) for text in completions]

    made = rewards(scaled, lambda completions, **columns: [1.0] * len(completions))
    assert made.names == ["scaled", "<lambda>"]
    assert made.score(batch(["a", "bb"])) == [4.0, 7.0]


def test_what_cannot_travel_is_named(rewards):
    lock = threading.Lock()

    def locked(completions, **columns):
        with lock:
            return [1.0] * len(completions)

    with pytest.raises(ConfigError, match=r"`locked` can't be sent .*pickle.*`reward_workers` 0"):
        rewards(locked)
    assert rewards(locked, workers=0).score(batch(["a"])) == [1.0]
    assert rewards(inline(locked)).score(batch(["a"])) == [1.0]


def test_what_cannot_be_loaded_is_named(rewards, tmp_path):
    path = tmp_path / "fragile.py"
    path.write_text("def reward(completions, **columns):\n    return [2.0] * len(completions)\n")
    function = load_reward(f"{path}:reward")
    made = rewards(function)
    assert made.score(batch(["a"])) == [2.0]
    path.write_text("raise OSError('gone')\n")
    with pytest.raises(RewardError, match=r"`reward` can't be loaded in a process of its own: .*gone"):
        rewards(function).open()


def test_async_functions_wait_together(rewards):
    async def judge(completions, **columns):
        await asyncio.sleep(1000 if completions[0] == "sleep" else 0.2)
        if completions[0] == "raise":
            raise ValueError("no")
        return [1.0] * len(completions)

    start = time.monotonic()
    graded = rewards(judge, timeout_s=1).submit(batch(["good"] * 40 + ["sleep", "raise"])).result()
    assert time.monotonic() - start < 10  # 40 x 0.2 s one after the other, and more
    assert graded.totals == [1.0] * 40 + [None, None]
    assert kinds(graded, "judge") == {40: TIMEOUT, 41: RAISED}


def test_an_async_function_that_blocks_fails_alone(rewards):
    async def blocking(completions, **columns):
        if completions[0] == "loop":
            _obey("loop", 0)
        return [1.0] * len(completions)

    graded = rewards(blocking).submit(batch(["good", "loop", "good"])).result()
    assert graded.totals == [1.0, None, 1.0]
    assert kinds(graded, "blocking") == {1: TIMEOUT}


@pytest.mark.parametrize("workers", [0, 2])
def test_a_set_level_reward_sees_all_completions(rewards, workers):
    @set_level
    def distinct(completions, number, **columns):
        assert len(number) == len(completions)
        return len(set(completions)) / len(completions)

    made = rewards(distinct, hostile, workers=workers, weights=[1.0, 0.5])
    assert made.set_level
    assert made.score(batch(["a", "b", "a", "b"])) == [0.5, 1.0, 1.5, 2.0]


@pytest.mark.parametrize("workers", [0, 2])
def test_logs_of_functions(rewards, workers):
    def talkative(completions, log_extra, log_metric, trainer_state, **columns):
        log_extra("length", [len(text) for text in completions])
        for text in completions:
            log_metric("mean_length", len(text))
        return [float(trainer_state.global_step)] * len(completions)

    scores = rewards(talkative, workers=workers).submit(batch(["a", "bbb"])).result().scores["talkative"]
    assert scores.values == [0.0, 0.0]
    assert scores.extra == {"length": [1, 3]}
    assert sorted(scores.metrics) == [("mean_length", 1.0), ("mean_length", 3.0)]


def test_a_failure_of_one_function_fails_the_completion(rewards):
    def half(completions, **columns):
        return [None if text == "skip" else 1.0 for text in completions]

    made = rewards(half, hostile)
    graded = made.submit(batch(["good", "skip", "raise"])).result()
    assert graded.totals == [1.0, 1.0, None]
    assert made.examples["hostile"].kind == RAISED
    assert "ValueError: no" in made.examples["hostile"].why
