"""The scripts that the installed TRL ships, where only the trainer's name is changed, and a way to run them.

`python -m tests.trl_scripts ROWS SCRIPT WORDS...` runs a script on local rows instead of the hub's data set, and with
small defaults, since those of `ESConfig` would take days on a CPU.
"""

from __future__ import annotations

import ast
import doctest
import json
import re
import runpy
import sys
from importlib.metadata import distribution
from pathlib import Path

import trl

MODEL = str(Path(__file__).parent.parent / "models" / "smollm2-135m-instruct")
PACKAGE = Path(trl.__file__).parent
SMALL = {
    "population_size": 2, "prompts_per_iteration": 2, "max_steps": 1, "max_completion_length": 12,
    "num_completions_to_print": 1,
}  # fmt: skip
"""Small defaults, used instead of the paper's."""


def quick_starts() -> dict[str, str]:
    """Name -> text of each example with reward functions in the package's README and in docstrings of its trainers."""
    readme = distribution("trl").read_text("METADATA") or ""
    found = {
        f"README {number}": block
        for number, block in enumerate(re.findall(r"```python\n(.*?)```", readme, flags=re.DOTALL))
        if _has_rewards(block)
    }
    for path in sorted(PACKAGE.rglob("*_trainer.py")):
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.ClassDef) and (text := ast.get_docstring(node)):
                block = "".join(example.source for example in doctest.DocTestParser().get_examples(text))
                if _has_rewards(block):
                    found[node.name] = block
    return found


def command_line_scripts() -> dict[str, str]:
    """Name -> text of each script of the package that takes reward functions."""
    texts = {path.name: path.read_text() for path in sorted((PACKAGE / "scripts").glob("*.py"))}
    return {name: text for name, text in texts.items() if _has_rewards(text)}


def with_our_trainer(text: str) -> str:
    """The text with `ESTrainer` instead of its trainer, imported from `es_llm`."""
    (trainer,) = set(re.findall(r"\b(\w+Trainer)\(", text))
    text, imports = re.subn(
        rf"^( *)from (trl[\w.]*) import {trainer}(?:, (.*))?$",
        lambda found: (
            f"{found[1]}from es_llm import ESTrainer"
            + (f"\n{found[1]}from {found[2]} import {found[3]}" if found[3] else "")
        ),
        text,
        flags=re.MULTILINE,
    )
    assert imports == 1
    return re.sub(rf"\b{trainer}\b", "ESTrainer", text)


def _has_rewards(text: str) -> bool:
    return re.search(r"Trainer\(\s", text) is not None and "reward_funcs=" in text


def main() -> None:
    import datasets

    from es_llm import ESConfig

    rows = json.loads(Path(sys.argv[1]).read_text())

    def load_dataset(*names, split=None, **options):
        whole = datasets.DatasetDict(train=datasets.Dataset.from_list(rows), test=datasets.Dataset.from_list(rows[:1]))
        return whole if split is None else whole[split]

    datasets.load_dataset = load_dataset
    ESConfig.__init__.__wrapped__.__kwdefaults__.update(SMALL)
    sys.argv = sys.argv[2:]
    runpy.run_path(sys.argv[0], run_name="__main__")


if __name__ == "__main__":
    main()
