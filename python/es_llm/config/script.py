"""`ScriptArguments`: what to train, on what, with which rewards; the options of the command line beside `ESConfig`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from es_llm.config.checks import check_types
from es_llm.config.fields import option

COMMUNICATORS = ("auto", "single", "mpi")


@dataclass(frozen=True, kw_only=True)
class ScriptArguments:
    """Model, task and communication of a run started from the command line.

    Raises:
        ConfigError: a value of another type than declared.
    """

    model_name_or_path: str | None = option(None, help="local directory or hub id; default: the embedded tiny model")
    model_revision: str | None = option(None, help="branch, tag or commit of a hub id")
    trust_remote_code: bool = option(False, help="run code that comes with the model")
    task: str = option("countdown", help="name of the task", identity=True)
    task_args: dict[str, Any] = option({}, help="options of the task, as name=value", identity=True)
    reward_funcs: list[str] = option(
        [],
        help="reward functions in place of the task's: package.module.function or file.py:function",
        identity=True,
    )
    comm: str = option("auto", help="auto: MPI when started by mpirun or srun, else one process", choices=COMMUNICATORS)

    def __post_init__(self) -> None:
        """Check every value (see the class)."""
        check_types(self)
