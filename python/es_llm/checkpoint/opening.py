"""Opens the directory of a run: a new one, one to go on with, or that of an earlier leader of the same job."""

from __future__ import annotations

import contextlib
import logging
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from es_llm._core import Journal, JournalWriter
from es_llm.checkpoint.export import require_replaceable
from es_llm.checkpoint.identity import decode_header, require_same_identity
from es_llm.checkpoint.lock import DirectoryLock, read_holder
from es_llm.checkpoint.run_directory import RunDirectory, free_directory
from es_llm.checkpoint.snapshot import is_snapshot
from es_llm.config import ESConfig
from es_llm.errors import EsError, JournalError, ResumeError

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class OpenRun:
    """A directory ready to be trained in. `journal` holds what was saved (None: a new run); `writer` appends to it."""

    directory: RunDirectory
    journal: Journal | None
    writer: JournalWriter
    lock: DirectoryLock | None


def open_run(config: ESConfig, header: str, name: str, job: str, rank: int) -> OpenRun:
    """Make or reopen `config.output_dir` (default: the first free runs/<name>-<number>).

    Raises:
        ConfigError: the directory holds another run, is in use, or can't be written.
        ResumeError: the run to go on with had other options (named), or isn't there.
        JournalError: the journal can't be read or made.
    """
    directory = _directory(config, name)
    directory.prepare()
    require_replaceable(directory.model.absolute())
    ours = read_holder(directory.path).get("job") == job
    lock = DirectoryLock(directory.path, job, rank)
    try:
        if config.resume_from_checkpoint is None and not ours:
            directory.refuse_other_run()
        elif config.resume_from_checkpoint is not None and not directory.journal.exists():
            logger.warning("%s holds no journal: nothing was saved, the run starts from the beginning", directory.path)
        journal, writer = _open_journal(directory, header)
    except EsError:
        lock.release()
        raise
    return OpenRun(directory=directory, journal=journal, writer=writer, lock=lock)


def take_over_run(directory: RunDirectory, header: str, job: str, rank: int) -> OpenRun:
    """Go on where an earlier leader of this job was: in its directory, or in one of the same name on this host.

    Raises:
        ConfigError, ResumeError, JournalError: as `open_run`.
    """
    directory.prepare()
    lock = DirectoryLock(directory.path, job, rank)
    journal, writer = _open_journal(directory, header)
    return OpenRun(directory=directory, journal=journal, writer=writer, lock=lock)


def open_copy(directory: RunDirectory, header: str, job: str) -> OpenRun | None:
    """A copy of the journal for a host that doesn't see the leader's directory; None where it is seen.

    Raises:
        ConfigError, ResumeError, JournalError: the host has no place for it.
    """
    directory.prepare()
    if _holder_seen_anew(directory.path).get("job") == job:
        return None
    journal, writer = _open_journal(directory, header)
    return OpenRun(directory=directory, journal=journal, writer=writer, lock=None)


def _holder_seen_anew(path: Path) -> dict[str, Any]:
    """What the lock says, also where a network file system remembers that there was none: to change something in the
    directory makes it look again."""
    with contextlib.suppress(OSError), tempfile.NamedTemporaryFile(dir=path, prefix=".look-"):
        pass
    return read_holder(path)


def _open_journal(directory: RunDirectory, header: str) -> tuple[Journal | None, JournalWriter]:
    where = str(directory.journal)
    if not directory.journal.exists():
        try:
            return None, JournalWriter.create(where, header)
        except JournalError:
            if not directory.journal.exists():  # else another leader was quicker
                raise
    journal = Journal.read(where)
    saved, own = decode_header(journal.header, where), decode_header(header, where)
    require_same_identity(saved, own, where)
    if journal.torn_bytes:
        logger.warning("%s: %d bytes of an unfinished record are cut off", where, journal.torn_bytes)
    writer = JournalWriter.take_over(where)
    return writer.journal(), writer


def _directory(config: ESConfig, name: str) -> RunDirectory:
    resume, output = config.resume_from_checkpoint, config.output_dir
    if resume is not None and is_snapshot(Path(resume)):
        logger.warning("%s is a snapshot: the run goes on where the journal beside it ends", resume)
        resume = str(Path(resume).parent)
    if resume is None:
        return RunDirectory(Path(output) if output else free_directory(Path("runs"), name))
    if output is None and not Path(resume).is_dir():
        raise ResumeError(f"`resume_from_checkpoint` {resume!r} is no directory")
    if output is not None and Path(output).resolve() != Path(resume).resolve():
        raise ResumeError(
            f"`resume_from_checkpoint` {resume!r} and `output_dir` {output!r} must name the same directory: "
            "a run goes on in its own journal"
        )
    return RunDirectory(Path(resume))
