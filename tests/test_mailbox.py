"""Mailboxes: every message arrives once, whole and in order; dead ranks are found, and the others continue."""

import random
import subprocess
import sys
import time

import pytest

from es_llm.comm import SingleMailbox
from tests.commands import mpirun
from tests.rank_threads import Died, run_ranks

MESSAGES = 40


def letters(sender, to):
    """Messages from `sender` to `to`: the same in every process, some larger than any buffer of MPI."""
    draw = random.Random(1000 * sender + to)
    sizes = [draw.choice([0, 1, 100, 5000, 70_000]) for _ in range(MESSAGES - 1)] + [3_000_000]
    return [bytes([draw.randrange(256)]) * size for size in sizes]


def exercise(mailbox):
    """All ranks send all messages before any rank receives one."""
    others = [rank for rank in range(mailbox.size) if rank != mailbox.rank]
    for number in range(MESSAGES):
        for to in others:
            mailbox.send(to, letters(mailbox.rank, to)[number])
    got = {rank: [] for rank in others}
    end = time.monotonic() + 60
    while any(len(messages) < MESSAGES for messages in got.values()):
        assert time.monotonic() < end, {rank: len(messages) for rank, messages in got.items()}
        for sender, payload in mailbox.receive():
            got[sender].append(payload)
    for sender, messages in got.items():
        assert messages == letters(sender, mailbox.rank)
    assert mailbox.flush(60)
    assert mailbox.lost() == []
    return mailbox.job


def test_one_process():
    mailbox = SingleMailbox()
    assert mailbox.job != SingleMailbox().job
    assert exercise(mailbox) == mailbox.job


@pytest.mark.parametrize("size", [1, 2, 5])
def test_threads(size):
    assert len(set(run_ranks(size, exercise))) == 1


def test_a_rank_that_raises_is_dead_for_the_others():
    def work(mailbox):
        if mailbox.rank == 1:
            raise ValueError("rank 1 fails")
        while not (lost := mailbox.lost()):
            time.sleep(0.001)
        assert lost == [1]

    with pytest.raises(ValueError, match="rank 1 fails"):
        run_ranks(3, work, timeout_s=10)


def test_a_dead_rank_sends_nothing_more():
    def work(mailbox):
        if mailbox.rank == 0:
            mailbox.send(1, b"last words")
            with pytest.raises(Died):
                mailbox.die()
            mailbox.send(1, b"a ghost")
        while not mailbox.lost():
            time.sleep(0.001)
        return mailbox.receive()

    assert run_ranks(2, work, timeout_s=10) == [None, [(0, b"last words")]]


def ranks(count, code, *options):
    """Run `code` on ranks under mpirun, with `comm` as their mailbox."""
    head = "import os, signal, sys, time\nfrom es_llm.comm import select_mailbox\nmailbox = select_mailbox()\n"
    return subprocess.run(
        [*mpirun(), *options, "-n", str(count), sys.executable, "-c", head + code],
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip


@pytest.mark.mpi
@pytest.mark.parametrize("count", [1, 4])
def test_mpi(count):
    code = (
        "from tests.test_mailbox import exercise\n"
        f"assert mailbox.size == {count} == mailbox.local_size\n"
        "assert mailbox.concurrent\n"
        "print('job', exercise(mailbox))"
    )
    run = ranks(count, code)
    assert run.returncode == 0, run.stderr
    jobs = [line for line in run.stdout.splitlines() if line.startswith("job ")]
    assert len(jobs) == count
    assert len(set(jobs)) == 1


@pytest.mark.mpi
@pytest.mark.parametrize("deaths", [{1: 0.2}, {0: 0.2, 2: 0.2}, {3: 0.2, 0: 0.6, 1: 1.0}], ids=str)
def test_dead_ranks_are_found_and_the_others_continue(deaths):
    code = f"""
deaths, start, lost, heard = {deaths}, time.monotonic(), set(), {{}}
living = set(range(mailbox.size)) - set(deaths)
while time.monotonic() < start + 60:
    if time.monotonic() - start > deaths.get(mailbox.rank, 1e9):
        os.kill(os.getpid(), signal.SIGKILL)
    lost |= set(mailbox.lost())
    for to in set(range(mailbox.size)) - {{mailbox.rank}}:
        mailbox.send(to, bytes([len(lost)]))
    for sender, payload in mailbox.receive():
        heard[sender] = payload[0]
    # Every survivor has found all the dead, and has heard from every other one that it has.
    if lost == set(deaths) and all(heard.get(rank) == len(deaths) for rank in living - {{mailbox.rank}}):
        break
    time.sleep(0.002)
else:
    sys.exit(f"rank {{mailbox.rank}}: lost {{lost}}, heard {{heard}}")
end = time.monotonic() + 0.5
while time.monotonic() < end:
    mailbox.receive()
    time.sleep(0.002)
print("survived")
mailbox.close(0)
"""
    run = ranks(4, code, "--with-ft", "ulfm")
    assert run.returncode == 0, run.stderr
    assert run.stdout.count("survived") == 4 - len(deaths)


@pytest.mark.mpi
def test_the_exit_code_of_the_survivors_is_that_of_the_job():
    code = """
if mailbox.rank == 1:
    os.kill(os.getpid(), signal.SIGKILL)
while not mailbox.lost():
    time.sleep(0.002)
mailbox.close(7)
"""
    assert ranks(2, code, "--with-ft", "ulfm").returncode == 7
