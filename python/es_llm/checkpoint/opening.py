"""Opens the directory of a run: a new run, one to resume, or that of an earlier leader of the same job."""

from __future__ import annotations

import contextlib
import logging
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from es_llm._core import Journal, JournalWriter, Population
from es_llm.checkpoint.export import require_replaceable
from es_llm.checkpoint.identity import decode_header, read_journal, require_same_identity
from es_llm.checkpoint.lock import DirectoryLock, read_holder
from es_llm.checkpoint.run_directory import RunDirectory, free_directory
from es_llm.checkpoint.run_files import RunFiles
from es_llm.checkpoint.snapshot import is_snapshot
from es_llm.config import ESConfig
from es_llm.errors import EsError, JournalError, ResumeError

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class RunOpener:
    """Opens the directory of a run on one rank. `name` is part of the directory's name, if it has to be chosen."""

    config: ESConfig
    population: Population
    header: str
    name: str
    job: str
    rank: int

    def open(self) -> RunFiles:
        """Create or reopen `config.output_dir` (default: the first free runs/<name>-<number>).

        Raises:
            ConfigError: the directory holds another run, is in use, or can't be written.
            ResumeError: the run to resume had other options (named), or isn't there.
            JournalError: the journal can't be read or created.
        """
        resume = self.config.resume_from_checkpoint
        directory = _directory(self.config, self.name)
        directory.prepare()
        require_replaceable(directory.model.absolute())
        ours = read_holder(directory.path).get("job") == self.job
        lock = DirectoryLock(directory.path, self.job, self.rank)
        try:
            if resume is None and not ours:
                directory.refuse_other_run()
            elif resume is not None and not directory.journal.exists():
                logger.warning(
                    "%s holds no journal: nothing was saved, so the run starts from the beginning", directory.path
                )
            return self._files(directory, lock)
        except EsError:
            lock.release()
            raise

    def take_over(self, directory: RunDirectory) -> RunFiles:
        """Open the directory of an earlier leader of this job, or one of the same name on this host."""
        directory.prepare()
        return self._files(directory, DirectoryLock(directory.path, self.job, self.rank))

    def copy(self, directory: RunDirectory, known: list[bytes]) -> RunFiles | None:
        """Open a copy of the journal, with the known records, on a host that doesn't see the leader's directory; None
        if the host sees it, or can't write a copy. Its lock names the job: any rank of the job may lead from here."""
        lock = None
        try:
            directory.prepare()
            if _fresh_holder(directory.path).get("job") == self.job:
                return None
            lock = DirectoryLock(directory.path, self.job, self.rank)
            files = self._files(directory, lock)
            files.agree_with(known)
        except (OSError, JournalError, ValueError, RuntimeError) as error:
            logger.error("this host keeps no copy of the journal: %s", error)
            if lock is not None:
                lock.release()
            return None
        return files

    def _files(self, directory: RunDirectory, lock: DirectoryLock) -> RunFiles:
        return RunFiles(directory, self.population, *_open_journal(directory, self.header), lock)


def _fresh_holder(path: Path) -> dict[str, Any]:
    """The holder that the lock file names. A network file system may have cached that there is no such file: creating
    a file in the directory makes it look again."""
    with contextlib.suppress(OSError), tempfile.NamedTemporaryFile(dir=path, prefix=".look-"):
        pass
    return read_holder(path)


def _open_journal(directory: RunDirectory, header: str) -> tuple[Journal | None, JournalWriter]:
    where = str(directory.journal)
    if not directory.journal.exists():
        try:
            return None, JournalWriter.create(where, header)
        except JournalError:
            if not directory.journal.exists():  # else another leader was faster
                raise
    journal, saved = read_journal(where)
    if journal.version > 1:  # the writer refuses version 1
        require_same_identity(saved, decode_header(header, where), where)
    if journal.torn_bytes:
        logger.warning("%s: %d bytes of an unfinished record are cut off", where, journal.torn_bytes)
    writer = JournalWriter.take_over(where)
    return writer.journal(), writer


def _directory(config: ESConfig, name: str) -> RunDirectory:
    resume, output = config.resume_from_checkpoint, config.output_dir
    if resume is not None and is_snapshot(Path(resume)):
        logger.warning("%s is a snapshot: the run resumes where the journal beside it ends", resume)
        resume = str(Path(resume).parent)
    if resume is None:
        return RunDirectory(Path(output) if output else free_directory(Path("runs"), name))
    if output is None and not Path(resume).is_dir():
        raise ResumeError(f"`resume_from_checkpoint` {resume!r} isn't a directory")
    if output is not None and Path(output).resolve() != Path(resume).resolve():
        raise ResumeError(
            f"`resume_from_checkpoint` {resume!r} and `output_dir` {output!r} must name the same directory: "
            "a run continues its own journal"
        )
    return RunDirectory(Path(resume))
