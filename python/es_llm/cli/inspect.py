"""`es-llm inspect D`: what a journal holds, as a table."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from es_llm.cli.options import one_process
from es_llm.config.parser import Parser
from es_llm.errors import JournalError
from es_llm.team import Team

mailbox = one_process


def add_arguments(parser: Parser) -> None:
    """Which run."""
    parser.add_argument("run", help="directory of the run, or its journal")


def run(options: argparse.Namespace, team: Team) -> int:
    """Print options, iterations and events; changes nothing."""
    from es_llm._core import Journal
    from es_llm.checkpoint.identity import decode_header

    place = Path(options.run)
    path = place / "journal.es" if place.is_dir() else place
    if not path.is_file():
        raise JournalError(f"no journal at {str(path)!r}")
    journal = Journal.read(str(path))
    header = decode_header(journal.header, str(path))
    config, about = header["identity"]["config"], header["about"]
    print(f"journal   {path}  version {journal.version}, {journal.good_bytes} bytes, {journal.torn_bytes} torn")
    print("made by   " + "  ".join(f"{name} {about[name]}" for name in ("es_llm", "torch", "transformers")))
    print(f"model     {about['model_name_or_path']}  base {header['identity']['model']['base_sha256'][:16]}")
    print("options   " + "  ".join(f"{name}={value}" for name, value in config.items() if value not in (None, [])))
    print(f"{'step':>6} {'reward':>10} {'std':>10} {'min':>10} {'max':>10} {'failed':>7}  digest")
    events = [json.loads(text) for text in journal.events]
    failed = {event["step"]: event["count"] for event in events if event.get("event") == "failures"}
    for record in journal.records:
        known = [value for value in record.fitness if value is not None] or [0.0]
        mean = sum(known) / len(known)
        std = (sum((value - mean) ** 2 for value in known) / len(known)) ** 0.5
        digest = journal.digests.get(record.iteration)
        count = failed.get(record.iteration + 1, record.fitness.count(None))
        print(
            f"{record.iteration + 1:>6} {mean:>10.4f} {std:>10.4f} {min(known):>10.4f} {max(known):>10.4f} "
            f"{count:>7}  {'' if digest is None else f'{digest:016x}'}"
        )
    for name, why in {name: why for event in events for name, why in event.get("examples", {}).items()}.items():
        print(f"failure   {name}: {_last_line(why)}")
    for event in events:
        if event.get("event") == "failures":
            continue
        when = f"{event['time']}  " if "time" in event else ""
        print(f"event     {when}step {event.get('step', '?')}  {event.get('event', '?')}  {_details(event)}")
    return 0


def _details(event: dict[str, Any]) -> str:
    figures = [f"{name} {value:.4f}" for name, value in event.get("metrics", {}).items()]
    told = {"rank": "rank {}", "ranks": "ranks {}", "why": "({})"}
    words = [text.format(_last_line(event[name])) for name, text in told.items() if name in event]
    return "  ".join([*figures, *words])


def _last_line(value: Any) -> str:
    """Of a traceback the line that says what happened."""
    return str(value).rstrip().rpartition("\n")[2]
