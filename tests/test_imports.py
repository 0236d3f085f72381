"""Imports point one way, and importing the package loads nothing heavy."""

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
RANK = {room: rank for rank, rooms in enumerate(LAYERS) for room in rooms}


def _imports(path: Path) -> set[str]:
    """Rooms of es_llm that a file imports, deferred imports and type-checking ones included."""
    rooms = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "es_llm":
            parts = node.module.split(".")
            rooms |= {parts[1]} if len(parts) > 1 else {alias.name for alias in node.names}
        elif isinstance(node, ast.Import):
            rooms |= {a.name.split(".")[1] for a in node.names if a.name.startswith("es_llm.")}
    return {room for room in rooms if not (room.startswith("__") and room != "__main__")}


@pytest.mark.parametrize(
    "path",
    sorted(p for p in PACKAGE.rglob("*.py") if p != PACKAGE / "__init__.py"),
    ids=lambda p: str(p.relative_to(PACKAGE)),
)
def test_imports_point_one_way(path):
    room = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    assert room in RANK, f"add {room} to the layers"
    above = {other for other in _imports(path) if other != room and RANK[other] >= RANK[room]}
    assert not above, f"{room} must not import {above}"


def test_the_reward_contract_and_its_processes_import_one_way():
    """Layers within `rewards`: the contract, the processes, and what uses the processes."""
    layers = [{"__init__", "batch", "text", "loop"}, {"call"}, {"workers"}, {"reward_set", "sandbox"}]
    rank = {name: number for number, names in enumerate(layers) for name in names}
    room = PACKAGE / "rewards"
    for path in room.rglob("*.py"):
        own = path.relative_to(room).parts[0].removesuffix(".py")
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("es_llm.rewards."):
                other = node.module.split(".")[2]
                assert other == own or rank[other] <= rank[own], f"{own} must not import {other}"


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
