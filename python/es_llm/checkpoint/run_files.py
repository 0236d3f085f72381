"""The files that a rank writes of a run: the leader all of them, one rank of each other host a copy of the journal."""

from __future__ import annotations

import json
import logging
from datetime import datetime, timezone
from typing import Any

from es_llm._core import Journal, JournalWriter, Population, Record
from es_llm.checkpoint.events import Event, is_evaluation
from es_llm.checkpoint.lock import DirectoryLock
from es_llm.checkpoint.metrics_log import MetricsLog, evaluation_metrics, record_metrics
from es_llm.checkpoint.run_directory import RunDirectory, write_json
from es_llm.errors import JournalError, JournalTakenError, LeftOutError

logger = logging.getLogger(__name__)


class RunFiles:
    """The open files of a run. `saved`, `digests` and `events` mirror the journal, with all items appended so far."""

    def __init__(
        self,
        directory: RunDirectory,
        population: Population,
        journal: Journal | None,
        writer: JournalWriter,
        lock: DirectoryLock,
    ) -> None:
        """`journal` is what the file held before (None: a new run); `writer` appends to it."""
        self.directory, self._population = directory, population
        self._writer, self._lock = writer, lock
        self.saved: list[Record] = journal.records if journal else []
        self.digests: dict[int, int] = journal.digests if journal else {}
        self.events: list[Event] = [json.loads(text) for text in journal.events] if journal else []
        self._log = MetricsLog(self.directory.metrics)

    def agree_with(self, known: list[bytes]) -> list[bytes]:
        """Make the journal and the records that ranks know equal: append those that the journal lacks, and return
        those that only the journal has."""
        saved = [self._population.pack(record) for record in self.saved]
        both = min(len(saved), len(known))
        if saved[:both] != known[:both]:
            raise other_records(self.directory)
        for data in known[both:]:
            self.append_record(self._population.unpack(data))
        return saved[both:]

    def begin(self, options: dict[str, Any], records: int) -> None:
        """Write the leader's other files: the options, and a log of metrics that agrees with `records` records."""
        logged = self.saved[:records]
        evaluations = {
            event["step"]: {"step": event["step"], **evaluation_metrics(event["metrics"])}
            for event in self.events
            if is_evaluation(event) and event["metrics"]
        }
        self._log.rewind(records, lambda step: record_metrics(logged[step - 1]), evaluations)
        write_json(self.directory.config, options)

    def append_record(self, record: Record) -> None:
        """Write a record to the disk before returning; a record that the journal has already is not written again."""
        self._lock.hold()
        have = self._writer.records
        if have is not None and record.iteration > have:
            raise JournalError(f"{str(self.directory.journal)!r}: expected record {have}, got {record.iteration}")
        known = self.saved[record.iteration] if record.iteration < len(self.saved) else None
        if known is not None and known != record:
            raise other_records(self.directory)
        if record.iteration == have:
            self._writer.append_record(record)
            if record.iteration == len(self.saved):
                self.saved.append(record)

    def append_digest(self, iteration: int, digest: int) -> None:
        """Write a digest that all ranks agree on, unless the journal has it already."""
        if iteration not in self.digests and iteration < (self._writer.records or 0):
            self._writer.append_digest(iteration, digest)
            self.digests[iteration] = digest

    def append_event(self, event: Event) -> None:
        """Write an event with the current time of day, unless it has a time already."""
        timed = {"time": datetime.now(timezone.utc).isoformat(timespec="seconds"), **event}
        self._writer.append_event(json.dumps(timed))
        self.events.append(timed)

    def log(self, metrics: dict[str, Any]) -> None:
        """Write one line of metrics."""
        try:
            self._log.write(metrics)
        except JournalError as error:
            safe = f"the {len(self.saved)} iterations in the journal beside it are safe"
            raise JournalError(
                f"{error}; {safe if self.directory.path.is_dir() else 'its directory is gone'}"
            ) from error

    def seconds(self) -> float:
        """Seconds of all logged iterations, whichever rank led them."""
        return self._log.total("seconds")

    def close(self) -> None:
        """Close the files, and let other jobs use the directory."""
        self._writer.close()
        self._lock.release()

    def leave(self) -> None:
        """Close the files; another rank of this job writes on."""
        self._writer.close()
        self._lock.leave()


def other_records(directory: RunDirectory) -> JournalError:
    """The error of a journal that contradicts the records that ranks know."""
    return JournalError(f"{str(directory.journal)!r} holds other records than this job's ranks")


def taken_from(rank: int, directory: RunDirectory, error: JournalTakenError) -> JournalTakenError | LeftOutError:
    """The error of a leader that slept while other ranks took its run over. The message says where the run is.

    If the other ranks finished the run, the error is a `LeftOutError`, which is no failure. If the journal was deleted,
    `error` is returned unchanged.
    """
    try:
        records = len(Journal.read(str(directory.journal)).records)
    except JournalError:
        return error
    others = f"the other ranks continued without rank {rank}, which was stopped or hung, and "
    if _steps(directory) == records:
        return LeftOutError(
            f"{others}finished the run; nothing is lost: the result is in {str(directory.result)!r}, the model in "
            f"{str(directory.model)!r}"
        )
    better = JournalTakenError(
        f"{others}have the journal, with {records} records by now; nothing is lost: if they don't finish the run, "
        f"resume it by its command plus --resume_from_checkpoint {directory.path} ({error})"
    )
    better.shared = error.shared
    return better


def _steps(directory: RunDirectory) -> int | None:
    try:
        return int(json.loads(directory.result.read_text(encoding="utf-8"))["steps"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
