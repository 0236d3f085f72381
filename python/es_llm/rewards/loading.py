"""Reward functions named on the command line: `package.module.function` or `path/to/file.py:function`.

A file is one module, however many of its functions are named: its globals exist once. A file that has changed since is
read anew.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import importlib.util
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from es_llm.config.fields import nearest
from es_llm.errors import RewardError
from es_llm.types import RewardFunction

_PREFIX: Final = "_es_llm_reward_"
_STATE: Final = "_es_llm_state"
"""Where a module keeps what its file was like when it was read."""


@contextlib.contextmanager
def same_directory() -> Iterator[None]:
    """Foreign code that leaves the working directory leaves it for itself alone: relative paths of the run stay."""
    try:
        before = os.getcwd()
    except OSError:  # it was deleted
        before = None
    try:
        yield
    finally:
        if before is not None:
            with contextlib.suppress(OSError):
                os.chdir(before)


def load_reward(reference: str) -> RewardFunction:
    """Import one reward function.

    Raises:
        RewardError: the file or module is missing or fails to import, has no such name, or it isn't callable.
    """
    place, colon, name = reference.rpartition(":")
    with same_directory():
        module = _module_of_file(Path(place), reference) if colon else _module_of(reference)
    name = name if colon else reference.rpartition(".")[2]
    if not hasattr(module, name):
        known = [key for key, value in vars(module).items() if callable(value) and not key.startswith("_")]
        where = module.__file__
        raise RewardError(f"reward function {reference!r}: {where} has no {name!r}{nearest(name, known)}")
    function: RewardFunction = getattr(module, name)
    if not callable(function):
        raise RewardError(f"reward function {reference!r} must be callable, got {function!r}")
    return function


def file_of(reference: str) -> Path | None:
    """The file that a reference reads its function from; None if there is none, as for a module without source."""
    place, colon, _ = reference.rpartition(":")
    if not colon:
        try:
            spec = importlib.util.find_spec(reference.rpartition(".")[0])
        except (ImportError, ValueError):  # no such module, or one without a spec
            return None
        place = (spec and spec.origin) or ""
    return Path(place) if place and Path(place).is_file() else None


def reference_of(function: RewardFunction) -> str | None:
    """The reference by which another process can load a function that came from a file; None for any other one."""
    module = sys.modules.get(getattr(function, "__module__", None) or "")
    if module is None or not module.__name__.startswith(_PREFIX) or module.__file__ is None:
        return None
    # Not its own name: what a decorator or a factory made has another one than the module knows it by.
    name = next((name for name, value in vars(module).items() if value is function), None)
    return None if name is None else f"{Path(module.__file__).resolve()}:{name}"


def _module_of_file(path: Path, reference: str) -> Any:
    if not path.is_file():
        where = "" if path.is_absolute() else f" in {str(Path.cwd())!r}"
        raise RewardError(f"reward function {reference!r}: no file {str(path)!r}{where}")
    path = path.resolve()
    name = f"{_PREFIX}{path.stem}_{hashlib.sha256(str(path).encode()).hexdigest()[:8]}"
    state = (path.stat().st_mtime_ns, path.stat().st_size)
    known = sys.modules.get(name)
    if known is not None and getattr(known, _STATE, None) == state:
        return known
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise RewardError(f"reward function {reference!r}: {str(path)!r} is no Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        del sys.modules[name]
        raise RewardError(f"reward function {reference!r}: {str(path)!r} fails to import: {error!r}") from error
    setattr(module, _STATE, state)
    return module


def _module_of(reference: str) -> Any:
    if reference.endswith(".py") or Path(reference).is_file():
        raise RewardError(
            f"reward function {reference!r} names a file alone: expected file.py:function, such as "
            f"{reference}:{Path(reference).stem}"
        )
    module, dot, _ = reference.rpartition(".")
    if not dot:
        raise RewardError(
            f"reward function {reference!r} can't be imported: expected package.module.function or file.py:function"
        )
    try:
        return importlib.import_module(module)
    except (Exception, SystemExit) as error:
        raise RewardError(f"reward function {reference!r}: module {module!r} fails to import: {error!r}") from error
