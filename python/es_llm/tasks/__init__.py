"""Tasks by name. A task is a function `build(**options) -> Task`: built in, of an installed package, or in a file.

`es_llm.plugins` says how a name is looked up. `--task my_task.py` calls the `build` of that file.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from es_llm import plugins
from es_llm.config.checks import plain_value, type_name
from es_llm.config.fields import nearest
from es_llm.errors import ConfigError
from es_llm.tasks.base import Task

__all__ = ["BUILTIN", "Task", "file_of", "load_task"]

BUILTIN: Final = {
    "arc": "es_llm.tasks.arc:build",
    "conciseness": "es_llm.tasks.conciseness:build",
    "countdown": "es_llm.tasks.countdown:build",
    "gsm8k": "es_llm.tasks.gsm8k:build",
    "math": "es_llm.tasks.math:build",
    "reasoning_gym": "es_llm.tasks.reasoning_gym:build",
    "rows": "es_llm.tasks.base:rows",
}
"""Name of a built-in task -> where it is."""
_WITH_DATASET: Final = {"reasoning_gym": "mini_sudoku"}
"""Tasks that hold many data sets, `reasoning_gym:NAME`, each with an example of a NAME."""
_OF_THE_RUN: Final = {
    "chat": "--chat chat, or --chat raw",
    "system_prompt": "--system_prompt TEXT",
    "chat_template_kwargs": "--chat_template_kwargs NAME=VALUE",
}
"""Options of `ESConfig` that users may look for among the options of a task."""


def load_task(name: str, /, **options: Any) -> Task:
    """Build the task `name` with the options of its `build`. The option `data` holds rows that replace its own.

    Raises:
        ConfigError: no such task or option (with the nearest known names), or a value that the task refuses.
    """
    task, dataset = _split(name)
    if dataset:
        options["dataset"] = dataset
    build = plugins.resolve("task", task, BUILTIN, attribute="build")
    if isinstance(build, Task):
        if options:
            raise ConfigError(f"task {name!r} is a `Task` without options, got {', '.join(map(repr, options))}")
        return build
    if not callable(build):
        raise ConfigError(f"task {name!r} must be a `Task` or a function that returns one, got {build!r}")
    options = {option: value if option == "data" else plain_value(value) for option, value in options.items()}
    _require_options(task, build, options)
    call = build if task in BUILTIN else plugins.guarded(f"task {name!r}", build)
    with plugins.same_directory():
        built = call(**options)
    if not isinstance(built, Task):
        raise ConfigError(f"task {name!r}: its function must return a `Task`, got {built!r} ({type(built).__name__})")
    return built


def file_of(name: str) -> Path | None:
    """The file of a task that isn't built in; None for a built-in task."""
    return None if name.partition(":")[0] in BUILTIN else plugins.file_of("task", name, attribute="build")


def _split(name: str) -> tuple[str, str]:
    """(task, data set) of `reasoning_gym:NAME`; (name, "") of any other task."""
    task, colon, dataset = name.partition(":")
    if task in _WITH_DATASET:
        if not dataset:
            example = f"{task}:{_WITH_DATASET[task]}"
            raise ConfigError(
                f"task `{task}` holds many data sets: expected --task {task}:NAME, such as {example}, got {name!r}"
            )
        return task, dataset
    if colon and task in BUILTIN:
        raise ConfigError(f"unknown task {name!r}: `{task}` has no data sets to choose from, expected --task {task}")
    return name, ""


def _require_options(task: str, build: Callable[..., Any], options: dict[str, Any]) -> None:
    """Check that a task has these options, and that their values have the types of its defaults."""
    parameters = inspect.signature(build).parameters
    takes_any = any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters.values())
    for option, value in options.items():
        if option in parameters:
            expected = type(parameters[option].default)
            if type(value) is not expected and expected in (int, float, str, bool):
                raise ConfigError(f"task `{task}`: `{option}` must be {type_name(expected)}, got {value!r}")
        elif option in _OF_THE_RUN:
            raise ConfigError(f"task `{task}` has no option {option!r}; it is one of the run: {_OF_THE_RUN[option]}")
        elif option == "data" and not takes_any:
            raise ConfigError(f"task `{task}` has its own data; leave `dataset_name` out")
        elif not takes_any:
            known = f" (known: {', '.join(parameters)})"
            raise ConfigError(f"task `{task}` has no option {option!r}{nearest(option, parameters)}{known}")
