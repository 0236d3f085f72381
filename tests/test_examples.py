"""Examples run, and recipes resolve."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from es_llm.config import ESConfig, ScriptArguments
from es_llm.config.fields import option_fields
from es_llm.config.resolve import read_config, resolve

ROOT = Path(__file__).parent.parent


@pytest.mark.parametrize("path", sorted((ROOT / "recipes").iterdir()), ids=lambda p: p.name)
def test_recipes_resolve(path):
    script, config = resolve(read_config(path, set(option_fields(ScriptArguments, ESConfig))))
    assert script.task == "countdown"
    assert config.max_steps > 0


def test_the_tiny_recipe_is_the_default_run():
    path = ROOT / "recipes" / "countdown_tiny.toml"
    assert resolve(read_config(path, set(option_fields(ScriptArguments, ESConfig)))) == resolve({})


def test_ask_tell_module():
    words = [sys.executable, str(ROOT / "examples" / "ask_tell_module.py")]
    process = subprocess.run(words, capture_output=True, text=True, timeout=100, check=False)
    assert process.returncode == 0, process.stderr
    before, after = (float(value) for value in re.findall(r"\d+\.\d+", process.stdout))
    assert after < 0.1 < before
