"""`ESConfig`: how to train. Defaults are those of Qiu et al. (arXiv 2509.24372) for language models."""

from __future__ import annotations

import json
import re
from dataclasses import asdict, dataclass
from typing import Any

from es_llm.config.checks import check_types, make_plain, require
from es_llm.config.fields import option, refuse_unknown
from es_llm.config.replaced import counterpart, unknown_option

DTYPES = ("float32", "bfloat16", "float16")
SHAPING_RULES = ("zscore", "centered_rank")
CHAT_FORMS = ("auto", "chat", "raw")
FAILURE_POLICIES = ("zero", "worst", "drop_prompt", "raise")
SCHEDULES = ("dynamic", "static")
MASTER_DEVICES = ("auto", "device", "cpu")


@refuse_unknown(unknown_option)
@dataclass(frozen=True, kw_only=True)
class ESConfig:
    """Options of a training run by Evolution Strategies.

    Names follow TRL and transformers where the meaning is the same, the paper where it is about ES:
    theta += learning_rate * (1 / population_size) * sum_n Z_n * noise_n, members evaluated at
    theta + sigma * noise_n (`learning_rate` is the paper's alpha with 1/sigma folded in).

    Raises:
        ConfigError: a value out of range; the message names the option, the value and what is expected. Or an option
            that doesn't exist here, such as one of GRPO's; the message names its counterpart.
    """

    output_dir: str | None = option(
        None, help="directory of the run; default: the first free runs/<model>-<task>-<number>"
    )
    seed: int = option(42, help="seed of the noise and of the order of the data; 0 is valid", identity=True)

    population_size: int = option(30, help="members N per iteration", identity=True)
    sigma: float = option(1e-3, help="noise scale: members are theta + sigma * noise", identity=True)
    learning_rate: float = option(5e-4, help="the paper's alpha, with 1/sigma folded in", identity=True)
    antithetic: bool = option(False, help="members come in mirrored pairs that share their noise", identity=True)
    shaping: str = option("zscore", help="how fitness becomes coefficients", identity=True, choices=SHAPING_RULES)
    failure_policy: str = option(
        "worst",
        help="the value of a failed reward: zero, the worst reward of the iteration, drop_prompt "
        "(for every member), or raise",
        identity=True,
        choices=FAILURE_POLICIES,
    )

    max_steps: int = option(500, help="iterations in all; a resumed run may raise it")
    prompts_per_iteration: int = option(
        200,
        help="prompts that every member answers per iteration; at most the size of the data set",
        identity=True,
    )
    prompts_per_unit: int = option(
        64, help="prompts of one unit of work, generated as one batch by one rank", identity=True
    )
    prompt_schedule: str = option(
        "epochs",
        help="which prompts an iteration asks: the next ones of the training data, epoch after epoch (epochs), or the "
        "same ones each time, the first of the data, as in the paper (fixed)",
        identity=True,
        choices=("epochs", "fixed"),
    )
    shuffle_dataset: bool = option(True, help="walk the training data in a new seeded order each epoch", identity=True)
    max_completion_length: int = option(1024, help="new tokens per answer at most", identity=True)
    chat: str = option(
        "auto",
        help="how prompts that are text reach the model: as a user's message through the tokenizer's chat template "
        "(chat), as they are (raw), or auto: questions of a task through the template of a tokenizer that has one, all "
        "other text as it is; messages always go through the template",
        identity=True,
        choices=CHAT_FORMS,
    )
    system_prompt: str | None = option(
        None, help="system message of prompts that go through the chat template and have none", identity=True
    )
    chat_template_kwargs: dict[str, Any] = option(
        {}, help="arguments for the chat template of conversational prompts, as name=value", identity=True
    )
    skip_special_tokens: bool = option(
        True,
        help="leave special tokens out of the completions that reward functions get; false: leave out only the "
        "end-of-sequence and pad tokens at their ends",
        identity=True,
    )
    engine: str = option(
        "hf",
        help="what generates the answers: hf (transformers), the name of an installed engine, or file.py:name",
        identity=True,
    )
    temperature: float = option(0.0, help="0 is greedy decoding, as in the paper", identity=True)
    reward_weights: list[float] | None = option(
        None, help="one weight per reward function; default: all 1", identity=True
    )

    reward_workers: int | None = option(
        None,
        help="processes of each rank that call reward functions; 0: call them in the rank's own process, without "
        "limits; default: the rank's share of the cores, at most 8",
    )
    reward_timeout_s: float = option(
        30.0, help="seconds that a reward function may take for one completion before its worker is killed; 0: any time"
    )
    reward_memory_mb: int = option(
        4096, help="megabytes that a worker for rewards may need beyond what it starts with; 0: no limit"
    )

    dtype: str | None = option(
        None, help="type of the live weights; default: the model's own", identity=True, choices=DTYPES
    )
    frozen: list[str] = option([], help="name patterns of parameters that stay as they are", identity=True)
    device: str = option(
        "auto",
        help="where the model lives: cpu, cuda (each rank takes one of the visible GPUs), cuda:<number>, or auto "
        "(cuda if torch sees a GPU); the update's bits are the same everywhere",
    )
    master_device: str = option(
        "auto",
        help="where the float32 masters live: with the model (device), in host memory and streamed (cpu), or auto "
        "(device if they fit into half of its free memory); never changes a bit",
        choices=MASTER_DEVICES,
    )
    torch_threads: int = option(
        1,
        help="threads of torch in each rank; part of the run, since another number may give other bits",
        identity=True,
    )
    kernel_threads: int = option(0, help="threads of the noise kernels in each rank; 0: cores / ranks of the host")

    eval_on_start: bool = option(True, help="evaluate before the first iteration")
    eval_steps: int = option(0, help="evaluate every that many iterations; 0: only before and after")
    eval_num_samples: int = option(
        0, help="sampled answers to each held-out prompt, for pass@k, majority vote and KL; 0: greedy answers alone"
    )
    eval_temperature: float = option(1.0, help="temperature of these samples")
    eval_kl: bool = option(
        False, help="estimate the KL to the base model per token of these samples, both at their temperature"
    )
    metric_for_best_model: str | None = option(
        None, help="metric of the evaluation by which the best snapshot is kept, such as accuracy; default: none"
    )
    greater_is_better: bool = option(True, help="whether a larger value of that metric is better")
    early_stopping_patience: int = option(
        0, help="end after so many evaluations in a row without a better value of that metric; 0: never"
    )
    log_completions: bool = option(
        False, help="keep completions with their scores as parquet files in the run's directory"
    )
    logging_steps: int = option(1, help="log every that many iterations")
    reference_steps: int = option(
        1,
        help="every N iterations the unperturbed model answers some of the prompts too (8 at most), and members are "
        "compared with it; 0: never, so a collapse isn't found",
    )
    num_completions_to_print: int = option(4, help="answers shown before and after the training")
    report_to: list[str] = option([], help="trackers known to transformers, such as tensorboard or wandb")
    run_name: str | None = option(None, help="name of the run for trackers; default: that of its directory")
    digest_steps: int = option(
        1, help="compare the ranks' weights and journal their digest every that many iterations; 0: never"
    )
    schedule: str = option(
        "dynamic",
        help="how units go to ranks: as they become ready (dynamic), or by measured speed, all at once (static)",
        choices=SCHEDULES,
    )
    unit_timeout_s: float = option(
        1800.0, help="a rank that needs longer for a unit, or is silent for so long, counts as lost; 0: never"
    )
    on_rank_error: str = option(
        "lost",
        help="when a rank raises: go on without it (lost), or end the job (stop); errors of options always end it",
        choices=("lost", "stop"),
    )
    on_divergence: str = option(
        "heal",
        help="when a rank's weights differ from the others': make them anew from the journal (heal), or end (stop)",
        choices=("heal", "stop"),
    )
    save_steps: int = option(
        0, help="save a snapshot every that many iterations and at the end; 0: never, the journal is the checkpoint"
    )
    save_total_limit: int | None = option(2, help="keep so many snapshots, the newest; none: all")
    resume_from_checkpoint: str | None = option(
        None, help="run directory to go on with, bit for bit; its journal is the checkpoint"
    )

    def to_dict(self) -> dict[str, Any]:
        """All options by name, as trackers want them."""
        return asdict(self)

    def to_json_string(self) -> str:
        """All options as JSON text, as trackers want them."""
        return json.dumps(self.to_dict(), indent=2)

    @property
    def eval_strategy(self) -> str:
        """ "steps" or "no", as transformers' callbacks ask for it."""
        return "steps" if self.eval_steps else "no"

    @property
    def save_strategy(self) -> str:
        """ "steps" or "no", as transformers' callbacks ask for it."""
        return "steps" if self.save_steps else "no"

    @property
    def logging_strategy(self) -> str:
        """ "steps", as transformers' callbacks ask for it."""
        return "steps"

    @property
    def load_best_model_at_end(self) -> bool:
        """Whether the best snapshot is kept; the model itself stays the last one."""
        return self.metric_for_best_model is not None

    def __getattr__(self, name: str) -> Any:
        """Only for names that aren't there: callbacks may ask for an option of another trainer."""
        reason = counterpart(name)
        explanation = f": {reason}" if reason else ""
        raise AttributeError(f"'ESConfig' object has no attribute {name!r}{explanation}", name=name, obj=self)

    def __post_init__(self) -> None:
        """Check every value (see the class). One tracker may be a text, as in TRL."""
        trackers: Any = self.report_to
        if isinstance(trackers, str):
            object.__setattr__(self, "report_to", [trackers])
        check_types(self)
        make_plain(self, "chat_template_kwargs")
        require(self, "seed", lambda v: 0 <= v < 2**64, "an integer in [0, 2**64)")
        require(self, "population_size", lambda v: 2 <= v <= 2**24, "an integer in [2, 2**24]")
        for name in ("sigma", "learning_rate"):
            require(self, name, lambda v: 0 < v < float("inf"), "> 0 and finite")
            require(self, name, lambda v: 1e-45 <= v <= 3e38, "in the range of float32")
        require(self, "population_size", lambda v: not self.antithetic or v % 2 == 0, "even with `antithetic`")
        for name in ("max_steps", "prompts_per_iteration", "prompts_per_unit", "max_completion_length"):
            require(self, name, lambda v: 0 < v < 2**32, "an integer > 0")
        for name in ("torch_threads", "logging_steps"):
            require(self, name, lambda v: v > 0, "an integer > 0")
        for name in (
            "kernel_threads", "eval_steps", "num_completions_to_print", "digest_steps", "save_steps",
            "reference_steps", "eval_num_samples", "early_stopping_patience",
        ):  # fmt: skip
            require(self, name, lambda v: v >= 0, "an integer >= 0")
        require(self, "eval_temperature", lambda v: 0 < v < float("inf"), "> 0 and finite")
        require(self, "eval_kl", lambda v: not v or self.eval_num_samples > 0, "false without `eval_num_samples`")
        require(
            self,
            "early_stopping_patience",
            lambda v: v == 0 or self.metric_for_best_model is not None,
            "0 without `metric_for_best_model`",
        )
        require(self, "reward_workers", lambda v: v is None or 0 <= v <= 1024, "an integer in [0, 1024], or none")
        require(self, "reward_timeout_s", lambda v: 0 <= v < float("inf"), ">= 0 and finite")
        require(self, "reward_memory_mb", lambda v: v >= 0, "an integer >= 0")
        require(self, "save_total_limit", lambda v: v is None or v > 0, "an integer > 0, or none")
        require(self, "unit_timeout_s", lambda v: 0 <= v < float("inf"), ">= 0 and finite")
        require(
            self,
            "device",
            lambda v: re.fullmatch(r"auto|cpu|cuda(:\d+)?", v) is not None,
            "auto, cpu, cuda or cuda:<number>",
        )
        require(self, "system_prompt", lambda v: v is None or self.chat != "raw", "none with `chat` raw")
        require(self, "temperature", lambda v: v == 0, "0 (greedy); sampled training is not built yet")
