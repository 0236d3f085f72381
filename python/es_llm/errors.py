"""The errors of es_llm: one tree, each with the builtin class that callers may already catch.

Messages say what, where, got and expected. The Rust core raises these classes by name.
"""


class EsError(Exception):
    """Base class of every error that es_llm raises on purpose.

    `shared` is true on an error that all ranks of a job raised together: rank 0 alone need tell it.
    """

    shared: bool = False


class ConfigError(EsError, ValueError):
    """An option, a task or an argument that can't be used; raised before any work starts."""


class NoiseAddressError(EsError, ValueError):
    """A noise address outside the contract: tensor, element or version out of range."""


class KernelError(EsError, ValueError):
    """An array that a kernel refuses: wrong type, shape, not contiguous, or overlapping."""


class PopulationError(EsError, ValueError):
    """Fitness or records that don't fit the population: wrong length, order, or repeated cells."""


class ScheduleError(EsError, ValueError):
    """An event that the schedule can't accept: unknown unit or worker, or a differing second result."""


class CommunicationError(EsError, RuntimeError):
    """Ranks that don't understand each other, or a job that can't go on without the ranks it lost."""


class LeftOutError(CommunicationError):
    """This rank failed or was too late, and the others ended their work without it."""


class StoppedError(EsError, RuntimeError):
    """A signal ended the run before its first iteration; nothing was trained, and it can be started again."""


class JournalError(EsError, RuntimeError):
    """The journal can't be written or read: full disk, missing file, wrong version."""


class JournalTakenError(JournalError):
    """The journal's file was deleted, or another leader of the same job has taken it over."""


class JournalCorruptError(JournalError):
    """Bytes in the middle of the journal differ from what was written."""


class ResumeError(EsError, RuntimeError):
    """The directory holds a run that this command can't continue; names the field that differs."""


class ModelError(EsError, ValueError):
    """A model directory or module that can't be used: missing files, broken weights, wrong shapes."""


class RewardError(EsError, RuntimeError):
    """A reward function that can't be imported, or that returned something that is no reward."""


class DivergenceError(EsError, RuntimeError):
    """Ranks hold different weights; names the ranks and the iteration."""
