"""A forked process behaves as a real start of Python: state, ends, signals, descriptors, and the bits of a run."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests import forking, leftovers
from tests.commands import SMALL, es_llm, python_m, result
from tests.conftest import SESSION
from tests.jobs import kill, lives, wait_until

STATE = """
import atexit, locale, os, resource, signal, sys
print("module", __name__, __spec__.name, __file__, sys.modules["__main__"].__dict__ is globals())
print("words", sys.argv, sys.orig_argv, sys.executable, sys.flags, sys.path)
print("folder", os.getcwd(), oct(os.umask(0o22)), sorted(os.listdir("/proc/self/fd")))
print("signals", [signal.getsignal(number) for number in sorted(signal.valid_signals())], signal.pthread_sigmask(0, []))
print("limits", [resource.getrlimit(number) for number in range(16)], sorted(os.sched_getaffinity(0)))
for stream in (sys.stdin, sys.stdout, sys.stderr):
    print(stream.encoding, stream.errors, stream.line_buffering, stream.write_through, stream.fileno())
print("environment", sorted((name, value) for name, value in os.environ.items() if name != "TORCHINDUCTOR_CACHE_DIR"))
print("input", sys.stdin.read(), locale.getlocale(), sys.getrecursionlimit(), sys.dont_write_bytecode)
print("imported", [name for name in ("es_llm", "mpi4py", "launcher", "server") if name in sys.modules])
atexit.register(print, "the end")
print("to stderr", file=sys.stderr)
"""
ENDS = {
    "done": "pass",
    "code": "sys.exit(75)",
    "message": "sys.exit('a message')",
    "error": "raise ValueError('an error')",
    "thread": "import threading, time; threading.Thread(target=lambda: (time.sleep(0.2), print('slept'))).start()",
    "interrupt": "signal.signal(signal.SIGINT, signal.default_int_handler); os.kill(os.getpid(), signal.SIGINT)",
    "terminated": "os.kill(os.getpid(), signal.SIGTERM)",
    "killed": "print('lost', end=''); os.kill(os.getpid(), signal.SIGKILL)",
    "at once": "os._exit(3)",
}
LONG = """
import os, signal, sys, time
def handle(number, frame):
    print(signal.Signals(number).name, flush=True)
    if number == signal.SIGTERM:
        sys.exit(9)
for number in (signal.SIGUSR1, signal.SIGINT, signal.SIGTERM):
    signal.signal(number, handle)
print(os.getpid(), "torch" in sys.modules, flush=True)
while True:
    time.sleep(0.01)
"""


def start(tmp_path, code, *, fresh=False):
    """A process that runs this code as a module."""
    (tmp_path / "probe.py").write_text(code)
    return subprocess.Popen(
        python_m("probe", "a word", "--option", fresh=fresh), cwd=tmp_path, text=True,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


def ran(tmp_path, code, *, fresh=False):
    """Exit code, output and messages."""
    process = start(tmp_path, code, fresh=fresh)
    output, messages = process.communicate("some input", timeout=200)
    return process.returncode, output, messages


@pytest.fixture
def long(tmp_path):
    """A process that prints the names of its signals, and the process id in which it runs."""
    handler = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        process = start(tmp_path, LONG)
    finally:
        signal.signal(signal.SIGINT, handler)
    pid, preloaded = process.stdout.readline().split()
    assert preloaded == "True"
    yield process, int(pid)
    process.kill()
    process.communicate()


@pytest.mark.parametrize("end", ENDS)
def test_state_and_end_are_those_of_a_real_start(tmp_path, end):
    code = STATE + ENDS[end]
    forked, real = ran(tmp_path, code), ran(tmp_path, code, fresh=True)
    frames = re.compile(r'  File "[^"]*server\.py", line \d+, in .*\n(?:    .*\n)+')
    assert (forked[1], frames.sub("", forked[2])) == real[1:]
    if end == "interrupt":  # CPython 3.11 ends with 1 if an exit function of any library calls eval or exec
        assert {forked[0], real[0]} <= {1, -signal.SIGINT}
    else:
        assert forked[0] == real[0]
    assert "to stderr" in real[2]
    assert "the end" in real[1] or end in ("terminated", "killed", "at once")


def test_a_run_is_that_of_a_real_start(tmp_path):
    printed = []
    for fresh in (False, True):
        (tmp_path / str(fresh)).mkdir()
        words = ["train", *SMALL, "--max_steps", "2", "--output_dir", "run"]
        process = es_llm(*words, cwd=tmp_path / str(fresh), fresh=fresh)
        assert process.returncode == 0, process.stderr
        printed.append((re.sub(r"\b\d+(\.\d+)? s\b", "SECONDS", process.stdout), process.stderr))
    forked, real = (result(tmp_path / str(fresh) / "run") for fresh in (False, True))
    assert forked["weights_sha256"] == real["weights_sha256"]
    assert printed[0] == printed[1]
    assert real["weights_sha256"] in printed[1][0]


def test_signals_are_passed_on(long):
    """Also SIGINT if it was ignored at the start, as in a shell's background."""
    process, pid = long
    assert forking.forked(process.pid) == pid
    for number in (signal.SIGUSR1, signal.SIGINT):
        process.send_signal(number)
        assert process.stdout.readline() == f"{number.name}\n"
    process.terminate()
    assert process.wait(10) == 9
    assert process.stdout.read() == "SIGTERM\n"


def test_a_killed_process_ends_its_launcher_by_the_same_signal(long):
    process, pid = long
    kill(pid)
    assert process.wait(10) == -signal.SIGKILL


def test_a_stopped_process_does_not_end_its_launcher(long):
    process, pid = long
    os.kill(pid, signal.SIGSTOP)
    time.sleep(0.1)
    assert process.poll() is None
    process.send_signal(signal.SIGCONT)
    process.send_signal(signal.SIGUSR1)
    assert process.stdout.readline() == "SIGUSR1\n"


def test_a_killed_launcher_ends_its_process(long):
    process, pid = long
    process.kill()
    wait_until(lambda: not lives(pid), timeout_s=10)


def test_a_forked_process_is_found_and_its_server_is_not(long):
    process, pid = long
    found = leftovers.living(SESSION, forking.server_pid())
    assert {process.pid, pid} <= found.keys()
    assert forking.server_pid() not in found


LOADED = "import sys; print('torch' in sys.modules, end='')"


@pytest.mark.parametrize("name", ["OMP_NUM_THREADS", "PYTHONHASHSEED", "LD_LIBRARY_PATH", "HF_HOME", "PMI_RANK"])
def test_what_libraries_read_when_they_load_needs_a_real_start(tmp_path, monkeypatch, name):
    assert ran(tmp_path, LOADED)[:2] == (0, "True")
    monkeypatch.setenv(name, "1")
    assert ran(tmp_path, LOADED)[:2] == (0, "False")
    monkeypatch.undo()
    monkeypatch.setenv("ES_LLM_OWN", "1")
    assert ran(tmp_path, LOADED + ";import os; print(os.environ['ES_LLM_OWN'])")[:2] == (0, "True1\n")


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="one core")
def test_other_cores_need_a_real_start(tmp_path):
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(cores)})
    try:
        assert ran(tmp_path, LOADED)[:2] == (0, "False")
    finally:
        os.sched_setaffinity(0, cores)


def test_a_server_ends_with_the_process_that_started_it(tmp_path):
    (tmp_path / "probe.py").write_text(LONG)
    code = (
        "import subprocess, sys\n"
        "from tests import forking\n"
        "process = subprocess.Popen(forking.command('probe'), cwd=sys.argv[1], stdout=subprocess.PIPE, text=True)\n"
        "print(forking.server_pid(), process.stdout.readline().split()[0], forking._folder(), flush=True)\n"
        "input()\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    server, forked, folder = process.stdout.readline().split()
    assert lives(int(server))
    assert lives(int(forked))
    process.kill()
    process.communicate()
    wait_until(lambda: not lives(int(server)) and not lives(int(forked)), timeout_s=10)
    assert not Path(folder).exists()
