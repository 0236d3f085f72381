"""The batched engine: members in one batch answer as their materialized weights do, for many kinds of models."""

import numpy as np
import pytest
import torch

from es_llm import _core
from es_llm._core import BatchRows, LowRank, Noise, RowFactors
from es_llm.errors import ConfigError, KernelError, ModelError
from es_llm.model.table import ParameterTable
from es_llm.model.weights import Weights
from es_llm.noise.cuda import CudaBackend
from es_llm.rollout import load_engine
from es_llm.rollout.batched import product
from es_llm.rollout.batched.factors import CpuFactors, CudaFactors, Rows
from es_llm.rollout.batched.product import with_few_rows
from es_llm.rollout.engine import LiveMember
from tests import interpreted
from tests.interpreted import like_the_device  # noqa: F401 - a fixture
from tests.tiny_models import EOS, tiny_model, tiny_tokenizer


@pytest.fixture(autouse=True)
def small_layers_by_the_kernel(monkeypatch):
    """The models of these tests are small: without this, their products would be torch's."""
    monkeypatch.setattr(product, "WORTH", 0)


pytestmark = pytest.mark.usefixtures("one_thread")

NOISE = Noise(7, 3, 0)
PROMPTS = ["12 + 3 = ", "12 + 34 - 5 = what?", "7"]
MODELS = ["qwen2", "qwen2-untied", "qwen3", "llama", "mistral", "gemma", "gpt_neox", "gpt2", "gpt2-untied"]
MIXTURES = ["mixtral", "qwen3_moe"]


@pytest.fixture
def every_path():
    """The instruction sets of this machine; restores the choice after the test."""
    yield _core.kernel_paths()
    _core.set_kernel_path(None)


# ---- factors -----------------------------------------------------------------------------------


def drawn(kind, size, rank, pair, tensor=4):
    out = np.empty((size, rank), np.float32)
    _core.fill(out, Noise(7, 3, pair), _core.Slice(tensor, out.size), kind)
    return out


def test_factors_are_those_of_the_update():
    factors = RowFactors(NOISE, LowRank(4, (5, 3), 4), [9, 2])
    assert factors.a.shape == (2, 4, 5)
    for index, pair in enumerate((9, 2)):
        np.testing.assert_array_equal(factors.a[index], drawn("low_rank_a", 5, 4, pair).T * np.float32(0.5))
        np.testing.assert_array_equal(factors.b[index], drawn("low_rank_b", 3, 4, pair).T)


class TorchFactors:
    """`Factors` in float64."""

    def __init__(self, drawn):
        self._a, self._b = torch.from_numpy(drawn.a).double(), torch.from_numpy(drawn.b).double()

    def add(self, y, x, rows, outputs=None):
        left = self._a if outputs is None else self._a[:, :, slice(*outputs)]
        return self._add(y, x, rows, left, self._b)

    def add_transposed(self, y, x, rows):
        return self._add(y, x, rows, self._b, self._a)

    def add_embedding(self, y, ids, rows):
        a_BTR = self._a.transpose(1, 2)[rows.pairs[:, None], ids] * rows.scales[:, None, None]
        return (y + torch.bmm(a_BTR, self._b[rows.pairs])).to(y.dtype)

    def _add(self, y, x, rows, left, right):
        x_BTK = x.reshape(rows.size, -1, x.shape[-1]).double()
        products_BTR = torch.bmm(x_BTK, right[rows.pairs].transpose(1, 2)) * rows.scales[:, None, None]
        return (y + torch.bmm(products_BTR, left[rows.pairs]).view(y.shape)).to(y.dtype)


PAIRS = [5, 8, 13]
SHAPES = [(70, 130), (64, 64), (3, 5), (1, 1), (200, 7)]
DTYPES = [torch.float32, torch.bfloat16, torch.float16]


def calls_of(dtype, shape, tokens=2):
    """Each use of the factors of a matrix, on the same random inputs."""
    generator = torch.Generator().manual_seed(1)
    rows = Rows(torch.tensor([0, 2, 2, 1]), torch.tensor([0.1, -0.1, 0.25, 0.0]))
    x = torch.randn(4, tokens, shape[1], generator=generator).to(dtype)
    y = torch.randn(4, tokens, shape[0], generator=generator).to(dtype)
    ids = torch.randint(shape[0], (4, tokens), generator=generator)
    part = (shape[0] // 3, shape[0] // 3 + max(1, shape[0] // 2))
    return {
        "add": lambda factors: factors.add(y.clone(), x, rows),
        "add to rows and tokens": lambda factors: factors.add(y.reshape(4 * tokens, -1).clone(), x.flatten(0, 1), rows),
        "add to a part": lambda factors: factors.add(y[..., slice(*part)].clone(), x, rows, part),
        "add transposed": lambda factors: factors.add_transposed(x.clone(), y, rows),
        "add to an embedding": lambda factors: factors.add_embedding(x.clone(), ids, rows),
    }


def assert_near(result, wanted):
    assert result.dtype == wanted.dtype
    tolerance = {torch.float32: 2e-6, torch.bfloat16: 2**-8, torch.float16: 2**-11}[result.dtype]
    torch.testing.assert_close(result, wanted, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("rank", [1, 3])
def test_kernels_agree_with_torch_and_on_all_paths(dtype, shape, rank, every_path):
    core = RowFactors(NOISE, LowRank(4, shape, rank), PAIRS)
    own, reference = CpuFactors(core), TorchFactors(core)
    for call in calls_of(dtype, shape).values():
        results = []
        for path in every_path:
            _core.set_kernel_path(path)
            results.append(call(own))
        assert_near(results[0], call(reference))
        assert all(torch.equal(result, results[0]) for result in results)


@pytest.fixture(params=["interpreter", pytest.param("gpu", marks=pytest.mark.gpu)])
def launcher(request):
    if request.param == "interpreter":
        return interpreted.launcher()
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    return CudaBackend(torch.device("cuda")).launcher


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("shape", "rank", "tokens"), [((70, 130), 3, 2), ((1, 1), 1, 1), ((1300, 33), 1, 11)])
@pytest.mark.usefixtures("like_the_device")
def test_triton_kernels_agree_with_torch(launcher, dtype, shape, rank, tokens):
    at = LowRank(4, shape, rank)
    core = RowFactors(NOISE, at, PAIRS)
    own, reference = CudaFactors(launcher, NOISE, at, PAIRS), TorchFactors(core)
    for factor, wanted in zip(launcher.factors(NOISE, at, PAIRS), (core.a, core.b), strict=True):
        np.testing.assert_array_equal(factor.cpu().numpy(), wanted)
    for call in calls_of(dtype, shape, tokens).values():
        assert_near(call(OnDevice(own, launcher.device)), call(reference))


class OnDevice:
    """`Factors` of a device, for tensors in host memory."""

    def __init__(self, factors, device):
        self._factors, self._device = factors, device

    def __getattr__(self, name):
        def call(y, x, rows, *rest):
            rows = Rows(rows.pairs.to(self._device), rows.scales.to(self._device))
            return getattr(self._factors, name)(y.to(self._device), x.to(self._device), rows, *rest).cpu()

        return call


def test_a_product_of_few_rows_is_that_of_the_linear_layer():
    """As torch's, for all shapes of a batch. By the kernel, a row's bits don't depend on the rows behind it."""
    generator = torch.Generator().manual_seed(3)
    for bias in (True, False):
        layer = torch.nn.Linear(50, 70, bias=bias)
        own = with_few_rows(layer, layer.forward)
        for shape in ((8, 1), (2, 7), (60,), (100, 2), (3,)):
            x = torch.randn(*shape, 50, generator=generator)
            with torch.inference_mode():
                torch.testing.assert_close(own(x), layer(x), rtol=1e-5, atol=1e-6)
    with torch.inference_mode():
        x = torch.randn(64, 50, generator=generator)
        assert torch.equal(own(x)[:9], own(x[:9]))
        assert torch.equal(own(x), own(x.t().contiguous().t())), "whatever the strides"


def test_layers_that_the_kernel_does_not_fit_stay_as_they_are(monkeypatch):
    class Doubled(torch.nn.Linear):
        def forward(self, x):
            return 2 * super().forward(x)

    doubled = Doubled(4, 4)
    assert with_few_rows(doubled, doubled.forward) == doubled.forward
    half = torch.nn.Linear(4, 4).bfloat16()
    x = torch.ones(16, 4, dtype=torch.bfloat16)
    with torch.inference_mode():
        assert torch.equal(with_few_rows(half, half.forward)(x), half(x))
    small = torch.nn.Linear(4, 4)
    monkeypatch.setattr(product, "WORTH", 17)
    assert with_few_rows(small, small.forward) == small.forward


def test_a_product_names_what_does_not_fit():
    y, x, w = np.zeros((2, 3), np.float32), np.zeros((2, 5), np.float32), np.zeros((3, 5), np.float32)
    _core.product(y, x, w)
    for wrong in ((y[:1], x, w), (y, x[:, :4].copy(), w), (y, x, w.astype(np.float64)), (y, x, w[:, :0].copy())):
        with pytest.raises(KernelError, match=r"`[xw]`.* must .*got"):
            _core.product(*wrong)


def test_the_number_of_threads_changes_no_bit():
    core = RowFactors(NOISE, LowRank(4, (300, 500), 2), [0, 1])
    rows = BatchRows([0, 1] * 32, [0.5] * 64)
    x = np.random.default_rng(0).standard_normal((64, 20, 500), np.float32)
    results = []
    for threads in (1, 3):
        _core.set_kernel_threads(threads)
        y = np.zeros((64, 20, 300), np.float32)
        core.add(y, x, rows, dtype="float32")
        results.append(y)
    _core.set_kernel_threads(0)
    np.testing.assert_array_equal(*results)


def test_one_expert_takes_its_own_rows_of_a():
    core = RowFactors(NOISE, LowRank(4, (12, 3), 2), [0])
    rows, x = BatchRows([0], [1.0]), np.ones((1, 3), np.float32)
    whole, part = np.zeros((1, 12), np.float32), np.zeros((1, 4), np.float32)
    core.add(whole, x, rows, dtype="float32")
    core.add(part, x, rows, dtype="float32", outputs=(4, 8))
    np.testing.assert_array_equal(part, whole[:, 4:8])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (((4, 5), (4, 2), [0] * 4, [1.0] * 4), "same number of tokens in each of 4 rows, of 5 and 3 values"),
        (((4, 5), (4, 3), [0] * 3, [1.0] * 4), "3 rows have 4 scales"),
        (((4, 5), (4, 3), [0, 1, 2, 0], [1.0] * 4), r"a row has the pair 2, expected \[0, 2\)"),
    ],
)
def test_what_does_not_fit_is_refused(arguments, message):
    y, x, pairs, scales = arguments
    core = RowFactors(NOISE, LowRank(4, (5, 3), 1), [0, 1])
    before = np.ones(y, np.float32)
    with pytest.raises(KernelError, match=message):
        core.add(before, np.ones(x, np.float32), BatchRows(pairs, scales), dtype="float32")
    assert (before == 1).all(), "nothing is written"


# ---- engines ------------------------------------------------------------------------------------


def attached(name, model, table=None, length=12, **options):
    """An engine with its weights."""
    engine = load_engine(name, model, tiny_tokenizer(), max_completion_length=length, **options)
    weights = Weights(model, table, targets=engine.targets())
    live = LiveMember(weights)
    engine.attach(live)
    return engine


def low_rank(model, rank=1, **options):
    return ParameterTable.from_module(model, perturbation="low_rank", rank=rank, **options)


def members_of(count, sigma=0.1, seed=5):
    return _core.Population(run_seed=seed, population_size=count, antithetic=True).ask(sigma=sigma)


@pytest.mark.parametrize("name", MODELS + MIXTURES)
@pytest.mark.parametrize(("rank", "options"), [(1, {}), (3, {"vectors": "frozen", "embeddings": "frozen"})])
def test_members_answer_as_one_at_a_time(name, rank, options):
    answers = []
    members = members_of(6)
    for engine in ("hf", "batched"):
        model = tiny_model(name)
        model.generation_config.eos_token_id = [EOS, *range(8, 80, 6)]
        own = attached(engine, model, low_rank(model, rank, **options))
        answers.append(own.evaluate(members, PROMPTS))
        assert own.evaluate([None], PROMPTS) == [own.complete(PROMPTS)]
    assert answers[0] == answers[1]
    assert len({str(each) for each in answers[1]}) > 3, "the noise should change answers"


def test_the_model_is_left_as_it_was():
    model = tiny_model("llama")
    own = attached("batched", model, low_rank(model))
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    forwards = [module.forward for module in model.modules()]
    first = own.complete(PROMPTS)
    own.evaluate(members_of(4, sigma=1.0), PROMPTS)
    assert own.complete(PROMPTS) == first
    assert all("forward" not in module.__dict__ for module in model.modules())
    assert [module.forward for module in model.modules()] == forwards
    assert all(torch.equal(weight, before[name]) for name, weight in model.state_dict().items())


def test_the_forward_pass_that_a_user_gave_a_module_is_kept_and_restored():
    model = tiny_model("llama")
    projection = model.model.layers[0].mlp.up_proj
    plain = projection.forward
    projection.forward = lambda x: 2 * plain(x)
    with pytest.raises(ModelError, match="uses parameters in a way that can't differ between the rows"):
        attached("batched", model, low_rank(model))
    own = attached("batched", model, low_rank(model, selection=None, unused={"model.layers.0.mlp.up_proj.weight"}))
    given = projection.forward
    own.evaluate(members_of(2), PROMPTS)
    assert projection.forward is given


def test_members_of_another_run_have_other_noise():
    model = tiny_model("qwen2")
    own = attached("batched", model, low_rank(model))
    first, other = (own.evaluate(members_of(4, sigma=1.0, seed=seed), PROMPTS) for seed in (5, 6))
    assert first != other
    assert own.evaluate(members_of(4, sigma=1.0), PROMPTS) == first


def test_dense_noise_of_a_matrix_is_refused():
    model = tiny_model("qwen2")
    with pytest.raises(ConfigError, match=r"`model.embed_tokens.weight` of shape \[89, 32\] has dense noise.*low_rank"):
        attached("batched", model, ParameterTable.from_module(model))


def test_a_module_whose_use_of_a_matrix_is_unknown_is_named():
    model = tiny_model("gpt_oss")
    with pytest.raises(ModelError, match=r"it isn't known how `.*` \(GptOss.*\) uses `.*--frozen"):
        attached("batched", model, low_rank(model))


def test_a_unit_has_an_even_number_of_members_by_default():
    model = tiny_model("qwen2")
    for prompts, members in ((1, 32), (2, 16), (3, 10), (64, 2)):
        assert attached("batched", model, low_rank(model), prompts_per_unit=prompts).members_per_unit == members
    assert attached("batched", model, low_rank(model), members_per_unit=5).members_per_unit == 5
