"""Writes the known answers of the noise and of the kernels, from the numpy reference.

    python scripts/make_noise_vectors.py > tests/data/noise_vectors.txt

Run it once per noise version. The file pins the bits: later versions of the code must make the same ones.
"""

import zlib
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from es_llm._core import NOISE_KINDS, LowRank, Noise, Slice, Terms
from es_llm.noise import reference

HEADER = """\
# Known answers of noise version 1. One per line: kind, inputs, "=", outputs; groups of inputs are parted by ":".
# Values are hexadecimal bit patterns (f32: 8 digits, bfloat16 and float16: 4, digest: 16); addresses are decimal.
#
# philox      counter : key = words
# normal      words = f32
# noise       run_seed iteration pair tensor element = f32
# round       dtype : f32 = live
# perturb     dtype scale run_seed iteration pair tensor element : master = live
# accumulate  run_seed iteration tensor element : pairs : coefficients : master = master
# digest      tensor element : master = digest
#
# factor      kind run_seed iteration pair tensor element = f32
# Shards: value i is element element + (i // columns) * stride + i % columns of the whole tensor.
# shard_perturb     dtype scale run_seed iteration pair tensor element columns stride : master = live
# shard_accumulate  run_seed iteration tensor element columns stride : pairs : coefficients : master = master
# shard_digest      tensor element columns stride : master = digest
# Low-rank noise: the block of rows x columns weights of a matrix that begins at (row, column), row by row.
# low_rank_perturb     dtype scale run_seed iteration pair tensor rank row column rows columns : master = live
# low_rank_accumulate  run_seed iteration tensor rank row column rows columns : pairs : coefficients : master = master
#
# Long runs, which fill all lanes: `count` values, and the CRC-32 of the words that they make, little-endian. Masters
# are 3ca3d70a (0.02) times the noise of run seed 10, iteration, pair and tensor 0, from element 0 on.
# long_noise       count kind run_seed iteration pair tensor element = crc32
# long_perturb     count dtype scale run_seed iteration pair tensor element = crc32
# long_accumulate  count run_seed iteration tensor element : pairs : coefficients = crc32
"""


class Address(NamedTuple):
    """The address of one value."""

    run_seed: int
    iteration: int
    pair: int
    tensor: int
    element: int

    @property
    def noise(self) -> Noise:
        return Noise(self.run_seed, self.iteration, self.pair)

    def slice(self, size: int) -> Slice:
        return Slice(self.tensor, size, element=self.element)

    def terms(self, pairs: list[int], coefficients: NDArray[np.float32]) -> Terms:
        return Terms(self.run_seed, self.iteration, coefficients, pairs)

    def counters(self) -> NDArray[np.uint32]:
        return reference.counters(self.noise, self.tensor, self.element, 1, "dense")

    @property
    def key(self) -> tuple[int, int]:
        return self.run_seed & 0xFFFF_FFFF, self.run_seed >> 32


# Published with Random123 for Philox4x32-10 (kat_vectors): counter, key, words.
PUBLISHED = [
    ("00000000 00000000 00000000 00000000", "00000000 00000000", "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
    ("ffffffff ffffffff ffffffff ffffffff", "ffffffff ffffffff", "408f276d 41c83b0e a20bc7c6 6d5451fd"),
    ("243f6a88 85a308d3 13198a2e 03707344", "a4093822 299f31d0", "d16cfe09 94fdcceb 5001e420 24126ea1"),
]
WORDS = [0, 1, 2, 3, 0x3FFFFFFF, 0x40000000, 0x60000000, 0x7FFFFFFF, 0x80000000, 0xBFFFFFFF, 0xFFFFFF00, 0xFFFFFFFF]
ADDRESSES = [
    Address(0, 0, 0, 0, 0),
    Address(42, 1, 2, 3, 0),
    Address(43, 1, 2, 3, 0),
    Address(42, 1, 2, 3, 5),
    Address(2**64 - 1, 2**32 - 1, 2**32 - 1, 2**20 - 1, 2**42 - 9),
    Address(1 << 32, 7, 0, 1, 2**32 - 3),
    Address(0x0123456789ABCDEF, 1000, 511, 290, 2**34 - 2),
    Address(0x0123456789ABCDEF, 1000, 511, 291, 2**40 + 7),
]
# element, columns, stride.
SHARDS = [
    (0, 3, 5),
    (1, 3, 2**32),
    (2**32 - 2, 3, 7),
    (5, 3, 3),
    (2**42 - 9, 3, 3),
    (2**32 - 3, 3, 2**33 - 1),
    (2**34 - 2, 3, 16),
    (2**40 + 7, 3, 2**40),
]
# Blocks of a matrix: rank, row, column, rows, columns.
BLOCKS = [
    (1, 0, 0, 2, 3),
    (4, 0, 0, 3, 2),
    (4, 1, 2, 3, 2),
    (2, 5, 1, 1, 5),
    (1024, 2**32 - 2, 2**32 - 1, 2, 1),
    (3, 2**32 - 1, 0, 2, 3),
    (1, 7, 2**33 + 1, 3, 3),
    (16, 2**34 // 16 - 1, 9, 2, 2),
]
# Count, address. Odd offsets; across the border of 2^32 blocks; beyond 2^32 elements; up to the last element.
LONG = [
    (5001, Address(42, 3, 5, 1, 7)),
    (6007, Address(0x0123456789ABCDEF, 1000, 511, 290, 2**34 - 2503)),
    (5003, Address(2**64 - 1, 7, 2**32 - 1, 2, 2**32 + 5)),
    (5555, Address(43, 2**32 - 1, 0, 2**20 - 1, 2**42 - 5555)),
]
# Signed zeros, subnormals, ties of bfloat16 and float16, the ends of their ranges, infinity and NaN.
SPECIAL = """
00000000 80000000 00000001 807fffff 33000000 33000001 33800000 387fc000 387fe000 387fffff 38800000 3f800000 3f801000
3f803000 3f808000 3f818000 3f808001 bf807fff 477fefff 477ff000 c77fe000 7f7f7fff 7f7f8000 ff7fffff 7f800000 ff800000
7fc00000 ffc00001 7f800001
"""


def main() -> None:
    print(HEADER)
    for counter, key, words in PUBLISHED:
        print(f"philox {counter} : {key} = {words}")
    for address in ADDRESSES:
        counter = address.counters()
        print(f"philox {digits(counter)} : {key_of(address)} = {digits(reference.philox4x32(counter, address.key))}")
    for i, w in enumerate(WORDS):
        block = np.array([[w, WORDS[-1 - i], WORDS[(i + 5) % len(WORDS)], w]], np.uint32)
        print(f"normal {digits(block)} = {digits(reference.normals(block))}")
    for address in ADDRESSES:
        print(f"noise {join(address)} = {digits(reference.values(address.noise, address.slice(9)))}")
    for dtype in ("bfloat16", "float16"):
        values = np.array([int(word, 16) for word in SPECIAL.split()], np.uint32).view(np.float32)
        print(f"round {dtype} : {digits(values)} = {digits(reference.rounded(values, dtype))}")
    for number, address in enumerate(ADDRESSES):
        kernels(number, address)
    for address in ADDRESSES:
        for kind in ("low_rank_a", "low_rank_b"):
            print(f"factor {kind} {join(address)} = {digits(reference.values(address.noise, address.slice(5), kind))}")
    for number, address in enumerate(ADDRESSES):
        shards(number, address)
    for number, (address, block) in enumerate(zip(ADDRESSES, BLOCKS, strict=True)):
        low_rank(number, address, block)
    for count, address in LONG:
        long_run(count, address)


def small(seed: int, number: int, count: int) -> NDArray[np.float32]:
    """Masters."""
    return reference.values(Noise(seed, number, 0), Slice(0, count)) * np.float32(0.02)


def kernels(number: int, address: Address) -> None:
    """Perturbed, accumulated and digested weights at one address."""
    master, at = small(7, number, 9), address.slice(9)
    for dtype, scale in (("float32", 1e-3), ("bfloat16", -1e-3), ("float16", 0.5)):
        live = reference.perturbed(master, address.noise, scale, at, dtype)
        print(f"perturb {dtype} {digits(np.float32([scale]))} {join(address)} : {digits(master)} = {digits(live)}")
    pairs = [0, 1, number + 2, 2**32 - 1]
    coefficients = np.float32([1e-3, -3e-4, 0.25, 1e-9])
    moved = reference.accumulated(master, address.terms(pairs, coefficients), at)
    words = join((address.run_seed, address.iteration, address.tensor, address.element))
    print(f"accumulate {words} : {join(pairs)} : {digits(coefficients)} : {digits(master)} = {digits(moved)}")
    print(f"digest {address.tensor} {address.element} : {digits(master)} = {reference.digest(master, at):016x}")


def shards(number: int, address: Address) -> None:
    """Three rows of three values."""
    element, columns, stride = SHARDS[number]
    address = address._replace(element=element)
    at = Slice(address.tensor, 9, element=element, columns=columns, stride=stride)
    where = join((columns, stride))
    master = small(8, number, 9)
    for dtype, scale in (("float32", -1e-3), ("bfloat16", 1e-3), ("float16", 0.5)):
        live = reference.perturbed(master, address.noise, scale, at, dtype)
        print(
            f"shard_perturb {dtype} {digits(np.float32([scale]))} {join(address)} {where}"
            f" : {digits(master)} = {digits(live)}"
        )
    pairs, coefficients = [3, number, 2**32 - 1], np.float32([1e-3, -3e-4, 0.25])
    moved = reference.accumulated(master, address.terms(pairs, coefficients), at)
    words = join((address.run_seed, address.iteration, address.tensor, address.element))
    inputs = f"{words} {where} : {join(pairs)} : {digits(coefficients)} : {digits(master)}"
    print(f"shard_accumulate {inputs} = {digits(moved)}")
    total = reference.digest(master, at)
    print(f"shard_digest {address.tensor} {address.element} {where} : {digits(master)} = {total:016x}")


def low_rank(number: int, address: Address, numbers: tuple[int, ...]) -> None:
    """Perturbed and accumulated weights of one block of a matrix."""
    rank, row, column, rows, columns = numbers
    at = LowRank(address.tensor, (rows, columns), rank, row=row, column=column)
    master = small(9, number, rows * columns).reshape(rows, columns)
    for dtype, scale in (("float32", 1e-3), ("bfloat16", -1e-3), ("float16", 0.5)):
        live = reference.perturbed(master, address.noise, scale, at, dtype)
        words = join((*address[:4], *numbers))
        print(f"low_rank_perturb {dtype} {digits(np.float32([scale]))} {words} : {digits(master)} = {digits(live)}")
    pairs, coefficients = [2, number + 4, 2**32 - 1], np.float32([1e-3, -3e-4, 0.25])
    moved = reference.accumulated(master, address.terms(pairs, coefficients), at)
    words = join((address.run_seed, address.iteration, address.tensor, *numbers))
    inputs = f"{words} : {join(pairs)} : {digits(coefficients)} : {digits(master)}"
    print(f"low_rank_accumulate {inputs} = {digits(moved)}")


def long_run(count: int, address: Address) -> None:
    """Many values of every kernel at one address."""
    at = address.slice(count)
    for kind in NOISE_KINDS:
        print(f"long_noise {count} {kind} {join(address)} = {crc32(reference.values(address.noise, at, kind))}")
    master = np.float32(0.02) * reference.values(Noise(10, 0, 0), Slice(0, count))
    for dtype, scale in (("float32", 1e-3), ("bfloat16", -1e-3), ("float16", 0.5)):
        live = reference.perturbed(master, address.noise, scale, at, dtype)
        print(f"long_perturb {count} {dtype} {digits(np.float32([scale]))} {join(address)} = {crc32(live)}")
    pairs, coefficients = [0, 9, 2**32 - 1], np.float32([1e-3, -3e-4, 0.25])
    moved = reference.accumulated(master, address.terms(pairs, coefficients), at)
    words = join((address.run_seed, address.iteration, address.tensor, address.element))
    print(f"long_accumulate {count} {words} : {join(pairs)} : {digits(coefficients)} = {crc32(moved)}")


def crc32(values: NDArray[np.float32] | NDArray[np.uint16]) -> str:
    return f"{zlib.crc32(values.astype(values.dtype.newbyteorder('<')).tobytes()):08x}"


def key_of(address: Address) -> str:
    return digits(np.array(address.key, np.uint32))


def digits(values: NDArray[np.float32] | NDArray[np.uint32] | NDArray[np.uint16]) -> str:
    """Bit patterns, two hexadecimal digits per byte."""
    bits = values.view(np.uint32) if values.dtype == np.float32 else values
    return " ".join(f"{int(word):0{2 * bits.itemsize}x}" for word in bits.reshape(-1))


def join(values: Iterable[int]) -> str:
    return " ".join(str(value) for value in values)


if __name__ == "__main__":
    main()
