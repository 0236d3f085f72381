"""Makes tests/data/journal_v1.bin and journal_v2.bin from fixed values, with nothing but the standard library.

The files pin the versions of the journal: each must be readable for ever. They were written once; this script shows
how, and is at the same time a second implementation of docs/journal.md. Run it only to check: it refuses to overwrite.
"""

from __future__ import annotations

import struct
import sys
import zlib
from pathlib import Path

DATA = Path(__file__).resolve().parent.parent / "tests" / "data"
HEADER, RECORD, DIGEST, EVENT = 1, 2, 3, 4
SEED = 2**64 - 3
"""Run seed of the records of version 2."""


def journal(version: int) -> bytes:
    """The bytes of the file."""
    record = record_v1 if version == 1 else record_v2
    frames = [
        (HEADER, '{"format": "sample", "name": "Größe"}'.encode()),
        (RECORD, record(0, 0.001, 0.0005, 0, [0.5, None, -1.25], [0.25, 0.0, -0.5])),
        (DIGEST, struct.pack("<IQ", 0, 0x0123456789ABCDEF)),
        (EVENT, b'{"event": "evaluation", "accuracy": 0.25}'),
        (RECORD, record(1, 0.001, 0.0005, 64, [1.0] * 9, [1e-45, 0.0, 3.0])),
        (RECORD, record(2, 0.002, 1e-05, 2**40, [None] * 8 + [1e308], [])),
        (DIGEST, struct.pack("<IQ", 2, 2**64 - 1)),
    ]
    magic = b"ESLLMJ" + struct.pack("<H", version)
    chain = zlib.crc32(magic)
    parts = [magic]
    for kind, payload in frames:
        head = struct.pack("<BI", kind, len(payload))
        before = struct.pack("<I", chain)
        chain = zlib.crc32(before + head + payload)
        parts += [head, struct.pack("<I", zlib.crc32(before + head)), payload, struct.pack("<I", chain)]
    return b"".join(parts)


def record_v1(
    iteration: int,
    sigma: float,
    learning_rate: float,
    cursor: int,
    fitness: list[float | None],
    coefficients: list[float],
) -> bytes:
    """The payload of one record in version 1."""
    pairs = range(len(coefficients))
    fixed = struct.pack("<IIIddQ", iteration, len(fitness), len(pairs), sigma, learning_rate, cursor)
    sums = struct.pack(f"<{len(pairs)}I{len(pairs)}f", *pairs, *coefficients)
    return fixed + _fitness(fitness) + sums


def record_v2(
    iteration: int,
    sigma: float,
    learning_rate: float,
    cursor: int,
    fitness: list[float | None],
    coefficients: list[float],
) -> bytes:
    """The payload of one record in version 2."""
    counts = len(fitness), len(coefficients)
    fixed = struct.pack("<QIIIddQ", SEED, iteration, *counts, sigma, learning_rate, cursor)
    return fixed + _fitness(fitness) + struct.pack(f"<{len(coefficients)}d", *coefficients)


def _fitness(fitness: list[float | None]) -> bytes:
    failed = bytearray(-(-len(fitness) // 8))
    for member, value in enumerate(fitness):
        if value is None:
            failed[member // 8] |= 1 << member % 8
    values = struct.pack(f"<{len(fitness)}d", *(0.0 if value is None else value for value in fitness))
    return bytes(failed) + values


if __name__ == "__main__":
    for version in (1, 2):
        target = DATA / f"journal_v{version}.bin"
        if not target.exists():
            target.write_bytes(journal(version))
        elif target.read_bytes() != journal(version):
            sys.exit(f"{target} differs from what this script makes; it is never overwritten")
