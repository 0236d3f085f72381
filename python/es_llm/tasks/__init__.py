"""Tasks by name. A new task is one new file here with a `build(**options) -> Task`; nothing to register."""

from __future__ import annotations

import difflib
import importlib
import inspect
import pkgutil
from typing import Any

from es_llm.config.checks import plain_value, type_name
from es_llm.errors import ConfigError
from es_llm.tasks.base import Task

__all__ = ["Task", "load_task", "task_names"]

_NOT_TASKS = {"base", "answer_limits"}
_OF_MANY = {"reasoning_gym": "mini_sudoku"}
"""Rooms of many tasks, `reasoning_gym:NAME`, each with the name of one of them."""
_OF_THE_RUN = {
    "chat": "--chat chat, or --chat raw",
    "system_prompt": "--system_prompt TEXT",
    "chat_template_kwargs": "--chat_template_kwargs NAME=VALUE",
}
"""Options of `ESConfig` that one may look for among a task's own."""


def task_names() -> list[str]:
    """Names of all tasks, sorted; imports none of them."""
    return sorted(
        module.name
        for module in pkgutil.iter_modules(__path__)
        if module.name not in _NOT_TASKS and not module.name.startswith("_")
    )


def load_task(name: str, /, **options: Any) -> Task:
    """Build the task `name` with the options of its `build`; `data` are rows in place of its own.

    Raises:
        ConfigError: no such task, or no such option (with the nearest known names), or a value it refuses.
    """
    known = task_names()
    name, colon, dataset = name.partition(":")
    if name in _OF_MANY and not dataset:
        example = f"{name}:{_OF_MANY[name]}"
        raise ConfigError(
            f"task `{name}` holds many data sets: expected --task {name}:NAME, such as {example}, got {name + colon!r}"
        )
    if name not in known or (bool(colon) != (name in _OF_MANY)):
        raise ConfigError(f"unknown task {name + colon + dataset!r}{_nearest(name, known)}")
    if colon:
        options["dataset"] = dataset
    build = importlib.import_module(f"{__name__}.{name}").build
    parameters = inspect.signature(build).parameters
    free = any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters.values())
    options = {option: value if option == "data" else plain_value(value) for option, value in options.items()}
    for option, value in options.items():
        if option not in parameters:
            if option in _OF_THE_RUN:
                where = f"it is one of the run: {_OF_THE_RUN[option]}"
                raise ConfigError(f"task `{name}` has no option {option!r}; {where}")
            if free:
                continue
            if option == "data":
                raise ConfigError(f"task `{name}` has its own data; leave `dataset_name` out")
            raise ConfigError(f"task `{name}` has no option {option!r}{_nearest(option, list(parameters))}")
        expected = type(parameters[option].default)
        if type(value) is not expected and expected in (int, float, str, bool):
            raise ConfigError(f"task `{name}`: `{option}` must be {type_name(expected)}, got {value!r}")
    task = build(**options)
    assert isinstance(task, Task), f"{name}.build returned {type(task).__name__}"
    return task


def _nearest(name: str, known: list[str]) -> str:
    near = difflib.get_close_matches(name, known, n=3)
    hint = f"; did you mean {' or '.join(repr(candidate) for candidate in near)}?" if near else ""
    return f"{hint} (known: {', '.join(known)})"
