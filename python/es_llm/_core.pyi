"""The Rust core: noise, weight kernels, shaping, population, schedule and journal."""

import os
from collections.abc import Callable, Mapping, Sequence
from typing import Final, final

import numpy as np
from numpy.typing import NDArray
from typing_extensions import Self

__all__ = [
    "ASSIGNMENTS",
    "DTYPES",
    "FAILURE_POLICIES",
    "JOURNAL_VERSION",
    "MAX_ELEMENTS",
    "MAX_RANK",
    "MAX_TENSORS",
    "NOISE_VERSION",
    "SHAPING_RULES",
    "Action",
    "Event",
    "FitnessTable",
    "Journal",
    "JournalWriter",
    "Member",
    "Population",
    "Record",
    "Schedule",
    "TeamRank",
    "TeamStep",
    "Unit",
    "UpdateReport",
    "Watchdog",
    "accumulate",
    "accumulate_low_rank",
    "digest",
    "fill",
    "kernel_path",
    "kernel_paths",
    "kernel_threads",
    "perturb_into",
    "perturb_low_rank_into",
    "philox4x32",
    "plan_units",
    "round_into",
    "set_kernel_path",
    "set_kernel_threads",
    "unit_sums",
]

SHAPING_RULES: Final[tuple[str, ...]]
"""Names of the rules that shape fitness."""
FAILURE_POLICIES: Final[tuple[str, ...]]
"""Names of the policies for failed rewards."""
DTYPES: Final[tuple[str, ...]]
"""Names of the types that live weights may have."""
ASSIGNMENTS: Final[tuple[str, ...]]
"""Names of the ways to assign units to ranks."""

NOISE_VERSION: Final[int]
JOURNAL_VERSION: Final[int]
MAX_TENSORS: Final[int]
MAX_ELEMENTS: Final[int]
MAX_RANK: Final[int]

# --- noise and kernels -------------------------------------------------------------------------------

def philox4x32(counter: Sequence[int], key: Sequence[int]) -> tuple[int, int, int, int]:
    """Philox4x32-10 of four 32-bit counter words under two key words (Salmon et al., SC11)."""

def fill(
    out: NDArray[np.float32],
    *,
    run_seed: int,
    iteration: int,
    pair: int,
    tensor: int,
    element: int = 0,
    kind: str = "dense",
) -> None:
    """Standard normals at elements [element, element + out.size) of one tensor's noise; `kind` is "dense",
    "low_rank_a" or "low_rank_b".

    This and the kernels below take C-contiguous, aligned arrays of any shape that share no memory.

    Raises:
        KernelError: an array that is none of that, or read-only, of another type or length; another `kind` or `dtype`.
        NoiseAddressError: a word of the address out of its range.
    """

def perturb_into(
    live: NDArray[np.float32] | NDArray[np.uint16],
    master: NDArray[np.float32],
    *,
    dtype: str,
    scale: float,
    run_seed: int,
    iteration: int,
    pair: int,
    tensor: int,
    element: int = 0,
    columns: int | None = None,
    stride: int | None = None,
) -> int:
    """live = round_dtype(fma(scale, noise, master)); `scale` is sign * sigma as f32; dtype one of
    "float32", "bfloat16", "float16" (the latter two viewed as uint16). Value i is element
    `element + (i // columns) * stride + i % columns`. Returns how many live values are NaN or infinite.

    Raises:
        KernelError, NoiseAddressError: as `fill`; `columns` without `stride`, or rows that aren't whole.
    """

def perturb_low_rank_into(
    live: NDArray[np.float32] | NDArray[np.uint16],
    master: NDArray[np.float32],
    *,
    dtype: str,
    rank: int,
    scale: float,
    run_seed: int,
    iteration: int,
    pair: int,
    tensor: int,
    row: int = 0,
    column: int = 0,
) -> int:
    """live = round_dtype(master + (scale / sqrt(rank)) A B^T), for the block of a matrix at (row, column); master
    (rows, columns), live of as many elements. Returns how many live values are NaN or infinite.

    Raises:
        KernelError, NoiseAddressError: as `fill`; a `rank` outside [1, MAX_RANK], or a master that is no matrix.
    """

def round_into(live: NDArray[np.float32] | NDArray[np.uint16], master: NDArray[np.float32], *, dtype: str) -> int:
    """live = round_dtype(master), to nearest even: the unperturbed weights. Returns how many live values are NaN or
    infinite."""

@final
class UpdateReport:
    """What an update did to one tensor or to several (reports add up with `+`).

    With u the intended update of an element and d the change of its rounded live weight: `moved` counts the live
    weights that became another value, `nonfinite` those that are NaN or infinite afterwards; the three sums are those
    of u^2, d^2 and u d over the elements of which d is finite.
    """

    def __new__(
        cls,
        *,
        elements: int,
        moved: int,
        nonfinite: int,
        intended_square: float,
        actual_square: float,
        product: float,
    ) -> Self: ...
    @property
    def elements(self) -> int: ...
    @property
    def moved(self) -> int:
        """Elements whose rounded live value became another, NaN and infinity among them; one that was NaN stays."""
    @property
    def update_norm(self) -> float:
        """L2 norm of the intended update, weights that aren't finite left out."""
    @property
    def cosine(self) -> float:
        """Cosine between the intended update and the change of the rounded live weights; NaN if either is zero."""
    @property
    def nonfinite(self) -> int:
        """Elements whose rounded live value is NaN or infinite after the update."""
    def __add__(self, other: UpdateReport, /) -> UpdateReport: ...
    def __radd__(self, other: UpdateReport, /) -> UpdateReport: ...

def accumulate(
    master: NDArray[np.float32],
    *,
    dtype: str,
    pairs: Sequence[int],
    coefficients: NDArray[np.float32],
    run_seed: int,
    iteration: int,
    tensor: int,
    element: int = 0,
    columns: int | None = None,
    stride: int | None = None,
) -> UpdateReport:
    """master += sum over the pairs, in order, of coefficient * noise(pair): a chain of f32 FMAs starting at 0,
    then one f32 addition. One pass over the weights for all pairs. `dtype` is the live type, for the report;
    `pairs` N numbers in [0, 2**32), `coefficients` (N,).

    Raises:
        KernelError, NoiseAddressError: as `perturb_into`, or another length of `coefficients`.
    """

def accumulate_low_rank(
    master: NDArray[np.float32],
    *,
    dtype: str,
    rank: int,
    pairs: Sequence[int],
    coefficients: NDArray[np.float32],
    run_seed: int,
    iteration: int,
    tensor: int,
    row: int = 0,
    column: int = 0,
) -> UpdateReport:
    """master += sum over the pairs, in order, of (coefficient / sqrt(rank)) A B^T, for the block of a matrix at
    (row, column): master (rows, columns), `coefficients` (N,). One product over pairs and rank.

    Raises:
        KernelError, NoiseAddressError: as `perturb_low_rank_into`, or another length of `coefficients`.
    """

def digest(
    master: NDArray[np.float32],
    *,
    tensor: int,
    element: int = 0,
    columns: int | None = None,
    stride: int | None = None,
) -> int:
    """Order-free 64-bit digest of the weights' bits; the digests of shards and tensors add up modulo 2**64.

    Raises:
        KernelError, NoiseAddressError: as `perturb_into`.
    """

def set_kernel_path(name: str | None) -> None:
    """Instruction set that the kernels use: "plain", "neon", "avx2", "avx512"; None for the fastest. Never changes
    the bits.

    Raises:
        KernelError: no such name, or this machine lacks it.
    """

def kernel_path() -> str:
    """Instruction set that the kernels use."""

def kernel_paths() -> list[str]:
    """Instruction sets of this machine, slowest first."""

def set_kernel_threads(count: int) -> None:
    """Threads that the kernels use (0: one per core). Never changes the bits."""

def kernel_threads() -> int: ...

# --- population -------------------------------------------------------------------------------------

@final
class Member:
    """One perturbed model: its weights are master + sign * sigma * noise(run_seed, iteration, pair)."""

    @property
    def run_seed(self) -> int: ...
    @property
    def iteration(self) -> int: ...
    @property
    def index(self) -> int: ...
    @property
    def pair(self) -> int: ...
    @property
    def sign(self) -> int:
        """+1, or -1 for the mirrored member of an antithetic pair."""
    @property
    def sigma(self) -> float:
        """Scale of the noise."""

@final
class Record:
    """One iteration of a run: everything that `apply` and the update of the weights need. N members, P pairs: pair p is
    the p-th coefficient."""

    @property
    def run_seed(self) -> int: ...
    @property
    def iteration(self) -> int: ...
    @property
    def sigma(self) -> float: ...
    @property
    def learning_rate(self) -> float: ...
    @property
    def cursor(self) -> int:
        """Rows of the training data that were consumed before this iteration."""
    @property
    def fitness(self) -> list[float | None]:
        """One value per member; None for a member that failed."""
    @property
    def coefficients(self) -> NDArray[np.float64]:
        """(P,) what multiplies the noise of each pair: shaped fitness Z, or Z+ - Z- of an antithetic pair."""
    @property
    def rate_folded(self) -> bool:
        """True in records of version-1 journals: learning rate / N is folded into the coefficients."""
    def to_bytes(self) -> bytes:
        """All of it, as the journal holds it."""
    def sgd_coefficients(self) -> NDArray[np.float32]:
        """(P,) f32(learning rate / N * coefficient): what plain SGD multiplies the noise of each pair with."""

@final
class Population:
    """Members and seeds of a run, without weights. State is a fold of records."""

    def __new__(
        cls,
        *,
        run_seed: int,
        population_size: int,
        antithetic: bool = False,
        shaping: str | Callable[[NDArray[np.float64]], Sequence[float]] | None = None,
        failure_policy: str = "worst",
    ) -> Self:
        """
        Args:
            shaping: one of `SHAPING_RULES` (None: the first), or a function: fitness (M,) of the members that count,
                finite and not all equal -> their shaped fitness Z, M finite numbers.

        Raises:
            ConfigError: no such rule or policy.
            PopulationError: a size that can't be.
        """
    @property
    def run_seed(self) -> int: ...
    @property
    def population_size(self) -> int: ...
    @property
    def pairs(self) -> int: ...
    @property
    def iteration(self) -> int: ...
    def ask(self, *, sigma: float) -> list[Member]:
        """The members of this iteration under a noise scale. Antithetic: members 2p (+) and 2p + 1 (-) share pair p."""
    def tell(self, fitness: Sequence[float | None], *, sigma: float, learning_rate: float, cursor: int = 0) -> Record:
        """The record of these fitness values. Changes nothing: journal it, then `apply` it.

        Raises:
            PopulationError: another number of values than members, a failed one under "raise", a shaping rule that
                fails, or a step that overflows float32.
        """
    def apply(self, record: Record) -> None:
        """Goes to the next iteration. The live run, resume and replay share it."""
    def pack(self, record: Record) -> bytes:
        """The bytes by which ranks send each other a record: 8 per member and 33, since the receiver computes the
        coefficients from the fitness; 8 more per pair where another rank might compute others."""
    def unpack(self, data: bytes) -> Record:
        """The record of such bytes.

        Raises:
            PopulationError: they are no record of this population, or give other coefficients here.
        """


def unit_sums(rewards: Sequence[float | None], *, members: int = 1, failure_policy: str) -> list[float]:
    """The sums of a unit's rewards, given member by member in prompt order: the few numbers of it that travel. None, NaN
    and infinities are failed rewards.

    "zero", "raise": the sum of each member; "worst": then the smallest of each member; both: then, if a reward failed,
    the number of failures of each member; "drop_prompt": every reward, NaN where it failed.

    Raises:
        ConfigError: no such policy.
    """

@final
class FitnessTable:
    """The sums of each unit of `plan_units`, each filled exactly once, in any order.

    Raises:
        ConfigError: no such policy.
        PopulationError: no such plan.
    """

    def __new__(
        cls, members: int, prompts: int, *, members_per_unit: int = 1, prompts_per_unit: int, failure_policy: str
    ) -> Self: ...
    def set(self, unit: int, sums: Sequence[float]) -> None:
        """Take a unit's `unit_sums`.

        Raises:
            PopulationError: no such unit, filled already, or values that can't be its sums.
        """
    @property
    def complete(self) -> bool: ...
    @property
    def failures(self) -> int:
        """Number of rewards that failed."""
    def fitness(self) -> list[float | None]:
        """Mean reward of each member over the prompts, in f64, after the policy; None for all if no reward is left.

        Raises:
            PopulationError: a unit is missing, or a reward failed under "raise".
        """

@final
class Unit:
    """A unit of work: a range of members and a range of prompts, evaluated as one batch."""

    @property
    def index(self) -> int: ...
    @property
    def members(self) -> range: ...
    @property
    def prompts(self) -> range: ...

def plan_units(members: int, prompts: int, *, members_per_unit: int = 1, prompts_per_unit: int) -> list[Unit]:
    """The units of an iteration, one chunk of members after the other; they depend on nothing but the arguments.

    Raises:
        PopulationError: an argument is 0, or there are too many units.
    """

# --- schedule ---------------------------------------------------------------------------------------

@final
class Event:
    """What happened: `Event.WorkerReady(worker)`, `Event.UnitDone(worker, unit, result)`,
    `Event.WorkerLost(worker)`, `Event.WorkerJoined(worker)`, `Event.Tick()`. `result` stands for the unit's result and
    is compared with that of a second worker. A worker that holds no more units is free for the next."""

    @staticmethod
    def WorkerReady(worker: int) -> Event: ...
    @staticmethod
    def UnitDone(worker: int, unit: int, result: int = 0) -> Event: ...
    @staticmethod
    def WorkerLost(worker: int) -> Event: ...
    @staticmethod
    def WorkerJoined(worker: int) -> Event: ...
    @staticmethod
    def Tick() -> Event: ...

@final
class Action:
    """What to do: kind "assign" or "duplicate" (worker, unit), "cancel" (worker, unit), "differs" (worker, unit, first: the worker
    whose result counted) or "finish"."""

    @property
    def kind(self) -> str: ...
    @property
    def worker(self) -> int | None: ...
    @property
    def unit(self) -> int | None: ...
    @property
    def first(self) -> int | None: ...

@final
class Schedule:
    """State machine over opaque unit and worker ids: which worker evaluates which unit.

    `costs` are the expected costs of the units 0, 1, ... in any measure; `workers` maps ids to speeds in cost per
    second (0: unknown); `policy` is "static" (one run of units per worker, as long as its speed says) or "dynamic"
    (units as workers become ready, the longest first; late ones are given to a second worker near the end)."""

    def __new__(cls, costs: Sequence[float], workers: Mapping[int, float], policy: str = "dynamic") -> Self: ...
    def handle_event(self, now: float, event: Event) -> list[Action]:
        """Takes one event and says what to do; "finish" comes once, with the last unit.

        Losing the last worker before the end is a ScheduleError; one that joins later takes all open units."""
    def is_done(self, unit: int) -> bool:
        """Whether a result of this unit was counted: asked before `UnitDone`, it tells whether that one counts."""
    @property
    def speeds(self) -> dict[int, float]:
        """Cost per second of each living worker that was measured: the `workers` of the next schedule."""
    @property
    def finished(self) -> bool: ...

# --- team ---------------------------------------------------------------------------------------------

@final
class TeamStep:
    """What the main thread of a rank does next; see `es_llm.team.program` for what each kind means."""

    @property
    def kind(self) -> str:
        """ "wait", "evaluate", "apply", "agreed", "heal", "welcome", "note", "lead", "follow", "complete", "halt",
        "superseded", "lost", "back", "stranger", "differs", "diverged", "finished" or "stopped"."""
    @property
    def unit(self) -> tuple[int, int, int] | None:
        """Of "evaluate": kind and step of the round, and the unit."""
    @property
    def iteration(self) -> int | None: ...
    @property
    def payload(self) -> bytes | None: ...
    @property
    def digest(self) -> int | None: ...
    @property
    def ranks(self) -> list[int]:
        """The ranks it is about; of "differs", the one whose result counted and the one whose result differs."""
    @property
    def loss(self) -> str | None:
        """Why a rank was lost: "dead", "silent", or "resigned: " and its words."""
    @property
    def worse(self) -> bool:
        """Of "stranger": its records differ; of "diverged": making the weights anew didn't help."""

@final
class TeamRank:
    """One rank of a job as a machine without I/O: messages and losses go in, messages and steps come out. Times are
    seconds of any clock that never goes back. May be used from two threads."""

    def __new__(cls, rank: int, ranks: int) -> Self: ...
    def renew(self, identity: int, *, policy: str = "dynamic", unit_timeout_s: float = 0.0) -> None:
        """Another run begins, on all ranks at the same place."""
    def enter(self, now: float) -> None:
        """The next collective call begins."""
    def enter_unable(self, now: float, reason: str) -> None:
        """The next collective call begins, and this rank can't take part."""
    def restore(self, now: float, first: int, records: Sequence[bytes]) -> bool:
        """Records of the leader's journal, from `first` on: they are applied first. False if others are known already."""
    def receive(self, now: float, from_: int, payload: bytes, /) -> None:
        """A message came.

        Raises:
            CommunicationError: it is none.
        """
    def lost(self, now: float, rank: int) -> None:
        """A rank's process is gone."""
    def tick(self, now: float) -> None:
        """Time passed; call it a few times a second."""
    def take_sends(self) -> list[tuple[int, bytes]]:
        """Messages to be sent, (to, bytes), in order."""
    def next(self, now: float) -> TeamStep:
        """The next step of the main thread; the one before is finished."""
    def alive(self, now: float) -> None:
        """The main thread is getting on with a step that takes long."""
    def evaluated(
        self, now: float, values: Sequence[float], counts: Sequence[int], figures: bytes | None = None
    ) -> None:
        """The unit of the last "evaluate" gave this."""
    @property
    def upcoming(self) -> tuple[int, int, int] | None:
        """(kind, step, unit) of the unit after the one in work, if it is known already."""
    def digest(self, now: float, iteration: int, digest: int) -> None: ...
    def halt(self, now: float) -> None:
        """This rank was asked to end the call soon."""
    def resign(self, now: float, reason: str) -> None:
        """This rank can't go on."""
    def begin(self, now: float, kind: int, step: int, costs: Sequence[float]) -> None:
        """Leader: opens a round.

        Raises:
            ScheduleError: no units, or a cost that is none.
        """
    def take_table(self) -> tuple[list[list[float]], list[int], list[tuple[int, bytes]]] | None:
        """Leader, after "complete": values of each unit, the sums of the counts, and (unit, figures) where there are
        some; None if the round became void."""
    def publish(self, now: float, iteration: int, payload: bytes) -> bool: ...
    def lead_anew(self) -> None:
        """The journal was taken over by a rank that is gone: the leader takes it over anew."""
    def set_welcome(self, now: float, payload: bytes) -> None: ...
    def note(self, payload: bytes) -> None: ...
    def finish(self, now: float, payload: bytes) -> None: ...
    def stop(self, payload: bytes) -> None: ...
    @property
    def leads(self) -> bool: ...
    @property
    def over(self) -> bool:
        """Whether this rank heard that others ended the call."""
    @property
    def expects(self) -> bool:
        """Whether pieces of a record are on their way to this rank, and not late yet."""
    @property
    def head(self) -> int: ...
    @property
    def losses(self) -> dict[int, str]: ...
    def records(self, first: int = 0) -> list[bytes]: ...
    @property
    def traffic(self) -> tuple[int, int]:
        """Payload bytes (sent, received) so far."""

@final
class Watchdog:
    """Ends this process at a given moment, also while a thread that hangs holds the GIL."""

    def __new__(cls) -> Self: ...
    def arm(
        self,
        seconds: float,
        exit_code: int | None = None,
        message: str = "",
        signal: tuple[float, int] | None = None,
    ) -> None:
        """The process ends after so many seconds, unless `arm` or `disarm` is called before; None: by SIGKILL. Time during
        which it is stopped (SIGSTOP, a suspended job) doesn't count. With `signal` = (seconds, number) the calling thread
        gets that signal before.

        Raises:
            ValueError: negative, too large or not finite.
        """
    def keep_signal(self) -> None:
        """The signal needn't be sent any more."""
    def disarm(self) -> None:
        """It goes on."""

# --- journal ----------------------------------------------------------------------------------------

@final
class JournalWriter:
    """Appends frames to a journal; every append is on the disk (fsync) when it returns."""

    @staticmethod
    def create(path: str | os.PathLike[str], header: str) -> JournalWriter:
        """A new journal with this header (JSON text). An existing file is refused. The file appears whole or not at all."""
    @staticmethod
    def open(path: str | os.PathLike[str]) -> JournalWriter:
        """An existing journal: verified, cut back to its last good frame, ready to append.

        Raises:
            JournalError: it can't be written, or has format version 1, which is read but not continued.
            JournalCorruptError: it is damaged before its end.
        """
    @staticmethod
    def take_over(path: str | os.PathLike[str]) -> JournalWriter:
        """As `open`, in a file of its own that takes the journal's name: a writer that still has the old one is
        refused from then on."""
    def journal(self) -> Journal:
        """What is in the file: this writer's own, whoever has its name by now."""
    @property
    def records(self) -> int | None:
        """Records in the file; None if it is closed."""
    def append_record(self, record: Record) -> None: ...
    def append_digest(self, iteration: int, digest: int) -> None:
        """Digest of the master weights after `iteration` was applied."""
    def append_event(self, event: str) -> None:
        """An event as JSON text: an evaluation, a resume, a rank that died."""
    def close(self) -> None: ...

@final
class Journal:
    """A journal that was read and verified."""

    @staticmethod
    def read(path: str | os.PathLike[str]) -> Journal: ...
    def with_run_seed(self, run_seed: int) -> Journal:
        """This journal, with the run seed that its header names: records of format version 1 don't hold it."""
    @property
    def version(self) -> int: ...
    @property
    def header(self) -> str: ...
    @property
    def records(self) -> list[Record]:
        """
        Raises:
            JournalError: format version 1, and no `with_run_seed` yet.
        """
    @property
    def digests(self) -> dict[int, int]:
        """Iteration -> digest after it."""
    @property
    def events(self) -> list[str]: ...
    @property
    def good_bytes(self) -> int: ...
    @property
    def torn_bytes(self) -> int:
        """Bytes of an unfinished last frame, ignored by readers and cut off by `JournalWriter.open`."""
