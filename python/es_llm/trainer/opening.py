"""Opens the directory of a run on all ranks: a new one, or one to go on with."""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass
from pathlib import Path

from es_llm._core import Journal, JournalWriter
from es_llm.checkpoint.export import require_replaceable
from es_llm.checkpoint.identity import decode_header, require_same_identity
from es_llm.checkpoint.run_directory import RunDirectory, free_directory
from es_llm.comm import Communicator
from es_llm.config import ESConfig
from es_llm.errors import EsError, ResumeError

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class OpenRun:
    """A directory ready to be trained in. `journal` holds what was saved (None: a new run); `writer` appends to
    it (None on ranks other than 0)."""

    directory: RunDirectory
    journal: Journal | None
    writer: JournalWriter | None


def open_run(comm: Communicator, config: ESConfig, header: str, name: str) -> OpenRun:
    """Collective: make or reopen `config.output_dir` (default: the first free runs/<name>-<number>).

    Rank 0 alone touches the disk; the others get the saved records from it.

    Raises:
        ConfigError: the directory holds another run, or can't be written.
        ResumeError: the run to go on with had other options (named), or isn't there.
        JournalError: the journal can't be read or made.
    """
    opened, error = None, None
    if comm.rank == 0:
        try:
            opened = _open(config, header, name)
        except EsError as caught:
            error = caught
    comm.agree(error)
    told = json.dumps(str(opened.directory.path)).encode() if opened else b""
    directory = RunDirectory(Path(json.loads(comm.broadcast(told))))
    saved = comm.broadcast(directory.journal.read_bytes() if opened and opened.journal else b"")
    if opened:
        return opened
    return OpenRun(directory=directory, journal=Journal.parse(saved) if saved else None, writer=None)


def _open(config: ESConfig, header: str, name: str) -> OpenRun:
    directory = _directory(config, name)
    directory.prepare()
    require_replaceable(directory.model.absolute())
    if config.resume_from_checkpoint is None:
        directory.refuse_other_run()
    elif directory.journal.exists():
        return _reopen(directory, header)
    else:
        logger.warning("%s holds no journal: nothing was saved, the run starts from the beginning", directory.path)
    writer = JournalWriter.create(str(directory.journal), header)
    return OpenRun(directory=directory, journal=None, writer=writer)


def _reopen(directory: RunDirectory, header: str) -> OpenRun:
    where = str(directory.journal)
    journal = Journal.read(where)
    saved, own = decode_header(journal.header, where), decode_header(header, where)
    require_same_identity(saved["identity"], own["identity"], where)
    if journal.torn_bytes:
        logger.warning("%s: %d bytes of an unfinished record are cut off", where, journal.torn_bytes)
    return OpenRun(directory=directory, journal=journal, writer=JournalWriter.open(where))


def _directory(config: ESConfig, name: str) -> RunDirectory:
    resume, output = config.resume_from_checkpoint, config.output_dir
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
