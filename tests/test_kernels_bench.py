"""The kernels' bench on a GPU: masters are beside the live weights, or the bench reports that they don't fit."""

import sys
from pathlib import Path

import pytest
import torch


@pytest.fixture
def bench(monkeypatch):
    """The bench as a module."""
    before = set(sys.modules)
    monkeypatch.syspath_prepend(str(Path(__file__).parent.parent / "benches" / "python"))
    import kernels

    yield kernels
    for name in set(sys.modules) - before:
        if not name.startswith(("es_llm", "torch", "numpy")):
            del sys.modules[name]


def setting(bench, **changes):
    numbers = {"members": 3, "rank": 1, "runs": 1, "cores": 1, "bandwidth": 1e12, "rate": 1e12}
    there = {"device": torch.device("cuda", 0), "dtype": torch.bfloat16, "parameters": 6.7e9}
    return bench.Setting(**{**numbers, **there, **changes})


def test_too_little_gpu_memory_is_reported(bench, monkeypatch):
    monkeypatch.setattr(bench, "free_memory", lambda _device: 80e9)
    bench.require_room(setting(bench))
    monkeypatch.setattr(bench, "free_memory", lambda _device: 24e9)
    with pytest.raises(SystemExit, match=r"6\.7 G parameters .* need 54\.1 GB, 24\.0 GB are free on cuda:0; use --par"):
        bench.require_room(setting(bench))


def test_masters_stay_on_the_device(bench, monkeypatch):
    asked = []
    monkeypatch.setattr(bench, "Weights", lambda _module, **options: asked.append(options))
    bench.weights_of(torch.nn.Linear(2, 2))
    assert asked == [{"master_device": "device"}]
