"""Ranks are stopped and continue: the others count them as lost, and accept them again."""

from __future__ import annotations

import json
import os
import signal
import time

import pytest

from es_llm._core import Journal
from es_llm.checkpoint.lock import read_holder
from tests.commands import es_llm, result
from tests.jobs import WORDS, Job, events, kill, same, steps, wait_until

pytestmark = [pytest.mark.mpi, pytest.mark.slow]

IMPATIENT = ["--max_steps", "60", "--unit_timeout_s", "3"]


@pytest.fixture(scope="module")
def longer(tmp_path_factory):
    """Directory of an undisturbed run of sixty iterations."""
    directory = tmp_path_factory.mktemp("longer") / "run"
    ran = es_llm(*WORDS, *IMPATIENT, "--output_dir", str(directory))
    assert ran.returncode == 0, ran.stderr
    return directory


def lost_and_back(directory):
    """The (event, rank) of all the journal's events that name a rank."""
    return [(event["event"], event["rank"]) for event in events(directory) if "rank" in event]


SLOW = ("tests.faulty_run", "0:slow:1,1:slow:1,2:slow:1")
"""Slow units, so that the others still work when the leader continues."""


@pytest.mark.parametrize("asleep_s", [4, 8])
def test_a_leader_that_slept_is_accepted_again(longer, tmp_path, asleep_s):
    """After three seconds the others count the leader as lost and take its journal over."""
    job = Job(tmp_path / "D", *IMPATIENT, module=SLOW, ranks=3)
    wait_until(lambda: steps(tmp_path / "D") >= 3)
    leader = job.pids()[0]
    os.kill(leader, signal.SIGSTOP)
    time.sleep(asleep_s)
    assert not (tmp_path / "D" / "result.json").exists(), "the others took less than 0.15 s for a step"
    os.kill(leader, signal.SIGCONT)
    code, output = job.end()
    assert code == 0, output
    assert same(tmp_path / "D", longer)
    assert [record.iteration for record in Journal.read(str(tmp_path / "D" / "journal.es")).records] == list(range(60))
    lost = set()
    for event, rank in lost_and_back(tmp_path / "D"):
        assert (event == "back") == (rank in lost), lost_and_back(tmp_path / "D")
        lost ^= {rank}
    assert ("back", 0) in lost_and_back(tmp_path / "D"), output
    assert result(tmp_path / "D")["seconds"] > 60 * 0.1, "of all leaders"


def test_a_leader_that_sleeps_twice_is_lost_and_back_twice(longer, tmp_path):
    directory = tmp_path / "D"
    job = Job(directory, *IMPATIENT, module=SLOW, ranks=3)
    wait_until(lambda: steps(directory) >= 3)
    leader, expected = job.pids()[0], []
    for _ in range(2):
        for number, event in ((signal.SIGSTOP, "lost"), (signal.SIGCONT, "back")):
            os.kill(leader, number)
            expected.append((event, 0))
            wait_until(lambda: lost_and_back(directory) == expected)
    code, output = job.end()
    assert code == 0, output
    assert same(directory, longer)


def test_a_leader_that_sleeps_until_the_end_prints_where_the_result_is(longer, tmp_path):
    directory = tmp_path / "D"
    job = Job(directory, *IMPATIENT, ranks=3)
    wait_until(lambda: steps(directory) >= 3)
    leader = job.pids()[0]
    os.kill(leader, signal.SIGSTOP)
    wait_until(lambda: list(job.pids()) == [0], timeout_s=120)
    os.kill(leader, signal.SIGCONT)
    code, output = job.end()
    assert code == 0, output
    assert same(directory, longer)
    assert "was lost (dead)" not in output, "they ended"
    message = (
        "the other ranks continued without rank 0, which was stopped or hung, and finished the run; nothing is lost: "
    )
    assert f"{message}the result is in '{directory / 'result.json'}'" in output


def test_a_first_leader_that_starts_late_continues_the_others_run(longer, tmp_path):
    """It reports the same digests as the others, and doesn't count their records as a resumed run."""
    directory = tmp_path / "D"
    options = [*IMPATIENT, "--digest_steps", "7"]
    job = Job(directory, *options, module=("tests.faulty_run", "0:stop:1"), ranks=3)
    wait_until(lambda: steps(directory) >= 10)
    os.kill(job.pids()[0], signal.SIGCONT)
    code, output = job.end()
    assert code == 0, output
    assert same(directory, longer)
    assert [event["event"] for event in events(directory) if "call" in event] == ["started"]
    assert "train continues after" not in output


def test_a_leader_that_slept_takes_the_journal_back_from_a_leader_that_died(longer, tmp_path):
    job = Job(tmp_path / "D", *IMPATIENT, ranks=2)
    wait_until(lambda: steps(tmp_path / "D") >= 3)
    pids = job.pids()
    os.kill(pids[0], signal.SIGSTOP)
    wait_until(lambda: read_holder(tmp_path / "D").get("pid") == pids[1])
    taken_at = steps(tmp_path / "D")
    wait_until(lambda: steps(tmp_path / "D") > taken_at)
    kill(pids[1])
    time.sleep(4)  # together longer than twice the limit
    os.kill(pids[0], signal.SIGCONT)
    _, output = job.end()
    assert same(tmp_path / "D", longer), output
    assert lost_and_back(tmp_path / "D")[:2] == [("lost", 0), ("back", 0)]
    dead = next(event for event in events(tmp_path / "D") if event.get("why") == "dead")
    assert dead["step"] > taken_at
    lines = [json.loads(line) for line in (tmp_path / "D" / "metrics.jsonl").read_text().splitlines()]
    trained = [line for line in lines if "reward" in line]
    assert [line["step"] for line in trained] == list(range(1, 61))
    assert sum("completions/mean_length" not in line for line in trained) <= 2, "what the dead leaders logged is kept"
