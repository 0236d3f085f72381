"""`ESConfig` from the arguments of another trainer: TRL's `GRPOConfig`, or any `TrainingArguments` of transformers.

Knows the names of their options; imports neither library.
"""

from __future__ import annotations

import math
import warnings
from dataclasses import MISSING, dataclass, field, fields
from enum import Enum
from typing import Any, Final

from es_llm._core import DTYPES
from es_llm.config.es import ESConfig
from es_llm.config.foreign import counterpart, foreign_options


@dataclass(frozen=True, kw_only=True)
class ModelSource:
    """How to load a model by its name: revision, whether to run its code, implementation of attention."""

    model_revision: str | None = None
    trust_remote_code: bool = False
    attn_implementation: str | None = None


@dataclass(frozen=True, kw_only=True)
class HubTarget:
    """Where `push_to_hub` uploads to; None is the hub's default."""

    model_id: str | None = None
    token: str | None = field(default=None, repr=False)
    private: bool | None = None
    revision: str | None = None


@dataclass(frozen=True, kw_only=True)
class Adopted:
    """Another trainer's arguments in our terms. `notice` lists the options that were left out or mean something else,
    one per line."""

    config: ESConfig
    source: ModelSource = ModelSource()
    hub: HubTarget = HubTarget()
    notice: str = ""


def adopt_arguments(args: Any, *, rows: int | None, loaded: bool) -> Adopted:
    """Take over the options that differ from their class's defaults and mean the same here; list the others."""
    adoption = _Adoption(args, rows)
    adoption.same_options()
    adoption.length()
    for kind in ("logging", "eval", "save"):
        adoption.interval(kind)
    source = adoption.model_source(loaded)
    hub = adoption.hub_target()
    adoption.leave_rest()
    return Adopted(config=ESConfig(**adoption.options), source=source, hub=hub, notice=adoption.notice())


class _Adoption:
    """One pass over the options. Each method takes the options that it knows out of `given`."""

    def __init__(self, args: Any, rows: int | None) -> None:
        self._args, self._rows = args, rows
        self._epoch = math.ceil(rows / min(ESConfig().prompts_per_iteration, rows)) if rows else None
        self.given = _given(args)
        self.options: dict[str, Any] = {}
        self._notes: dict[str, str] = {}

    def same_options(self) -> None:
        self.options = {name: self.given.pop(name) for name in _SAME if name in self.given}
        if self.options.get("metric_for_best_model") in ("loss", "eval_loss"):
            self._leave("metric_for_best_model", self.options.pop("metric_for_best_model"))
            self.options.pop("greater_is_better", None)
        if self.options.get("greater_is_better", True) is None:
            del self.options["greater_is_better"]

    def length(self) -> None:
        """Take `max_steps`, or turn epochs into iterations: ceil(epochs * rows / prompts per iteration)."""
        epochs, steps = self.given.pop("num_train_epochs", None), self.given.pop("max_steps", None)
        if steps is not None and steps > 0:
            self.options["max_steps"] = steps
        elif epochs is not None and self._rows:
            per_iteration = min(ESConfig().prompts_per_iteration, self._rows)
            steps = self.options["max_steps"] = max(1, math.ceil(epochs * self._rows / per_iteration))
            reason = f"{steps} iterations (`max_steps`): {self._rows} rows, {per_iteration} per iteration"
            self._note("num_train_epochs", epochs, reason)
        elif epochs is not None:
            reason = f"{_STREAM}; the run has {ESConfig().max_steps} iterations (`max_steps`)"
            self._note("num_train_epochs", epochs, reason)

    def interval(self, kind: str) -> None:
        """Take `logging_steps`, `eval_steps` or `save_steps`: in iterations, as a share of the run, or per epoch."""
        strategy, name = f"{kind}_strategy", f"{kind}_steps"
        value = _plain(getattr(self._args, strategy, "steps"))
        is_set = self.given.pop(strategy, None) is not None
        steps = self.given.pop(name, None)
        if value == "epoch" and self._epoch is not None:
            self.options[name] = self._epoch
        elif value == "epoch":
            self._note(strategy, value, f"{_STREAM}; see `{name}`")
        elif value == "steps":
            steps = getattr(self._args, name) if steps is None and is_set else steps
            if steps is not None:
                length = self.options.get("max_steps", ESConfig().max_steps)
                self.options[name] = math.ceil(steps * length) if 0 < steps < 1 else int(steps)
        elif value == "no" and kind == "logging":
            self._leave(strategy, value)
        elif steps is not None:
            self._note(name, steps, f"`{strategy}` is {value}")

    def model_source(self, loaded: bool) -> ModelSource:
        kwargs = self.given.pop("model_init_kwargs", None) or {}
        kwargs = {key: value for key, value in kwargs.items() if value is not None}
        if loaded:
            self._leave_kwargs(kwargs, "the model is given as a module, which is already loaded")
            kwargs = {}
        revision, attention = kwargs.pop("revision", None), kwargs.pop("attn_implementation", None)
        trust = bool(kwargs.pop("trust_remote_code", False) or getattr(self._args, "trust_remote_code", False))
        self.given.pop("trust_remote_code", None)
        self._dtype(kwargs)
        self._leave_kwargs(kwargs)
        if getattr(self._args, "use_cpu", False):
            self.options["device"] = "cpu"
        revision = None if revision == "main" else revision
        return ModelSource(model_revision=revision, trust_remote_code=trust, attn_implementation=attention)

    def _dtype(self, kwargs: dict[str, Any]) -> None:
        """Take the type of the live weights. Masters are always float32, so mixed precision is such a type too."""
        value = str(kwargs.get("dtype") or kwargs.get("torch_dtype") or "auto").removeprefix("torch.")
        if value in DTYPES:
            self.options["dtype"] = value
        if value in (*DTYPES, "auto"):
            kwargs.pop("dtype", None)
            kwargs.pop("torch_dtype", None)
        for flag, dtype in (("bf16", "bfloat16"), ("fp16", "float16")):
            self.given.pop(flag, None)
            if getattr(self._args, flag, False):
                self.options["dtype"] = dtype

    def hub_target(self) -> HubTarget:
        return HubTarget(
            model_id=self.given.pop("hub_model_id", None),
            token=self.given.pop("hub_token", None),
            private=self.given.pop("hub_private_repo", None),
            revision=self.given.pop("hub_revision", None),
        )

    def leave_rest(self) -> None:
        """List the remaining options: those of backpropagation, of GRPO or of a user's own class. Options whose values
        follow from others are not listed."""
        args, given = self._args, self.given
        for suffix in ("", "_kwargs"):  # two names for one option
            if given.get(f"gradient_checkpointing{suffix}") == given.get(f"activation_checkpointing{suffix}"):
                given.pop(f"activation_checkpointing{suffix}", None)
        accumulated = getattr(args, "gradient_accumulation_steps", 1)
        if getattr(args, "steps_per_generation", None) == accumulated:  # derived, and so is the batch
            given.pop("steps_per_generation", None)
            if given.get("generation_batch_size") == args.per_device_train_batch_size * args.world_size * accumulated:
                del given["generation_batch_size"]
        for name, value in given.items():
            if name not in _NO_EFFECT:
                self._leave(name, value)

    def notice(self) -> str:
        if not self._notes:
            return ""
        lines = "".join(f"\n  {option}: {reason}" for option, reason in self._notes.items())
        return (
            f"{type(self._args).__name__}: these options belong to another method. They are left out, or have the "
            f"meaning given below. `ESConfig` has the options of Evolution Strategies.{lines}"
        )

    def _leave_kwargs(self, kwargs: dict[str, Any], reason: str | None = None) -> None:
        for key, value in kwargs.items():
            known = "see `device`: each rank holds a whole model" if key == "device_map" else counterpart(key)
            self._note(f"model_init_kwargs[{key!r}]", value, reason or known or _UNKNOWN)

    def _leave(self, name: str, value: Any) -> None:
        self._note(name, value, foreign_options("other_meaning").get(name) or counterpart(name) or _UNKNOWN)

    def _note(self, name: str, value: Any, reason: str) -> None:
        text = "..." if name.endswith("token") else repr(_plain(value))
        self._notes[f"{name}={text[:_SHOWN]}{'...' if len(text) > _SHOWN else ''}"] = reason


_SAME: Final = (
    "output_dir", "seed", "max_completion_length", "shuffle_dataset", "chat_template_kwargs", "reward_weights",
    "save_total_limit", "log_completions", "num_completions_to_print", "report_to", "run_name", "eval_on_start",
    "resume_from_checkpoint", "metric_for_best_model", "greater_is_better",
)  # fmt: skip
_NO_EFFECT: Final = {"local_rank", "do_train", "do_eval", "full_determinism", "use_cpu", "disable_tqdm"}
"""Options that are always fulfilled, or decide nothing."""
_STREAM: Final = "the length of a stream is unknown"
_UNKNOWN: Final = "there is no such option here"
_SHOWN: Final = 100


def _given(args: Any) -> dict[str, Any]:
    """The options that differ from the defaults of their class, and from what the class derives from its defaults."""
    derived = _defaults_of_class(args)
    given: dict[str, Any] = {}
    for spec in fields(args):
        value = getattr(args, spec.name, None)
        default = spec.default_factory() if spec.default_factory is not MISSING else spec.default
        if all(_comparable(value) != _comparable(known) for known in (default, getattr(derived, spec.name, default))):
            given[spec.name] = value
    return given


def _defaults_of_class(args: Any) -> Any:
    """An object of the same class with its defaults on the same hardware; None if the class needs more arguments."""
    names = {spec.name for spec in fields(args) if spec.init}
    hardware = {name: getattr(args, name) for name in ("use_cpu", "bf16", "fp16") if name in names}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return type(args)(**hardware)
    except Exception:  # a user's class may require any argument
        return None


def _plain(value: Any) -> Any:
    return value.value if isinstance(value, Enum) else value


def _comparable(value: Any) -> Any:
    """The value of an enum's member; None for an empty text or collection, which trainers treat alike."""
    plain = _plain(value)
    return None if isinstance(plain, str | list | tuple | dict) and not plain else plain
