"""Ranks under MPI are killed, hang, fail, or hold wrong weights: the run ends with the bits of an undisturbed run.

`ES_LLM_KILLS` is the number of runs with kills at random moments; `make test-faults` sets it to 100.
"""

from __future__ import annotations

import contextlib
import os
import random
import re
import signal
import time

import pytest

from es_llm._core import Journal
from tests.commands import es_llm, result, rewards
from tests.jobs import RANKS, WORDS, Job, events, kill, same, steps, wait_until
from tests.kill_worker import POINTS

pytestmark = [pytest.mark.mpi, pytest.mark.slow]

RUNS = max(3, int(os.environ.get("ES_LLM_KILLS", "6")) // 2)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """The directory of an undisturbed run, and its seconds from the creation of the journal to that of the result."""
    directory = tmp_path_factory.mktemp("undisturbed") / "run"
    job = Job(directory)
    job.wait_for_start()
    start = time.monotonic()
    wait_until((directory / "result.json").exists)
    seconds = time.monotonic() - start
    code, output = job.end()
    assert code == 0, output
    return directory, seconds


def test_ranks_killed_at_random_moments(undisturbed, tmp_path):
    """One to three ranks die in each run. A run in which none dies before the end of the work doesn't count."""
    whole, seconds = undisturbed
    disturbed = deaths = 0
    for number in range(3 * RUNS):
        draw = random.Random(number)
        directory = tmp_path / str(number)
        job = Job(directory)
        job.wait_for_start()
        start, pids = time.monotonic(), job.pids()
        # The first run kills the leader, the second run all ranks but one. A kill after 0.7 of the time may hit the
        # export of the model or the end of the call.
        count = (1, RANKS - 1)[number] if number < 2 else draw.randrange(1, RANKS)
        victims = [0] if number == 0 else draw.sample(range(RANKS), count)
        latest = 0.7 if number < 2 else 1.1
        hits = 0
        for moment, rank in sorted((draw.uniform(0, latest * seconds), rank) for rank in victims):
            time.sleep(max(0.0, start + moment - time.monotonic()))
            hits += rank in job.pids() and not (directory / "result.json").exists()
            kill(pids[rank])
        code, output = job.end()
        assert code == 0, (number, output[-3000:])
        assert result(directory)["weights_sha256"] == result(whole)["weights_sha256"], number
        assert rewards(directory) == rewards(whole), number
        deaths, disturbed = deaths + hits, disturbed + (hits > 0)
        if disturbed == RUNS:
            break
    print(f"{deaths} deaths in {disturbed} of {number + 1} runs of {seconds:.1f} s")
    assert disturbed == RUNS


@pytest.mark.parametrize("point", POINTS)
def test_a_leader_killed_at_each_point_of_an_iteration(undisturbed, tmp_path, point):
    code, output = faulty(tmp_path / "D", f"0:{point}:3")
    assert code == 0, output
    assert "Traceback" not in output
    assert same(tmp_path / "D", undisturbed[0])
    assert rewards(tmp_path / "D") == rewards(undisturbed[0])
    assert [event["rank"] for event in events(tmp_path / "D") if event["event"] == "lost"] == [0]


def test_leaders_killed_one_after_another_in_the_same_iteration(undisturbed, tmp_path):
    """The ranks are real starts of Python."""
    code, output = faulty(tmp_path / "D", "0:after_journal:3,1:after_update:3", fresh=True)
    assert code == 0, output
    assert same(tmp_path / "D", undisturbed[0])
    assert rewards(tmp_path / "D") == rewards(undisturbed[0])


def test_a_rank_killed_before_all_have_met_ends_the_job_or_is_survived(undisturbed, tmp_path, monkeypatch):
    """MPI_Init can't survive a dead rank. The files that exist are kept, and the job never hangs."""
    monkeypatch.setenv("ES_LLM_START_TIMEOUT_S", "25")
    for number in range(max(2, RUNS // 10)):
        draw = random.Random(2000 + number)
        directory = tmp_path / str(number)
        job = Job(directory, fresh=True)
        wait_until(lambda job=job: len(job.pids()) == RANKS)
        time.sleep(draw.uniform(0, 2.0))
        kill(draw.choice(sorted(job.pids().values())))
        job.end(timeout_s=90)
        if not (directory / "result.json").exists():
            process = es_llm(*WORDS, "--output_dir", str(directory), "--resume_from_checkpoint", str(directory))
            assert process.returncode == 0, (number, process.stderr)
        assert result(directory)["weights_sha256"] == result(undisturbed[0])["weights_sha256"], number


def test_the_whole_job_killed_at_random_moments_and_resumed(undisturbed, tmp_path):
    """A kill after the end of the job doesn't count."""
    whole, seconds = undisturbed
    disturbed, saved = 0, []
    for number in range(3 * RUNS):
        draw = random.Random(1000 + number)
        directory = tmp_path / str(number)
        job = Job(directory)
        job.wait_for_start()
        time.sleep(draw.uniform(0, 0.95 * seconds))
        with contextlib.suppress(ProcessLookupError):  # the job ended before the kill
            job.kill()
        job.process.communicate()
        disturbed += not (directory / "result.json").exists()
        saved.append(len(Journal.read(str(directory / "journal.es")).records))
        words = ["--output_dir", str(directory), "--resume_from_checkpoint", str(directory)]
        process = es_llm(*WORDS, *words, ranks=draw.randrange(1, 4))
        assert process.returncode == 0, (number, process.stderr)
        assert result(directory)["weights_sha256"] == result(whole)["weights_sha256"], (number, saved)
        assert rewards(directory) == rewards(whole), number
        if disturbed == RUNS:
            break
    print(f"{disturbed} of {number + 1} jobs killed at work, with {min(saved)} to {max(saved)} records")
    assert disturbed == RUNS


def faulty(directory, faults, *options, fresh=False):
    return Job(directory, *options, module=("tests.faulty_run", faults), ranks=3, fresh=fresh).end()


def test_a_rank_that_raises_is_left_out_and_its_traceback_reported(undisturbed, tmp_path):
    code, output = faulty(tmp_path / "D", "1:raise:4")
    assert code == 0, output
    assert output.count("MemoryError: no memory on this rank") >= 1
    assert "Traceback" in output
    assert same(tmp_path / "D", undisturbed[0])
    lost = [event for event in events(tmp_path / "D") if event["event"] == "lost"]
    assert [event["rank"] for event in lost] == [1]
    assert "MemoryError" in lost[0]["why"]
    inspected = es_llm("inspect", str(tmp_path / "D")).stdout
    assert "rank 1" in inspected


def test_ranks_of_an_earlier_job_are_other_ranks(undisturbed, tmp_path):
    """A rank with the number of a rank that an earlier job lost isn't reported as back. If it is lost too, this is
    reported."""
    directory = tmp_path / "D"
    code, output = faulty(directory, "2:raise:3,0:term:8")
    assert code == 75, output
    code, output = faulty(directory, "2:raise:3", "--resume_from_checkpoint", str(directory))
    assert code == 0, output
    assert output.count("rank 2 was lost (MemoryError: no memory on this rank)") == 1
    assert same(directory, undisturbed[0])
    reported = [(event["event"], event["rank"]) for event in events(directory) if "rank" in event]
    assert reported == [("lost", 2), ("lost", 2)]
    (directory / "result.json").unlink()
    ran = es_llm(*WORDS, "--output_dir", str(directory), "--resume_from_checkpoint", str(directory))
    assert ran.returncode == 0, ran.stderr
    assert [(event["event"], event["rank"]) for event in events(directory) if "rank" in event] == reported


def test_a_rank_that_leaves_by_an_exit_code_is_left_out(undisturbed, tmp_path):
    """The others don't wait for the time limit, which is half an hour here."""
    _, output = faulty(tmp_path / "D", "1:exit:4")
    assert same(tmp_path / "D", undisturbed[0]), output
    assert [event["rank"] for event in events(tmp_path / "D") if event["event"] == "lost"] == [1]


def test_a_rank_that_hangs_does_not_keep_a_job_from_stopping(tmp_path):
    code, output = faulty(
        tmp_path / "D", "1:hang:3,2:raise:6", "--unit_timeout_s", "4", "--on_rank_error", "stop", "--max_steps", "50"
    )
    assert code != 0
    assert "MemoryError: no memory on this rank" in output


def test_a_rank_that_raises_may_end_the_job(tmp_path):
    code, output = faulty(tmp_path / "D", "1:raise:4", "--on_rank_error", "stop")
    assert code == 2
    assert "MemoryError: no memory on this rank" in output


@pytest.mark.parametrize("kind", ["hang", "seize"])
def test_a_rank_that_hangs_is_left_out_and_its_stack_printed(undisturbed, tmp_path, kind):
    code, output = faulty(tmp_path / "D", f"2:{kind}:5", "--unit_timeout_s", "4")
    assert code == 0, output
    assert 'faulty_run.py", line' in output
    assert same(tmp_path / "D", undisturbed[0])
    gone = {}
    for event in events(tmp_path / "D"):  # on a busy machine others may be late too
        if event["event"] == "lost":
            gone[event["rank"]] = event["why"]
        elif event["event"] == "back":
            del gone[event["rank"]]
    assert gone == {2: "silent"}


@pytest.mark.parametrize("rank", [0, 2])
def test_a_flipped_bit_is_reported_and_the_weights_are_rebuilt(undisturbed, tmp_path, rank):
    code, output = faulty(tmp_path / "D", f"{rank}:flip:5")
    assert code == 0, output
    assert f"rank(s) [{rank}] hold other weights" in output
    assert same(tmp_path / "D", undisturbed[0])


def test_after_a_high_bit_flips_all_ranks_have_the_weights_of_the_journal(undisturbed, tmp_path):
    """Rewards from the wrong weights stay in the record of the iteration in which the bit flipped, and in no later
    record."""
    code, output = faulty(tmp_path / "D", "1:break:5")
    assert code == 0, output
    assert "rank(s) [1] hold other weights" in output
    found = re.search(r"rewards of iterations (\d+) to \d+ may come from them", output)
    assert found is not None, output
    replayed = es_llm("replay", str(tmp_path / "D"), "--output_dir", str(tmp_path / "R"))
    assert replayed.returncode == 0, replayed.stderr
    assert same(tmp_path / "R", tmp_path / "D")
    before = int(found[1]) - 1
    assert rewards(tmp_path / "D")[:before] == rewards(undisturbed[0])[:before]


def test_a_flipped_bit_may_end_the_job(tmp_path):
    code, output = faulty(tmp_path / "D", "1:flip:5", "--on_divergence", "stop")
    assert code == 2
    assert "rank(s) [1] hold other weights" in output


@pytest.mark.parametrize("rank", [0, 1])
def test_sigterm_on_any_rank_ends_after_a_record_and_resume_goes_on(undisturbed, tmp_path, rank):
    directory = tmp_path / "D"
    code, output = faulty(directory, f"{rank}:term:5")
    assert code == 75, output
    assert f"--resume_from_checkpoint {directory}" in output
    assert not (directory / "result.json").exists()
    assert events(directory)[-1]["event"] == "interrupted"
    done = steps(directory)
    process = es_llm(*WORDS, "--output_dir", str(directory), "--resume_from_checkpoint", str(directory), ranks=2)
    assert process.returncode == 0, process.stderr
    assert same(directory, undisturbed[0])
    assert f"train continues after iteration {done}/16" in process.stdout
    resumed = next(event for event in events(directory) if event["event"] == "resumed")
    assert (resumed["step"], resumed["ranks"]) == (done, 2)


@pytest.mark.parametrize("rank", [0, 1])
def test_a_second_sigterm_to_one_rank_is_a_death_that_the_others_survive(tmp_path, rank):
    job = Job(tmp_path / "D", "--max_steps", "20", ranks=3)
    wait_until(lambda: steps(tmp_path / "D") >= 2)
    pid = job.pids()[rank]
    os.kill(pid, signal.SIGTERM)
    time.sleep(0.003)
    _kill_by(pid, signal.SIGTERM)
    _, output = job.end(timeout_s=60)
    ended = (tmp_path / "D" / "result.json").exists()
    assert ended or any(event["event"] == "interrupted" for event in events(tmp_path / "D")), output


def _kill_by(pid, number):
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


def test_sigusr1_to_mpirun_ends_after_a_record(undisturbed, tmp_path):
    whole, _ = undisturbed
    job = Job(tmp_path / "D", "--max_steps", "500", ranks=2)
    wait_until(lambda: steps(tmp_path / "D") >= 2)
    job.process.send_signal(signal.SIGUSR1)
    code, output = job.end(timeout_s=60)
    assert code == 75, output
    assert any(event["event"] == "interrupted" for event in events(tmp_path / "D"))
    assert rewards(tmp_path / "D")[:2] == rewards(whole)[:2]


def test_each_loss_is_reported_once(tmp_path):
    job = Job(tmp_path / "D", "--max_steps", "16")
    for number, rank in enumerate((0, 1, 2)):
        wait_until(lambda number=number: steps(tmp_path / "D") >= 3 * (number + 1))
        kill(job.pids()[rank])
    code, output = job.end()
    assert code == 0, output
    lost = [event["rank"] for event in events(tmp_path / "D") if event["event"] == "lost"]
    assert lost == [0, 1, 2]


def test_a_time_limit_shorter_than_a_unit_is_reported_with_advice(tmp_path):
    """The watchdog doesn't end the last rank, since no other rank waits for it."""
    slow = tmp_path / "slow.py"
    slow.write_text(
        "import time\ndef slow(completions, **k):\n    time.sleep(0.4)\n    return [1.0] * len(completions)\n"
    )
    job = Job(tmp_path / "D", "--max_steps", "1", "--unit_timeout_s", "0.4", "--reward_funcs", f"{slow}:slow", ranks=2)
    _, output = job.end(timeout_s=100)
    assert "raise `unit_timeout_s` or lower `prompts_per_unit`" in output
