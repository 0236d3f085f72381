"""One run per directory; the lock of a dead process doesn't count."""

import json
import os
import signal
import subprocess
import sys

import pytest

from es_llm.checkpoint import lock
from es_llm.checkpoint.lock import DirectoryLock, read_holder
from es_llm.errors import ConfigError

HOLD = """
import sys
from pathlib import Path
from es_llm.checkpoint.lock import DirectoryLock
held = DirectoryLock(Path(sys.argv[1]), "theirs")
print("held", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def holder(tmp_path):
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.wait()
    process.stdin.close()
    process.stdout.close()


def test_another_job_is_kept_out_until_the_first_one_dies(tmp_path, holder):
    with pytest.raises(ConfigError, match=rf"in use by process {holder.pid} on"):
        DirectoryLock(tmp_path, "ours")
    assert read_holder(tmp_path)["job"] == "theirs"
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    assert read_holder(tmp_path)["pid"] == holder.pid, "it left its file behind"
    held = DirectoryLock(tmp_path, "ours")
    assert read_holder(tmp_path)["job"] == "ours"
    held.release()
    held.release()
    assert read_holder(tmp_path) == {}


def test_another_rank_of_the_same_job_may_start(tmp_path, holder):
    DirectoryLock(tmp_path, "theirs").release()


def test_a_lock_that_an_earlier_leader_releases_is_taken(tmp_path, holder):
    """The earlier leader hung and held the lock when this leader took over, so this leader started without the lock."""
    held = DirectoryLock(tmp_path, "theirs")
    held.hold()
    holder.stdin.close()
    holder.wait()
    held.hold()
    with pytest.raises(ConfigError, match="in use"):
        DirectoryLock(tmp_path, "another")
    held.release()


def test_a_process_that_reuses_a_dead_holders_pid_holds_nothing(tmp_path, monkeypatch):
    def unsupported(file, how):
        raise OSError("no locks here")

    monkeypatch.setattr(lock.fcntl, "flock", unsupported)
    DirectoryLock(tmp_path, "first").leave()
    holder = read_holder(tmp_path)
    assert isinstance(holder["started"], int)
    (tmp_path / ".lock").write_text(json.dumps(holder | {"started": holder["started"] - 1}))
    DirectoryLock(tmp_path, "second").release()


def test_without_system_locks_the_content_of_the_file_decides(tmp_path, monkeypatch):
    def unsupported(file, how):
        raise OSError("no locks here")

    monkeypatch.setattr(lock.fcntl, "flock", unsupported)
    held = [DirectoryLock(tmp_path, "first")]
    with pytest.raises(ConfigError, match="in use"):
        DirectoryLock(tmp_path, "second")
    holder = read_holder(tmp_path) | {"pid": 99_999_999}
    (tmp_path / ".lock").write_text(json.dumps(holder))
    held.append(DirectoryLock(tmp_path, "second"))
    (tmp_path / ".lock").write_text(json.dumps(holder | {"host": "elsewhere"}))
    with pytest.raises(ConfigError, match="on elsewhere"):
        DirectoryLock(tmp_path, "third")
    (tmp_path / ".lock").write_text("torn {")
    held.append(DirectoryLock(tmp_path, "third"))
    for each in held:
        each.release()


def test_a_lock_file_of_another_leader_is_kept(tmp_path):
    held = DirectoryLock(tmp_path, "ours")
    other = json.dumps(read_holder(tmp_path) | {"pid": os.getppid(), "rank": 1})
    (tmp_path / ".lock").write_text(other)
    held.release()
    assert (tmp_path / ".lock").read_text() == other


def test_which_locks_are_abandoned(tmp_path):
    """The lock of a rank that isn't lost is abandoned, and that of a process on this host that has ended, even as a
    zombie."""
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    DirectoryLock(tmp_path, "ours", rank=2).leave()
    holder = read_holder(tmp_path) | {"pid": process.pid, "started": lock._started(process.pid)}
    (tmp_path / ".lock").write_text(json.dumps(holder))
    assert lock.is_abandoned(tmp_path, "ours", lost=[1])
    assert not lock.is_abandoned(tmp_path, "ours", lost=[1, 2])
    assert not lock.is_abandoned(tmp_path, "theirs", lost=[])
    process.kill()
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)  # now a zombie
    assert lock.is_abandoned(tmp_path, "ours", lost=[2])
    process.communicate()
    assert lock.is_abandoned(tmp_path, "ours", lost=[2])
    (tmp_path / ".lock").write_text(json.dumps(holder | {"host": "elsewhere"}))
    assert not lock.is_abandoned(tmp_path, "ours", lost=[2])
    (tmp_path / ".lock").unlink()
    assert not lock.is_abandoned(tmp_path, "ours", lost=[])
