"""A model's weights on the CUDA backends: the bits of the CPU, and one wait for each pass over the tensors."""

import numpy as np
import pytest
import torch

from es_llm import _core
from es_llm.model import weights
from es_llm.model.table import ParameterTable
from es_llm.model.weights import Weights
from es_llm.noise.backend import Deferred
from es_llm.noise.cuda import CudaBackend
from es_llm.noise.streamed import StreamedBackend
from tests import interpreted
from tests.interpreted import like_the_device  # noqa: F401 - a fixture
from tests.tiny_models import tiny_model

CPU = torch.device("cpu")
BACKENDS = {
    "resident": lambda: CudaBackend(CPU, kernels=interpreted.KERNELS),
    "streamed": lambda: StreamedBackend(CPU, kernels=interpreted.KERNELS, chunk=4096),
}


@pytest.fixture(params=BACKENDS)
def on_triton(request, monkeypatch, like_the_device):  # noqa: F811 - the fixture
    """The next `Weights` have a CUDA backend, in the interpreter."""
    backend = BACKENDS[request.param]()
    monkeypatch.setattr(weights, "backend_for", lambda _device: backend)
    return backend


def training(trained):
    """Live weights of a member after an update, digest and sha256."""
    population = _core.Population(run_seed=7, population_size=4)
    record = population.tell([0.0, 1.0, 0.5, -0.25], sigma=0.02, learning_rate=0.05)
    report = trained.update(record)
    population.apply(record)
    trained.perturb(population.ask(sigma=0.02)[1])
    live = [part.live.tensor().cpu().view(torch.int16).clone() for part in trained._live]
    trained.unperturb()
    return live, trained.digest(), trained.sha256(), (report.elements, report.moved, report.nonfinite)


def equal(left, right):
    return all(torch.equal(a, b) for a, b in zip(left[0], right[0], strict=True)) and left[1:] == right[1:]


def made(perturbation, **options):
    model = tiny_model("qwen2")
    table = ParameterTable.from_module(model, perturbation=perturbation)
    return Weights(model, table, dtype="bfloat16", **options)


@pytest.fixture(scope="module", params=["dense", "low_rank"])
def expected(request):
    """A perturbation, and the training on the CPU's own backend."""
    return request.param, training(made(request.param))


def test_the_same_training_in_the_interpreter(expected, on_triton):
    perturbation, trained = expected
    assert equal(training(made(perturbation)), trained)


@pytest.mark.gpu
@pytest.mark.parametrize("master_device", ["device", "cpu"])
def test_the_same_training_on_a_gpu(expected, master_device):
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    perturbation, trained = expected
    there = {"device": torch.device("cuda"), "master_device": master_device}
    assert equal(training(made(perturbation, **there)), trained)


@pytest.fixture
def traffic(monkeypatch):
    """Counts numbers read from the device and arrays sent to it, only where the package's code does this."""
    seen = []
    for owner, name in (
        (torch.Tensor, "tolist"),
        (torch.Tensor, "item"),
        (torch.Tensor, "__int__"),
        (torch, "from_numpy"),
    ):
        usual = getattr(owner, name)

        def recorded(*arguments, _usual=usual, _name=name):
            seen.append(_name)
            return _usual(*arguments)

        monkeypatch.setattr(owner, name, recorded)
    return seen


@pytest.mark.parametrize("perturbation", ["dense", "low_rank"])
def test_a_pass_reads_the_device_once(on_triton, traffic, perturbation):
    module = torch.nn.Sequential(*(torch.nn.Linear(8, 8) for _ in range(5)))
    weights = Weights(module, ParameterTable.from_module(module, perturbation=perturbation), dtype="bfloat16")
    population = _core.Population(run_seed=7, population_size=4)
    record = population.tell([0.0, 1.0, 0.5, -0.25], sigma=0.02, learning_rate=0.05)
    passes = {
        "perturb": lambda: weights.perturb(population.ask(sigma=0.02)[0]),
        "unperturb": weights.unperturb,
        "update": lambda: weights.update(record),
        "digest": weights.digest,
    }
    sending = {"update", "perturb"} if perturbation == "low_rank" else {"update"}
    for name, start in passes.items():
        traffic.clear()
        start()
        assert sorted(traffic) == ["from_numpy"] * (2 if name in sending else 0) + ["tolist"], name


def test_terms_are_sent_when_they_change(on_triton, traffic):
    one, two = (_core.Terms(1, 0, np.float32([value, 2.0])) for value in (1.0, -1.0))
    traffic.clear()
    for terms in (one, one, two, two, one):
        on_triton.accumulate(torch.zeros(16), terms, _core.Slice(0, 16), torch.float32)
    assert traffic == ["from_numpy"] * 6
    traffic.clear()
    for noise, scale in ((3, 1.0), (3, 1.0), (4, 1.0), (4, -1.0)):
        master = torch.zeros(4, 4)
        at = _core.LowRank(0, (4, 4), 1)
        on_triton.perturb(torch.empty(4, 4), master, _core.Noise(1, 0, noise), scale, at)
    assert traffic == ["from_numpy"] * 6


def test_a_pass_that_fails_ends_with_a_wait(monkeypatch):
    class Failing:
        """The third tensor raises an error."""

        def __init__(self):
            self.ended = []
            self._calls = 0

        def round(self, _live, _master):
            self._calls += 1
            if self._calls == 3:
                raise KeyboardInterrupt
            return Deferred(torch.zeros(1, dtype=torch.int64), lambda numbers: numbers[0])

        def settle(self, results):
            self.ended.append(len(results))
            return [0] * len(results)

    trained = Weights(torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Linear(2, 2)))
    failing = Failing()
    monkeypatch.setattr(trained, "_backend", failing)
    with pytest.raises(KeyboardInterrupt):
        trained.unperturb()
    assert failing.ended == [2]
