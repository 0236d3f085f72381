"""`ESConfig`: how to train. Defaults are those of Qiu et al. (arXiv 2509.24372) for language models."""

from __future__ import annotations

import json
import re
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, Final

from es_llm._core import ASSIGNMENTS, DTYPES, FAILURE_POLICIES, MAX_RANK, SHAPING_RULES
from es_llm.config.checks import check_options, read_mapping, require, split_words
from es_llm.config.fields import FLOAT32, NOT_NEGATIVE, POSITIVE, UINT32, Range, option, refuse_unknown
from es_llm.config.foreign import counterpart, unknown_option

MASTER_DEVICES: Final = ("auto", "device", "cpu")

_SECONDS: Final = Range(lambda value: 0 <= value < float("inf"), ">= 0 and finite")


@refuse_unknown(unknown_option)
@dataclass(frozen=True, kw_only=True)
class ESConfig:
    """Options of a training run by Evolution Strategies.

    Names follow TRL and transformers where the meaning is the same, and the paper for Evolution Strategies:
    theta += learning_rate * (1 / population_size) * sum_n Z_n * noise_n; members are evaluated at
    theta + sigma * noise_n (`learning_rate` is the paper's alpha, which includes the factor 1/sigma).

    Raises:
        ConfigError: a value out of range; the message names the option, the value and the expected values. Or an
            unknown option, such as one of GRPO's; the message names what to use instead.
    """

    output_dir: str | None = option(
        None, help="directory of the run; default: the first free runs/<model>-<task>-<number>", topic="Run"
    )
    seed: int = option(
        42,
        help="seed of the noise and of the order of the data",
        identity=True,
        within=Range(lambda value: 0 <= value < 2**64, "in [0, 2**64)"),
    )
    max_steps: int = option(500, help="number of iterations; a resumed run may raise it", within=UINT32)

    population_size: int = option(
        30,
        help="members N per iteration",
        identity=True,
        within=Range(lambda value: 2 <= value <= 2**24, "in [2, 2**24]"),
        topic="Population and update",
    )
    sigma: float = option(
        1e-3, help="scale of the noise: members are theta + sigma * noise", identity=True, within=FLOAT32
    )
    learning_rate: float = option(
        5e-4, help="the paper's alpha, which includes the factor 1/sigma", identity=True, within=FLOAT32
    )
    antithetic: bool = option(False, help="members come in pairs with the same noise and opposite signs", identity=True)
    shaping: str = option(
        "zscore",
        help=f"rule from fitness to shaped fitness Z: {', '.join(SHAPING_RULES)}, or file.py:NAME",
        identity=True,
    )
    optim: str = option(
        "sgd",
        help="optimizer, which moves the weights along the direction: sgd, momentum, nesterov, adam, adamw, or "
        "file.py:NAME",
        identity=True,
    )
    optim_args: dict[str, Any] = option(
        {}, help="arguments of the optimizer, as name=value or name=value,name=value", identity=True
    )
    lr_scheduler_type: str = option(
        "constant",
        help="schedule of the learning rate over the iterations: constant, linear, cosine, constant_with_warmup, "
        "cosine_with_min_lr, or file.py:NAME",
        identity=True,
    )
    lr_scheduler_kwargs: dict[str, Any] = option(
        {}, help="arguments of the learning rate's schedule, as name=value", identity=True
    )
    sigma_scheduler_type: str = option(
        "constant", help="schedule of sigma over the iterations: one of the same names", identity=True
    )
    sigma_scheduler_kwargs: dict[str, Any] = option(
        {}, help="arguments of sigma's schedule, as name=value", identity=True
    )
    failure_policy: str = option(
        "worst",
        help="what to do with a failed reward: count it as 0 (zero) or as the worst reward of the iteration (worst), "
        "drop its prompt for every member (drop_prompt), or end the run (raise)",
        identity=True,
        choices=FAILURE_POLICIES,
    )

    prompts_per_iteration: int = option(
        200,
        help="prompts that each member answers per iteration; at most the size of the data set",
        identity=True,
        within=UINT32,
        topic="Prompts and completions",
    )
    prompts_per_unit: int = option(
        64, help="prompts per unit of work: one rank evaluates a unit as one batch", identity=True, within=UINT32
    )
    members_per_unit: int | None = option(
        None,
        help="members per unit of work; default: 1 with the engine hf, and with batched as many as make about 32 rows "
        "with their prompts",
        identity=True,
        within=UINT32,
    )
    rows_per_batch: int | None = option(
        None,
        help="completions of a unit that are decoded at a time, on each rank; the others wait until one ends; default: "
        "all, or as many as fit into the free memory",
        identity=True,
        within=UINT32,
    )
    prompt_schedule: str = option(
        "epochs",
        help="prompts of an iteration: the next ones of the training data, epoch after epoch (epochs), or always the "
        "first ones, as in the paper (fixed)",
        identity=True,
        choices=("epochs", "fixed"),
    )
    shuffle_dataset: bool = option(
        True, help="shuffle the training data in each epoch; the seed decides the order", identity=True
    )
    max_completion_length: int = option(
        1024, help="maximum number of new tokens per completion", identity=True, within=UINT32
    )
    chat: str = option(
        "auto",
        help="how text prompts reach the model: as a user's message through the tokenizer's chat template (chat), "
        "unchanged (raw), or (auto) like chat for the questions of a task if the tokenizer has a template, else "
        "unchanged; messages always go through the template",
        identity=True,
        choices=("auto", "chat", "raw"),
    )
    system_prompt: str | None = option(
        None,
        help="system message for prompts that go through the chat template and have no system message",
        identity=True,
    )
    chat_template_kwargs: dict[str, Any] = option(
        {}, help="arguments for the chat template, as name=value", identity=True
    )
    skip_special_tokens: bool = option(
        True,
        help="remove special tokens from the completions that reward functions get; false: remove only the "
        "end-of-sequence and pad tokens at their end",
        identity=True,
    )
    stop_strings: list[str] = option(
        [],
        help="a completion ends with the token that completes one of these texts, in training and evaluation; it keeps "
        "this token",
        identity=True,
        within=Range(all, "without empty texts"),
    )
    engine: str = option(
        "hf",
        help="rollout engine: hf (transformers, one member at a time), batched (low-rank members together), the name "
        "of an installed engine, or file.py:name",
        identity=True,
    )
    temperature: float = option(
        0.0,
        help="temperature of the completions; 0: greedy decoding, as in the paper; above: sampled, with random numbers "
        "that are the same for all members",
        identity=True,
        within=NOT_NEGATIVE,
    )
    num_generations: int = option(
        1,
        help="completions per prompt and member with `temperature` above 0; a member's fitness is the mean over all",
        identity=True,
        within=UINT32,
    )
    fixed_samples: bool = option(
        False,
        help="take the same random numbers for the samples of every iteration, instead of new ones",
        identity=True,
    )
    top_k: int = option(0, help="sample from the k most probable tokens; 0: all", identity=True, within=NOT_NEGATIVE)
    top_p: float = option(
        1.0,
        help="sample from the most probable tokens whose probabilities add up to this",
        identity=True,
        within=Range(lambda value: 0 < value <= 1, "in (0, 1]"),
    )
    min_p: float = option(
        0.0,
        help="sample from tokens with at least this share of the probability of the most probable one",
        identity=True,
        within=Range(lambda value: 0 <= value <= 1, "in [0, 1]"),
    )
    repetition_penalty: float = option(
        1.0,
        help="makes tokens that are in the prompt or the completion less probable (above 1) or more (below 1)",
        identity=True,
        within=Range(lambda value: value > 0, "> 0"),
    )

    reward_weights: list[float] | None = option(
        None, help="one weight per reward function; default: 1 for each", identity=True, topic="Rewards"
    )
    reward_workers: int | None = option(
        None,
        help="worker processes per rank that call reward functions; 0: the rank calls them itself, without limits; "
        "default: the rank's share of the cores, at most 8",
        within=Range(lambda value: 0 <= value <= 1024, "in [0, 1024]"),
    )
    reward_timeout_s: float = option(
        30.0,
        help="seconds that a reward function may take per completion before its worker is killed; 0: no limit",
        within=_SECONDS,
    )
    reward_memory_mb: int = option(
        4096, help="megabytes that a worker may use beyond its memory at the start; 0: no limit", within=NOT_NEGATIVE
    )

    dtype: str | None = option(
        None, help="type of the live weights; default: the model's own", identity=True, choices=DTYPES, topic="Model"
    )
    perturbation: str = option(
        "dense",
        help="noise of each tensor: one value per weight (dense); a product of two thin factors for matrices, as in "
        "EGGROLL (low_rank); or file.py:NAME",
        identity=True,
    )
    rank: int = option(
        1,
        help="columns of the factors of low_rank noise; above the smaller side of a matrix, dense noise is cheaper",
        identity=True,
        within=Range(lambda value: 1 <= value <= MAX_RANK, f"in [1, {MAX_RANK}]"),
    )
    vectors: str = option(
        "full",
        help="noise of biases, norms and other vectors beside low_rank noise of matrices: a value for each weight "
        "(full), or none, so that they are not trained (frozen)",
        identity=True,
        choices=("full", "frozen"),
    )
    embeddings: str = option(
        "low_rank",
        help="noise of the token embedding, and of a head that is tied to it, with low_rank noise: low_rank, or none, "
        "so that it is not trained (frozen)",
        identity=True,
        choices=("low_rank", "frozen"),
    )
    trainable: list[str] = option(
        [],
        help="name patterns of the parameters to train; default: all; a parameter that `frozen` matches is not trained",
        identity=True,
    )
    frozen: list[str] = option([], help="name patterns of parameters that are not trained", identity=True)
    device: str = option(
        "auto",
        help="device of the model: cpu, cuda (each rank takes one of the visible GPUs), cuda:<number>, or auto "
        "(cuda if torch sees a GPU); the update gives the same bits on every device",
        within=Range(
            lambda value: re.fullmatch(r"auto|cpu|cuda(:\d+)?", value) is not None, "auto, cpu, cuda or cuda:<number>"
        ),
    )
    master_device: str = option(
        "auto",
        help="where the float32 master weights are: beside the model (device), in host memory and streamed (cpu), or "
        "auto (device if they fit into half of its free memory); this never changes a bit",
        choices=MASTER_DEVICES,
    )
    torch_threads: int = option(
        1,
        help="torch's threads per rank; part of the identity, since another number may change bits",
        identity=True,
        within=POSITIVE,
    )
    kernel_threads: int = option(
        0, help="threads of the noise kernels per rank; 0: the host's cores / its ranks", within=NOT_NEGATIVE
    )

    eval_on_start: bool = option(True, help="evaluate before the first iteration", topic="Evaluation")
    eval_steps: int = option(
        0, help="evaluate every N iterations; 0: only before and after the training", within=NOT_NEGATIVE
    )
    eval_num_samples: int = option(
        0,
        help="sampled completions per held-out prompt, for pass@k, majority vote and KL; 0: greedy completions only",
        within=NOT_NEGATIVE,
    )
    eval_temperature: float = option(
        1.0, help="temperature of these samples", within=Range(lambda value: 0 < value < float("inf"), "> 0 and finite")
    )
    eval_kl: bool = option(
        False,
        help="estimate the KL divergence from the base model per token of these samples; both models have "
        "`eval_temperature`",
    )
    metric_for_best_model: str | None = option(
        None, help="metric of the evaluation that selects the best snapshot, such as accuracy; default: none"
    )
    greater_is_better: bool = option(True, help="whether a larger value of that metric is better")
    early_stopping_patience: int = option(
        0, help="stop after N evaluations in a row without a better value of that metric; 0: never", within=NOT_NEGATIVE
    )

    logging_steps: int = option(1, help="log every N iterations", within=POSITIVE, topic="Logging")
    log_completions: bool = option(
        False, help="write completions with their rewards to parquet files in the run's directory"
    )
    num_completions_to_print: int = option(
        4, help="completions to print before and after the training", within=NOT_NEGATIVE
    )
    reference_steps: int = option(
        1,
        help="every N iterations the unperturbed model also answers up to 8 of the prompts, to compare the members "
        "with it; 0: never, and a collapse is not detected; with several members per unit it is part of the run's "
        "identity",
        within=NOT_NEGATIVE,
    )
    report_to: list[str] = option([], help="trackers that transformers knows, such as tensorboard or wandb")
    run_name: str | None = option(None, help="name of the run for trackers; default: the name of its directory")

    assignment: str = option(
        "dynamic",
        help="how units are assigned to ranks: all at once by measured speed (static), or when a rank becomes ready "
        "(dynamic)",
        choices=ASSIGNMENTS,
        topic="Ranks",
    )
    unit_timeout_s: float = option(
        1800.0,
        help="a rank counts as lost after this many seconds in one unit or without a message; 0: no limit",
        within=_SECONDS,
    )
    on_rank_error: str = option(
        "lost",
        help="if a rank raises an error: continue without it (lost), or end the job (stop); a wrong option always "
        "ends the job",
        choices=("lost", "stop"),
    )
    on_divergence: str = option(
        "rebuild",
        help="if a rank's weights differ from the others': rebuild them from the journal, or end the job (stop)",
        choices=("rebuild", "stop"),
    )
    digest_steps: int = option(
        1,
        help="every N iterations compare the ranks' weights by their digest and write it to the journal; 0: never",
        within=NOT_NEGATIVE,
    )

    save_steps: int = option(
        0,
        help="save a snapshot every N iterations and at the end; 0: never, since the journal is the checkpoint",
        within=NOT_NEGATIVE,
        topic="Snapshots and resume",
    )
    save_total_limit: int | None = option(2, help="keep the newest N snapshots; none: keep all", within=POSITIVE)
    resume_from_checkpoint: str | None = option(
        None, help="directory of the run to resume, bit for bit; its journal is the checkpoint"
    )

    logging_strategy: ClassVar[str] = "steps"
    """For transformers' callbacks."""

    def to_dict(self) -> dict[str, Any]:
        """All options by name, for trackers."""
        return asdict(self)

    def to_json_string(self) -> str:
        """All options as JSON text, for trackers."""
        return json.dumps(self.to_dict(), indent=2)

    @property
    def eval_strategy(self) -> str:
        """ "steps" or "no", for transformers' callbacks."""
        return "steps" if self.eval_steps else "no"

    @property
    def save_strategy(self) -> str:
        """ "steps" or "no", for transformers' callbacks."""
        return "steps" if self.save_steps else "no"

    @property
    def load_best_model_at_end(self) -> bool:
        """Whether the best snapshot is kept; the exported model is always the last one."""
        return self.metric_for_best_model is not None

    def __getattr__(self, name: str) -> Any:
        reason = counterpart(name)
        explanation = f": {reason}" if reason else ""
        raise AttributeError(f"'ESConfig' object has no attribute {name!r}{explanation}", name=name, obj=self)

    def __post_init__(self) -> None:
        """Check every value (see the class). As in transformers, `report_to` may be one text, and `optim_args` may be
        text such as "beta=0.9,eps=1e-8"."""
        trackers: Any = self.report_to
        if isinstance(trackers, str):
            object.__setattr__(self, "report_to", [trackers] if trackers else [])
        arguments: Any = self.optim_args
        if isinstance(arguments, str):
            object.__setattr__(self, "optim_args", read_mapping("optim_args", split_words(arguments)))
        check_options(self)
        require(self, "population_size", lambda v: not self.antithetic or v % 2 == 0, "even with `antithetic`")
        require(self, "rank", lambda v: v == 1 or self.perturbation != "dense", "1 with `perturbation` dense")
        low_rank = self.perturbation == "low_rank"
        require(self, "vectors", lambda v: v == "full" or low_rank, "full unless `perturbation` is low_rank")
        require(self, "embeddings", lambda v: v == "low_rank" or low_rank, "low_rank unless `perturbation` is low_rank")
        require(self, "eval_kl", lambda v: not v or self.eval_num_samples > 0, "false without `eval_num_samples`")
        has_metric = self.metric_for_best_model is not None
        require(self, "early_stopping_patience", lambda v: v == 0 or has_metric, "0 without `metric_for_best_model`")
        require(self, "system_prompt", lambda v: v is None or self.chat != "raw", "none with `chat` raw")
        greedy = self.temperature == 0
        for name, default in (
            ("num_generations", 1),
            ("fixed_samples", False),
            ("top_k", 0),
            ("top_p", 1),
            ("min_p", 0),
        ):
            shown = str(default).lower()
            require(self, name, lambda v: v == default or not greedy, f"{shown} with `temperature` 0")  # noqa: B023
