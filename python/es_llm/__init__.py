"""Full-parameter fine-tuning of language models by Evolution Strategies.

Importing the package loads neither torch nor mpi4py. A public name loads its module at its first use.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from es_llm.config import ESConfig
    from es_llm.errors import EsError
    from es_llm.population import Population
    from es_llm.trainer import ESTrainer

    __version__: str

from es_llm.rewards.workers.system import open_standard_descriptors

__all__ = ["ESConfig", "ESTrainer", "EsError", "Population", "__version__"]

open_standard_descriptors()  # before this package opens a file

_HOME = {
    "ESConfig": "es_llm.config",
    "ESTrainer": "es_llm.trainer",
    "EsError": "es_llm.errors",
    "Population": "es_llm.population",
}


def __getattr__(name: str) -> Any:
    if name == "__version__":
        value: Any = _version()
    elif name in _HOME:
        value = getattr(importlib.import_module(_HOME[name]), name)
    else:
        raise AttributeError(f"module 'es_llm' has no attribute {name!r}")
    globals()[name] = value
    return value


def _version() -> str:
    """The installed version. It is read at first use, because `importlib.metadata` is slow to import."""
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("es_llm")
    except PackageNotFoundError:  # a source tree that was never installed
        return "0+unknown"


def __dir__() -> list[str]:
    return sorted(__all__)
