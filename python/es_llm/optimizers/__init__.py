"""Optimizers by name: how the masters move along the direction of an iteration. A new optimizer is one new file.

    direction   g = (1/N) * sum over the pairs p of coefficient_p * noise_p          (the same for every optimizer)
    step        master, state = optimizer.step(master, g, record, state)             (its own rule)

The coefficients are shaped fitness (`Record.coefficients`), N is the number of members, and 1/sigma is folded into
the learning rate as in Qiu et al. (arXiv 2509.24372). An optimizer in another package is found by an entry point in
the group `es_llm.optimizers`, or by `file.py:NAME`. Its state is float32 tensors, one for each name and
each trained tensor. Replay rebuilds the state, snapshots save it, ranks compare it, and it is reset with the masters.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, final

from es_llm.errors import ConfigError
from es_llm.plugins import guarded, load_function, names_in

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray

    from es_llm._core import Record
    from es_llm.config import ESConfig


class Optimizer(ABC):
    """A rule that moves the masters. A run has one instance for all tensors.

    Every machine must compute the same bits. So a rule uses only torch's additions, multiplications and divisions of
    tensors, each rounded separately, and `square_root`, and no reduction over a tensor. It doesn't divide a tensor by a
    number, which torch rounds differently on CUDA devices, but multiplies by the reciprocal.
    """

    state_names: tuple[str, ...] = ()
    """Names of the state tensors. Each one starts as zeros, in the shape of the master."""
    elementwise: bool = False
    """True: each weight's step depends on its own direction and state alone. Then `step` may get a part of a tensor,
    with one dimension, which stays in the processor's caches."""

    def __init__(self, config: ESConfig | None = None) -> None:
        self.config = config

    @abstractmethod
    def step(
        self, master: torch.Tensor, direction: torch.Tensor, record: Record, state: Mapping[str, torch.Tensor]
    ) -> None:
        """Move `master` by one iteration and update the tensors of `state`. Both change in their own memory.

        Not called for an iteration whose coefficients are all 0: it changes neither weights nor state.

        Args:
            master: float32 weights of one tensor.
            direction: g of the tensor, float32; may be overwritten.
            record: the iteration; `record.learning_rate` is its rate.
            state: the tensor's state by name.
        """

    def fused_coefficients(self, record: Record) -> NDArray[np.float32] | None:
        """(P,) the factor of each pair's noise, if the step is exactly the sum of factor * noise: then one pass over
        the master computes direction and step together. None: `step` needs the direction."""
        return None


def square_root(tensor: torch.Tensor) -> torch.Tensor:
    """The square roots of float32 values, rounded correctly on every machine; torch's own aren't in host memory.

    A root in float64 with an error of its last bit is right after it is rounded to float32: the root of a float32 value
    is never so near to the middle between two of them.
    """
    return tensor.double().sqrt_().float()


def require_share(name: str, value: float) -> float:
    """A number in [0, 1), such as a factor of momentum.

    Raises:
        ConfigError: it isn't one.
    """
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0.0 <= value < 1.0:
        raise ConfigError(f"`{name}` must be a number in [0, 1), got {value!r}")
    return float(value)


BUILTIN: Final = names_in(__name__, __path__, "build")
"""Name of an optimizer of this package -> where it is."""


def load_optimizer(name: str, config: ESConfig) -> CheckedOptimizer:
    """The optimizer of a name, for a run with these options.

    Raises:
        ConfigError: there is no such optimizer, its file can't be used, or it is no `Optimizer`.
    """
    where, base = f"optimizer {name!r}", f"`{Optimizer.__module__}.{Optimizer.__name__}`"
    build = load_function("optimizer", name, BUILTIN, attribute="build")
    if isinstance(build, type) and not issubclass(build, Optimizer):
        raise ConfigError(f"{where}: the class {build.__name__} must be a subclass of {base}")
    made = guarded(where, build)(config, **config.optim_args)
    if not isinstance(made, Optimizer):
        raise ConfigError(f"{where} must make an {base}, got {type(made).__name__}")
    return CheckedOptimizer(made, where)


@final
class CheckedOptimizer:
    """An optimizer of a run. An error in it, and what it may not do, ends the run with one line.

    Args:
        optimizer: the rule.
        where: begins each message: "optimizer 'rms.py'".
    """

    def __init__(self, optimizer: Optimizer, where: str) -> None:
        self._where, self._optimizer = where, optimizer
        self.state_names = names = optimizer.state_names
        self.elementwise = optimizer.elementwise
        if not isinstance(names, tuple | list) or not all(isinstance(name, str) for name in names):
            raise ConfigError(f"{where}: `state_names` must be a tuple of names, got {names!r}")
        if len({*names}) < len(names):
            raise ConfigError(f"{where}: the names in `state_names` must differ, got {names!r}")

    def step(
        self,
        parameter: str,
        master: torch.Tensor,
        direction: torch.Tensor,
        record: Record,
        state: Mapping[str, torch.Tensor],
    ) -> None:
        """The optimizer's step for the parameter of this name. Refuses a result, which would have no effect, a tensor
        that isn't changed in place, and values that aren't finite."""
        tensors = {f"the weights of `{parameter}`": master}
        tensors |= {f"the state {name!r} of `{parameter}`": tensor for name, tensor in state.items()}
        before = [_layout(tensor) for tensor in tensors.values()]
        returned: Any = guarded(self._where, self._optimizer.step)(master, direction, record, MappingProxyType(state))
        if returned is not None:
            raise ConfigError(
                f"{self._where}: `step` must change `master` and `state` in place and return None, got "
                f"{type(returned).__name__}"
            )
        for (what, tensor), expected in zip(tensors.items(), before, strict=True):
            self._require_layout(what, expected, _layout(tensor))
        self.require_finite(tensors, record)

    def fused_coefficients(self, record: Record) -> NDArray[np.float32] | None:
        """The optimizer's own. Refuses anything but None and (P,) finite float32 numbers."""
        import numpy as np

        given: Any = guarded(self._where, self._optimizer.fused_coefficients)(record)
        if given is None:
            return None
        pairs, is_array = len(record.coefficients), isinstance(given, np.ndarray)
        if is_array and given.dtype == np.float32 and given.shape == (pairs,) and np.isfinite(given).all():
            coefficients: NDArray[np.float32] = given
            return coefficients
        got = f"{given.dtype} of shape {list(given.shape)}: " if is_array else ""
        raise ConfigError(
            f"{self._where}: `fused_coefficients` must return None, or a finite float32 number for each of the {pairs} "
            f"pairs, as an array of shape [{pairs}], got {got}{' '.join(repr(given).split()):.80}"
        )

    def require_finite(self, tensors: Mapping[str, torch.Tensor], record: Record) -> None:
        """Refuse NaN and infinite values in any of these tensors after the step of an iteration. Waits once for the
        device."""
        import torch

        # Least and greatest values are NaN if any value is, and are found faster than values that aren't finite.
        ends = torch.stack([end for tensor in tensors.values() if tensor.numel() for end in torch.aminmax(tensor)])
        if bool(ends.isfinite().all()):
            return
        for what, tensor in tensors.items():
            if count := int(tensor.isfinite().logical_not().sum()):
                raise ConfigError(
                    f"{self._where}: iteration {record.iteration + 1} made {count} of {tensor.numel()} values NaN or "
                    f"infinite in {what}, so the run stops. Start a new run with a changed optimizer: a run can't be "
                    f"resumed with another one. `es-llm replay` with `--iterations {record.iteration}` rebuilds the "
                    "weights before this iteration"
                )

    def _require_layout(self, what: str, expected: Mapping[str, Any], got: Mapping[str, Any]) -> None:
        for name, value in expected.items():
            if got[name] != value:
                raise ConfigError(
                    f"{self._where}: `step` must change values in place, but it changed the {name} of {what}: expected "
                    f"{value}, got {got[name]}"
                )


def _layout(tensor: torch.Tensor) -> dict[str, Any]:
    """What a step may not change in a tensor, by name. Other tensors share the memory of a master."""
    return {
        "type": tensor.dtype,
        "shape": list(tensor.shape),
        "strides": tensor.stride(),
        "device": tensor.device,
        "memory address": tensor.data_ptr(),
        "requires_grad": tensor.requires_grad,
    }
