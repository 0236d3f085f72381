"""Makes tests/data/journal_v1.bin from fixed values, with nothing but the standard library.

The file pins version 1 of the journal, which must stay readable for ever. This script shows how the file was made, and
is a second implementation of docs/journal.md. Run it to check the file; it never overwrites it.
"""

from __future__ import annotations

import struct
import sys
import zlib
from pathlib import Path

TARGET = Path(__file__).resolve().parent.parent / "tests" / "data" / "journal_v1.bin"
MAGIC = b"ESLLMJ" + struct.pack("<H", 1)
HEADER, RECORD, DIGEST, EVENT = 1, 2, 3, 4


def journal_v1() -> bytes:
    """The bytes of the file."""
    frames = [
        (HEADER, '{"format": "sample", "name": "Größe"}'.encode()),
        (RECORD, record(0, 0.001, 0.0005, 0, [0.5, None, -1.25], [0, 1, 2], [0.25, 0.0, -0.5])),
        (DIGEST, struct.pack("<IQ", 0, 0x0123456789ABCDEF)),
        (EVENT, b'{"event": "evaluation", "accuracy": 0.25}'),
        (RECORD, record(1, 0.001, 0.0005, 64, [1.0] * 9, [0, 1, 2], [1e-45, 0.0, 3.0])),
        (RECORD, record(2, 0.002, 1e-05, 2**40, [None] * 8 + [1e308], [], [])),
        (DIGEST, struct.pack("<IQ", 2, 2**64 - 1)),
    ]
    chain = zlib.crc32(MAGIC)
    parts = [MAGIC]
    for kind, payload in frames:
        head = struct.pack("<BI", kind, len(payload))
        before = struct.pack("<I", chain)
        chain = zlib.crc32(before + head + payload)
        parts += [head, struct.pack("<I", zlib.crc32(before + head)), payload, struct.pack("<I", chain)]
    return b"".join(parts)


def record(
    iteration: int,
    sigma: float,
    learning_rate: float,
    cursor: int,
    fitness: list[float | None],
    pairs: list[int],
    coefficients: list[float],
) -> bytes:
    """The payload of one record."""
    failed = bytearray(-(-len(fitness) // 8))
    for member, value in enumerate(fitness):
        if value is None:
            failed[member // 8] |= 1 << member % 8
    fixed = struct.pack("<IIIddQ", iteration, len(fitness), len(pairs), sigma, learning_rate, cursor)
    values = struct.pack(f"<{len(fitness)}d", *(0.0 if value is None else value for value in fitness))
    sums = struct.pack(f"<{len(pairs)}I{len(pairs)}f", *pairs, *coefficients)
    return fixed + bytes(failed) + values + sums


if __name__ == "__main__":
    if not TARGET.exists():
        TARGET.write_bytes(journal_v1())
    elif TARGET.read_bytes() != journal_v1():
        sys.exit(f"{TARGET} differs from what this script makes; it is never overwritten")
