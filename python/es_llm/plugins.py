"""Extensions by name: what an option such as `--task` or `--reward_funcs` names.

A name is one of these, in this order:

- a built-in name;
- an entry point of an installed package, in the group `es_llm.tasks`, `es_llm.rewards`, ... (the kind's plural);
- `path/to/file.py:attribute`; or `path/to/file.py` alone, for kinds whose attribute has a fixed name;
- `package.module:attribute`; or `package.module.attribute`, as in TRL.

Nothing is imported before its name is resolved. A file becomes one module, also if several of its attributes are named,
so its globals exist once. A file that changes is loaded again. An error in an extension is reported as one line with
the extension's kind and name. Knows nothing about any kind, and loads no torch.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import importlib.util
import os
import pkgutil
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final, TypeVar

from es_llm.config.fields import nearest
from es_llm.errors import ConfigError, EsError

T = TypeVar("T")

_PREFIX: Final = "_es_llm_file_"
"""Beginning of the names of modules that were loaded from a file."""
_VERSION: Final = "_es_llm_version"
"""Attribute of such a module: time and size of its file when it was loaded."""
_LONGEST: Final = 500
"""Characters of an error's message that are kept."""
_NO_NAMES: Final[Mapping[str, str]] = {}


def resolve(
    kind: str,
    name: str,
    builtin: Mapping[str, str] = _NO_NAMES,
    *,
    attribute: str | None = None,
    error: type[EsError] = ConfigError,
) -> Any:
    """The object that a name stands for (see the module).

    Args:
        kind: "task", "reward", ...; `es_llm.<kind>s` is the group of entry points.
        name: the name in the option.
        builtin: built-in name -> `package.module:attribute`.
        attribute: the attribute for `file.py` alone; None: a file alone is refused.
        error: class of the errors.

    Raises:
        EsError: the name is unknown, its file or module is missing or fails to import, or has no such attribute. The
            message names the kind, the name, the file, and the nearest known names.
    """
    where = f"{kind} {name!r}"
    try:
        module, wanted = _parsed(kind, name, builtin, attribute)
        with same_directory():
            loaded = _load_file(Path(module)) if _is_file(module) else _import(module)
        if not hasattr(loaded, wanted):
            raise _Unusable(f"{loaded.__file__} has no {wanted!r}{_instead(loaded, wanted, attribute)}")
    except _Unusable as fault:
        raise error(f"{where}: {fault}") from fault.__cause__
    except _UnknownName:
        raise error(f"unknown {where}{_hint(kind, name, builtin)}") from None
    return getattr(loaded, wanted)


def load_function(
    kind: str, name: str, builtin: Mapping[str, str] = _NO_NAMES, *, attribute: str
) -> Callable[..., Any]:
    """The function or class that a name stands for. Arguments and errors: see `resolve`."""
    found: Any = resolve(kind, name, builtin, attribute=attribute)
    if not callable(found):
        got = f"{found!r:.80} ({type(found).__name__})"
        raise ConfigError(f"{kind} {name!r}: `{attribute}` must be a function or a class, got {got}")
    function: Callable[..., Any] = found
    return function


def guarded(where: str, function: Callable[..., T]) -> Callable[..., T]:
    """The function; its exceptions become a ConfigError of one line that begins with `where`, such as
    "optimizer 'rms.py'", and ends with the line of the function's file."""

    def call(*arguments: Any, **options: Any) -> T:
        try:
            return function(*arguments, **options)
        except EsError:
            raise
        except (Exception, SystemExit) as error:
            raise ConfigError(f"{where}: {failure(function, error)}") from error

    return call


def failure(function: Callable[..., Any], error: BaseException) -> str:
    """What is reported of an error that a function raised: "`step` failed: KeyError: 'v' (rms.py, line 7)"."""
    file = getattr(sys.modules.get(getattr(function, "__module__", None) or ""), "__file__", None)
    return f"`{getattr(function, '__name__', type(function).__name__)}` failed: {_reason(error, file)}"


def names_in(package: str, path: Iterable[str], attribute: str) -> dict[str, str]:
    """The built-in names of a package in which each file is one extension: file name -> `package.file:attribute`.
    Imports no file."""
    names = (module.name for module in pkgutil.iter_modules(path))
    return {name: f"{package}.{name}:{attribute}" for name in names if not name.startswith("_")}


def file_of(kind: str, name: str, builtin: Mapping[str, str] = _NO_NAMES, *, attribute: str = "") -> Path | None:
    """The source file of the object that a name stands for; None if there is no such file."""
    try:
        module, _ = _parsed(kind, name, builtin, attribute)
        if not _is_file(module):
            spec = importlib.util.find_spec(module)
            module = (spec and spec.origin) or ""
    except (_Unusable, _UnknownName, ImportError, ValueError):  # ValueError: a module without a spec
        return None
    return Path(module) if module and Path(module).is_file() else None


def sha256_of(path: Path | None) -> str | None:
    """SHA-256 of a file; None without a file."""
    return None if path is None else hashlib.sha256(path.read_bytes()).hexdigest()


def reference_of(value: Any) -> str | None:
    """The name by which another process can load an object from the same file; None for an object that is not from a
    file."""
    module = file_module_of(value)
    if module is None or module.__file__ is None:
        return None
    # Not `__name__`: a decorator or factory may give the object another name than the module's variable.
    name = next((name for name, each in vars(module).items() if each is value), None)
    return None if name is None else f"{Path(module.__file__).resolve()}:{name}"


def file_module_of(value: Any) -> Any | None:
    """The module of a function or class, if `resolve` loaded that module from a file."""
    module = sys.modules.get(getattr(value, "__module__", None) or "")
    return module if module is not None and module.__name__.startswith(_PREFIX) else None


@contextlib.contextmanager
def same_directory() -> Iterator[None]:
    """Restore the working directory after foreign code, so that the run's relative paths keep their meaning."""
    try:
        before = os.getcwd()
    except OSError:  # deleted
        before = None
    try:
        yield
    finally:
        if before is not None:
            with contextlib.suppress(OSError):
                os.chdir(before)


def import_optional(module: str, need: str, remedy: str, error: type[EsError] = ConfigError) -> Any:
    """A module that an extra of the package installs.

    Args:
        module: its name.
        need: what needs it, for the message.
        remedy: how to get it, for the message.
        error: class of the error if it can't be imported.
    """
    try:
        return importlib.import_module(module)
    except (ImportError, RuntimeError) as fault:
        raise error(f"{need} ({fault}); {remedy}") from fault


class _Unusable(Exception):  # noqa: N818 - becomes an error of the caller's class
    """The name's file or module can't be used."""


class _UnknownName(Exception):  # noqa: N818 - becomes an error of the caller's class
    """Nothing has this name."""


def _parsed(kind: str, name: str, builtin: Mapping[str, str], attribute: str | None) -> tuple[str, str]:
    """(file or module, attribute) of a name."""
    if name in builtin:
        reference = builtin[name]
    elif ":" in name or name.endswith(".py") or os.sep in name:
        reference = name
    else:
        reference = _entry_point(kind, name) or name
    if reference.endswith(".py") or Path(reference).is_file():
        if attribute is None:
            stem = Path(reference).stem
            raise _Unusable(f"expected the name of one of its functions too, such as {reference}:{stem}")
        return reference, attribute
    module, separator, wanted = reference.rpartition(":" if ":" in reference else ".")
    if not separator:
        raise _UnknownName
    return module, wanted


def _is_file(module: str) -> bool:
    return not module.replace(".", "").isidentifier() or module.endswith(".py") or Path(module).is_file()


def _entry_point(kind: str, name: str) -> str | None:
    """The reference of an installed package's entry point; None if no package has one of this name."""
    found = [point for point in _entry_points(kind) if point.name == name]
    if len({point.value for point in found}) > 1:
        packages = " and ".join(sorted(point.dist.name if point.dist else point.value for point in found))
        raise _Unusable(f"the installed packages {packages} both have an entry point of this name")
    return found[0].value.partition("[")[0].strip() if found else None


def _entry_points(kind: str) -> Any:
    from importlib.metadata import entry_points  # 50 ms

    return entry_points(group=f"es_llm.{kind.replace(' ', '_')}s")


def _hint(kind: str, name: str, builtin: Mapping[str, str]) -> str:
    """Advice for an unknown name: the nearest known names, all known names, and the other forms of a name."""
    known = sorted({*builtin, *(point.name for point in _entry_points(kind))})
    listed = f"known: {', '.join(known)}; or " if known else "expected "
    return f"{nearest(name, known)} ({listed}file.py:NAME, or package.module:NAME)"


def _instead(module: Any, wanted: str, attribute: str | None) -> str:
    """Advice for a name that a module doesn't have: a submodule of this name, or the nearest names."""
    full = f"{module.__name__}.{wanted}"
    if hasattr(module, "__path__") and importlib.util.find_spec(full) is not None:
        return f"; {full} is a module: expected {full}:{attribute or 'NAME'}"
    return nearest(wanted, [key for key, value in vars(module).items() if callable(value) and not key.startswith("_")])


def _reason(error: BaseException, file: str | None) -> str:
    """The class and message of an error on one line, and the last line of `file` that it passed through."""
    text = " ".join(f"{type(error).__name__}: {error}".split())[:_LONGEST]
    lines = [line for frame, line in traceback.walk_tb(error.__traceback__) if frame.f_code.co_filename == file]
    return f"{text} ({Path(file).name}, line {lines[-1]})" if lines and file else text


def _load_file(path: Path) -> Any:
    if not path.is_file():
        where = "" if path.is_absolute() else f" in {str(Path.cwd())!r}"
        raise _Unusable(f"no file {str(path)!r}{where}")
    path = path.resolve()
    name = f"{_PREFIX}{path.stem}_{hashlib.sha256(str(path).encode()).hexdigest()[:8]}"
    version = (path.stat().st_mtime_ns, path.stat().st_size)
    loaded = sys.modules.get(name)
    if loaded is not None and getattr(loaded, _VERSION, None) == version:
        return loaded
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise _Unusable(f"{str(path)!r} isn't a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        del sys.modules[name]
        raise _Unusable(f"{str(path)!r} fails to import: {_reason(error, str(path))}") from error
    setattr(module, _VERSION, version)
    return module


def _import(module: str) -> Any:
    try:
        return importlib.import_module(module)
    except (Exception, SystemExit) as error:
        raise _Unusable(f"module {module!r} fails to import: {_reason(error, None)}") from error
