"""Programs with closed standard descriptors work like any others, and leave no process behind."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
import time

import pytest

from es_llm._core import Journal
from es_llm.rewards.workers.system import open_standard_descriptors
from tests import leftovers
from tests.commands import SMALL, command, result
from tests.conftest import SESSION

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")

CLOSED = [closed for size in range(1, 4) for closed in itertools.combinations(range(3), size)]
IDS = ["".join(map(str, closed)) for closed in CLOSED]


def run(words, closed, cwd=None):
    """Run a process with these descriptors closed, and check that it leaves no process behind."""
    before = set(leftovers.living(SESSION))
    redirections = " ".join(f"{descriptor}>&-" for descriptor in closed)
    process = subprocess.run(
        ["sh", "-c", f'exec "$@" {redirections}', "sh", *words],
        capture_output=True, text=True, timeout=120, check=False, cwd=cwd,
    )  # fmt: skip
    end = time.monotonic() + 5
    while (left := {pid: line for pid, line in leftovers.living(SESSION).items() if pid not in before}) and (
        time.monotonic() < end
    ):
        time.sleep(0.05)
    assert not left
    return process


SCRIPT = """
import os, sys
from es_llm.rewards.reward_set import RewardSet
from es_llm.rewards.workers.protocol import WorkerLimits
from es_llm.rewards.batch import Batch

def talkative(completions, **columns):
    print("hello", flush=True)
    print("hello", file=sys.stderr, flush=True)
    os.write(1, b"hello")
    os.write(2, b"hello")
    return [float(len(text)) for text in completions]

rewards = RewardSet([talkative], limits=WorkerLimits(workers=2, timeout_s=30))
rewards.open()
assert min(rewards._pool._socket.fileno(), 3) == 3
for _ in range(2):
    got = rewards.rewards(Batch.of([{"prompt": "p"}] * 3, ["a", "bb", "ccc"], [[0]] * 3))
    assert got == [1.0, 2.0, 3.0], got
    print("scored")
    print("scored", file=sys.stderr)
open(sys.argv[1], "w").write("done")
"""


@pytest.mark.parametrize("closed", CLOSED, ids=IDS)
def test_a_script_with_rewards_of_its_own(closed, tmp_path):
    process = run([sys.executable, "-c", SCRIPT, str(tmp_path / "done")], closed)
    assert process.returncode == 0, process.stderr
    assert (tmp_path / "done").read_text() == "done"
    assert ("scored" in process.stdout) == (1 not in closed)
    assert ("scored" in process.stderr) == (2 not in closed)


FOREIGN = """
import os, socket, sys
ours, theirs = zip(*(socket.socketpair() for _ in range(4)))  # these get the closed numbers
for each in (*ours, *theirs):
    each.setblocking(False)
held = [each for each in (*ours, *theirs) if each.fileno() < 3]
assert len(held) == int(sys.argv[2])
sys.argv[2:] = []
"""
HEARD = """
for each in (*ours, *theirs):
    try:
        assert not each.recv(100), "bytes of another writer"
    except BlockingIOError:
        pass
"""


@pytest.mark.parametrize("closed", CLOSED, ids=IDS)
def test_files_that_took_a_standard_number_get_no_output(closed, tmp_path):
    """Other files have the numbers of the standard descriptors. Neither our messages nor the functions' output reach
    them."""
    script = FOREIGN + SCRIPT.replace("assert min(rewards._pool._socket.fileno(), 3) == 3", "") + HEARD
    process = run([sys.executable, "-c", script, str(tmp_path / "done"), str(len(closed))], closed)
    assert process.returncode == 0, process.stderr
    assert (tmp_path / "done").read_text() == "done"
    assert ("hello" in process.stderr) == (2 not in closed)
    assert "hello" not in process.stdout


SIGNALLED = """
import os, signal
from es_llm.cli.signals import StopSignals
StopSignals().listen()
os.kill(os.getpid(), signal.SIGUSR1)
"""


@pytest.mark.parametrize("closed", [(), (2,), (0, 1, 2)], ids=["none", "2", "012"])
def test_the_message_of_a_signal_goes_to_standard_error_alone(closed):
    process = run([sys.executable, "-c", FOREIGN + SIGNALLED + HEARD, "", str(len(closed))], closed)
    assert process.returncode == 0, process.stderr
    assert ("SIGUSR1" in process.stderr) == (2 not in closed)


def test_a_journal_of_a_population_is_none_of_them(tmp_path):
    code = (
        "import sys\nimport numpy as np\nfrom es_llm import Population\n"
        f"population = Population(np.zeros(3, np.float32), population_size=2, journal={str(tmp_path / 'j')!r})\n"
        "for _ in range(3):\n"
        "    print('loud words', flush=True)\n    print('loud words', file=sys.stderr, flush=True)\n"
        "    population.tell([float(member.index) for member in population.ask()])\n"
    )
    process = run([sys.executable, "-c", code], (0, 1, 2))
    assert process.returncode == 0
    assert len(Journal.read(str(tmp_path / "j")).records) == 3
    assert b"loud words" not in (tmp_path / "j").read_bytes()


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A finished run with all three descriptors closed."""
    directory = tmp_path_factory.mktemp("closed") / "run"
    words = command("train", *SMALL, "--max_steps", "2", "--output_dir", str(directory), fresh=True)
    assert run(words, (0, 1, 2)).returncode == 0
    return directory


def test_a_run_with_all_closed_is_whole(trained):
    assert len(Journal.read(str(trained / "journal.es")).records) == 2
    assert result(trained)["weights_sha256"]


@pytest.mark.slow
@pytest.mark.parametrize("closed", [(1,), (0, 2)], ids=["1", "02"])
def test_training(closed, trained, tmp_path):
    words = [sys.executable, "-m", "es_llm.train", *SMALL, "--max_steps", "2", "--output_dir", str(tmp_path / "run")]
    assert run(words, closed).returncode == 0
    assert result(tmp_path / "run")["weights_sha256"] == result(trained)["weights_sha256"]


@pytest.mark.parametrize("closed", [(1,), (0, 1, 2)], ids=["1", "012"])
@pytest.mark.parametrize("name", ["eval", "replay", "inspect"])
def test_the_other_commands(name, closed, trained, tmp_path):
    words = {
        "eval": ["--config", str(trained / "config.json"), "--output", str(tmp_path / "out")],
        "replay": [str(trained), "--output_dir", str(tmp_path / "out")],
        "inspect": [str(trained)],
    }[name]
    process = run(command(name, *words, fresh=True), closed)
    assert process.returncode == 0, process.stderr
    assert name == "inspect" or (tmp_path / "out").exists()


def test_an_error_with_all_closed_has_its_code():
    assert run(command("train", "--max_steps", "-1", fresh=True), (0, 1, 2)).returncode == 2
    assert run(command("nonsense", fresh=True), (0, 1, 2)).returncode == 2
    assert run(command("--help", fresh=True), (0, 1, 2)).returncode == 0


def test_open_descriptors_stay(capfd):
    before = [os.fstat(descriptor) for descriptor in range(3)]
    open_standard_descriptors()
    assert [os.fstat(descriptor) for descriptor in range(3)] == before
