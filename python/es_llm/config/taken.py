"""`ESConfig` from the arguments of another trainer: TRL's `GRPOConfig`, or any `TrainingArguments` of transformers.

Knows the names of their options, imports neither library.
"""

from __future__ import annotations

import math
import warnings
from dataclasses import MISSING, dataclass, field, fields
from enum import Enum
from typing import Any, Final

from es_llm.config.es import DTYPES, ESConfig
from es_llm.config.replaced import ELSEWHERE, counterpart


@dataclass(frozen=True, kw_only=True)
class ModelSource:
    """How to load a model that is given by its name: revision, foreign code, implementation of attention."""

    model_revision: str | None = None
    trust_remote_code: bool = False
    attn_implementation: str | None = None


@dataclass(frozen=True, kw_only=True)
class HubTarget:
    """Where `push_to_hub` uploads to; None: the default of the hub."""

    model_id: str | None = None
    token: str | None = field(default=None, repr=False)
    private: bool | None = None
    revision: str | None = None


@dataclass(frozen=True, kw_only=True)
class Taken:
    """Arguments as `ESTrainer` uses them. `notice`: what was left out or means something else, one option a line."""

    config: ESConfig
    source: ModelSource = ModelSource()
    hub: HubTarget = HubTarget()
    notice: str = ""


def taken_from(args: Any, *, rows: int | None, loaded: bool) -> Taken:
    """Options that mean the same here, of those that differ from the defaults of their own class; a notice of the rest.

    Args:
        args: an object of a dataclass that extends transformers' `TrainingArguments`.
        rows: rows of the training data; None: a stream.
        loaded: the model is given as a module, so that `model_init_kwargs` come too late.

    Raises:
        ConfigError: a value that `ESConfig` refuses.
    """
    reading = _Reading(args, rows)
    reading.same()
    reading.length()
    for kind in ("logging", "eval", "save"):
        reading.every(kind)
    source = reading.model(loaded)
    hub = reading.hub()
    reading.rest()
    return Taken(config=ESConfig(**reading.options), source=source, hub=hub, notice=reading.notice())


class _Reading:
    """One pass over the options: each step takes those that it knows out of `given`."""

    def __init__(self, args: Any, rows: int | None) -> None:
        self._args, self._rows = args, rows
        self.given = _given(args)
        self.options: dict[str, Any] = {}
        self._told: dict[str, str] = {}

    def same(self) -> None:
        """Options that have the same name and meaning."""
        for name in _SAME:
            if name in self.given:
                self.options[name] = self.given.pop(name)
        if self.options.get("metric_for_best_model") in ("loss", "eval_loss"):
            self._leave("metric_for_best_model", self.options.pop("metric_for_best_model"))
            self.options.pop("greater_is_better", None)
        if self.options.get("greater_is_better", True) is None:
            del self.options["greater_is_better"]

    def length(self) -> None:
        """`max_steps`, or epochs as that many iterations: ceil(epochs * rows / prompts of an iteration)."""
        epochs, steps = self.given.pop("num_train_epochs", None), self.given.pop("max_steps", None)
        if steps is not None and steps > 0:
            self.options["max_steps"] = steps
        elif epochs is not None and self._rows:
            per_iteration = min(ESConfig().prompts_per_iteration, self._rows)
            steps = self.options["max_steps"] = max(1, math.ceil(epochs * self._rows / per_iteration))
            self._tell(
                "num_train_epochs", epochs, f"{steps} iterations (`max_steps`): {self._rows} rows, {per_iteration} each"
            )
        elif epochs is not None:
            why = f"nobody knows the length of a stream; the run has {ESConfig().max_steps} iterations (`max_steps`)"
            self._tell("num_train_epochs", epochs, why)

    def every(self, kind: str) -> None:
        """`logging_steps`, `eval_steps` or `save_steps`: in iterations, as a share of the run, or once per epoch."""
        strategy, name = f"{kind}_strategy", f"{kind}_steps"
        how = _plain(getattr(self._args, strategy, "steps"))
        asked = self.given.pop(strategy, None) is not None
        steps = self.given.pop(name, None)
        if how == "epoch":
            if self._rows:
                self.options[name] = math.ceil(self._rows / min(ESConfig().prompts_per_iteration, self._rows))
            else:
                self._tell(strategy, how, "nobody knows the length of a stream; see `" + name + "`")
        elif how == "steps":
            steps = getattr(self._args, name) if steps is None and asked else steps
            if steps is not None:
                whole = self.options.get("max_steps", ESConfig().max_steps)
                self.options[name] = math.ceil(steps * whole) if 0 < steps < 1 else int(steps)
        elif how == "no" and kind == "logging":
            self._leave(strategy, how)
        elif steps is not None:
            self._tell(name, steps, f"`{strategy}` is {how}")

    def model(self, loaded: bool) -> ModelSource:
        """The type of the live weights, their device, and how to load a model by its name."""
        args = self._args
        kwargs = dict(self.given.pop("model_init_kwargs", None) or {})
        kwargs = {key: value for key, value in kwargs.items() if value is not None}
        if loaded:
            self._leave_each(kwargs, "the model is given as a module, loaded already")
            kwargs = {}
        revision, attention = kwargs.pop("revision", None), kwargs.pop("attn_implementation", None)
        trust = bool(kwargs.pop("trust_remote_code", False) or getattr(args, "trust_remote_code", False))
        self.given.pop("trust_remote_code", None)
        self._type(kwargs)
        self._leave_each(kwargs)
        if getattr(args, "use_cpu", False):
            self.options["device"] = "cpu"
        if revision == "main":
            revision = None
        return ModelSource(model_revision=revision, trust_remote_code=trust, attn_implementation=attention)

    def _type(self, kwargs: dict[str, Any]) -> None:
        """Masters are float32 in any case, so mixed precision is a type of the live weights."""
        asked = str(kwargs.get("dtype") or kwargs.get("torch_dtype") or "auto").removeprefix("torch.")
        if asked in DTYPES:
            self.options["dtype"] = asked
        if asked in (*DTYPES, "auto"):
            kwargs.pop("dtype", None)
            kwargs.pop("torch_dtype", None)
        for flag, dtype in (("bf16", "bfloat16"), ("fp16", "float16")):
            self.given.pop(flag, None)
            if getattr(self._args, flag, False):
                self.options["dtype"] = dtype

    def hub(self) -> HubTarget:
        """The options of `push_to_hub`."""
        return HubTarget(
            model_id=self.given.pop("hub_model_id", None),
            token=self.given.pop("hub_token", None),
            private=self.given.pop("hub_private_repo", None),
            revision=self.given.pop("hub_revision", None),
        )

    def rest(self) -> None:
        """What belongs to backpropagation, to GRPO, or to another trainer, but not what follows from other options."""
        args, given = self._args, self.given
        for name in ("", "_kwargs"):  # two names for one option
            if given.get(f"gradient_checkpointing{name}") == given.get(f"activation_checkpointing{name}"):
                given.pop(f"activation_checkpointing{name}", None)
        accumulated = getattr(args, "gradient_accumulation_steps", 1)
        if getattr(args, "steps_per_generation", None) == accumulated:  # it is derived, and so is the batch
            given.pop("steps_per_generation", None)
            if given.get("generation_batch_size") == args.per_device_train_batch_size * args.world_size * accumulated:
                del given["generation_batch_size"]
        for name, value in given.items():
            if name not in _FULFILLED:
                self._leave(name, value)

    def notice(self) -> str:
        """One text for all that was left out or means something else; empty if nothing."""
        if not self._told:
            return ""
        lines = "".join(f"\n  {what}: {why}" for what, why in self._told.items())
        return (
            f"{type(self._args).__name__}: these options belong to another method; they are left out, or mean what is "
            f"written beside them. Evolution Strategies have options of their own, see `ESConfig`.{lines}"
        )

    def _leave_each(self, kwargs: dict[str, Any], why: str | None = None) -> None:
        for key, value in kwargs.items():
            self._tell(f"model_init_kwargs[{key!r}]", value, why or _LOADING.get(key) or counterpart(key) or _UNKNOWN)

    def _leave(self, name: str, value: Any) -> None:
        self._tell(name, value, ELSEWHERE.get(name) or counterpart(name) or _UNKNOWN)

    def _tell(self, name: str, value: Any, why: str) -> None:
        shown = "..." if name.endswith("token") else repr(_plain(value))
        self._told[f"{name}={shown[:_SHOWN]}{'...' if len(shown) > _SHOWN else ''}"] = why


_SAME: Final = (
    "output_dir", "seed", "max_completion_length", "shuffle_dataset", "chat_template_kwargs", "reward_weights",
    "save_total_limit", "log_completions", "num_completions_to_print", "report_to", "run_name", "eval_on_start",
    "resume_from_checkpoint", "metric_for_best_model", "greater_is_better",
)  # fmt: skip
_FULFILLED: Final = {"local_rank", "do_train", "do_eval", "full_determinism", "use_cpu", "disable_tqdm"}
"""What is so in any case, or decides nothing."""
_LOADING: Final = {"device_map": "see `device`: each rank holds a whole model"}
_UNKNOWN: Final = "there is nothing like it here"
_SHOWN: Final = 100


def _given(args: Any) -> dict[str, Any]:
    """Options that differ from the default of their class, and from what the class makes of its defaults."""
    derived = _reference(args)
    given: dict[str, Any] = {}
    for spec in fields(args):
        value = getattr(args, spec.name, None)
        default = spec.default_factory() if spec.default_factory is not MISSING else spec.default
        known = (default, getattr(derived, spec.name, default))
        if not any(_plain(value) == _plain(other) or (_empty(value) and _empty(other)) for other in known):
            given[spec.name] = value
    return given


def _reference(args: Any) -> Any:
    """An object of the same class with its defaults on the same hardware; None if the class needs more than these."""
    names = {spec.name for spec in fields(args) if spec.init}
    hardware = {name: getattr(args, name) for name in ("use_cpu", "bf16", "fp16") if name in names}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return type(args)(**hardware)
    except Exception:  # a class of the user's may want anything
        return None


def _plain(value: Any) -> Any:
    return value.value if isinstance(value, Enum) else value


def _empty(value: Any) -> bool:
    return value is None or (isinstance(value, str | list | tuple | dict) and not value)
