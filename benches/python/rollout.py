"""Rollouts of many members: tokens per second of each engine, beside the model without noise and `generate`.

    python benches/python/rollout.py                              the embedded model
    python benches/python/rollout.py --model models/smollm2-135m-instruct
    python benches/python/rollout.py --model random-1024          random weights: hidden size 1024, 12 layers
    python benches/python/rollout.py --model random-0.5B --device cuda --dtype bfloat16
    python benches/python/rollout.py --iteration                  whole iterations beside the published loop

All rows get `--tokens` new tokens whatever they are, so that each way does the same work. The ways are timed in turn.
Answers are compared first: members in one batch give the tokens of materialized members (float32), and the decoder
those of `generate`. While a way is timed, each of its calls must give the same tokens again.

With `--iteration`: the method as published (arXiv 2509.24372) in one process draws the noise of a member with torch,
adds it to the weights, calls `generate` on the member's prompts and subtracts the noise; the update draws the noise of
all members again. Ours asks, evaluates, tells and updates: dense members one by one, low-rank members in one batch.
"""

from __future__ import annotations

import argparse
import copy
import statistics
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import torch
from measure import in_turn, machine, peak_bytes, ratios, rounds
from transformers import AutoConfig, AutoModelForCausalLM

from es_llm import _core
from es_llm.model.loading import load_model, load_tokenizer
from es_llm.model.table import ParameterTable
from es_llm.model.weights import Weights
from es_llm.rollout import load_engine
from es_llm.rollout.decoder import decode
from es_llm.rollout.decoding import generate
from es_llm.rollout.engine import LiveMember

Work: TypeAlias = Callable[[], list[list[int]]]
"""Decodes the rows; returns the tokens of each."""

QUESTIONS = ("Name a colour.", "What is 2 + 2?", "Why does it rain?", "Who wrote Faust?")


@dataclass
class Setting:
    """The model's name, rows of a batch, new tokens of a row, and sigma."""

    model: str
    rows: int
    tokens: int
    sigma: float
    dtype: torch.dtype
    device: torch.device


SHAPES = {
    "random-1024": {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 12, "num_attention_heads": 16,
                    "num_key_value_heads": 16, "vocab_size": 8192, "tie_word_embeddings": True},
    "random-0.5B": {"hidden_size": 896, "intermediate_size": 4864, "num_hidden_layers": 24, "num_attention_heads": 14,
                    "num_key_value_heads": 2, "vocab_size": 151936, "tie_word_embeddings": True},
    "random-7B": {"hidden_size": 3584, "intermediate_size": 18944, "num_hidden_layers": 28, "num_attention_heads": 28,
                  "num_key_value_heads": 4, "vocab_size": 152064, "tie_word_embeddings": False},
}  # fmt: skip
"""Models of the kind qwen2 with random weights: the last two have the shapes of Qwen2.5."""


def load(setting: Setting) -> tuple[Any, Any]:
    """The model and its tokenizer."""
    if setting.model not in SHAPES:
        name = None if setting.model == "embedded" else setting.model
        return load_model(name).to(setting.device, setting.dtype), load_tokenizer(name)
    config = AutoConfig.for_model("qwen2", **SHAPES[setting.model])
    torch.manual_seed(0)
    with setting.device:
        model = AutoModelForCausalLM.from_config(config, dtype=setting.dtype).eval()
    return model, load_tokenizer(None)


class Ways:
    """Ways to decode the same rows; each returns the tokens of all rows."""

    def __init__(self, setting: Setting) -> None:
        self.setting = setting
        self.model, self.tokenizer = load(setting)
        self._weights: Weights | None = None
        self.device = self.model.get_input_embeddings().weight.device
        self.prompts = [self.tokenizer(f"{QUESTIONS[row % 4]} ({row})")["input_ids"] for row in range(setting.rows)]

    def engine(self, name: str, rank: int, vectors: str = "full") -> Any:
        """An engine with low-rank members, whose rows don't end early."""
        engine: Any = load_engine(name, self.model, self.tokenizer, max_completion_length=self.setting.tokens)
        table = ParameterTable.from_module(self.model, perturbation="low_rank", rank=rank, vectors=vectors)
        if self._weights is None:
            self._weights = Weights(self.model, table, targets=engine.targets())
        weights = copy.copy(self._weights)  # engines share the masters: those of a large model fit once
        weights.table = table
        engine.attach(LiveMember(weights))
        return self.without_end(engine)

    def without_end(self, engine: Any) -> Any:
        """The engine, with rows that get all their tokens."""
        engine._request = replace(engine._request, eos_ids=(), share_prefix=False)
        return engine

    def members(self, engine: Any, count: int) -> Work:
        """Decode `count` members, each with its share of the rows."""
        members = _core.Population(run_seed=1, population_size=count, antithetic=True).ask(sigma=self.setting.sigma)
        share = self.setting.rows // count

        def work() -> list[list[int]]:
            found = engine.evaluate(members, [self.tokenizer.decode(ids) for ids in self.prompts[:share]])
            return [list(completion.token_ids) for own in found for completion in own]

        return work

    def plain(self, engine: Any, decode: Any) -> Work:
        """A decoder on the model without noise."""

        def work() -> list[list[int]]:
            engine._switch(None)
            tokens: list[list[int]] = decode(self.model, self.prompts, engine._request)
            return tokens

        return work


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="embedded", help=f"embedded, a directory, or one of {', '.join(SHAPES)}")
    parser.add_argument("--rows", type=int, default=64)
    parser.add_argument("--tokens", type=int, default=20)
    parser.add_argument("--sigma", type=float, default=4e-3)
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--iteration", action="store_true", help="time whole iterations of 32 members")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    _core.set_kernel_threads(options.threads)
    dtype, device = getattr(torch, options.dtype), torch.device(options.device)
    setting = Setting(options.model, options.rows, options.tokens, options.sigma, dtype, device)
    print(f"{machine(device)}; {options.model}, {options.dtype}, {options.rows} rows x {options.tokens} tokens")
    if options.iteration:
        print_iterations(setting, options.runs)
    else:
        print_rollouts(Ways(setting), options.runs)


def print_rollouts(ways: Ways, runs: int) -> None:
    """Check and time each way to decode the rows."""
    rows, device = ways.setting.rows, ways.device
    hf = ways.engine("hf", 1)
    works = {"generate": ways.plain(hf, generate), "decoder, no noise": ways.plain(hf, decode)}
    for rank in (1, 4):
        for vectors in ("full", "frozen"):
            engine = ways.engine("batched", rank, vectors=vectors)
            for count in sorted({min(count, rows) for count in (16, 64, 256)}):
                if rows % count == 0 and (rank == 1 or count == 16):
                    works[f"batched, rank {rank}, vectors {vectors}, {count} members"] = ways.members(engine, count)
    count = min(16, rows)
    works[f"one by one, {count} members"] = ways.members(hf, count)
    check(works, ways.setting.dtype, count)
    seconds = rounds({name: same_again(work) for name, work in works.items()}, runs, device)
    beside = ratios(seconds, "decoder, no noise")
    for name, taken in seconds.items():
        rate = rows * ways.setting.tokens / statistics.median(taken)
        memory = peak_bytes(works[name], device)
        shown = "" if memory is None else f"{memory / 2**20:8.0f} MiB"
        print(f"{name:48} {rate:9.0f} tokens/s {beside[name]:7.3f} of the decoder {shown}")


def print_iterations(setting: Setting, runs: int) -> None:
    """Time whole iterations, one way after the other, since each has weights of its own; each must move them."""
    from iteration import OurIteration, PublishedIteration

    makes: dict[str, Callable[[], Any]] = {
        "published loop": lambda: PublishedIteration(Ways(setting)),
        "dense": lambda: OurIteration(Ways(setting), "hf", "dense"),
        "batched, rank 1": lambda: OurIteration(Ways(setting), "batched", "low_rank"),
    }
    published = None
    for name, make in makes.items():
        work = make()
        seconds = in_turn({name: work.run}, runs, setting.device)[name]
        work.check()
        published = published or seconds
        print(f"{name:20} {seconds:9.2f} s {published / seconds:7.2f} x the published loop")
        del work  # before the next way's weights are made


def same_again(work: Work) -> Callable[[], object]:
    """The work, which must return what it returned the first time."""
    first = work()

    def checked() -> None:
        assert work() == first, "the same rows got other tokens"

    return checked


def check(works: dict[str, Work], dtype: torch.dtype, count: int) -> None:
    """Compare the answers of ways that must agree."""
    assert dtype != torch.float32 or works["decoder, no noise"]() == works["generate"](), "decoder and generate differ"
    one_by_one = works[f"one by one, {count} members"]()
    together = works[f"batched, rank 1, vectors full, {count} members"]()
    equal = sum(a == b for a, b in zip(one_by_one, together, strict=True)) / len(together)
    assert equal >= (0.95 if dtype == torch.float32 else 0.0), f"only {equal:.0%} of the answers agree"
    print(f"answers of members one by one and in one batch: {equal:.0%} equal")


if __name__ == "__main__":
    main()
