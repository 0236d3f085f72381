"""`ScriptArguments`: what to train, on what, with which rewards; the options of the command line beside `ESConfig`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from es_llm.config.checks import check_types, require
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
    task: str | None = option(
        None,
        help="name of the task, or reasoning_gym:<data set>; default: countdown, or none with `dataset_name`",
        identity=True,
    )
    task_args: dict[str, Any] = option({}, help="options of the task, as name=value", identity=True)
    dataset_name: str | None = option(
        None,
        help="hub id, directory, or file (json, jsonl, csv, tsv, also packed as .gz, .bz2, .xz, .zst; parquet, arrow) "
        "of rows with a `prompt`, or as the task wants them, in place of the task's own",
        identity=True,
    )
    dataset_config: str | None = option(None, help="which configuration of the data set", identity=True)
    dataset_train_split: str = option("train", help="split to train on, or a slice such as train[:1000]", identity=True)
    dataset_test_split: str = option("test", help="split to evaluate on; none if the data set hasn't it", identity=True)
    dataset_streaming: bool = option(
        False,
        help="read rows as they are needed, in their order; held-out ones too, see max_eval_samples",
        identity=True,
    )
    max_eval_samples: int | None = option(
        None,
        help="rows of the test split to evaluate on at most, its first ones; default: all, but 1000 of a stream",
        identity=True,
    )
    dataset_columns: dict[str, Any] = option(
        {}, help="columns to rename, as old=new, such as question=prompt", identity=True
    )
    reward_funcs: list[str] = option(
        [],
        help="reward functions in place of the task's: package.module.function or file.py:function",
        identity=True,
    )
    comm: str = option("auto", help="auto: MPI when started by mpirun or srun, else one process", choices=COMMUNICATORS)

    def __post_init__(self) -> None:
        """Check every value (see the class)."""
        check_types(self)
        require(self, "max_eval_samples", lambda v: v is None or v > 0, "an integer > 0, or none")
