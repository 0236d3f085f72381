"""Output for people: results of a run, answers, metrics."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TextIO

from es_llm.trainer.loop.output import TrainOutput


def show_output(output: TrainOutput) -> None:
    """Print answers and metrics from before and after the training, and where the files of the run are."""
    for (prompt, before), (_, after) in zip(output.answers_before, output.answers_after, strict=False):
        print(f"\nprompt  {_short(prompt)}\nbefore  {_short(before)}\nafter   {_short(after)}")
    result = output.metrics
    was = result["eval_before"] or {}
    print()
    for name, value in (result["eval_after"] or {}).items():
        change = f"{was[name]:.4f} -> " if name in was else ""
        print(f"{name:<28}{change}{value:.4f}")
    print(
        f"\n{result['steps']} iterations, {result['seconds']:.1f} s of training on {result['ranks']} rank(s)\n"
        f"weights_sha256 {result['weights_sha256']}\n"
        f"model   {output.output_dir}/model\njournal {output.output_dir}/journal.es"
    )


def show_answers(answers: Sequence[tuple[str, str]], file: TextIO) -> None:
    """Print prompts and their completions."""
    for prompt, completion in answers:
        print(f"\nprompt  {_short(prompt)}\nanswer  {_short(completion)}", file=file)


def show_metrics(metrics: Mapping[str, float], file: TextIO) -> None:
    """Print a table of names and values."""
    width = max(map(len, metrics))
    print(file=file)
    for name, value in metrics.items():
        print(f"{name:<{width}}  {value:>12.4f}", file=file)


def _short(text: str, limit: int = 400) -> str:
    flat = text.replace("\n", "\\n")
    return flat if len(flat) <= limit else f"...{flat[-limit:]}"
