"""Code of a model: what it may do, and what it can't."""

from __future__ import annotations

import json
import os
import subprocess
import time
from pathlib import Path

import pytest

from es_llm.errors import RewardError
from es_llm.rewards.arc import arc_accuracy, code_of
from es_llm.rewards.sandbox import SandboxLimits, require_sandbox, run_function
from es_llm.tasks import load_task

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
        ("print('noise')\nreturn x", {"a": None}, {"a": None}),
    ],
)
def test_what_it_may_do(body, argument, value):
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
        ("return object()", "no JSON"),
        ("return float('nan')", ""),
        ("raise SystemExit", "SystemExit"),
        ("return f(x)", "RecursionError"),
        ("def", "SyntaxError"),
    ],
)
def test_what_it_cannot_do(body, why):
    start = time.monotonic()
    ran = run(body)
    assert why in ran.error or ran.values == [pytest.approx(float("nan"), nan_ok=True)]
    assert time.monotonic() - start < 10


def test_it_sees_nothing_of_the_system():
    (told,) = run("import os\nreturn [os.listdir('/'), os.getpid(), 'HOME' in os.environ]").values
    assert told[0] == []
    assert told[1] <= 2
    assert not told[2]
    (user,) = run("import os\nreturn os.getuid()").values
    assert user != 0 or os.getuid() != 0


def test_nothing_is_left_behind():
    """Neither a process nor a mount."""
    mounts = Path("/proc/self/mounts").read_text()
    run("import time\ntime.sleep(100)")
    run("return 1")
    listed = subprocess.run(
        ["ps", "-o", "args", "--ppid", str(os.getpid())], capture_output=True, text=True, check=False
    )
    assert "sandbox_child" not in listed.stdout
    assert Path("/proc/self/mounts").read_text() == mounts


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


def test_the_own_problems_are_solvable_by_their_rules():
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
