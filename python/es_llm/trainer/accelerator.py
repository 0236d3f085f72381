"""The ranks of a run under the names of accelerate, for scripts that print or wait through `trainer.accelerator`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from es_llm.team import Team


class Processes:
    """The part of an `Accelerator` that is about processes; it prepares, wraps and reduces nothing."""

    def __init__(self, team: Team, state: Any, device: Any, *, wait: Callable[[], None]) -> None:
        self._team, self._state, self.device, self._wait = team, state, device, wait

    @property
    def is_main_process(self) -> bool:
        """True on the rank that leads."""
        return bool(self._state.is_world_process_zero)

    @property
    def is_local_main_process(self) -> bool:
        """True on the first rank of a host."""
        return self._team.local_rank == 0

    @property
    def process_index(self) -> int:
        """This rank."""
        return self._team.rank

    @property
    def local_process_index(self) -> int:
        """The rank among those of its host."""
        return self._team.local_rank

    @property
    def num_processes(self) -> int:
        """The number of ranks at the start of the job."""
        return self._team.size

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
