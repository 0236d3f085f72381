"""One run per directory; the lock of a dead process is none."""

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


def test_the_same_job_goes_in(tmp_path, holder):
    DirectoryLock(tmp_path, "theirs").release()


def test_a_lock_that_an_earlier_leader_lets_go_is_held_again(tmp_path, holder):
    """It hung when this one took over, so that this one went in without."""
    held = DirectoryLock(tmp_path, "theirs")
    held.hold()
    holder.stdin.close()
    holder.wait()
    held.hold()
    with pytest.raises(ConfigError, match="in use"):
        DirectoryLock(tmp_path, "another")
    held.release()


def test_a_process_with_a_dead_holders_number_holds_nothing(tmp_path, monkeypatch):
    def unsupported(file, how):
        raise OSError("no locks here")

    monkeypatch.setattr(lock.fcntl, "flock", unsupported)
    DirectoryLock(tmp_path, "first").leave()
    holder = read_holder(tmp_path)
    assert isinstance(holder["started"], int)
    (tmp_path / ".lock").write_text(json.dumps(holder | {"started": holder["started"] - 1}))
    DirectoryLock(tmp_path, "second").release()


def test_without_locks_of_the_system_the_file_decides(tmp_path, monkeypatch):
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


def test_a_lock_that_names_another_leader_stays(tmp_path):
    held = DirectoryLock(tmp_path, "ours")
    other = json.dumps(read_holder(tmp_path) | {"pid": os.getppid(), "rank": 1})
    (tmp_path / ".lock").write_text(other)
    held.release()
    assert (tmp_path / ".lock").read_text() == other


def test_whose_lock_is_abandoned(tmp_path):
    """That of a rank which isn't lost, or of a process of this host that has ended, whether or not anybody looked."""
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    DirectoryLock(tmp_path, "ours", rank=2).leave()
    holder = read_holder(tmp_path) | {"pid": process.pid, "started": lock._started(process.pid)}
    (tmp_path / ".lock").write_text(json.dumps(holder))
    assert lock.is_abandoned(tmp_path, "ours", lost=[1])
    assert not lock.is_abandoned(tmp_path, "ours", lost=[1, 2])
    assert not lock.is_abandoned(tmp_path, "theirs", lost=[])
    process.kill()
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)  # it has ended, and nobody has taken note of that
    assert lock.is_abandoned(tmp_path, "ours", lost=[2])
    process.communicate()
    assert lock.is_abandoned(tmp_path, "ours", lost=[2])
    (tmp_path / ".lock").write_text(json.dumps(holder | {"host": "elsewhere"}))
    assert not lock.is_abandoned(tmp_path, "ours", lost=[2])
    (tmp_path / ".lock").unlink()
    assert not lock.is_abandoned(tmp_path, "ours", lost=[])
