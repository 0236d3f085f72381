"""Modules import only lower layers, and `import es_llm` loads neither torch nor mpi4py."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "python" / "es_llm"

LAYERS = [
    {"errors", "types"},
    {"pointer"},
    {"_core"},
    {"config"},
    {"plugins"},
    {"noise", "shaping", "schedules", "optimizers"},
    {"model"},
    {"rewards", "data"},
    {"tasks", "rollout"},
    {"comm"},
    {"team"},
    {"checkpoint", "callbacks"},
    {"arrays"},
    {"population"},
    {"units"},
    {"evaluation"},
    {"trainer"},
    {"assemble"},
    {"cli"},
    {"train", "__main__"},
]
LEVEL = {part: level for level, parts in enumerate(LAYERS) for part in parts}


def _imports(path: Path) -> set[str]:
    """Subpackages of es_llm that a file imports, also inside functions and for type checking."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "es_llm":
            parts = node.module.split(".")
            found |= {parts[1]} if len(parts) > 1 else {alias.name for alias in node.names}
        elif isinstance(node, ast.Import):
            found |= {a.name.split(".")[1] for a in node.names if a.name.startswith("es_llm.")}
    return {part for part in found if not (part.startswith("__") and part != "__main__")}


@pytest.mark.parametrize(
    "path",
    sorted(p for p in PACKAGE.rglob("*.py") if p != PACKAGE / "__init__.py"),
    ids=lambda p: str(p.relative_to(PACKAGE)),
)
def test_modules_import_only_lower_layers(path):
    part = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    assert part in LEVEL, f"add {part} to LAYERS"
    above = {other for other in _imports(path) if other != part and LEVEL[other] >= LEVEL[part]}
    assert not above, f"{part} must not import {above}"


def test_modules_of_rewards_import_only_lower_layers():
    """Layers within `rewards`: the decorators and types, single calls, worker processes, users of the workers."""
    layers = [{"__init__", "batch", "text", "loop"}, {"call"}, {"workers"}, {"reward_set", "sandbox"}]
    level = {name: number for number, names in enumerate(layers) for name in names}
    folder = PACKAGE / "rewards"
    for path in folder.rglob("*.py"):
        own = path.relative_to(folder).parts[0].removesuffix(".py")
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("es_llm.rewards."):
                other = node.module.split(".")[2]
                assert other == own or level[other] <= level[own], f"{own} must not import {other}"


@pytest.mark.parametrize(
    "code",
    [
        "import es_llm",
        "from es_llm import Population",
        "from es_llm import ESConfig",
        "import es_llm.noise",
        "from es_llm.cli import main; main(['train', '--help'])",
        "from es_llm.tasks import load_task; load_task('countdown', train_size=3, eval_size=3)",
    ],
)
def test_loads_neither_torch_nor_mpi4py(code):
    check = "import sys; bad = {'torch', 'mpi4py', 'transformers'} & set(sys.modules); assert not bad, bad"
    run = f"import sys\ntry:\n    {code}\nexcept SystemExit: pass\n{check}"
    subprocess.run([sys.executable, "-c", run], check=True, stdout=subprocess.DEVNULL, timeout=60)
