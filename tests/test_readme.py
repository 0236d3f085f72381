"""The README's code runs unchanged."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

README = Path(__file__).parent.parent / "README.md"
BLOCKS = re.findall(r"```python\n(.*?)```", README.read_text(), flags=re.DOTALL)


def test_there_is_code():
    assert len(BLOCKS) == 2


@pytest.mark.parametrize("number", range(len(BLOCKS)))
def test_code_runs(number, tmp_path):
    process = subprocess.run([sys.executable, "-c", BLOCKS[number]], cwd=tmp_path, capture_output=True, text=True,
                             timeout=200, check=False)  # fmt: skip
    assert process.returncode == 0, process.stderr
    last = process.stdout.strip().splitlines()[-1]
    if number == 0:
        values = [float(word) for word in re.findall(r"-?\d+\.\d*", process.stdout)]
        assert values == pytest.approx([-1 + 2 * i / 7 for i in range(8)], abs=0.1)
    else:
        assert -200 < float(last) < 0
