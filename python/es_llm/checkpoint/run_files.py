"""What a rank writes of a run: the leader everything, one rank of each other host a copy of the journal."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from datetime import datetime, timezone
from typing import Any

from es_llm._core import Journal, Record
from es_llm.checkpoint.metrics_log import MetricsLog, evaluation_metrics, record_metrics
from es_llm.checkpoint.opening import OpenRun
from es_llm.checkpoint.run_directory import RunDirectory, write_json
from es_llm.errors import JournalError, JournalTakenError, LeftOutError

logger = logging.getLogger(__name__)


class RunFiles:
    """The open files of a run. `events` are those that were saved, with those that are appended."""

    def __init__(self, opened: OpenRun) -> None:
        self.directory: RunDirectory = opened.directory
        self._writer, self._lock = opened.writer, opened.lock
        journal = opened.journal
        self.saved: list[Record] = journal.records if journal is not None else []
        self.digests: dict[int, int] = journal.digests if journal is not None else {}
        self.events: list[dict[str, Any]] = [json.loads(text) for text in journal.events] if journal else []
        self._log = MetricsLog(self.directory.metrics)

    def agree_with(self, known: list[bytes]) -> list[bytes]:
        """Make journal and `known` records one: appends what the journal lacks, returns what `known` lacks.

        Raises:
            JournalError: they contradict each other, or the disk refuses.
        """
        saved = [record.to_bytes() for record in self.saved]
        both = min(len(saved), len(known))
        if saved[:both] != known[:both]:
            raise other_records(self.directory)
        for data in known[both:]:
            self.append_record(Record.from_bytes(data))
        return saved[both:]

    def begin(self, options: dict[str, Any], records: int) -> None:
        """The leader's other files: the options, and a log of metrics that agrees with the journal."""
        missing = self.saved[:records]
        evaluations = {
            event["step"]: {"step": event["step"], **evaluation_metrics(event["metrics"])}
            for event in self.events
            if event.get("event") == "evaluation" and event["metrics"]
        }
        self._log.rewind(records, lambda step: record_metrics(missing[step - 1]), evaluations)
        write_json(self.directory.config, options)

    def append_record(self, record: Record) -> None:
        """On the disk when it returns; a record that is there already is left alone.

        Raises:
            JournalError: an earlier record is missing, or another one is in its place, or the disk refuses.
            JournalTakenError: another leader took the journal over.
        """
        if self._lock is not None:
            self._lock.hold()
        have = self._writer.records
        if have is not None and record.iteration > have:
            raise JournalError(f"{str(self.directory.journal)!r}: expected record {have}, got {record.iteration}")
        known = self.saved[record.iteration] if record.iteration < len(self.saved) else None
        if known is not None and known.to_bytes() != record.to_bytes():
            raise other_records(self.directory)
        if record.iteration == have:
            self._writer.append_record(record)
            if record.iteration == len(self.saved):
                self.saved.append(record)

    def append_digest(self, iteration: int, digest: int) -> None:
        """A digest that all ranks agree on; one that is there already is left alone."""
        if iteration not in self.digests and iteration < (self._writer.records or 0):
            self._writer.append_digest(iteration, digest)
            self.digests[iteration] = digest

    def append_event(self, event: dict[str, Any]) -> None:
        """Something that happened, with the time of day at which the leader wrote it down."""
        told = {"time": datetime.now(timezone.utc).isoformat(timespec="seconds"), **event}
        self._writer.append_event(json.dumps(told))
        self.events.append(told)

    def was_lost(self, rank: int) -> bool:
        """Whether the last that the journal says of a rank of this job is that it was lost."""
        lost = False
        for event in self.events:
            if "call" in event:
                lost = False  # other processes
            elif event.get("rank") == rank:
                lost = event["event"] == "lost"
        return lost

    def log(self, metrics: dict[str, Any]) -> None:
        """One line of metrics.

        Raises:
            JournalError: the disk refuses it; says what is safe.
        """
        try:
            self._log.write(metrics)
        except JournalError as error:
            safe = f"the {len(self.saved)} iterations in the journal beside it are safe"
            raise JournalError(
                f"{error}; {safe if self.directory.path.is_dir() else 'its directory is gone'}"
            ) from error

    def seconds(self) -> float:
        """That all iterations took, whoever led them, as far as they were logged."""
        return self._log.total("seconds")

    def result(self, result: dict[str, Any]) -> None:
        """What came out."""
        write_json(self.directory.result, result)

    def close(self) -> None:
        """Nothing more is written, and others may use the directory."""
        self._writer.close()
        if self._lock is not None:
            self._lock.release()

    def leave(self) -> None:
        """Nothing more is written by this rank; the job goes on."""
        self._writer.close()
        if self._lock is not None:
            self._lock.leave()


def other_records(directory: RunDirectory) -> JournalError:
    """The error of a journal that contradicts what ranks know."""
    return JournalError(f"{str(directory.journal)!r} holds other records than this job's ranks")


def copy_of(open_copy: Callable[[], OpenRun | None], known: list[bytes]) -> RunFiles | None:
    """This host's copy of the journal; a host without a place for it goes on without."""
    try:
        opened = open_copy()
        if opened is None:
            return None
        files = RunFiles(opened)
        files.agree_with(known)
    except (OSError, JournalError, ValueError, RuntimeError) as error:
        logger.error("this host keeps no copy of the journal: %s", error)
        return None
    return files


def taken_from(rank: int, directory: RunDirectory, error: JournalTakenError) -> JournalTakenError | LeftOutError:
    """The error of a leader that slept while others took its run over: says what became of it. Where they finished the
    run it is no failure, as with any rank that is left out; where the journal was deleted it is the error as it was."""
    try:
        records = len(Journal.read(str(directory.journal)).records)
    except JournalError:
        return error
    told = f"the other ranks went on without rank {rank}, which was stopped or hung, and "
    if _steps(directory) == records:
        return LeftOutError(
            f"{told}finished the run; nothing is lost: the result is in {str(directory.result)!r}, the model in "
            f"{str(directory.model)!r}"
        )
    better = JournalTakenError(
        f"{told}have the journal, with {records} records by now; nothing is lost: if they don't finish the run, "
        f"go on by --resume_from_checkpoint {directory.path} ({error})"
    )
    better.shared = error.shared
    return better


def _steps(directory: RunDirectory) -> int | None:
    """Of the result; None if there is none."""
    try:
        return int(json.loads(directory.result.read_text(encoding="utf-8"))["steps"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
