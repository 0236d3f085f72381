"""The errors of es_llm: one tree. Each class also has a builtin base class.

A message names the fault, where it is, the value and what was expected. The Rust core raises these classes by name.
"""


class EsError(Exception):
    """Base class of every error that es_llm raises on purpose.

    `shared` is true for an error that all ranks of a job raise together, so that only rank 0 reports it.
    """

    shared: bool = False


class ConfigError(EsError, ValueError):
    """An option, a task or an argument can't be used; raised before any work starts."""


class NoiseAddressError(EsError, ValueError):
    """A noise address is out of range: its tensor, element or version."""


class KernelError(EsError, ValueError):
    """A kernel refuses an array: its type or shape is wrong, it is not contiguous, or it overlaps another one."""


class PopulationError(EsError, ValueError):
    """Fitness or records don't fit the population: wrong length, wrong order, or repeated cells."""


class ScheduleError(EsError, ValueError):
    """The distribution of units can't accept an event: its unit or rank is unknown, or a second result differs."""


class CommunicationError(EsError, RuntimeError):
    """Ranks can't exchange messages, or the job can't continue without its lost ranks."""


class LeftOutError(CommunicationError):
    """This rank failed or was too late, and the other ranks ended without it."""


class StoppedError(EsError, RuntimeError):
    """A signal ended the run before its first iteration. Nothing was trained; start the run again."""


class JournalError(EsError, RuntimeError):
    """The journal can't be written or read: the disk is full, the file is missing, or its version is wrong."""


class JournalTakenError(JournalError):
    """The journal's file was deleted, or another leader of the same job has taken it over."""


class JournalCorruptError(JournalError):
    """Bytes in the middle of the journal are damaged."""


class ResumeError(EsError, RuntimeError):
    """The directory holds a run that this command can't continue; names the field that differs."""


class ModelError(EsError, ValueError):
    """A model can't be used: files are missing, weights are broken, or shapes are wrong."""


class OutOfMemoryError(EsError, MemoryError):
    """A batch of completions needs more memory than is free; names the option that makes it smaller."""


class RewardError(EsError, RuntimeError):
    """A reward function can't be imported, or returned a value that is no reward."""


class DivergenceError(EsError, RuntimeError):
    """Ranks hold different weights; names the ranks and the iteration."""
