"""Rows as they are: data with a `prompt`, and rewards that the user names."""

from __future__ import annotations

from es_llm.errors import ConfigError
from es_llm.tasks.base import Splits, Task


def build(*, data: Splits | None = None) -> Task:
    """The task of a data set alone.

    Raises:
        ConfigError: there is no data set.
    """
    if data is None:
        raise ConfigError("task `rows` needs `dataset_name`, got none")
    return Task(name="rows", train=data.train, eval=list(data.eval), reward_funcs=())
