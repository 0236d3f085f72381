"""The Rust core: noise, weight kernels, shaping, population, units, team and journal."""

import os
from collections.abc import Callable, Sequence
from typing import Final, final

import numpy as np
from numpy.typing import NDArray
from typing_extensions import Self, disjoint_base

__all__ = [
    "ASSIGNMENTS",
    "DTYPES",
    "FAILURE_POLICIES",
    "JOURNAL_VERSION",
    "MAX_ELEMENTS",
    "MAX_RANK",
    "MAX_TENSORS",
    "NOISE_KINDS",
    "NOISE_VERSION",
    "SHAPING_RULES",
    "BatchRows",
    "FitnessTable",
    "Instruction",
    "Journal",
    "JournalWriter",
    "Loss",
    "LowRank",
    "Member",
    "Noise",
    "Population",
    "Record",
    "RowFactors",
    "Slice",
    "Table",
    "TeamRank",
    "Terms",
    "Unit",
    "UpdateReport",
    "Watchdog",
    "accumulate",
    "compare",
    "digest",
    "fill",
    "kernel_path",
    "kernel_paths",
    "kernel_threads",
    "perturb",
    "philox4x32",
    "plan_units",
    "product",
    "round",
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
NOISE_KINDS: Final[dict[str, int]]
"""Name and number of each kind of noise: one value per weight, or one per value of a factor A or B."""

def _panic_in_core(message: str) -> None:
    """Panics in Rust, as a defect of the core would: for the test of what callers get.

    Raises:
        EsError: always.
    """

# --- noise and kernels -------------------------------------------------------------------------------

@final
class Noise:
    """The part of an address that all tensors of a member share.

    Raises:
        NoiseAddressError: a word that is no integer, or out of its range.
    """

    def __new__(cls, run_seed: int, iteration: int, pair: int) -> Self: ...
    @property
    def run_seed(self) -> int: ...
    @property
    def iteration(self) -> int: ...
    @property
    def pair(self) -> int: ...
    def __hash__(self) -> int: ...

@final
class Slice:
    """A slice of one tensor, with dense noise. Value i is element `element + (i // columns) * stride + i % columns` of
    the whole, unsharded tensor.

    Args:
        tensor: its number in the parameter table.
        size: number of values.
        element: of the first value.
        columns, stride: values per row, and elements from the start of a row to the next; default: one row. Rows that
            follow each other in the whole tensor are one row, too: then both are max(size, 1).

    Raises:
        KernelError: `columns` without `stride`, or rows that are not whole.
        NoiseAddressError: a word that is no integer, or out of its range.
    """

    def __new__(
        cls, tensor: int, size: int, *, element: int = 0, columns: int | None = None, stride: int | None = None
    ) -> Self: ...
    @property
    def tensor(self) -> int: ...
    @property
    def size(self) -> int: ...
    @property
    def element(self) -> int: ...
    @property
    def columns(self) -> int: ...
    @property
    def stride(self) -> int: ...
    @property
    def rows(self) -> int:
        """Number of rows."""
    @property
    def end(self) -> int:
        """One past the last element."""
    def __hash__(self) -> int: ...

@final
class LowRank:
    """A block of one matrix, with low-rank noise A B^T / sqrt(rank).

    Args:
        tensor: its number in the parameter table.
        shape: rows and columns of the block.
        rank: columns of the factors A and B, in [1, MAX_RANK].
        row, column: of the block's first value in the whole matrix.

    Raises:
        KernelError: a shape that isn't that of a matrix, or a rank out of range.
        NoiseAddressError: a word that is no integer, or out of its range.
    """

    def __new__(cls, tensor: int, shape: tuple[int, ...], rank: int, *, row: int = 0, column: int = 0) -> Self: ...
    @property
    def tensor(self) -> int: ...
    @property
    def shape(self) -> tuple[int, int]: ...
    @property
    def rank(self) -> int: ...
    @property
    def row(self) -> int: ...
    @property
    def column(self) -> int: ...
    @property
    def size(self) -> int:
        """Number of values."""
    def __hash__(self) -> int: ...

@final
class Terms:
    """The terms of an update: the pairs of one iteration, in the order of the sum, with one coefficient each.

    Args:
        coefficients: (N,) float32.
        pairs: N numbers in [0, 2**32); default: 0, 1, ..., N - 1.

    Raises:
        KernelError: coefficients that are no contiguous float32 array (N,), or another number of pairs.
        NoiseAddressError: a word that is no integer, or out of its range.
    """

    def __new__(
        cls,
        run_seed: int,
        iteration: int,
        coefficients: NDArray[np.float32],
        pairs: Sequence[int] | NDArray[np.uint32] | None = None,
    ) -> Self: ...
    @property
    def run_seed(self) -> int: ...
    @property
    def iteration(self) -> int: ...
    @property
    def pairs(self) -> NDArray[np.uint32]:
        """(N,), a copy."""
    @property
    def coefficients(self) -> NDArray[np.float32]:
        """(N,), a copy."""
    def __len__(self) -> int: ...

def philox4x32(counters: NDArray[np.uint32], key: tuple[int, int]) -> NDArray[np.uint32]:
    """Philox4x32-10 of counters (n, 4) under a key of two 32-bit words: (n, 4) random words (Salmon et al., SC11).

    Raises:
        KernelError: an array of another type or shape.
    """

def fill(out: NDArray[np.float32], noise: Noise, at: Slice, kind: str = "dense") -> None:
    """out = noise: standard normals; `kind` is one of NOISE_KINDS.

    This and the kernels below take C-contiguous, aligned arrays of any shape that share no memory.

    Raises:
        KernelError: any other array, or one that is read-only, of another type or length; another `kind` or `dtype`.
    """

def perturb(
    live: NDArray[np.float32] | NDArray[np.uint16],
    master: NDArray[np.float32],
    noise: Noise,
    scale: float,
    at: Slice | LowRank,
    *,
    dtype: str,
) -> int:
    """live = round_dtype(fma(scale, noise, master)), or round_dtype(master + (scale / sqrt(rank)) A B^T) for low-rank
    noise. `scale` is sign * sigma as f32; `dtype` is "float32", "bfloat16" or "float16" (the latter two as uint16).

    Returns the number of live values that are NaN or infinite.

    Raises:
        KernelError: as `fill`.
    """

def round(live: NDArray[np.float32] | NDArray[np.uint16], master: NDArray[np.float32], *, dtype: str) -> int:
    """live = round_dtype(master), to nearest even: the unperturbed weights.

    Returns the number of live values that are NaN or infinite.

    Raises:
        KernelError: as `fill`.
    """

def accumulate(master: NDArray[np.float32], terms: Terms, at: Slice | LowRank, *, dtype: str) -> UpdateReport:
    """master += sum over the terms, in order, of coefficient * noise(pair): a chain of f32 FMAs from 0, then one f32
    addition. One pass over the weights for all terms; low-rank noise is one product over pairs and rank.

    Args:
        dtype: the live type, for the report.

    Raises:
        KernelError: as `fill`.
    """

def compare(before: NDArray[np.float32], after: NDArray[np.float32], *, dtype: str) -> UpdateReport:
    """The report of an update of weights that an optimizer has made: `before` and `after` (n,), live weights of type
    `dtype`.

    Raises:
        KernelError: arrays of different lengths, or an unknown type.
    """

def digest(master: NDArray[np.float32], at: Slice) -> int:
    """64-bit digest of the bits of the weights. The order of the elements doesn't count; the digests of slices and tensors
    add up modulo 2**64.

    Raises:
        KernelError: as `fill`.
    """

@final
class BatchRows:
    """The rows of a batch (B,): the index of each row's pair, and the scale of its noise, sigma or -sigma as f32."""

    def __new__(cls, pairs: Sequence[int], scales: Sequence[float]) -> Self: ...
    def __len__(self) -> int: ...

@final
class RowFactors:
    """The factors of one matrix W (out, in) for P pairs, from which each row of a batch takes the noise of its member:
    E = A B^T / sqrt(rank) (EGGROLL, arXiv 2511.16652). W + s E is never built.

    The methods take C-contiguous arrays y and x of type `dtype`, (rows, ..., out) and (rows, ..., in), with the same
    number of tokens in each row. Sums are f32, in a fixed order; y is rounded once.

    Args:
        noise: the iteration; its pair is ignored.
        at: the matrix.
        pairs: P numbers in [0, 2**32).

    Raises (all methods):
        KernelError: arrays of another type or size, rows that differ in number, or a pair's index out of range.
    """

    def __new__(cls, noise: Noise, at: LowRank, pairs: Sequence[int]) -> Self: ...
    @property
    def a(self) -> NDArray[np.float32]:
        """A (P, rank, out), 1 / sqrt(rank) included; a copy."""
    @property
    def b(self) -> NDArray[np.float32]:
        """B (P, rank, in); a copy."""
    def add(
        self,
        y: NDArray[np.float32] | NDArray[np.uint16],
        x: NDArray[np.float32] | NDArray[np.uint16],
        rows: BatchRows,
        *,
        dtype: str,
        outputs: tuple[int, int] | None = None,
    ) -> None:
        """y += scale (x B) A^T, for y = x W^T; `outputs` are the rows [start, stop) of W that y has."""
    def add_transposed(
        self,
        y: NDArray[np.float32] | NDArray[np.uint16],
        x: NDArray[np.float32] | NDArray[np.uint16],
        rows: BatchRows,
        *,
        dtype: str,
    ) -> None:
        """y += scale (x A) B^T, for y = x W."""
    def add_embedding(
        self,
        y: NDArray[np.float32] | NDArray[np.uint16],
        ids: NDArray[np.int64],
        rows: BatchRows,
        *,
        dtype: str,
    ) -> None:
        """y += scale A[id] B^T, for y = W[id]; ids (rows, tokens)."""

def product(y: NDArray[np.float32], x: NDArray[np.float32], w: NDArray[np.float32]) -> None:
    """y = x W^T, for y (..., out), x (..., in) and w (out, in), all C-contiguous.

    Each value is a chain of fmas over the inputs, in order, from 0. So it depends on its row of x and on its row of W
    alone: not on the other rows, the instruction set or the threads. W is read as it is, once for all rows.

    Raises:
        KernelError: arrays of another type, or sizes that don't fit.
    """

@final
class UpdateReport:
    """The effect of an update on one tensor or on several (reports add up with `+`).

    With u the intended update of an element and d the change of its rounded live weight: `moved` counts the live
    weights that changed their value, `nonfinite` those that are NaN or infinite afterwards; the three sums are those
    of u^2, d^2 and u d over the elements whose d is finite.
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
        """Elements whose rounded live value changed, also to NaN or infinity; a NaN that stays NaN hasn't changed."""
    @property
    def update_norm(self) -> float:
        """L2 norm of the intended update, without weights that aren't finite."""
    @property
    def cosine(self) -> float:
        """Cosine between the intended update and the change of the rounded live weights; NaN if either is zero."""
    @property
    def nonfinite(self) -> int:
        """Elements whose rounded live value is NaN or infinite after the update."""
    def __add__(self, other: UpdateReport, /) -> UpdateReport: ...
    def __radd__(self, other: UpdateReport, /) -> UpdateReport: ...

def set_kernel_path(name: str | None) -> None:
    """Sets the instruction set of the kernels: "plain", "neon", "avx2", "avx512"; None means the fastest. Never changes the
    bits.

    Raises:
        KernelError: no such name, or this machine lacks it.
    """

def kernel_path() -> str:
    """Name of the instruction set that the kernels use."""

def kernel_paths() -> list[str]:
    """Names of the instruction sets of this machine, slowest first."""

def set_kernel_threads(count: int) -> None:
    """Sets the number of threads of the kernels; 0 means one per core. Never changes the bits."""

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
        """(P,) the factor of the noise of each pair: shaped fitness Z, or Z+ - Z- of an antithetic pair."""
    @property
    def rate_folded(self) -> bool:
        """True in records of version-1 journals: learning rate / N is folded into the coefficients."""
    def to_bytes(self) -> bytes:
        """The bytes of the record in a journal."""
    def sgd_coefficients(self) -> NDArray[np.float32]:
        """(P,) f32(learning rate / N * coefficient), the factor of the noise of each pair in plain SGD."""

@final
class Population:
    """Members and seeds of a run, without weights. The state is a function of the records."""

    def __new__(
        cls,
        *,
        run_seed: int,
        population_size: int,
        antithetic: bool = False,
        shaping: str | Callable[[NDArray[np.float64]], Sequence[float]] | None = None,
        failure_policy: str | None = None,
    ) -> Self:
        """
        Args:
            shaping: one of `SHAPING_RULES` (None: the first), or a function: fitness (M,) of the members that count,
                finite and not all equal -> their shaped fitness Z, M finite numbers.

        Raises:
            ConfigError: no such rule or policy.
            PopulationError: a size out of range, or odd with antithetic pairs.
        """
    @property
    def iteration(self) -> int: ...
    def ask(self, *, sigma: float) -> list[Member]:
        """The members of this iteration. With antithetic pairs, members 2p (+) and 2p + 1 (-) share pair p."""
    def tell(self, fitness: Sequence[float | None], *, sigma: float, learning_rate: float, cursor: int = 0) -> Record:
        """The record of these fitness values. Changes nothing: the caller journals the record, then applies it.

        Raises:
            PopulationError: another number of values than members, a failed one under "raise", a shaping rule that
                fails, or a step that overflows float32.
        """
    def tell_table(self, table: FitnessTable, *, sigma: float, learning_rate: float, cursor: int = 0) -> Record:
        """The record of a complete table; see `tell`.

        Raises:
            PopulationError: see `tell` and `FitnessTable.fitness`.
        """
    def apply(self, record: Record) -> None:
        """Moves to the next iteration. The live run, resume and replay use it."""
    def pack(self, record: Record) -> bytes:
        """The bytes of a record, as ranks send it: 8 per member and 33 more. The receiver computes the coefficients from
        the fitness; if another rank might compute other coefficients, they are sent too, 8 bytes per pair."""
    def unpack(self, data: bytes) -> Record:
        """The record of packed bytes.

        Raises:
            PopulationError: they are no record of this population, or give other coefficients here.
        """

def unit_sums(rewards: Sequence[float | None], *, members: int = 1, failure_policy: str) -> list[float]:
    """The sums of the rewards of a unit, given member by member in prompt order: the numbers that ranks send. None, NaN
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
        """Fills a unit with its `unit_sums`.

        Raises:
            PopulationError: no such unit, filled already, or values that can't be its sums.
        """
    def fill(self, table: Table) -> None:
        """Fills all units from the table of a complete round, which may have further units behind them.

        Raises:
            PopulationError: see `set`.
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

# --- units --------------------------------------------------------------------------------------------

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

# --- team ---------------------------------------------------------------------------------------------

@disjoint_base
class Loss:
    """Why a rank was lost. Its text is "dead", "silent" or "failed: " and the reason."""

    @final
    class Dead(Loss):
        """Its process has ended."""

        __match_args__: Final = ()
        def __new__(cls) -> Self: ...

    @final
    class Silent(Loss):
        """It didn't answer in time; it may come back."""

        __match_args__: Final = ()
        def __new__(cls) -> Self: ...

    @final
    class Failed(Loss):
        """It reported that it can't continue."""

        __match_args__: Final = ("reason",)
        reason: Final[str]
        def __new__(cls, reason: str) -> Self: ...

@final
class Table:
    """The results of a complete round. The values stay in Rust unless they are asked for."""

    @property
    def values(self) -> list[list[float]]:
        """Values of each unit."""
    @property
    def counts(self) -> list[int]:
        """Sums of the counts over all units, modulo 2**64."""
    @property
    def figures(self) -> list[tuple[int, bytes]]:
        """(unit, figures) of the units that have figures."""

@disjoint_base
class Instruction:
    """What the main thread of a rank does next; "leader" means that only the leader gets it."""

    @final
    class Wait(Instruction):
        """Nothing yet."""

        __match_args__: Final = ()
        def __new__(cls) -> Self: ...

    @final
    class Evaluate(Instruction):
        """Evaluate a unit of the round (kind, iteration); then call `TeamRank.evaluated`."""

        __match_args__: Final = ("kind", "iteration", "unit")
        kind: Final[int]
        iteration: Final[int]
        unit: Final[int]
        def __new__(cls, kind: int, iteration: int, unit: int) -> Self: ...

    @final
    class Apply(Instruction):
        """Apply the record of an iteration."""

        __match_args__: Final = ("iteration", "payload")
        iteration: Final[int]
        payload: Final[bytes]
        def __new__(cls, iteration: int, payload: bytes) -> Self: ...

    @final
    class Agreed(Instruction):
        """The weights of all living ranks had this digest after the iteration."""

        __match_args__: Final = ("iteration", "digest")
        iteration: Final[int]
        digest: Final[int]
        def __new__(cls, iteration: int, digest: int) -> Self: ...

    @final
    class Rebuild(Instruction):
        """The weights after the iteration are wrong: rebuild them, then call `TeamRank.digest`."""

        __match_args__: Final = ("iteration",)
        iteration: Final[int]
        def __new__(cls, iteration: int) -> Self: ...

    @final
    class Welcome(Instruction):
        """The leader's message to every rank that joins."""

        __match_args__: Final = ("payload",)
        payload: Final[bytes]
        def __new__(cls, payload: bytes) -> Self: ...

    @final
    class Note(Instruction):
        """The leader's note for the journal."""

        __match_args__: Final = ("payload",)
        payload: Final[bytes]
        def __new__(cls, payload: bytes) -> Self: ...

    @final
    class Lead(Instruction):
        """This rank is the leader from now on."""

        __match_args__: Final = ()
        def __new__(cls) -> Self: ...

    @final
    class Follow(Instruction):
        """This rank is no longer the leader."""

        __match_args__: Final = ()
        def __new__(cls) -> Self: ...

    @final
    class Complete(Instruction):
        """Leader: the open round is complete."""

        __match_args__: Final = ("table",)
        table: Final[Table]
        def __new__(cls, table: Table) -> Self: ...

    @final
    class Halt(Instruction):
        """Leader: a rank was asked to end the call soon."""

        __match_args__: Final = ()
        def __new__(cls) -> Self: ...

    @final
    class Superseded(Instruction):
        """Leader: other ranks know later records, so the open round is void."""

        __match_args__: Final = ()
        def __new__(cls) -> Self: ...

    @final
    class Lost(Instruction):
        """Leader: a rank was lost."""

        __match_args__: Final = ("rank", "loss")
        rank: Final[int]
        loss: Final[Loss]
        def __new__(cls, rank: int, loss: Loss) -> Self: ...

    @final
    class Back(Instruction):
        """Leader: a rank that was lost is back."""

        __match_args__: Final = ("rank",)
        rank: Final[int]
        def __new__(cls, rank: int) -> Self: ...

    @final
    class Stranger(Instruction):
        """Leader: a rank has another identity or, with `records`, other records."""

        __match_args__: Final = ("rank", "records")
        rank: Final[int]
        records: Final[bool]
        def __new__(cls, rank: int, records: bool) -> Self: ...

    @final
    class Differs(Instruction):
        """Leader: two ranks computed different results for a unit; the first rank's counts."""

        __match_args__: Final = ("first", "second")
        first: Final[int]
        second: Final[int]
        def __new__(cls, first: int, second: int) -> Self: ...

    @final
    class Diverged(Instruction):
        """Leader: the weights of these ranks differ from the others'; `again`: after a rebuild too."""

        __match_args__: Final = ("ranks", "iteration", "again")
        ranks: Final[list[int]]
        iteration: Final[int]
        again: Final[bool]
        def __new__(cls, ranks: list[int], iteration: int, again: bool) -> Self: ...

    @final
    class Finished(Instruction):
        """The call has ended with this result."""

        __match_args__: Final = ("payload",)
        payload: Final[bytes]
        def __new__(cls, payload: bytes) -> Self: ...

    @final
    class Stopped(Instruction):
        """The call has ended with an error: the leader's message, or empty if no rank is left."""

        __match_args__: Final = ("payload",)
        payload: Final[bytes]
        def __new__(cls, payload: bytes) -> Self: ...

@final
class TeamRank:
    """One rank of a job as a machine without I/O: messages and losses go in, messages and instructions come out. Times
    are seconds of any clock that never goes back. Two threads may use it."""

    def __new__(cls, rank: int, ranks: int) -> Self: ...
    def renew(self, identity: int, *, assignment: str | None = None, unit_timeout_s: float = 0.0) -> None:
        """Begins another run, on all ranks between the same two calls.

        Raises:
            ScheduleError: an `assignment` that isn't one of `ASSIGNMENTS` (None: the default).
        """
    def enter(self, now: float, unable: str | None = None) -> None:
        """Begins the next collective call. `unable`: why this rank can't take part in it."""
    def restore(self, now: float, first: int, records: Sequence[bytes]) -> bool:
        """Leader: adds the records of its journal, from record `first` on; all ranks apply them. Returns False if other
        records are known already."""
    def receive(self, now: float, from_: int, payload: bytes, /) -> None:
        """Takes a message.

        Raises:
            CommunicationError: the bytes are no message.
        """
    def lost(self, now: float, rank: int) -> None:
        """Takes note that a rank's process has ended."""
    def tick(self, now: float) -> bool:
        """Checks all time limits; call it a few times a second. Returns whether this rank knows that the others ended the
        call."""
    def take_sends(self) -> list[tuple[int, bytes]]:
        """Messages to be sent, (to, bytes), in order."""
    def next(self, now: float) -> Instruction:
        """The next instruction of the main thread, which has carried out the one before."""
    def alive(self, now: float) -> None:
        """Takes note that the main thread makes progress in a long step."""
    def evaluated(self, now: float, values: Sequence[float], counts: Sequence[int], figures: bytes) -> None:
        """Takes the result of the unit of the last `Instruction.Evaluate`."""
    @property
    def upcoming(self) -> tuple[int, int, int] | None:
        """(kind, iteration, unit) of the unit after the one in progress, if it is known already."""
    def digest(self, now: float, iteration: int, digest: int) -> None:
        """Takes the digest of this rank's weights after the iteration."""
    def halt(self, now: float) -> None:
        """This rank was asked to end the call soon."""
    def resign(self, now: float, reason: str) -> None:
        """This rank can't continue."""
    def begin(self, now: float, kind: int, iteration: int, costs: Sequence[float]) -> None:
        """Leader: opens a round of units with these expected costs.

        Raises:
            ScheduleError: no units, or a cost that isn't > 0 and finite.
        """
    def publish(self, now: float, iteration: int, payload: bytes) -> bool:
        """Leader: sends the record of an iteration to all ranks. Returns False if it isn't the next one, or another rank
        leads."""
    def take_over_again(self) -> None:
        """Leader: asks for another `Instruction.Lead`, since the rank that took over the journal is lost."""
    def set_welcome(self, now: float, payload: bytes) -> None:
        """Leader: sends a message to all ranks, and to those that join later."""
    def note(self, payload: bytes) -> None:
        """Leader: sends a note to all ranks."""
    def finish(self, now: float, payload: bytes, *, failed: bool = False) -> None:
        """Leader: ends the call with this result or, if it `failed`, with this error on all ranks."""
    @property
    def expects(self) -> bool:
        """Whether pieces of a record are on their way to this rank, and not late yet."""
    @property
    def losses(self) -> dict[int, Loss]:
        """Lost ranks and why each was lost."""
    def records(self) -> list[bytes]:
        """The records that this rank knows."""
    @property
    def traffic(self) -> tuple[int, int]:
        """Payload bytes (sent, received) so far."""

@final
class Watchdog:
    """Ends this process at a deadline, even while a thread that hangs holds the GIL."""

    def __new__(cls) -> Self: ...
    def arm(
        self,
        seconds: float,
        exit_code: int | None = None,
        message: str = "",
        signal: tuple[float, int] | None = None,
    ) -> None:
        """Ends the process after `seconds`, unless `arm` or `disarm` is called before that.

        Time during which the process is stopped (SIGSTOP, a suspended job) doesn't count.

        Args:
            seconds: time until the end.
            exit_code: of the process; None: it is killed by SIGKILL.
            message: written to stderr before the end.
            signal: (seconds, number) of a signal to the calling thread before the end.

        Raises:
            ValueError: negative, too large or not finite.
        """
    def keep_signal(self) -> None:
        """Cancels the signal."""
    def disarm(self) -> None:
        """Cancels the end."""

# --- journal ----------------------------------------------------------------------------------------

@final
class JournalWriter:
    """Appends frames to a journal; every append is on the disk (fsync) when it returns."""

    @staticmethod
    def create(path: str | os.PathLike[str], header: str) -> JournalWriter:
        """Creates a journal with this header (JSON text). Refuses an existing file. The file appears whole or not at all."""
    @staticmethod
    def open(path: str | os.PathLike[str]) -> JournalWriter:
        """Opens an existing journal: verifies it and cuts it back to its last good frame.

        Raises:
            JournalError: it can't be written, or has format version 1, which is read but not continued.
            JournalCorruptError: it is damaged before its end.
        """
    @staticmethod
    def take_over(path: str | os.PathLike[str]) -> JournalWriter:
        """As `open`, but copies the journal to a new file that takes its name. A writer of the old file is refused from
        then on."""
    def journal(self) -> Journal:
        """The journal in the file of this writer, even if another file has the name now."""
    @property
    def records(self) -> int | None:
        """Number of records in the file; None if it is closed."""
    def append_record(self, record: Record) -> None: ...
    def append_digest(self, iteration: int, digest: int) -> None:
        """Appends the digest of the master weights after `iteration`."""
    def append_event(self, event: str) -> None:
        """Appends an event (JSON text): an evaluation, a resume, a rank that died."""
    def close(self) -> None: ...

@final
class Journal:
    """A journal that was read and verified."""

    @staticmethod
    def read(path: str | os.PathLike[str]) -> Journal: ...
    def with_run_seed(self, run_seed: int) -> Journal:
        """This journal with the run seed from its header, which records of format version 1 don't hold."""
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
        """Iteration -> digest of the master weights after it."""
    @property
    def events(self) -> list[str]: ...
    @property
    def good_bytes(self) -> int: ...
    @property
    def torn_bytes(self) -> int:
        """Bytes of an unfinished last frame. Readers ignore them; `JournalWriter.open` removes them."""
