"""The sandbox for code that a model wrote: allowed and forbidden operations."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import site
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

import es_llm
from es_llm.errors import RewardError
from es_llm.rewards.sandbox import SandboxLimits, require_sandbox, run_function
from es_llm.tasks import load_task
from es_llm.tasks.arc import arc_accuracy, code_of

LIMITS = SandboxLimits(wall_s=4, cpu_s=1, memory_mb=256, answer_bytes=10_000)


def allowed():
    try:
        require_sandbox()
    except RewardError:
        return False
    return True


pytestmark = pytest.mark.skipif(not allowed(), reason="this machine offers no sandbox")


def run(body, *arguments):
    lines = "\n".join(f"    {line}" for line in body.splitlines())
    return run_function(f"def f(x):\n{lines}\n", "f", list(arguments or (1,)), LIMITS)


@pytest.mark.parametrize(
    ("body", "argument", "value"),
    [
        ("return x + 1", 1, 2),
        ("import math, itertools, collections\nreturn math.gcd(x, 12)", 18, 6),
        ("import numpy as np\nreturn np.flip(np.array(x), 0)", [[1, 2], [3, 4]], [[3, 4], [1, 2]]),
        ("import numpy as np\nreturn [np.array(x[0]), tuple(np.array(x[1]))]", [[1, 2], [3, 4]], [[1, 2], [3, 4]]),
        ("import numpy as np\nreturn [[np.int8(y) for y in row] for row in x]", [[1, 2], [3, 4]], [[1, 2], [3, 4]]),
        ("print('noise')\nreturn x", {"a": None}, {"a": None}),
    ],
)
def test_allowed_operations(body, argument, value):
    assert run(body, argument).values == [value]


@pytest.mark.parametrize(
    ("body", "why"),
    [
        ("while True: pass", "ended with code"),
        ("import time\ntime.sleep(100)", "longer than 4 s"),
        ("return len(bytearray(10 << 30))", "MemoryError"),
        ("return open('/etc/passwd').read()", "FileNotFoundError"),
        ("return open('/proc/self/environ').read()", "FileNotFoundError"),
        ("open('/x', 'w')", "Read-only file system"),
        ("import os\nos.mkdir('/x')", "Read-only file system"),
        ("import os\nreturn os.fork()", "BlockingIOError"),
        ("import _socket\n_socket.socket().connect(('127.0.0.1', 22))", "Error"),
        ("import _socket\n_socket.socket().connect(('1.1.1.1', 80))", "Error"),
        ("import subprocess", "ModuleNotFoundError"),
        ("import os\nos._exit(3)", "ended with code 3"),
        ("import os\nos.setuid(0)", "PermissionError"),
        ("import os\nos.chroot('/')", "PermissionError"),
        ("return 'a' * 100_000", "longer than 10000 bytes"),
        ("return object()", "isn't JSON"),
        ("return float('nan')", ""),
        ("raise SystemExit", "SystemExit"),
        ("return f(x)", "RecursionError"),
        ("def", "SyntaxError"),
    ],
)
def test_forbidden_operations(body, why):
    start = time.monotonic()
    ran = run(body)
    assert why in ran.error or ran.values == [pytest.approx(float("nan"), nan_ok=True)]
    assert time.monotonic() - start < 10


def test_it_sees_nothing_of_the_system():
    (seen,) = run("import os\nreturn [os.listdir('/'), os.getpid(), 'HOME' in os.environ]").values
    assert seen[0] == []
    assert seen[1] <= 2
    assert not seen[2]
    (user,) = run("import os\nreturn os.getuid()").values
    assert user != 0 or os.getuid() != 0


def test_nothing_is_left_behind():
    """The sandbox leaves no process and no mount behind."""
    mounts = Path("/proc/self/mounts").read_text()
    run("import time\ntime.sleep(100)")
    run("return 1")
    listed = subprocess.run(
        ["ps", "-o", "args", "--ppid", str(os.getpid())], capture_output=True, text=True, check=False
    )
    assert "sandbox/child.py" not in listed.stdout
    assert Path("/proc/self/mounts").read_text() == mounts


def sandboxes():
    """The ids of all living processes that run the child's program."""
    found = set()
    for directory in Path("/proc").glob("[0-9]*"):
        try:
            if b"sandbox/child.py" in (directory / "cmdline").read_bytes():
                found.add(int(directory.name))
        except OSError:
            continue
    return found


def until(holds, what):
    for _ in range(600):
        if holds():
            return
        time.sleep(0.05)
    pytest.fail(what)


ESCAPES = {
    "a session of its own": "import os\nos.setsid()",
    "no signal when the parent ends": "import ctypes\nctypes.CDLL(None).prctl(1, 0, 0, 0, 0)",
    "both": "import ctypes, os\nos.setsid()\nctypes.CDLL(None).prctl(1, 0, 0, 0, 0)",
    "signals ignored": "import _signal\n[_signal.signal(n, _signal.SIG_IGN) for n in (1, 2, 15)]",
    "its output closed": "import os\nos.closerange(0, 16)",
}


@pytest.mark.parametrize("how", ESCAPES)
def test_code_cannot_escape_the_limit_of_clock_time(how):
    """Code that hides in other processes gets no more time than other code, and is killed afterwards."""
    before = sandboxes()
    ran = run_function(f"def f(x):\n    {ESCAPES[how].replace(chr(10), chr(10) + '    ')}\n    import time\n"
                       "    time.sleep(1000)\n", "f", [1], SandboxLimits(wall_s=2))  # fmt: skip
    assert ran.values is None
    assert "longer than 2 s" in ran.error or "no answer" in ran.error
    until(lambda: sandboxes() <= before, "the code is still there")


@pytest.mark.parametrize("victim", ["the process that asked", "the outer process"])
def test_code_is_killed_when_the_process_that_waits_for_it_ends(victim):
    before = sandboxes()
    program = (
        "from es_llm.rewards.sandbox import *\n"
        "require_sandbox()\n"
        "print('ready', flush=True)\n"
        "run_function('def f(x):\\n    import time\\n    time.sleep(1000)\\n', 'f', [1], SandboxLimits(wall_s=900))\n"
    )
    asked = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    assert asked.stdout.readline() == "ready\n"
    try:
        until(lambda: any(_sleeps(pid) for pid in sandboxes() - before), "the code has not begun")
        mine = sandboxes() - before
        outer = next(pid for pid in mine if _parent(pid) not in mine)
        os.kill(asked.pid if victim == "the process that asked" else outer, signal.SIGKILL)
        until(lambda: sandboxes() <= before, "the code is still there")
    finally:
        asked.kill()
        asked.communicate()


def _parent(pid):
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def _sleeps(pid):
    """Whether the child has given up its rights. The code runs then, or is about to start."""
    try:
        return "NoNewPrivs:\t1" in Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False


def test_a_long_program_and_many_arguments_pass(monkeypatch, tmp_path):
    """The input is larger than a pipe's buffer. A child that doesn't read it ends at the limit of clock time."""
    many = ["x" * 1000] * 2000
    assert run_function("def f(x):\n    return len(x)\n", "f", many).values == [1000] * 2000
    monkeypatch.setattr("es_llm.rewards.sandbox._CHILD", tmp_path / "sleeps.py")
    (tmp_path / "sleeps.py").write_text("import time\ntime.sleep(1000)\n")
    assert "longer than 1 s" in run_function("def f(x): pass", "f", many, SandboxLimits(wall_s=1)).error


def test_a_user_without_root_rights_has_a_sandbox():
    """numpy is imported first, since its threads would prevent a user namespace. Bind mounts that no other process sees
    make Python and its packages readable for a user without rights."""
    if os.getuid() != 0:
        pytest.skip("the other tests run without rights already")
    if not (shutil.which("setpriv") and shutil.which("unshare")):
        pytest.skip("needs setpriv and unshare")
    as_nobody = ["setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups"]
    if subprocess.run([*as_nobody, "unshare", "-U", "true"], capture_output=True, check=False).returncode != 0:
        pytest.skip("this machine offers users no namespaces")
    if subprocess.run(["unshare", "-m", "true"], capture_output=True, check=False).returncode != 0:
        pytest.skip("this machine offers root no mounts of its own")
    directory = Path(tempfile.mkdtemp())
    directory.chmod(0o755)
    shown = {"python": sys.base_prefix, "site": site.getsitepackages()[0], "own": Path(es_llm.__file__).parents[1]}
    code = (
        f"import os, sys; sys.path += [{str(directory / 'own')!r}, {str(directory / 'site')!r}]\n"
        "from es_llm.rewards.sandbox import run_function\n"
        "code = 'import numpy, os\\ndef f(x):\\n    return int(numpy.dot(numpy.ones(x), numpy.ones(x)))\\n'\n"
        "print(os.getuid(), run_function(code, 'f', [3]))\n"
    )
    script = "".join(
        f"mkdir {directory / name} && mount --bind {path} {directory / name} && " for name, path in shown.items()
    )
    interpreter = directory / "python" / Path(os.path.realpath(sys.executable)).relative_to(sys.base_prefix)
    script += f'exec {" ".join(as_nobody)} {interpreter} -I -c "$1"'
    try:
        process = subprocess.run(
            ["unshare", "-m", "sh", "-c", script, "sh", code], capture_output=True, text=True, timeout=120, check=False
        )
    finally:
        for name in shown:  # empty, now that the mounts are gone
            with contextlib.suppress(FileNotFoundError):
                (directory / name).rmdir()
        directory.rmdir()
    assert process.stdout.startswith("65534 SandboxResult(values=[3]"), process.stderr


PAIRS = json.dumps([{"input": [[1, 2], [3, 4]], "output": [[2, 1], [4, 3]]}, {"input": [[5, 6]], "output": [[6, 5]]}])


@pytest.mark.parametrize(
    ("text", "score"),
    [
        ("```python\ndef transform(grid):\n    return [row[::-1] for row in grid]\n```", 1.0),
        ("def transform(grid):\n    return [row[::-1] for row in grid]", 1.0),
        ("```\nwrong\n```\nbetter:\n```py\ndef transform(g):\n    return [r[::-1] for r in g]\n```\nso.", 1.0),
        ("```python\nimport numpy as np\ndef transform(g):\n    return np.fliplr(np.array(g))\n```", 1.0),
        ("```python\ndef transform(grid):\n    return grid\n```", 0.0),
        ("```python\ndef transform(grid):\n    return [[2, 1], [4, 3]]\n```", 0.0),
        ("```python\ndef transform(grid):\n    return [[c == 2 for c in row] for row in grid]\n```", 0.0),
        ("```python\ndef transform(grid):\n    return 1 / 0\n```", 0.0),
        ("```python\ndef other(grid):\n    return grid\n```", 0.0),
        ("no code", 0.0),
        ("", 0.0),
    ],
)
def test_arc_scores(text, score):
    assert arc_accuracy(completions=[text], test=[PAIRS]) == [score]


def test_the_built_in_problems_are_solved_by_their_rules():
    task = load_task("arc", train_size=20, eval_size=5)
    assert len(task.train) == 20
    solvers = [
        "return [r[::-1] for r in g]", "return g[::-1]", "return [list(r) for r in zip(*g)]",
        *(f"return [[{c} if x == 0 else x for x in r] for r in g]" for c in range(1, 9)),
        *(f"return [[{c}] * (len(g[0]) + 2)] + [[{c}] + r + [{c}] for r in g] + [[{c}] * (len(g[0]) + 2)]"
          for c in range(1, 9)),
    ]  # fmt: skip
    for row in task.train[:3]:
        texts = [f"def transform(g):\n    {body}\n" for body in solvers]
        scores = task.reward_funcs[0](completions=texts, test=[row["test"]] * len(texts))
        assert max(scores) == 1.0
    assert code_of(Path(__file__).read_text()[:10]) == Path(__file__).read_text()[:10]
