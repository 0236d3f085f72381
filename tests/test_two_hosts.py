"""One job on two hosts, which are network namespaces, with a link that the tests cut.

Each side ends with the right weights, or the journal that both sides share refuses its records. No file ever holds
output of both sides."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from es_llm._core import Journal
from tests.commands import SMALL, es_llm, mpirun, result

WORDS = ["train", *SMALL, "--max_steps", "12", "--seed", "5"]
CUT = ["--unit_timeout_s", "4"]
NEAR, FAR = "10.77.0.1", "10.77.0.2"


def can_run():
    """Whether the tests may create network namespaces on this machine, and a link between two of them."""
    if not all(shutil.which(tool) for tool in ("ip", "unshare", "nsenter")):
        return False
    name = f"es{os.getpid()}"
    trials = [
        ["unshare", "--net", "--mount", "--uts", "true"],
        ["ip", "netns", "add", name],
        ["nsenter", f"--net=/run/netns/{name}", "unshare", "--mount", "mount", "--bind", "/tmp", "/mnt"],
        ["ip", "link", "add", name, "netns", name, "type", "veth", "peer", "name", f"{name}b", "netns", name],
    ]
    allowed = all(subprocess.run(trial, capture_output=True, check=False).returncode == 0 for trial in trials)
    subprocess.run(["ip", "netns", "del", name], capture_output=True, check=False)
    return allowed


pytestmark = [
    pytest.mark.mpi,
    pytest.mark.slow,
    pytest.mark.skipif(not can_run(), reason="needs ip (iproute2), unshare, and the right to make namespaces"),
]


def run(*words):
    subprocess.run(words, check=True, capture_output=True)


class TwoHosts:
    """Hosts `near` and `far`, joined by one link. With `disk` (source, target), `far` mounts source at target."""

    def __init__(self, folder: Path, disk: tuple[Path, Path] | None):
        self._folder, self._disk = folder, disk
        self._names = {NEAR: f"es{os.getpid()}a", FAR: f"es{os.getpid()}b"}
        near, far = self._names.values()
        for name in (near, far):
            run("ip", "netns", "add", name)
        run("ip", "link", "add", near, "netns", near, "type", "veth", "peer", "name", far, "netns", far)
        for address, name in self._names.items():
            run("ip", "-n", name, "addr", "add", f"{address}/24", "dev", name)
            run("ip", "-n", name, "link", "set", "lo", "up")
        self.link("up")

    def link(self, state):
        """Cut ("down") or restore ("up") the link."""
        for name in self._names.values():
            run("ip", "-n", name, "link", "set", name, state)

    def start(self, *words):
        """Start mpirun on `near` with two ranks on each host. It starts ranks on `far` by a script instead of ssh."""
        agent = self._folder / "agent"
        mount = f"mount --bind {self._disk[0]} {self._disk[1]};" if self._disk else ""
        agent.write_text(
            f"#!/bin/sh\nshift\nexec nsenter --net=/run/netns/{self._names[FAR]} unshare --uts --mount "
            f'sh -c "hostname far; {mount} cd {Path.cwd()}; $*"\n'
        )
        agent.chmod(0o755)
        job = [
            *mpirun(), "--with-ft", "ulfm", "--prtemca", "plm_ssh_agent", str(agent),
            "--host", f"{NEAR}:2,{FAR}:2", "--map-by", "ppr:2:node", "-n", "4", sys.executable, "-m", "es_llm", *words,
        ]  # fmt: skip
        command = f"hostname near; exec {' '.join(job)}"
        return subprocess.Popen(
            ["nsenter", f"--net=/run/netns/{self._names[NEAR]}", "unshare", "--uts", "sh", "-c", command],
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip

    def close(self):
        """Kill all processes and delete both hosts."""
        for name in self._names.values():
            listed = subprocess.run(["ip", "netns", "pids", name], capture_output=True, text=True, check=False)
            for pid in listed.stdout.split():
                subprocess.run(["kill", "-9", pid], check=False)
            subprocess.run(["ip", "netns", "del", name], capture_output=True, check=False)


@pytest.fixture
def hosts(tmp_path, request):
    (tmp_path / "runs").mkdir()
    (tmp_path / "far").mkdir()
    hosts = TwoHosts(tmp_path, (tmp_path / "far", tmp_path / "runs") if request.param == "own disks" else None)
    yield hosts
    hosts.close()


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    directory = tmp_path_factory.mktemp("whole") / "run"
    assert es_llm(*WORDS, "--output_dir", str(directory)).returncode == 0
    return result(directory)["weights_sha256"]


def wait_until(condition, timeout_s=90):
    end = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.1)


def records(directory):
    try:
        return Journal.read(directory / "journal.es").records
    except (OSError, RuntimeError, ValueError):
        return []


def is_launcher(pid):
    try:
        return b"mpirun" in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return True


def ranks_of(directory):
    """The processes that train with this output directory."""
    words = ["pgrep", "-f", f"python.* -m es_llm train .*{directory}"]
    found = subprocess.run(words, capture_output=True, text=True, check=False).stdout.split()
    return [pid for pid in found if not is_launcher(pid)]


@pytest.mark.parametrize("hosts", ["own disks"], indirect=True)
def test_each_host_keeps_a_copy(hosts, whole, tmp_path):
    job = hosts.start(*WORDS, "--output_dir", str(tmp_path / "runs" / "D"))
    output, _ = job.communicate(timeout=150)
    assert job.returncode == 0, output
    near, far = (Journal.read(tmp_path / folder / "D" / "journal.es") for folder in ("runs", "far"))
    assert result(tmp_path / "runs" / "D")["weights_sha256"] == whole
    assert near.header == far.header
    assert near.records == far.records
    assert not (tmp_path / "far" / "D" / "result.json").exists()
    # The copy is a checkpoint too.
    (tmp_path / "far" / "D" / "journal.es").rename(tmp_path / "copy.es")
    process = es_llm("replay", str(tmp_path / "copy.es"), "--output_dir", str(tmp_path / "rebuilt"))
    assert process.returncode == 0, process.stderr
    assert result(tmp_path / "rebuilt")["weights_sha256"] == whole


@pytest.mark.parametrize("hosts", ["own disks"], indirect=True)
def test_a_cut_link_leaves_two_runs_with_the_same_weights(hosts, whole, tmp_path):
    near, far = tmp_path / "runs" / "D", tmp_path / "far" / "D"
    job = hosts.start(*WORDS, *CUT, "--output_dir", str(near))
    wait_until(lambda: len(records(near)) >= 3)
    hosts.link("down")
    wait_until(lambda: (near / "result.json").exists() and (far / "result.json").exists())
    hosts.link("up")
    output, _ = job.communicate(timeout=60)
    assert job.returncode == 0, output
    assert result(near)["weights_sha256"] == result(far)["weights_sha256"] == whole
    assert records(near) == records(far)


@pytest.mark.parametrize("hosts", ["a shared disk"], indirect=True)
def test_a_cut_link_over_a_shared_disk_is_safe(hosts, whole, tmp_path):
    directory = tmp_path / "runs" / "D"
    job = hosts.start(*WORDS, *CUT, "--output_dir", str(directory))
    wait_until(lambda: len(records(directory)) >= 3)
    hosts.link("down")
    # One side finishes. Under heavy load each side may refuse the other one, so that neither does; then mpirun waits.
    wait_until(lambda: (directory / "result.json").exists() or not ranks_of(directory), 150)
    time.sleep(3)
    hosts.close()
    job.communicate(timeout=30)
    process = es_llm(*WORDS, "--output_dir", str(directory), "--resume_from_checkpoint", str(directory))
    assert process.returncode == 0, process.stderr
    assert result(directory)["weights_sha256"] == whole
    assert [record.iteration for record in records(directory)] == list(range(12))
