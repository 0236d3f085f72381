"""Disks that are full, read-only, or go away under a run: it says so, and what was safe stays safe."""

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
    """Whether this machine lets the test mount a disk in a namespace of its own."""
    tried = ["unshare", "--mount", "mount", "-t", "tmpfs", "none", "/mnt"]
    return bool(shutil.which("unshare")) and subprocess.run(tried, capture_output=True, check=False).returncode == 0


pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not allowed(), reason="needs unshare (util-linux), and the right to mount"),
]


class OnDisk:
    """`es_llm WORDS` with a disk of its own at `place`, which can be changed while it runs."""

    def __init__(self, place: Path, options: str, *words: str, before: str = ":"):
        place.mkdir(exist_ok=True)
        self.place = place
        command = f'mount -t tmpfs -o {options} none {place} && {before} && exec "$@"'
        self.process = subprocess.Popen(
            ["unshare", "--mount", "sh", "-c", command, "sh", sys.executable, "-m", "es_llm", *words],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        self.seen = Path(f"/proc/{self.process.pid}/root{place}")

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


def test_a_full_disk_and_more_room_after(whole, tmp_path):
    """The journal fits and the model doesn't: nothing is lost."""
    place, saved = tmp_path / "disk", tmp_path / "saved"
    run = OnDisk(place, "size=256k", *WORDS, "--output_dir", str(place / "D"))
    run.wait_for_records(1)
    kept = os.open(run.seen / "D", os.O_RDONLY)  # the disk lives as long as it
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
    place = tmp_path / "disk"
    run = OnDisk(place, "size=6m", *WORDS, "--output_dir", str(place / "D"), "--save_steps", "2")
    code, errors, _ = run.end()
    assert "no snapshot" in errors
    assert "No space left" in errors
    assert code in (0, 2), errors  # 2: the last model doesn't fit beside the snapshots that did


def test_a_disk_that_goes_away_is_told(whole, tmp_path):
    place, saved = tmp_path / "disk", tmp_path / "saved"
    run = OnDisk(place, "size=64m", *WORDS, "--max_steps", "500", "--output_dir", str(place / "D"))
    run.wait_for_records(2)
    kept = os.open(run.seen / "D", os.O_RDONLY)
    run.change("umount", "--lazy", str(place))
    code, errors, _ = run.end()
    assert code == 2, errors
    assert str(place / "D") in errors
    assert "Traceback" not in errors
    shutil.copytree(f"/proc/self/fd/{kept}", saved)
    os.close(kept)
    assert 2 <= records(saved) < 500
    words = [*WORDS, "--max_steps", str(max(6, records(saved)))]
    process = es_llm(*words, "--output_dir", str(saved), "--resume_from_checkpoint", str(saved))
    assert process.returncode == 0, process.stderr
    if records(saved) == 6:
        assert result(saved)["weights_sha256"] == whole


def test_a_directory_that_is_deleted_is_told(tmp_path):
    run = OnDisk(tmp_path / "disk", "size=64m", *WORDS, "--max_steps", "500", "--output_dir", str(tmp_path / "disk/D"))
    run.wait_for_records(2)
    run.change("rm", "-r", str(tmp_path / "disk/D"))
    code, errors, _ = run.end()
    assert code == 2, errors
    assert str(tmp_path / "disk/D") in errors
    assert "Traceback" not in errors


def test_a_read_only_disk_is_refused_at_once(tmp_path):
    place = tmp_path / "disk"
    for before in (":", f"mkdir {place}/D"):
        remount = f"{before} && mount -o remount,ro {place}"
        run = OnDisk(place, "size=64m", *WORDS, "--output_dir", str(place / "D"), before=remount)
        code, errors, output = run.end()
        assert code == 2, errors
        assert str(place / "D") in errors
        assert "Traceback" not in errors
        assert "loss" not in output


def test_a_directory_in_use_is_refused(tmp_path):
    """A second run on the same directory, while the first one goes on undisturbed."""
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
