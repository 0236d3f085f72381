"""Data are recognized by their content: in another process, on another rank, under another path."""

from __future__ import annotations

import datetime
import decimal
import fractions
import io
import json
import math
import os
import pathlib
import re
import subprocess
import sys
import threading
import uuid
from collections import deque

import numpy as np
import pytest
import torch

from es_llm import ESConfig, ESTrainer
from es_llm.comm import SingleMailbox
from es_llm.data.fingerprint import fingerprint
from es_llm.data.stream import PromptStream
from es_llm.errors import ConfigError, ResumeError
from es_llm.rewards.reward_set import RewardSet
from es_llm.rewards.workers.protocol import WorkerLimits
from es_llm.team import Team


class Point:
    """An object without a `__repr__` of its own."""

    def __init__(self, x, y=None):
        self.x, self.y = x, y


def images():
    image = pytest.importorskip("PIL.Image")
    picture = image.new("RGB", (3, 2), "red")
    other = picture.copy()
    other.putpixel((2, 1), (0, 0, 1))
    return [picture, other, picture.resize((2, 3)), picture.convert("L"), picture.convert("RGBA")]


def palettes():
    image = pytest.importorskip("PIL.Image")
    found = []
    for alpha in (None, 10, 20):
        picture = image.new("P", (2, 2))
        picture.putpalette([9, 9, 9, *([] if alpha is None else [alpha])], "RGB" if alpha is None else "RGBA")
        found.append(picture)
    return found


def values():
    long = np.arange(5000)
    other = long.copy()
    other[2500] = -1
    zone = datetime.timezone.utc
    return [
        {"a", "b", "c"}, {"a", "b", "d"}, frozenset("abc"), {1, 2}, {"1", "2"}, b"abc", b"abd", bytearray(b"abc"),
        datetime.date(2024, 1, 1), datetime.datetime(2024, 1, 1), datetime.datetime(2024, 1, 1, tzinfo=zone),
        "2024-01-01", "2024-01-01 00:00:00", decimal.Decimal("1.10"), decimal.Decimal("1.1"), "1.10",
        fractions.Fraction(1, 3), 1 + 2j, uuid.UUID(int=5), pathlib.Path("a/b"), datetime.timedelta(1),
        long, other, long.reshape(50, 100), long.astype(np.int32), long.tolist(), np.float32(0.5), np.int64(1), 1, 1.0,
        np.array([0.0]), np.array([-0.0]), np.array(["a", {"b": 1}], object), np.array(["a", {"b": 2}], object),
        torch.arange(5000), torch.arange(5000).float(), torch.ones(3), torch.ones(3, dtype=torch.bfloat16),
        torch.tensor([1.0, 2.0]), torch.tensor([1.0, 2.5]), torch.tensor(1.0), torch.empty(0),
        0.0, -0.0, math.nan, math.inf, None, True, "", "\ud800", "\udfff", [[], {}], Point(1), Point(2), Point({3, 4}),
        Point(Point(1)), deque([1, 2]), range(3), {(1, 2): "x"}, {(1, 3): "x"}, {1: "x", "1": "y"}, {b"k": [1]},
        {1: "a"}, {"1": "a"}, {True: "a"}, {"true": "a"}, {None: "a"}, {"null": "a"}, {1.5: "a"}, {"1.5": "a"},
        [{"in": [{2: "a"}]}], [{"in": [{"2": "a"}]}], Point({3: 1}), Point({"3": 1}), re.compile("a"),
        re.compile("a", re.ASCII), re.compile("b"), np.longdouble(1) / 3, np.longdouble(1) / 7, *palettes(),
        os.path.join, os.path.split, int, float, *images(),
    ]  # fmt: skip


def marks():
    return [fingerprint([{"prompt": "p", "a": value}])["sha256"] for value in values()]


def test_rows_of_plain_json_keep_the_bytes_that_journals_hold():
    """Journals of earlier runs hold these fingerprints. With other fingerprints those runs couldn't be resumed."""
    rows = [
        {"prompt": "größe \ud800", "n": 3, "x": 0.1, "list": [1, None, True], "b": {"z": 1, "a": [-0.0, 10**30]}},
        {"prompt": [{"role": "user", "content": "a"}], "pair": (1, 2), "nan": math.nan, "keys": {"1": "a", "2": "b"}},
    ]
    assert fingerprint(rows)["sha256"] == "d778f1ab9231a59920937f852993b660695e3828044dfd9a8d57a49ecd49c401"
    assert fingerprint([dict(reversed(rows[0].items())), rows[1]]) == fingerprint(rows)


def test_other_values_have_other_fingerprints():
    found = marks()
    pairs = {
        (one, two)
        for one in range(len(found))
        for two in range(one)
        if found[one] == found[two]
    }  # fmt: skip
    assert not pairs, [(values()[one], values()[two]) for one, two in pairs]


@pytest.mark.parametrize("seed", ["1", "2"])
def test_another_process_finds_the_same(seed):
    """In another process the order of sets and the addresses of objects differ."""
    code = "from tests import test_data_identity as t; import json; print(json.dumps(t.marks()))"
    variables = {**os.environ, "PYTHONHASHSEED": seed}
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=variables)
    assert json.loads(process.stdout.splitlines()[-1]) == marks()


def test_an_image_counts_by_its_pixels_and_not_by_its_file(tmp_path):
    image = pytest.importorskip("PIL.Image")
    picture = image.new("RGB", (3, 2), "red")
    picture.save(tmp_path / "a.png")
    picture.save(tmp_path / "b.bmp")
    found = [fingerprint([{"prompt": "p", "image": value}]) for value in
             (picture, image.open(tmp_path / "a.png"), image.open(tmp_path / "b.bmp"))]  # fmt: skip
    assert found[0] == found[1] == found[2]


def same(one, two):
    return fingerprint([{"prompt": "p", "a": one}]) == fingerprint([{"prompt": "p", "a": two}])


def filled(byte, dtype, number):
    """An array of 2 numbers, in memory filled with other bytes."""
    array = np.frombuffer(bytearray([byte]) * (2 * np.dtype(dtype).itemsize), dtype)
    if array.dtype.names is None:
        array[:] = number
    for name in array.dtype.names or ():
        array[name] = number
    return array


PADDED = np.dtype([("a", "i1"), ("b", "<f8", 2)], align=True)


@pytest.mark.parametrize("dtype", [PADDED, np.longdouble, np.clongdouble, np.dtype([("in", PADDED), ("c", "g")])],
                         ids=["fields", "long", "complex", "nested"])  # fmt: skip
def test_bytes_between_values_do_not_count(dtype):
    def make(byte, number):
        if dtype == np.dtype([("in", PADDED), ("c", "g")]):
            array = np.frombuffer(bytearray([byte]) * (2 * dtype.itemsize), dtype)
            array["in"]["a"], array["in"]["b"], array["c"] = number, number, number
            return array
        return filled(byte, dtype, number)

    assert same(make(0, 1), make(255, 1))
    assert not same(make(0, 1), make(0, 2))


def test_views_of_tensors_count_by_their_values():
    numbers = torch.tensor([1 + 2j, 3 - 1j])
    assert same(numbers.conj(), numbers.conj().resolve_conj())
    assert same(numbers.conj().imag, torch.tensor([-2.0, 1.0]))
    assert not same(numbers, numbers.conj())


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
def test_nested_tensors_count_by_their_parts():
    for layout in (torch.strided, torch.jagged):
        one, two, again = (
            torch.nested.nested_tensor([torch.ones(2), torch.full((3,), last)], layout=layout)
            for last in (1.0, 2.0, 1.0)
        )
        assert same(one, again)
        assert not same(one, two)


def test_each_frame_of_an_image_counts(tmp_path):
    image = pytest.importorskip("PIL.Image")
    for name, colours in (("a", "rgb"), ("again", "rgb"), ("b", "rgk")):
        frames = [image.new("RGB", (4, 4), {"r": "red", "g": "lime", "b": "blue", "k": "black"}[c]) for c in colours]
        frames[0].save(tmp_path / f"{name}.gif", save_all=True, append_images=frames[1:])
    opened = image.open(io.BytesIO((tmp_path / "a.gif").read_bytes()))
    assert same(opened, image.open(io.BytesIO((tmp_path / "again.gif").read_bytes())))
    assert opened.tell() == 0
    assert not same(opened, image.open(io.BytesIO((tmp_path / "b.gif").read_bytes())))
    later = image.open(io.BytesIO((tmp_path / "a.gif").read_bytes()))
    later.seek(1)
    assert not same(opened, later)
    assert later.tell() == 1


def unreadable(tmp_path):
    image = pytest.importorskip("PIL.Image")
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)
    image.fromarray(noise).save(tmp_path / "whole.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "whole.png").read_bytes()[:3000])
    closed = image.new("RGB", (2, 2))
    closed.close()

    class Broken:
        def __reduce_ex__(self, protocol):
            raise KeyError("state")

    return [image.open(io.BytesIO((tmp_path / "cut.png").read_bytes())), closed, torch.ones(2, device="meta"), Broken()]


def test_a_value_that_cannot_be_read_is_named_with_its_fault(tmp_path):
    for value in unreadable(tmp_path):
        for held in (value, [value], {1: value}, Point(value)):
            rows = [{"prompt": "a", "x": held}]
            with pytest.raises(ConfigError, match=r"row 0, column 'x': got a value of the type .*Error: ") as caught:
                fingerprint(rows)
            assert "contains itself" not in str(caught.value)
            assert fingerprint(rows, lambda column: column == "prompt")["left_out"] == ["x"]


def itself():
    value = []
    value.append(value)
    return value


NAMELESS = [
    threading.Lock(),
    (n for n in ()),
    lambda: 0,
    Point(threading.Lock()),
    [{"deep": threading.Lock()}],
    itself(),
]


@pytest.mark.parametrize("value", NAMELESS, ids=["lock", "generator", "lambda", "object", "deep", "itself"])
def test_a_value_without_content_is_named_or_left_out(value):
    rows = [{"prompt": "a", "x": 1, "seen": 1}, {"prompt": "b", "x": value, "seen": 2}]
    with pytest.raises(ConfigError, match=r"`train_dataset` row 1, column 'x': got a value of the type .*remove the"):
        fingerprint(rows)

    def reward(completions, seen):
        return [0.0 for _ in completions]

    def reads_all(completions, **columns):
        return [0.0 for _ in completions]

    few = RewardSet([reward], limits=WorkerLimits(workers=0))
    found = fingerprint(rows, few.uses)
    assert found["left_out"] == ["x"]
    assert found["sha256"] == fingerprint([{"prompt": row["prompt"], "seen": row["seen"]} for row in rows])["sha256"]
    with pytest.raises(ConfigError, match="column 'x'"):
        fingerprint(rows, RewardSet([reward, reads_all], limits=WorkerLimits(workers=0)).uses)
    stream = PromptStream(rows, per_iteration=1, seed=0, shuffle=False, checked=list)
    assert stream.fingerprint(few.uses)["left_out"] == ["x"]
    with pytest.raises(ConfigError, match="column 'x'"):
        stream.fingerprint()


def reward(completions, image, **columns):
    return [float(len(text)) for text in completions]


def trainer(directory, rows, steps, **options):
    config = ESConfig(
        population_size=2, max_steps=steps, max_completion_length=2, prompts_per_iteration=2, eval_on_start=False,
        reward_workers=0, output_dir=str(directory), **options,
    )  # fmt: skip
    return ESTrainer(None, reward, config, rows, team=Team(SingleMailbox()))


def test_a_run_on_rows_with_images_and_arrays_goes_on(tmp_path):
    def rows(last=0):
        numbers = np.arange(3000)
        numbers[1500] += last
        return [{"prompt": f"{n},1=", "image": picture.copy(), "numbers": numbers} for n in range(4)]

    picture = images()[0]
    trainer(tmp_path / "run", rows(), 1).train()
    trainer(tmp_path / "run", rows(), 2).train(resume_from_checkpoint=True)
    with pytest.raises(ResumeError, match="`train_dataset"):
        trainer(tmp_path / "run", rows(last=1), 3).train(resume_from_checkpoint=True)
    with pytest.raises(ConfigError, match="`train_dataset` row 0, column 'lock'"):
        trainer(tmp_path / "other", [{**row, "lock": threading.Lock()} for row in rows()], 1)
    assert not (tmp_path / "other").exists()
