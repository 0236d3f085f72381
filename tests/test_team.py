"""Collective calls over threads: lost, failing, slow and wrong ranks; the others end with the right result."""

import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from functools import partial

import pytest

from es_llm._core import ASSIGNMENTS
from es_llm.comm import SingleMailbox
from es_llm.errors import CommunicationError, ConfigError, DivergenceError, JournalError, LeftOutError
from es_llm.team import Loss, Outcome, RecordProgram, Round, RoundKind, Team, report_failure, run_on_leader, run_program
from tests.rank_threads import run_ranks

UNITS, STEPS = 9, 5


def value(weights, step, unit):
    return float((weights * 31 + step * 7 + unit * unit) % 1009)


def expected():
    """Weights after each step of an undisturbed run; a record is the sum of the units' values."""
    weights = [1]
    for step in range(STEPS):
        weights.append(weights[-1] + int(sum(value(weights[-1], step, unit) for unit in range(UNITS))))
    return weights


class Count(RecordProgram):
    """A minimal run: the weights are one integer, and a record is a number that is added to it."""

    def __init__(self, mailbox, at=None):
        self.mailbox, self.weights, self.records, self.events = mailbox, 1, [], []
        self.at = at or (lambda point, step: None)
        self.halting = False

    def advance(self, team):
        step = len(self.records)
        if step < STEPS and not self.halting:
            self.at("begin", step)
            team.begin(Round(RoundKind.ITERATION, step), [1.0] * UNITS)
        else:
            self.at("finish", step)
            team.finish(json.dumps([self.weights, self.halting]).encode())

    def evaluate(self, round_, unit):
        assert round_ == (0, len(self.records))
        time.sleep(0.01)  # slow units, so that every rank gets some
        self.at("evaluate", round_.iteration)
        return Outcome([value(self.weights, round_.iteration, unit)], [1, unit])

    def complete(self, team, round_, table):
        assert table.counts == [UNITS, sum(range(UNITS))]
        self.at("complete", round_.iteration)
        team.publish(round_.iteration, str(int(sum(map(sum, table.values)))).encode())

    def apply(self, team, iteration, payload):
        assert iteration == len(self.records)
        self.at("apply", iteration)
        self.weights += int(payload)
        self.records.append(payload)
        team.digest(iteration, self.weights)

    def rebuild(self, team, iteration):
        self.weights = 1 + sum(map(int, self.records))
        self.events.append(("rebuilt", iteration))
        team.digest(len(self.records) - 1, self.weights)

    def agreed(self, iteration, digest):
        assert digest == expected()[iteration + 1]

    def diverged(self, ranks, iteration, *, again):
        if again:
            raise DivergenceError(f"ranks {ranks}")
        self.events.append(("diverged", tuple(ranks)))

    def lost(self, rank, loss):
        self.events.append(("lost", rank, type(loss)))

    def back(self, rank):
        self.events.append(("back", rank))

    def halt(self):
        self.halting = True


def play(size, at=None, *, assignment=None, unit_timeout_s=0.0, program=Count, timeout_s=60):
    """Run all ranks, and return each rank's (result or error, program). `at(mailbox)` returns the hook of a rank's
    program."""

    def work(mailbox):
        team = Team(mailbox)
        team.renew(5, assignment=assignment, unit_timeout_s=unit_timeout_s)
        mine = program(mailbox, at(mailbox, team) if at else None)
        try:
            return json.loads(run_program(team, mine)), mine
        except Exception as error:
            return error, mine

    return run_ranks(size, work, timeout_s=timeout_s)


def on(rank, point, step, action):
    """A hook that calls `action(mailbox)` once, at one point of one rank's program."""

    def hook(mailbox, team):
        done = []

        def at(here, now):
            if (mailbox.rank, here, now) == (rank, point, step) and not done:
                done.append(1)
                action(mailbox)

        return at

    return hook


@pytest.mark.parametrize("assignment", ASSIGNMENTS)
@pytest.mark.parametrize("size", [1, 2, 5])
def test_all_ranks_end_with_the_same_result(size, assignment):
    for result, program in play(size, assignment=assignment):
        assert result == [expected()[-1], False]
        assert program.weights == expected()[-1]


@pytest.mark.parametrize("point", ["begin", "evaluate", "complete", "apply", "finish"])
@pytest.mark.parametrize("rank", [0, 2])
def test_a_rank_that_dies_anywhere_is_replaced(point, rank):
    step = STEPS if point == "finish" else 2
    results = play(4, on(rank, point, step, lambda mailbox: mailbox.die()))
    here = results[rank]
    if point in ("begin", "complete", "finish") and rank != 0:
        assert here is not None, "it never led"
    else:
        assert here is None
    for result, _ in filter(None, results):
        assert result == [expected()[-1], False]


def test_ranks_that_die_at_random_down_to_one():
    for seed in range(25):
        draw = random.Random(seed)
        doomed = draw.sample(range(4), draw.randrange(1, 4))
        moments = {rank: draw.randrange(1, 40) for rank in doomed}

        def hook(mailbox, team, moments=moments):
            count = [0]

            def at(point, step):
                count[0] += 1
                if count[0] == moments.get(mailbox.rank):
                    mailbox.die()

            return at

        results = play(4, hook)
        left = [result for result in results if result is not None]
        assert left, seed
        for result, _ in left:
            assert result == [expected()[-1], False], seed


def test_the_leader_learns_of_deaths():
    results = play(3, on(2, "evaluate", 1, lambda mailbox: mailbox.die()))
    assert ("lost", 2, Loss.Dead) in results[0][1].events


def fail(error):
    def action(mailbox):
        raise error

    return action


@pytest.mark.parametrize("rank", [0, 1])
def test_a_rank_that_raises_is_left_out(rank, caplog):
    results = play(3, on(rank, "apply", 1, fail(MemoryError("no memory"))))
    assert isinstance(results[rank][0], LeftOutError)
    assert "MemoryError: no memory" in caplog.text
    for other in {0, 1, 2} - {rank}:
        assert results[other][0] == [expected()[-1], False]
    leader = results[1 if rank == 0 else 0][1]
    assert ("lost", rank, Loss.Failed) in leader.events


@pytest.mark.parametrize("rank", [0, 1])
def test_an_error_of_input_ends_the_job_on_all(rank):
    for result, _ in play(3, on(rank, "apply", 1, fail(JournalError("disk full")))):
        assert isinstance(result, JournalError)
        assert str(result) == "disk full"
        assert result.shared


def test_a_failure_may_end_the_job():
    class Strict(Count):
        tolerant = False

    for result, _ in play(3, on(1, "evaluate", 0, fail(MemoryError("no memory"))), program=Strict):
        assert isinstance(result, CommunicationError)
        assert "MemoryError: no memory" in str(result)


def test_when_all_ranks_fail_each_raises_its_own():
    def hook(mailbox, team):
        def at(point, step):
            raise ConfigError("everywhere")

        return at

    class Begin(Count):
        def enter(self, team):
            self.at("enter", 0)

    for result, _ in play(3, hook, program=Begin):
        assert isinstance(result, ConfigError)
    with pytest.raises(ConfigError):
        run_program(Team(SingleMailbox()), Begin(None, hook(None, None)))


def test_other_options_on_one_rank_are_refused():
    def work(mailbox):
        team = Team(mailbox)
        team.renew(mailbox.rank // 2)
        with pytest.raises(CommunicationError, match="rank 2 has other model, options or data than rank 0"):
            run_program(team, Count(mailbox))
        return True

    assert run_ranks(3, work, timeout_s=30) == [True] * 3


@pytest.mark.parametrize("unable", [[0], [1], [2], [0, 1], [0, 1, 2]])
def test_a_rank_that_cannot_begin_reports_why(unable):
    """The rank's identity differs from the others', since it has no run yet. The error to report is the reason that it
    can't begin."""

    def work(mailbox):
        team = Team(mailbox)
        if mailbox.rank not in unable:
            team.renew(7)
        if mailbox.rank in unable:
            take_part = partial(report_failure, team, ConfigError(f"no file on {mailbox.rank}"))
        else:
            take_part = partial(run_program, team, Count(mailbox))
        with pytest.raises(ConfigError, match="no file on") as caught:
            take_part()
        return str(caught.value)

    for message in run_ranks(3, work, timeout_s=30):
        assert message in [f"no file on {rank}" for rank in unable]


def test_weights_with_a_flipped_bit_are_found_and_rebuilt():
    def flip(program):
        program.weights ^= 1 << 7

    class Flipped(Count):
        def apply(self, team, iteration, payload):
            if (team.rank, iteration) == (1, 2):
                flip(self)
            super().apply(team, iteration, payload)

    results = play(3, program=Flipped)
    for result, _ in results:
        assert result == [expected()[-1], False]
    assert results[1][1].events == [("rebuilt", 2)]
    assert ("diverged", (1,)) in results[0][1].events


def test_weights_that_stay_wrong_end_the_job():
    class Wrong(Count):
        def rebuild(self, team, iteration):
            team.digest(len(self.records) - 1, 13)

        def apply(self, team, iteration, payload):
            super().apply(team, iteration, payload)
            if team.rank == 1 and iteration == 2:
                team.digest(iteration, 13)

        def agreed(self, iteration, digest):
            assert iteration != 2 or digest == expected()[3]

    for result, _ in play(3, program=Wrong):
        assert isinstance(result, DivergenceError)


@pytest.mark.parametrize("rank", [0, 2])
def test_a_rank_that_hangs_is_lost_and_may_come_back(rank):
    results = play(3, on(rank, "evaluate", 1, lambda mailbox: time.sleep(2.5)), unit_timeout_s=0.8)
    for other in {0, 1, 2} - {rank}:
        assert results[other][0] == [expected()[-1], False]
    assert isinstance(results[rank][0], LeftOutError) or results[rank][0] == [expected()[-1], False]
    if rank != 0:
        assert ("lost", rank, Loss.Silent) in results[0][1].events


@pytest.mark.parametrize("rank", [0, 1])
def test_a_signal_ends_the_call_after_the_record(rank):
    def hook(mailbox, team):
        def at(point, step):
            if (mailbox.rank, step) == (rank, 1):
                team.halt()

        return at

    for result, program in play(2, hook):
        assert result == [program.weights, True]
        assert 1 < len(program.records) < STEPS
        assert program.weights == expected()[len(program.records)]


def test_calls_follow_each_other_and_each_may_begin_a_run():
    def work(mailbox):
        team, results = Team(mailbox), []
        for identity in (3, 4):
            team.renew(identity)
            results.append(json.loads(run_program(team, Count(mailbox)))[0])
            time.sleep(0.05 * mailbox.rank)
        assert team.traffic[0] > 0 or mailbox.size == 1
        assert team.leads == (mailbox.rank == 0)
        return results

    for size in (1, 3):
        assert run_ranks(size, work) == [[expected()[-1]] * 2] * size


@pytest.mark.parametrize("error", [None, ConfigError("a full disk")])
def test_the_leader_alone_works(error):
    def work(mailbox):
        team, done = Team(mailbox), []

        def once():
            done.append(mailbox.rank)
            if error is not None:
                raise error

        try:
            run_on_leader(team, once)
        except ConfigError as caught:
            done.append(str(caught))
        return done

    raised = [] if error is None else ["a full disk"]
    assert run_ranks(3, work) == [[0, *raised], raised, raised]


def test_without_a_second_thread_messages_still_move():
    def work(mailbox):
        mailbox.concurrent = False
        team = Team(mailbox)
        team.renew(1)
        result = json.loads(run_program(team, Count(mailbox)))
        assert not any(thread.name == "es_llm wire" for thread in threading.enumerate())
        return result

    assert run_ranks(3, work) == [[expected()[-1], False]] * 3


def test_time_in_which_a_process_is_stopped_does_not_count_for_its_end():
    words = (
        "import time; from es_llm._core import Watchdog; watchdog = Watchdog(); "
        "watchdog.arm(3.0, 7, 'its last words'); print(flush=True); time.sleep(60)"
    )
    process = subprocess.Popen([sys.executable, "-c", words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "\n"
    os.kill(process.pid, signal.SIGSTOP)
    time.sleep(4)
    os.kill(process.pid, signal.SIGCONT)
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(0.5)
    assert process.communicate()[1] == "its last words"
    assert process.returncode == 7


WATCHED = """
import re, threading, time
from es_llm.team.watchdog import Watchdog

watchdog = Watchdog(2.0, deadly=True)

def look():
    while True:
        watchdog.look()
        time.sleep(0.1)

threading.Thread(target=look, daemon=True).start()
watchdog.begin()
print(flush=True)
STEP
watchdog.end()
"""


def watched(step, stop_s=0.0):
    """Exit code and stderr of a process that carries out `step`, and is stopped in it for `stop_s` seconds."""
    words = [sys.executable, "-c", WATCHED.replace("STEP", step)]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "\n"
    if stop_s:
        os.kill(process.pid, signal.SIGSTOP)
        time.sleep(stop_s)
        os.kill(process.pid, signal.SIGCONT)
    stderr = process.communicate(timeout=60)[1]
    return process.returncode, stderr


def test_a_step_that_hangs_is_shown():
    code, stderr = watched("time.sleep(3)")
    assert code == 0
    assert "a step takes longer than `unit_timeout_s` 2; the threads are at" in stderr
    assert stderr.count('File "<string>", line') == 2, "of two threads"


def test_a_step_that_holds_the_gil_is_shown_and_ended():
    code, stderr = watched("re.match('(a+)+b', 'a' * 60)")
    assert code == -signal.SIGKILL
    assert "re/__init__.py" in stderr
    assert "this process ends" in stderr


def test_a_step_that_was_stopped_is_not_shown():
    """When a stopped process continues, its threads run again, and reading their frames may crash the process."""
    assert watched("time.sleep(0.5)", stop_s=5.0) == (0, "")
