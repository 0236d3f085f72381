"""The ranks of a run under the names of accelerate, for scripts that print or wait through `trainer.accelerator`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from es_llm.team import Team


class Processes:
    """The part of an `Accelerator` that is about processes; it prepares, wraps and reduces nothing.

    process_index: this rank. num_processes: the number of ranks at the start of the job.
    local_process_index: the rank among those of its host. is_local_main_process: true on the first rank of a host.
    """

    def __init__(self, team: Team, state: Any, device: Any, *, wait: Callable[[], None]) -> None:
        self._state, self.device, self._wait = state, device, wait
        self.process_index, self.num_processes = team.rank, team.size
        self.local_process_index = team.local_rank
        self.is_local_main_process = team.local_rank == 0

    @property
    def is_main_process(self) -> bool:
        """True on the rank that leads."""
        return bool(self._state.is_world_process_zero)

    def print(self, *texts: Any, **options: Any) -> None:
        """Print on the leading rank alone."""
        if self.is_main_process:
            print(*texts, **options)

    def wait_for_everyone(self) -> None:
        """Return when all ranks have called it."""
        self._wait()

    def unwrap_model(self, model: Any, **options: Any) -> Any:
        """The model itself: nothing is wrapped around it."""
        return model

    def __getattr__(self, name: str) -> Any:
        reason = "ranks are processes under mpirun that exchange scalars alone"
        if name in _OF_BACKPROPAGATION:
            reason = "there are no gradients and no optimizer"
        raise AttributeError(f"`accelerator` has no attribute {name!r}: {reason}", name=name, obj=self)


_OF_BACKPROPAGATION: Final = {"backward", "accumulate", "clip_grad_norm_", "prepare", "autocast", "sync_gradients"}
