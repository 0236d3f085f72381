"""Where weights live: which GPU a rank takes, where the masters go, and that neither changes a bit."""

import pytest
import torch

from es_llm import _core
from es_llm.errors import ConfigError
from es_llm.model import device, weights
from es_llm.model.weights import Weights
from es_llm.noise.streamed import StreamedBackend
from tests import interpreted
from tests.interpreted import like_the_device  # noqa: F401 - a fixture
from tests.tiny_models import tiny_model

GIB = 1 << 30


@pytest.fixture
def gpus(monkeypatch):
    """Makes torch see a number of GPUs."""

    def see(count, free=80 * GIB):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: count > 0)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _device: (free, 80 * GIB))

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
def test_the_place_of_the_masters(gpus, name, masters, coming, expected):
    gpus(1)
    place = device.master_place(name, torch.device("cuda:0"), masters=masters, coming=coming)
    assert str(place) == expected
    assert device.master_place(name, torch.device("cpu"), masters=masters, coming=coming).type == "cpu"


def test_a_refused_place_of_the_masters():
    with pytest.raises(ConfigError, match="`master_device`"):
        device.master_place("disk", torch.device("cpu"), masters=1, coming=0)


def training(made):
    """Live weights of a member after an update, digest and sha256."""
    population = _core.Population(run_seed=7, population_size=4)
    record = population.tell([0.0, 1.0, 0.5, -0.25], sigma=0.02, learning_rate=0.05)
    made.update(record, run_seed=7)
    population.apply(record)
    made.perturb(population.ask()[1], run_seed=7, sigma=0.02)
    live = [live.tensor().cpu().view(torch.int16).clone() for live in made._live]
    made.unperturb()
    return live, made.digest(), made.sha256()


def equal(left, right):
    return all(torch.equal(a, b) for a, b in zip(left[0], right[0], strict=True)) and left[1:] == right[1:]


@pytest.mark.usefixtures("like_the_device")
@pytest.mark.parametrize("streamed", [False, True])
def test_the_same_training_in_the_interpreter(monkeypatch, streamed):
    expected = training(Weights(tiny_model("qwen2"), dtype="bfloat16"))
    cpu = torch.device("cpu")
    backend = StreamedBackend(cpu, kernels=interpreted.KERNELS, chunk=4096) if streamed else interpreted.backend()
    monkeypatch.setattr(weights, "backend_for", lambda _device: backend)
    assert equal(training(Weights(tiny_model("qwen2"), dtype="bfloat16")), expected)


@pytest.mark.gpu
@pytest.mark.parametrize("master_device", ["device", "cpu"])
def test_the_same_training_on_a_gpu(master_device):
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    expected = training(Weights(tiny_model("qwen2"), dtype="bfloat16"))
    there = {"device": torch.device("cuda"), "master_device": master_device}
    assert equal(training(Weights(tiny_model("qwen2"), dtype="bfloat16", **there)), expected)
