"""Make the embedded tiny model that `python -m es_llm.train` fine-tunes when no model is named.

    python scripts/make_embedded_model.py [--output-dir python/es_llm/assets/countdown-tiny] [--seed 0]

The model is a Qwen2 with 0.8 M parameters and bytes as tokens, for Countdown in the compact style
(`es_llm.tasks.countdown`). Like a real base model, it can solve problems, but greedy decoding does not show it. To get
this, AdamW pretrains it in two stages: first on right answers only, then on a mixture of `RIGHT_SHARE` right answers
and wrong answers in one fixed style, the sum of the first two numbers. Greedy decoding then nearly always gives the
more frequent style.

All problems come from the training pool, never from the evaluation pool. The same seed gives the same model on one
machine; another machine may round matrix products differently. Takes about 8 minutes of processor time.
"""

from __future__ import annotations

import argparse
import functools
import itertools
import json
import math
import os
import time
from collections.abc import Iterator, Sequence
from fractions import Fraction
from pathlib import Path

import torch
from tokenizers.pre_tokenizers import ByteLevel
from transformers import GenerationConfig, Qwen2Config, Qwen2ForCausalLM, Qwen2Tokenizer

from es_llm.tasks.countdown import PROMPT_WIDTH, build
from es_llm.tasks.countdown.arithmetic import evaluate
from es_llm.tasks.countdown.reward import expression_reward
from es_llm.types import Row

RIGHT_STEPS, MIXED_STEPS = 800, 300
BATCH_SIZE = 128
LEARNING_RATE = 3e-3
WARMUP_STEPS = 50
RIGHT_SHARE = 0.3
PRETRAINING_PROBLEMS = 17_000
HELD_OUT_PROBLEMS = 500
ANSWER_WIDTH = 11
"""Tokens of the longest answer: ten characters and the end."""

CONTEXT = 64
PAD, END = "<pad>", "<eos>"


def main() -> None:
    """Pretrain, measure, and write the directory in HF layout."""
    options = parse_options()
    torch.set_num_threads(options.threads)
    tokenizer = make_tokenizer()
    model = make_model(options.seed, tokenizer)
    task = build(style="compact", train_size=PRETRAINING_PROBLEMS, eval_size=HELD_OUT_PROBLEMS, seed=options.seed)
    started = time.process_time()
    pretrain(model, tokenizer, task.train, task.eval, options.seed)
    print(f"pretraining took {time.process_time() - started:.0f} s of processor time")
    save(model, options.output_dir)
    stored = Qwen2ForCausalLM.from_pretrained(options.output_dir).eval()
    for name, figure in measure(stored, tokenizer, task.eval, options.seed).items():
        print(f"{name}: {figure:.3f}")


def parse_options() -> argparse.Namespace:
    root = Path(__file__).resolve().parent.parent
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output-dir", type=Path, default=root / "python/es_llm/assets/countdown-tiny")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    return parser.parse_args()


def make_tokenizer() -> Qwen2Tokenizer:
    """The architecture's own tokenizer without merges: one token per byte, so that it can encode any text."""
    vocabulary = {token: index for index, token in enumerate([PAD, END, *sorted(ByteLevel.alphabet())])}
    return Qwen2Tokenizer(
        vocab=vocabulary,
        merges=[],
        pad_token=PAD,
        eos_token=END,
        unk_token=END,
        padding_side="left",
        model_max_length=CONTEXT,
    )


def make_model(seed: int, tokenizer: Qwen2Tokenizer) -> Qwen2ForCausalLM:
    torch.manual_seed(seed)
    config = Qwen2Config(
        vocab_size=len(tokenizer),
        hidden_size=128,
        intermediate_size=344,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=CONTEXT,
        tie_word_embeddings=True,
        bos_token_id=None,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    model = Qwen2ForCausalLM(config)
    model.generation_config = GenerationConfig(
        do_sample=False,
        max_new_tokens=ANSWER_WIDTH,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    print(f"{model.num_parameters():,} parameters")
    return model


def right_answer(numbers: Sequence[int], target: int) -> str:
    """The right expression that the model learns: large numbers first, brackets and division last."""
    return _answers_by_value(tuple(sorted(numbers, reverse=True)))[Fraction(target)]


def wrong_answer(numbers: Sequence[int]) -> str:
    return f"{numbers[0]}+{numbers[1]}"


@functools.cache
def _answers_by_value(descending: tuple[int, ...]) -> dict[Fraction, str]:
    answers: dict[Fraction, str] = {}
    for _, text in sorted(_expressions(descending)):
        if (evaluated := evaluate(text)) is not None:
            answers.setdefault(evaluated.value, text)
    return answers


def _expressions(descending: tuple[int, ...]) -> Iterator[tuple[tuple[float, ...], str]]:
    """Yield (rank, text) of every expression of three numbers; the smallest rank is preferred."""
    for order in itertools.permutations(range(3)):
        x, y, z = (descending[index] for index in order)
        for first, second in itertools.product("+-*/", repeat=2):
            tail = ("+-*/".index(first), "+-*/".index(second), *order[1:])
            yield (order[0], 0, *tail), f"{x}{first}{y}{second}{z}"
            if first in "*/" and second in "+-":
                yield (order[0], 1, *tail), f"{x}{first}({y}{second}{z})"
            if first in "+-" and second in "*/":
                yield (0.5, 2, *tail, order[0]), f"({x}{first}{y}){second}{z}"


def encode(texts: Sequence[str], tokenizer: Qwen2Tokenizer, width: int) -> torch.Tensor:
    """Token ids [texts, width], padded on the right."""
    return torch.tensor(
        tokenizer(list(texts), padding="max_length", max_length=width, padding_side="right")["input_ids"]
    )


def pretrain(
    model: Qwen2ForCausalLM,
    tokenizer: Qwen2Tokenizer,
    rows: Sequence[Row],
    held_out: Sequence[Row],
    seed: int,
) -> None:
    """Minimize the cross-entropy of the answers (never of the prompts): AdamW, warm-up, cosine."""
    prompts = encode([row["prompt"] for row in rows], tokenizer, PROMPT_WIDTH)
    right = encode([right_answer(row["numbers"], row["target"]) + END for row in rows], tokenizer, ANSWER_WIDTH)
    wrong = encode([wrong_answer(row["numbers"]) + END for row in rows], tokenizer, ANSWER_WIDTH)
    optimizer = make_optimizer(model)
    draw = torch.Generator().manual_seed(seed)
    steps = RIGHT_STEPS + MIXED_STEPS
    for step in range(steps):
        rate = min(1.0, (step + 1) / WARMUP_STEPS) * (0.02 + 0.49 * (1 + math.cos(math.pi * step / steps)))
        for group in optimizer.param_groups:
            group["lr"] = LEARNING_RATE * rate
        chosen = torch.randint(len(rows), (BATCH_SIZE,), generator=draw)
        share = 1.0 if step < RIGHT_STEPS else RIGHT_SHARE
        is_right = torch.rand(BATCH_SIZE, 1, generator=draw) < share
        answers_BA = torch.where(is_right, right[chosen], wrong[chosen])
        tokens_BT = torch.cat([prompts[chosen], answers_BA], dim=1)
        logits_BAV = model(input_ids=tokens_BT[:, :-1]).logits[:, PROMPT_WIDTH - 1 :]
        loss = torch.nn.functional.cross_entropy(
            logits_BAV.flatten(0, 1), answers_BA.flatten(), ignore_index=tokenizer.pad_token_id
        )
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if (step + 1) % 100 == 0:
            accuracy = sum(greedy_scores(model, tokenizer, held_out)) / len(held_out)
            print(f"step {step + 1}: loss {loss.item():.3f}, held-out greedy {accuracy:.3f}", flush=True)


def make_optimizer(model: Qwen2ForCausalLM) -> torch.optim.AdamW:
    matrices = [parameter for parameter in model.parameters() if parameter.ndim == 2]
    others = [parameter for parameter in model.parameters() if parameter.ndim != 2]
    groups = [{"params": matrices, "weight_decay": 0.05}, {"params": others, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=LEARNING_RATE, betas=(0.9, 0.98))


def complete(
    model: Qwen2ForCausalLM, tokenizer: Qwen2Tokenizer, rows: Sequence[Row], temperature: float = 0.0
) -> list[str]:
    """One completion per row, greedy at temperature 0."""
    prompts = encode([row["prompt"] for row in rows], tokenizer, PROMPT_WIDTH)
    sampling = {"do_sample": True, "temperature": temperature, "top_k": 0} if temperature else {"do_sample": False}
    tokens = model.generate(prompts, attention_mask=torch.ones_like(prompts), **sampling)
    return tokenizer.batch_decode(tokens[:, PROMPT_WIDTH:], skip_special_tokens=True)


def greedy_scores(
    model: Qwen2ForCausalLM, tokenizer: Qwen2Tokenizer, rows: Sequence[Row], temperature: float = 0.0
) -> list[float]:
    texts = complete(model, tokenizer, rows, temperature)
    return [expression_reward(text, row["numbers"], row["target"]) for text, row in zip(texts, rows, strict=True)]


def measure(model: Qwen2ForCausalLM, tokenizer: Qwen2Tokenizer, rows: Sequence[Row], seed: int) -> dict[str, float]:
    """Held-out results of the stored model, with greedy decoding and with sampling."""
    torch.manual_seed(seed)
    greedy = complete(model, tokenizer, rows)
    samples = [greedy_scores(model, tokenizer, rows, temperature=1.0) for _ in range(16)]
    style = [wrong_answer(row["numbers"]) for row in rows]
    return {
        "greedy accuracy": sum(greedy_scores(model, tokenizer, rows)) / len(rows),
        "greedy answers in the wrong style": sum(map(str.__eq__, greedy, style)) / len(rows),
        "sampled accuracy (temperature 1)": sum(map(sum, samples)) / (16 * len(rows)),
        "best of 16 samples": sum(map(max, zip(*samples, strict=True))) / len(rows),
    }


def save(model: Qwen2ForCausalLM, directory: Path) -> None:
    """Write the HF layout: weights as float16 (half the size), to be loaded as float32."""
    model.half().save_pretrained(directory)
    make_tokenizer().save_pretrained(directory)  # a new tokenizer: encoding changes the padding of the old one
    config = json.loads((directory / "config.json").read_text("utf-8"))
    config["dtype"] = "float32"
    (directory / "config.json").write_text(json.dumps(config, indent=2) + "\n", "utf-8")
    (directory / "model.safetensors").chmod(0o644)


if __name__ == "__main__":
    main()
