"""A disk is full, read-only, or unmounted during a run: the run reports it, and all saved iterations stay safe."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from es_llm._core import Journal
from tests.commands import SMALL, es_llm, result

WORDS = ["train", *SMALL, "--max_steps", "6", "--seed", "5"]


def allowed():
    """Whether the tests may mount a disk in a mount namespace on this machine."""
    tried = ["unshare", "--mount", "mount", "-t", "tmpfs", "none", "/mnt"]
    return bool(shutil.which("unshare")) and subprocess.run(tried, capture_output=True, check=False).returncode == 0


pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not allowed(), reason="needs unshare (util-linux), and the right to mount"),
]


class OnDisk:
    """`es_llm WORDS` with a disk mounted at `mount`, visible only to this process, which tests change while it runs."""

    def __init__(self, mount: Path, options: str, *words: str, before: str = ":"):
        mount.mkdir(exist_ok=True)
        self.mount = mount
        command = f'mount -t tmpfs -o {options} none {mount} && {before} && exec "$@"'
        self.process = subprocess.Popen(
            ["unshare", "--mount", "sh", "-c", command, "sh", sys.executable, "-m", "es_llm", *words],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        self.seen = Path(f"/proc/{self.process.pid}/root{mount}")

    def change(self, *words: str):
        subprocess.run(["nsenter", "-t", str(self.process.pid), "-m", *words], check=True)

    def wait_for_records(self, count):
        end = time.monotonic() + 60
        while records(self.seen / "D") < count:
            assert self.process.poll() is None, self.process.communicate()
            assert time.monotonic() < end, "waited too long"
            time.sleep(0.02)

    def end(self):
        output, errors = self.process.communicate(timeout=120)
        return self.process.returncode, errors, output


def records(directory):
    try:
        return len(Journal.read(str(directory / "journal.es")).records)
    except (OSError, RuntimeError, ValueError):
        return 0


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    directory = tmp_path_factory.mktemp("whole") / "D"
    assert es_llm(*WORDS, "--output_dir", str(directory)).returncode == 0
    return result(directory)["weights_sha256"]


def test_a_full_disk_and_more_space_later(whole, tmp_path):
    """The disk has space for the journal but not for the model: nothing is lost."""
    mount, saved = tmp_path / "disk", tmp_path / "saved"
    run = OnDisk(mount, "size=256k", *WORDS, "--output_dir", str(mount / "D"))
    run.wait_for_records(1)
    kept = os.open(run.seen / "D", os.O_RDONLY)  # the disk exists as long as this descriptor is open
    code, errors, _ = run.end()
    assert code == 2, errors
    assert "No space left" in errors
    assert "holds all 6 iterations" in errors
    assert "Traceback" not in errors
    shutil.copytree(f"/proc/self/fd/{kept}", saved)
    os.close(kept)
    assert records(saved) == 6
    assert not (saved / "result.json").exists()
    assert es_llm(*WORDS, "--output_dir", str(saved), "--resume_from_checkpoint", str(saved)).returncode == 0
    assert result(saved)["weights_sha256"] == whole


def test_a_snapshot_that_does_not_fit_is_left_out(tmp_path):
    mount = tmp_path / "disk"
    run = OnDisk(mount, "size=6m", *WORDS, "--output_dir", str(mount / "D"), "--save_steps", "2")
    code, errors, _ = run.end()
    assert "no snapshot" in errors
    assert "No space left" in errors
    assert code in (0, 2), errors  # 2: no space for the final model beside the snapshots


def test_an_unmounted_disk_is_reported(whole, tmp_path):
    mount, saved = tmp_path / "disk", tmp_path / "saved"
    run = OnDisk(mount, "size=64m", *WORDS, "--max_steps", "500", "--output_dir", str(mount / "D"))
    run.wait_for_records(2)
    kept = os.open(run.seen / "D", os.O_RDONLY)
    run.change("umount", "--lazy", str(mount))
    code, errors, _ = run.end()
    assert code == 2, errors
    assert str(mount / "D") in errors
    assert "Traceback" not in errors
    shutil.copytree(f"/proc/self/fd/{kept}", saved)
    os.close(kept)
    assert 2 <= records(saved) < 500
    words = [*WORDS, "--max_steps", str(max(6, records(saved)))]
    process = es_llm(*words, "--output_dir", str(saved), "--resume_from_checkpoint", str(saved))
    assert process.returncode == 0, process.stderr
    if records(saved) == 6:
        assert result(saved)["weights_sha256"] == whole


def test_a_deleted_directory_is_reported(tmp_path):
    run = OnDisk(tmp_path / "disk", "size=64m", *WORDS, "--max_steps", "500", "--output_dir", str(tmp_path / "disk/D"))
    run.wait_for_records(2)
    run.change("rm", "-r", str(tmp_path / "disk/D"))
    code, errors, _ = run.end()
    assert code == 2, errors
    assert str(tmp_path / "disk/D") in errors
    assert "Traceback" not in errors


def test_a_read_only_disk_is_refused_at_once(tmp_path):
    mount = tmp_path / "disk"
    for before in (":", f"mkdir {mount}/D"):
        remount = f"{before} && mount -o remount,ro {mount}"
        run = OnDisk(mount, "size=64m", *WORDS, "--output_dir", str(mount / "D"), before=remount)
        code, errors, output = run.end()
        assert code == 2, errors
        assert str(mount / "D") in errors
        assert "Traceback" not in errors
        assert "loss" not in output


def test_a_directory_in_use_is_refused(tmp_path):
    """A second run on the same directory is refused, and the first one continues undisturbed."""
    target = str(tmp_path / "D")
    words = [*WORDS, "--max_steps", "500", "--output_dir", target]
    first = subprocess.Popen(
        [sys.executable, "-m", "es_llm", *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    while not (tmp_path / "D" / "journal.es").exists():
        assert first.poll() is None, first.communicate()
        time.sleep(0.01)
    second = es_llm(*words, "--resume_from_checkpoint", target)
    assert second.returncode == 2, second.stderr
    assert f"in use by process {first.pid}" in second.stderr
    first.terminate()
    _, errors = first.communicate(timeout=120)
    assert first.returncode == 75, errors
