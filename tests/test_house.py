"""The rules of style that a program can check: sizes of files, functions and classes, and no import cycles."""

import ast
import collections
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "python" / "es_llm"
MODULES = sorted(PACKAGE.rglob("*.py"))
RUST = sorted([*(ROOT / "rust" / "core" / "src").rglob("*.rs"), *(ROOT / "rust" / "python" / "src").rglob("*.rs")])
MOST_LINES, MOST_FUNCTION_LINES, MOST_METHODS, MOST_FIELDS = 500, 70, 25, 15
OPTIONS = {"ESConfig", "ScriptArguments", "TrainerState"}
"""Classes whose fields are options, or the attributes that transformers' class of this name has."""


def name_of(path):
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("path", [*MODULES, *RUST], ids=name_of)
def test_files_are_small(path):
    assert len(path.read_text(encoding="utf-8").splitlines()) <= MOST_LINES


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_functions_and_classes_are_small(path):
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert node.end_lineno - node.lineno < MOST_FUNCTION_LINES, node.name
        elif isinstance(node, ast.ClassDef):
            methods = [item for item in node.body if isinstance(item, ast.FunctionDef | ast.AsyncFunctionDef)]
            assert len(methods) <= MOST_METHODS, node.name
            if node.name not in OPTIONS:
                assert len(fields(node, methods)) <= MOST_FIELDS, node.name


def fields(node, methods):
    """Names that the class declares, or that its methods assign to `self`."""
    declared = {item.target.id for item in node.body if isinstance(item, ast.AnnAssign)}
    assigned = {
        target.attr
        for method in methods
        for item in ast.walk(method)
        if isinstance(item, ast.Assign | ast.AnnAssign)
        for each in (item.targets if isinstance(item, ast.Assign) else [item.target])
        for target in ast.walk(each)
        if isinstance(target, ast.Attribute) and isinstance(target.value, ast.Name) and target.value.id == "self"
    }
    return declared | assigned


@pytest.mark.parametrize("path", RUST, ids=name_of)
def test_rust_functions_and_structs_are_small(path):
    for kind, name, indent, body in rust_items(path):
        if kind == "fn":
            assert len(body) <= MOST_FUNCTION_LINES, name
        elif kind == "struct":
            named = [each for each in body if re.match(rf"{indent}    (pub(\(\w+\))? )?\w+: ", each)]
            assert len(named) <= MOST_FIELDS, name


@pytest.mark.parametrize("crate", ["core", "python"])
def test_rust_types_have_few_methods(crate):
    """Over all `impl` blocks of a type, in all files of a crate."""
    methods = collections.Counter()
    for path in RUST:
        if path.relative_to(ROOT / "rust").parts[0] != crate:
            continue
        for kind, name, indent, body in rust_items(path):
            if kind == "impl":
                methods[name] += sum(
                    bool(re.match(rf"{indent}    {VISIBLE}(const |unsafe )*fn ", each)) for each in body
                )
    assert methods, "the pattern finds no type"
    assert not {name: count for name, count in methods.items() if count > MOST_METHODS}


VISIBLE = r"(?:pub(?:\(\w+\))? )?"


def rust_items(path):
    """Each function, struct and block of methods of a file, without its tests: (kind, name, indentation, lines)."""
    lines = path.read_text(encoding="utf-8").partition("#[cfg(test)]")[0].splitlines()
    for number, line in enumerate(lines):
        found = re.match(rf"( *){VISIBLE}(?:const |unsafe )*(fn|struct|impl)\b(?:<.*?>+)? (?:.* for )?&?(\w+)", line)
        if not found or line.rstrip().endswith((";", "}")):
            continue
        indent, kind, name = found.groups()
        end = next((at for at in range(number, len(lines)) if lines[at] == f"{indent}}}"), number)
        yield kind, name, indent, lines[number : end + 1]


def test_no_import_cycles():
    graph = {module_name(path): imported(path) for path in MODULES}
    graph = {name: {other for other in others if other in graph} for name, others in graph.items()}
    while leaves := [name for name, others in graph.items() if not others & graph.keys()]:
        for name in leaves:
            del graph[name]
    assert not graph, "these modules import each other"


def module_name(path):
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imported(path):
    """Modules that this one imports when it is loaded."""
    names = set()
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return names - {module_name(path)}
