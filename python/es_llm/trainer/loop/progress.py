"""How far a call of `train` has come on one rank."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import NamedTuple

from es_llm._core import Record
from es_llm.checkpoint.run_directory import RunDirectory
from es_llm.checkpoint.snapshot import SnapshotIdentity


@dataclass(kw_only=True)
class Progress:
    """How far a call of `train` has come on one rank.

    records: all records that this rank applied.
    resumed_at: number of iterations that the journal held when the call began.
    snapshot: what this rank's weights began from; None: the base model.
    begun: the callbacks know that the training has begun.
    halting: a rank was asked to end soon.
    """

    records: list[Record] = field(default_factory=list)
    resumed_at: int = 0
    snapshot: SnapshotIdentity | None = None
    begun: bool = False
    halting: bool = False

    @property
    def started_at(self) -> int:
        """Number of iterations before the weights that this rank began from."""
        return 0 if self.snapshot is None else self.snapshot.step


class Welcome(NamedTuple):
    """What the leader tells ranks that join the call: its directory, and what it resumed and started from."""

    directory: RunDirectory
    resumed_at: int
    snapshot: SnapshotIdentity | None

    def encode(self) -> bytes:
        """The message."""
        snapshot = None if self.snapshot is None else asdict(self.snapshot)
        content = {"directory": str(self.directory.path), "resumed_at": self.resumed_at, "snapshot": snapshot}
        return json.dumps(content).encode()

    @staticmethod
    def decode(message: bytes) -> Welcome:
        """The content of the message."""
        content = json.loads(message)
        snapshot = content["snapshot"] and SnapshotIdentity(**content["snapshot"])
        return Welcome(RunDirectory(Path(content["directory"])), content["resumed_at"], snapshot)
