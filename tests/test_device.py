"""Where weights live: which GPU a rank takes, and where the masters go. See `test_cuda_weights.py` for the bits."""

import pytest
import torch

from es_llm.errors import ConfigError
from es_llm.model import device

GIB = 1 << 30


@pytest.fixture
def gpus(monkeypatch):
    """Makes torch see a number of GPUs."""

    def see(count, free=80 * GIB, reserved=0, allocated=0):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: count > 0)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _device: (free, 80 * GIB))
        monkeypatch.setattr(torch.cuda, "memory_reserved", lambda _device: reserved)
        monkeypatch.setattr(torch.cuda, "memory_allocated", lambda _device: allocated)

    return see


@pytest.mark.parametrize(
    ("name", "count", "expected"),
    [
        ("auto", 0, ["cpu", "cpu", "cpu"]),
        ("cpu", 2, ["cpu", "cpu", "cpu"]),
        ("auto", 2, ["cuda:0", "cuda:1", "cuda:0"]),
        ("cuda", 2, ["cuda:0", "cuda:1", "cuda:0"]),
        ("cuda:1", 2, ["cuda:1", "cuda:1", "cuda:1"]),
    ],
)
def test_the_device_of_each_rank(gpus, name, count, expected):
    gpus(count)
    assert [str(device.device_of_rank(name, rank)) for rank in range(3)] == expected


@pytest.mark.parametrize(
    ("name", "count", "message"),
    [
        ("cuda", 0, "needs a CUDA device"),
        ("cuda:2", 2, "sees 2 CUDA devices"),
        ("cuda:x", 2, "cuda:<number>"),
        ("gpu", 2, "must be auto"),
    ],
)
def test_refused_devices(gpus, name, count, message):
    gpus(count)
    with pytest.raises(ConfigError, match=message):
        device.device_of_rank(name, 0)


@pytest.mark.parametrize(
    ("name", "masters", "coming", "expected"),
    [
        ("auto", 30 * GIB, 15 * GIB, "cuda:0"),
        ("auto", 33 * GIB, 15 * GIB, "cpu"),
        ("device", 79 * GIB, 0, "cuda:0"),
        ("cpu", 1, 0, "cpu"),
    ],
)
def test_the_device_of_the_masters(gpus, name, masters, coming, expected):
    gpus(1)
    found = device.master_device_of(name, torch.device("cuda:0"), masters=masters, coming=coming)
    assert str(found) == expected
    assert device.master_device_of(name, torch.device("cpu"), masters=masters, coming=coming).type == "cpu"


def test_an_unknown_master_device_is_refused():
    with pytest.raises(ConfigError, match="`master_device`"):
        device.master_device_of("disk", torch.device("cpu"), masters=1, coming=0)


def test_memory_that_torch_keeps_for_later_is_free(gpus):
    there = torch.device("cuda:0")
    gpus(1, free=10 * GIB, reserved=50 * GIB, allocated=4 * GIB)
    assert device.free_memory(there) == 56 * GIB
    assert device.master_device_of("auto", there, masters=27 * GIB, coming=2 * GIB) == there
    assert device.master_device_of("auto", there, masters=28 * GIB, coming=2 * GIB).type == "cpu"
