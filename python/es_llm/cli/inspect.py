"""`es-llm inspect D`: what a journal holds, as a table."""

from __future__ import annotations

import argparse
import json
from typing import Any

from es_llm._core import Journal
from es_llm.cli.options import add_finished_run, one_process, read_run
from es_llm.team import Team

mailbox = one_process
add_arguments = add_finished_run


def run(options: argparse.Namespace, team: Team) -> int:
    """Print options, iterations and events; change nothing."""
    path, journal, header = read_run(options.run)
    config, about = header["identity"]["config"], header["about"]
    print(f"journal   {path}  version {journal.version}, {journal.good_bytes} bytes, {journal.torn_bytes} torn")
    print("made by   " + "  ".join(f"{name} {about[name]}" for name in ("es_llm", "torch", "transformers")))
    print(f"model     {about['model_name_or_path']}  base {header['identity']['model']['base_sha256'][:16]}")
    for option, name, sha256 in _files(header):
        print(f"extension {option} {name}  SHA-256 {sha256}")
    print("options   " + "  ".join(f"{name}={value}" for name, value in config.items() if value not in (None, [])))
    events = [json.loads(text) for text in journal.events]
    _print_iterations(journal, events)
    examples = {name: reason for event in events for name, reason in event.get("examples", {}).items()}
    for name, reason in examples.items():
        print(f"failure   {name}: {_last_line(reason)}")
    for event in events:
        if event.get("event") != "failures":
            time = f"{event['time']}  " if "time" in event else ""
            iteration = event.get("step", "?")
            print(f"event     {time}iteration {iteration}  {event.get('event', '?')}  {_details(event)}")
    return 0


def _files(header: dict[str, Any]) -> list[tuple[str, str, str | None]]:
    """(option, name, SHA-256 of its file) of each extension of the run."""
    identity, options = header["identity"], header["about"].get("options", {})
    found = [(option, options.get(option), sha256) for option, sha256 in identity.get("extension_files", {}).items()]
    if "task_file" in identity:
        found.append(("task", options.get("task"), identity["task_file"]))
    rewards = zip(options.get("reward_funcs", []), identity.get("reward_files", []), strict=False)
    return [*found, *(("reward_funcs", name, sha256) for name, sha256 in rewards)]


def _print_iterations(journal: Journal, events: list[dict[str, Any]]) -> None:
    """Print one line per iteration. Failed rewards are counted by the events; a record knows only failed members."""
    from es_llm.checkpoint.metrics_log import record_metrics

    failures = {event["step"]: event["count"] for event in events if event.get("event") == "failures"}
    print(
        f"{'iteration':>9} {'reward':>10} {'std':>10} {'min':>10} {'max':>10} {'failed':>7} {'sigma':>10} "
        f"{'rate':>10}  digest"
    )
    for record in journal.records:
        metrics = record_metrics(record)
        figures = (metrics[name] for name in ("reward", "reward_std", "fitness/min", "fitness/max"))
        failed = failures.get(metrics["step"], record.fitness.count(None))
        digest = journal.digests.get(record.iteration)
        print(
            f"{metrics['step']:>9} {' '.join(f'{figure:>10.4f}' for figure in figures)} {failed:>7} "
            f"{record.sigma:>10.4g} {record.learning_rate:>10.4g}  "
            f"{'' if digest is None else f'{digest:016x}'}"
        )


def _details(event: dict[str, Any]) -> str:
    figures = [f"{name} {value:.4f}" for name, value in event.get("metrics", {}).items()]
    forms = {"rank": "rank {}", "ranks": "ranks {}", "why": "({})"}
    words = [form.format(_last_line(event[name])) for name, form in forms.items() if name in event]
    return "  ".join([*figures, *words])


def _last_line(value: Any) -> str:
    return str(value).rstrip().rpartition("\n")[2]
