"""A reward function that does what the completion orders, and a check that it leaves no process behind."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

from es_llm.rewards.batch import DIED, INVALID, RAISED, TIMEOUT, Batch
from es_llm.rewards.reward_set import RewardSet
from es_llm.rewards.workers.protocol import WorkerLimits
from tests import forking

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
    rows = [{"prompt": f"p{index}", "number": index} for index in range(len(texts))]
    return Batch.of(rows, texts, [[index] for index in range(len(texts))])


def hostile(completions, number, **columns):
    """Do what the completion orders; if it orders nothing, return the row's number."""
    return [obey(text, index) for text, index in zip(completions, number, strict=True)][: length_of(completions)]


def length_of(completions):
    return 0 if "short" in completions else None


def obey(text, index):
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
            return obey(text, index)
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
    return float(index)


def odd(completions, **columns):
    """Return an object that is no list of rewards."""
    match completions[0]:
        case "long":
            return [1.0, 2.0]
        case "text":
            return "1"
        case "none":
            return None
    return [1.0] * len(completions)


def below(pid):
    """The ids of all living descendants of a process, without the server that forks commands for tests."""
    found = {}
    for directory in Path("/proc").iterdir():
        try:
            if directory.name.isdigit():
                words = (directory / "stat").read_text().rpartition(")")[2].split()
                if words[0] != "Z":
                    found[int(directory.name)] = int(words[1])
        except OSError:
            continue
    parents = {pid}
    while True:
        more = {child for child, parent in found.items() if parent in parents} - parents
        if not more:
            return parents - {pid, forking.server_pid()}
        parents |= more


def watched_rewards():
    """Body of the fixture `rewards`: creates reward sets, and checks at the end that they leave no process behind."""
    before, made = below(os.getpid()), []

    def make(*functions, workers=2, timeout_s=LIMIT_S, memory_mb=1000, **options):
        made.append(
            RewardSet(
                functions, limits=WorkerLimits(workers=workers, timeout_s=timeout_s, memory_mb=memory_mb), **options
            )
        )
        return made[-1]

    yield make
    for each in made:
        each.close()
    assert below(os.getpid()) <= before
    for directory in Path("/proc").iterdir():
        if directory.name.isdigit():
            try:
                assert b"1000.25" not in (directory / "cmdline").read_bytes()
            except OSError:
                continue


def kinds(rewards, name):
    return {failure.index: failure.kind for failure in rewards.results[name].failures}
