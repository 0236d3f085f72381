"""`ScriptArguments`: model, task, data and rewards of a run that the command line starts; the rest is in `ESConfig`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from es_llm.config.checks import check_options
from es_llm.config.fields import POSITIVE, option

DEFAULT_TASK: Final = "countdown"


@dataclass(frozen=True, kw_only=True)
class ScriptArguments:
    """Options of the command line beside `ESConfig`."""

    model_name_or_path: str | None = option(
        None, help="local directory, hub id or GGUF file; default: the embedded tiny model", topic="Model"
    )
    model_revision: str | None = option(None, help="branch, tag or commit of a hub id")
    trust_remote_code: bool = option(False, help="run code that comes with the model")

    task: str | None = option(
        None,
        help="name of the task, reasoning_gym:NAME, path/to/file.py, file.py:NAME, or package.module:NAME; "
        f"default: {DEFAULT_TASK}, or no task with `dataset_name`",
        identity=True,
        topic="Task and data",
    )
    task_args: dict[str, Any] = option({}, help="options of the task, as name=value", identity=True)
    dataset_name: str | None = option(
        None,
        help="rows to use in place of the task's own: hub id, directory, or file (json, jsonl, csv, tsv, also "
        "compressed as .gz, .bz2, .xz, .zst; parquet, arrow); each row has a `prompt`, or the columns that the task "
        "reads",
        identity=True,
    )
    dataset_config: str | None = option(None, help="configuration of the data set", identity=True)
    dataset_train_split: str = option("train", help="split to train on, or a slice such as train[:1000]", identity=True)
    dataset_test_split: str = option(
        "test",
        help="split to evaluate on; by default a data set without a split named test is not evaluated",
        identity=True,
    )
    dataset_streaming: bool = option(
        False,
        help="read rows only when they are needed, in their order; for held-out rows see max_eval_samples",
        identity=True,
    )
    max_eval_samples: int | None = option(
        None,
        help="evaluate on the first N rows of the test split; default: all rows, or 1000 rows of a stream",
        identity=True,
        within=POSITIVE,
    )
    dataset_columns: dict[str, Any] = option(
        {}, help="columns to rename, as old=new, such as question=prompt", identity=True
    )
    reward_funcs: list[str] = option(
        [],
        help="reward functions that replace the task's: file.py:NAME, package.module:NAME, or the name of an "
        "installed package's entry point",
        identity=True,
        topic="Rewards",
    )

    comm: str = option(
        "auto",
        help="how ranks communicate; auto: by MPI if mpirun or srun started the process, else one process",
        choices=("auto", "single", "mpi"),
        topic="Ranks",
    )

    def __post_init__(self) -> None:
        check_options(self)
