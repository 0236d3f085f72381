"""Data are known again by their content: in another process, on another rank, under another path."""

from __future__ import annotations

import datetime
import decimal
import fractions
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
from es_llm.errors import ConfigError, ResumeError
from es_llm.rewards.scoring import Limits, RewardSet
from es_llm.team import Team
from es_llm.trainer.data import PromptStream, fingerprint


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
        os.path.join, os.path.split, int, float, re.compile("x"), re.compile("x", re.IGNORECASE), re.compile("y"),
        re.compile(b"x"), *images(),
    ]  # fmt: skip


def marks():
    return [fingerprint([{"prompt": "p", "a": value}])["sha256"] for value in values()]


def test_rows_of_plain_json_keep_the_bytes_that_journals_hold():
    """The journals of earlier runs hold these; another one would refuse to resume them."""
    rows = [
        {"prompt": "größe \ud800", "n": 3, "x": 0.1, "list": [1, None, True], "b": {"z": 1, "a": [-0.0, 10**30]}},
        {"prompt": [{"role": "user", "content": "a"}], "pair": (1, 2), "nan": math.nan, "keys": {1: "a", 2: "b"}},
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
    """The order of sets and the addresses of objects differ there."""
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

    few = RewardSet([reward], limits=Limits(workers=0))
    found = fingerprint(rows, few.uses)
    assert found["left_out"] == ["x"]
    assert found["sha256"] == fingerprint([{"prompt": row["prompt"], "seen": row["seen"]} for row in rows])["sha256"]
    with pytest.raises(ConfigError, match="column 'x'"):
        fingerprint(rows, RewardSet([reward, reads_all], limits=Limits(workers=0)).uses)
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
