"""Memory of decoding: planned from the free memory before any work, and named when it runs out."""

import json
import logging
import re
import weakref
from collections import Counter
from dataclasses import replace

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only

from es_llm import ESConfig, ESTrainer, _core
from es_llm.errors import ConfigError, OutOfMemoryError, ResumeError
from es_llm.model import device
from es_llm.model.table import ParameterTable
from es_llm.model.weights import Weights
from es_llm.rewards import inline
from es_llm.rollout import decoder, load_engine
from es_llm.rollout.engine import LiveMember, Sampling
from es_llm.rollout.memory import Batch, ModelMemory, explain_out_of_memory, power_below
from es_llm.rollout.slots import SlotCache
from es_llm.trainer.assembly import memory
from tests.tiny_models import ARCHITECTURES, tiny_model, tiny_tokenizer

pytestmark = pytest.mark.usefixtures("one_thread")

CPU, GIB = torch.device("cpu"), 1 << 30
ROWS = [{"prompt": "12 + 3 = " * (1 + number % 3)} for number in range(8)]


@inline
def length(completions, **columns):
    return [float(len(text)) for text in completions]


# ---- free memory ------------------------------------------------------------------------------------


def host(monkeypatch, tmp_path, files):
    """A host with these files; free memory of its CPU."""
    for name, text in {"proc/meminfo": "MemTotal: 99 kB\nMemAvailable:    8388608 kB\n", **files}.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.setattr(device, "_PROC", tmp_path / "proc")
    monkeypatch.setattr(device, "_GROUPS", tmp_path / "groups")
    return device.free_memory(CPU)


def group(folder, limit, used, cached, names=("memory.max", "memory.current", "inactive_file")):
    return {
        f"groups/{folder}{names[0]}": f"{limit}\n",
        f"groups/{folder}{names[1]}": f"{used}\n",
        f"groups/{folder}memory.stat": f"anon 5\n{names[2]} {cached}\n",
    }


OLD = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")


@pytest.mark.parametrize(
    ("files", "free"),
    [
        ({}, 8 * GIB),
        ({"proc/self/cgroup": "0::/job/step\n", **group("job/step/", 4 * GIB, 3 * GIB, GIB)}, 2 * GIB),
        ({"proc/self/cgroup": "0::/job/step\n", **group("job/", 4 * GIB, 3 * GIB, 0)}, GIB),
        ({"proc/self/cgroup": "0::/job\n", **group("job/", "max", 3 * GIB, 0)}, 8 * GIB),
        ({"proc/self/cgroup": "0::/else\n", **group("", 3 * GIB, GIB, 0)}, 2 * GIB),
        ({"proc/self/cgroup": "4:memory:/a\n1:cpu:/b\n", **group("memory/a/", 2 * GIB, GIB, 5, OLD)}, GIB + 5),
        ({"proc/self/cgroup": "4:memory:/a\n0::/\n", **group("memory/a/", 2**63 - 4096, GIB, 5, OLD)}, 8 * GIB),
    ],
)
def test_free_host_memory_is_within_the_limits_of_the_control_groups(monkeypatch, tmp_path, files, free):
    assert host(monkeypatch, tmp_path, files) == free


@pytest.mark.parametrize(
    ("files", "total"),
    [
        ({}, 99 << 10),
        ({"proc/self/cgroup": "0::/job\n", **group("job/", 4 << 10, 3 << 10, 0)}, 4 << 10),
        ({"proc/self/cgroup": "0::/job\n", **group("job/", "max", 3 << 10, 0)}, 99 << 10),
    ],
)
def test_total_host_memory_is_within_the_limits_of_the_control_groups(monkeypatch, tmp_path, files, total):
    host(monkeypatch, tmp_path, files)
    assert device.total_memory(CPU) == total


def test_a_system_without_an_estimate_has_no_limit(monkeypatch, tmp_path):
    monkeypatch.setattr(device, "_PROC", tmp_path)
    assert device.free_memory(CPU) > 1 << 60


@pytest.mark.parametrize(
    ("name", "kind", "ranks", "sharing"),
    [("cpu", "cpu", 6, 6), ("auto", "cuda:0", 2, 1), ("cuda", "cuda:1", 6, 3), ("cuda:0", "cuda:0", 6, 6)],
)
def test_ranks_that_share_a_device(monkeypatch, name, kind, ranks, sharing):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert device.ranks_sharing(torch.device(kind), name, ranks) == sharing


# ---- the estimate -----------------------------------------------------------------------------------


def batch(**options):
    return Batch(**{"rows": 8, "slots": 8, "groups": 1, "prompt": 20, "new": 12, **options})


@pytest.mark.parametrize("name", [*ARCHITECTURES, "deepseek_v3", "mixtral"])
@pytest.mark.parametrize("slots", [8, 3])
def test_the_cache_fits_into_the_estimate(monkeypatch, name, slots):
    """The bytes that caches really hold at the same time: that of the slots, and that of the rows that enter."""
    model, made = tiny_model(name), []
    init = SlotCache.__init__
    monkeypatch.setattr(SlotCache, "__init__", lambda cache, *args: made.append(cache) or init(cache, *args))
    column = ModelMemory.of(model).column
    made.clear()
    rows = [[8] * 20 for _ in range(8)]
    request = decoder.Request(max_new_tokens=12, eos_ids=(), pad_id=0, share_prefix=False, most_rows=slots)
    decoder.decode(model, rows, request)
    held = [
        states.numel() * states.element_size() for layer in made[0].layers if layer.is_initialized
        for states in layer.both()
    ]  # fmt: skip
    assert sum(held) == column * slots * made[0].capacity
    assert made[0].capacity <= 20 + 12 * (1 + (slots < 8))
    sizes = [ModelMemory.of(model).of_batch(batch(slots=count, groups=0)) for count in (1, slots)]
    assert sizes[0] < sizes[1]
    assert sizes[1] > sum(held) + (column * slots * 20 if slots < 8 else 0)


class Peak(TorchDispatchMode):
    """Follows the memory of the tensors that operations return: `most` is the largest number of bytes at one time."""

    def __init__(self):
        super().__init__()
        self.now = self.most = 0
        self._tensors = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        tree_map_only(torch.Tensor, self._follow, result)
        return result

    def _follow(self, tensor):
        storage = tensor.untyped_storage()
        key, size = storage._cdata, storage.nbytes()
        self._tensors[key] += 1
        self.now += size if self._tensors[key] == 1 else 0
        self.most = max(self.most, self.now)
        weakref.finalize(tensor, self._end, key, size)

    def _end(self, key, size):
        self._tensors[key] -= 1
        self.now -= size if self._tensors[key] == 0 else 0


@pytest.mark.parametrize(
    ("slots", "sampling"), [(None, None), (3, Sampling(temperature=1.0, top_p=0.9, top_k=9, repetition_penalty=1.2))]
)
@pytest.mark.parametrize("name", ["qwen2", "mistral", "gemma", "gpt_neox", "gpt2"])
@pytest.mark.parametrize("engine", ["hf", "batched"])
def test_decoding_stays_below_the_estimate(engine, name, slots, sampling):
    model, prompts = tiny_model(name), ["x" * (70 + row) for row in range(8)]
    own = engine_of(engine, model, prompts)
    own.limit_rows(slots)
    if sampling is not None:
        sampling = replace(sampling, addresses=[(row, 0) for row in range(8)])
    needed = own.bytes_needed(4, 8, slots, sampling)
    with Peak() as peak:
        own.evaluate(members_of(4), prompts, sampling)
    assert needed / 8 < peak.most <= needed


def test_what_takes_more_memory():
    tiny = ModelMemory.of(tiny_model("qwen2"))
    base = tiny.of_batch(batch())
    for more in ({"prompt": 21}, {"new": 13}, {"rows": 9}, {"samples": True}, {"penalizes": True}):
        assert tiny.of_batch(batch(**more)) > base, more
    assert tiny.of_batch(batch(slots=2)) < base
    half = ModelMemory.of(tiny_model("qwen2").bfloat16())
    assert half.column == tiny.column / 2
    wide = ModelMemory.of(tiny_model("qwen2", vocab_size=890))
    assert wide.of_batch(batch()) - base == 8 * (890 - tiny.vocabulary) * tiny.logit


def engine_of(name, model=None, prompts=tuple(row["prompt"] for row in ROWS)):
    model = tiny_model("qwen2") if model is None else model
    engine = load_engine(name, model, tiny_tokenizer(), max_completion_length=12)
    table = ParameterTable.from_module(model, perturbation="low_rank")
    engine.attach(LiveMember(Weights(model, table, targets=engine.targets())))
    engine.check_lengths(prompts)
    return engine


def test_members_in_one_batch_need_their_rows_and_their_noise():
    single, batched = engine_of("hf"), engine_of("batched")
    alone = single.bytes_needed(4, 8, None, None)
    assert alone == single.bytes_needed(1, 8, None, None) == batched.bytes_needed(0, 8, None, None)
    assert batched.bytes_needed(4, 8, None, None) > 4 * alone
    factors = 4 * batched._live.table.elements  # of a pair at rank 1: far fewer
    assert batched.bytes_needed(4, 8, 8, None) < batched.bytes_needed(4, 8, None, None)
    assert alone < batched.bytes_needed(4, 8, 8, None) < 3 * alone + 8 * factors


def test_models_that_the_decoder_does_not_support_are_not_planned():
    engine = load_engine("hf", tiny_model("mamba"), tiny_tokenizer(), max_completion_length=4)
    assert engine.bytes_needed(1, 8, None, None) is None


# ---- smaller batches --------------------------------------------------------------------------------


@pytest.mark.parametrize("sampling", [None, Sampling(temperature=1.5, addresses=[(row, 0) for row in range(8)])])
@pytest.mark.parametrize("name", ["hf", "batched"])
def test_small_batches_give_the_same_answers(name, sampling):
    engine, members = engine_of(name), members_of(4)
    prompts = [row["prompt"] for row in ROWS]
    whole = engine.evaluate(members, prompts, sampling)
    for rows in (1, 3, 8, 100):
        engine.limit_rows(rows)
        assert engine.evaluate(members, prompts, sampling) == whole
    engine.limit_rows(None)
    assert engine.evaluate(members, prompts, sampling) == whole


def test_generate_gets_small_batches_too(monkeypatch):
    from es_llm.rollout import decoding

    model, sizes, generate = tiny_model("mamba"), [], decoding.generate
    engine = load_engine("hf", model, tiny_tokenizer(), max_completion_length=4)

    def counted(model, prompts, request):
        sizes.append(len(prompts))
        return generate(model, prompts, request)

    monkeypatch.setattr(decoding, "generate", counted)
    (whole,) = engine.evaluate([None], ["12"] * 5)
    engine.limit_rows(2)
    assert engine.evaluate([None], ["12"] * 5) == [whole]
    assert max(sizes[1:]) <= 2
    assert sum(sizes[1:]) == 5


def members_of(count):
    return _core.Population(run_seed=5, population_size=count, antithetic=True).ask(sigma=0.1)


# ---- the plan of a run ------------------------------------------------------------------------------


def trainer_of(tmp_path, model=None, name="run", **options):
    values = {"population_size": 4, "max_steps": 1, "max_completion_length": 8, "sigma": 0.05, **options}
    config = ESConfig(**values, output_dir=str(tmp_path / name), eval_on_start=False)
    model = tiny_model("qwen2") if model is None else model
    return ESTrainer(model, length, config, ROWS, eval_dataset=ROWS[:2], processing_class=tiny_tokenizer())


@pytest.fixture
def free(monkeypatch):
    """Sets the free memory to what a number of rows of a trainer's unit needs, and a little more."""

    def fit(trainer, rows):
        engine = trainer.run.engine
        members = trainer.run.engine.members_per_unit + trainer.run.joins_reference
        size = engine.bytes_needed(members, len(ROWS), rows, None) / memory._SHARE + 2
        monkeypatch.setattr(memory, "free_memory", lambda _device: int(size))

    return fit


def saved(directory):
    """`rows_per_batch` in the header of the journal, and in config.json."""
    header = json.loads(_core.Journal.read(directory / "journal.es").header)
    return header["identity"]["config"]["rows_per_batch"], json.loads((directory / "config.json").read_text())[
        "rows_per_batch"
    ]


def test_what_fits_stays_as_it_is(tmp_path, free, caplog):
    trainer = trainer_of(tmp_path)
    free(trainer, None)
    with caplog.at_level(logging.WARNING):
        trainer.train()
    assert "rows_per_batch" not in caplog.text
    assert saved(tmp_path / "run") == (None, None)


@pytest.mark.parametrize("options", [{}, {"engine": "batched", "perturbation": "low_rank", "members_per_unit": 4}])
def test_a_new_run_takes_a_smaller_number_which_stays_its_own(tmp_path, free, caplog, options):
    trainer = trainer_of(tmp_path, **options)
    free(trainer, 2)
    with caplog.at_level(logging.WARNING):
        trainer.train()
    (line,) = [record.message for record in caplog.records if "rows_per_batch" in record.message]
    rows = (4 + 1) * 8 if options else 8  # the unperturbed model beside four members
    assert line.startswith(f"decoding {rows} completion(s) at a time needs up to ")
    assert line.endswith("are free for it on cpu; the run uses `--rows_per_batch 2`")
    assert trainer.args.rows_per_batch == trainer.run.config.rows_per_batch == 2
    assert trainer.run.engine._request.most_rows == 2
    assert saved(tmp_path / "run") == (2, 2)

    caplog.clear()
    resumed = trainer_of(tmp_path, max_steps=2, **options)
    free(resumed, None)
    resumed.train(str(tmp_path / "run"))
    assert resumed.args.rows_per_batch == 2, "also where all rows would fit"
    assert resumed.run.population.iteration == 2
    with pytest.raises(ResumeError, match="rows_per_batch"):
        trainer_of(tmp_path, max_steps=3, rows_per_batch=4, **options).train(str(tmp_path / "run"))
    explicit = trainer_of(tmp_path, name="explicit", max_steps=2, rows_per_batch=2, **options)
    explicit.train()
    assert explicit.run.weights.sha256() == resumed.run.weights.sha256()


def test_a_resumed_run_keeps_its_number(tmp_path, free):
    trainer_of(tmp_path).train()
    resumed = trainer_of(tmp_path, max_steps=2)
    free(resumed, 4)
    with pytest.raises(ConfigError, match=r"decoding 8 completion.*resume it where more memory is free"):
        resumed.train(str(tmp_path / "run"))
    assert saved(tmp_path / "run") == (None, None)


def test_an_option_that_does_not_fit_is_refused(tmp_path, free):
    trainer = trainer_of(tmp_path, rows_per_batch=4)
    free(trainer, 2)
    with pytest.raises(ConfigError, match=r"decoding 4 completion.*set `--rows_per_batch 2`"):
        trainer.train()
    assert not (tmp_path / "run").exists(), "nothing was written"


def two_ranks(tmp_path, **options):
    trainer = trainer_of(tmp_path, **options)
    trainer.team.size = trainer.team.local_size = 2
    return trainer


def fit(trainer):
    memory.fit_batches(trainer.run, trainer.args, None, training=True)


def test_several_ranks_choose_by_what_all_of_them_find(tmp_path, monkeypatch, caplog):
    """All memory of the device, less the weights; each then needs it free."""
    trainer = two_ranks(tmp_path)
    need, weights = trainer.run.engine.bytes_needed(1, len(ROWS), 2, None), trainer.run.weights.bytes_on(CPU)
    monkeypatch.setattr(memory, "total_memory", lambda _: int(2 * (need + weights) / memory._SHARE) + 9)
    monkeypatch.setattr(memory, "free_memory", lambda _: int(2 * need / memory._SHARE) + 9)
    with caplog.at_level(logging.WARNING):
        fit(trainer)
    assert trainer.run.config.rows_per_batch == trainer.run.engine._request.most_rows == 2
    (line,) = [record.message for record in caplog.records if "rows_per_batch" in record.message]
    wanted = r"decoding 8 completion.*left for it beside the weights on cpu for each of 2 ranks; the run uses `.* 2`"
    assert re.fullmatch(wanted, line)
    with pytest.raises(ConfigError, match="set `--rows_per_batch 2`"):
        fit(two_ranks(tmp_path, rows_per_batch=4))
    monkeypatch.setattr(memory, "free_memory", lambda _: int(2 * need / memory._SHARE) - 9)
    with pytest.raises(
        ConfigError, match=r"decoding 2 completion.*are free for it on cpu for each of 2 ranks; set `.* 1`"
    ):
        fit(two_ranks(tmp_path))


def test_ranks_share_the_memory_of_their_host_and_are_refused_together(tmp_path, free):
    trainer = two_ranks(tmp_path)
    free(trainer, None)
    with pytest.raises(ConfigError, match=r"on cpu for each of 2 ranks; set `--rows_per_batch [24]`"):
        fit(trainer)


def test_weights_on_a_device_are_counted_once(tmp_path):
    weights = trainer_of(tmp_path, dtype="bfloat16").run.weights
    assert weights.bytes_on(CPU) == (4 + 2) * weights.table.elements
    assert weights.bytes_on(torch.device("meta")) == 0


def test_one_row_that_does_not_fit(tmp_path, monkeypatch):
    monkeypatch.setattr(memory, "free_memory", lambda _device: 100)
    with pytest.raises(ConfigError, match="lower `--max_completion_length`"):
        trainer_of(tmp_path).train()


def test_an_evaluation_is_planned_for_its_own_rows(tmp_path, free):
    trainer = trainer_of(tmp_path)
    free(trainer, 2)
    trainer.evaluate()
    assert trainer.args.rows_per_batch is None, "two rows are evaluated"
    trainer.train()
    assert trainer.args.rows_per_batch == 2


def test_an_engine_without_small_batches(tmp_path):
    trainer_of(tmp_path, engine="tests/fake_engine.py:FakeEngine").train()
    with pytest.raises(ConfigError, match="`rows_per_batch` must be none with the engine 'tests/fake_engine"):
        trainer_of(tmp_path, name="small", engine="tests/fake_engine.py:FakeEngine", rows_per_batch=2).train()


# ---- no memory --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "error",
    [MemoryError(), torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nmore"),
     RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes.")],
)  # fmt: skip
def test_exhausted_memory_names_the_option(error):
    wanted = r"48 completion\(s\) at a time: .*`--rows_per_batch 32`"
    with pytest.raises(OutOfMemoryError, match=wanted) as caught, explain_out_of_memory(48):
        raise error
    assert "\n" not in str(caught.value)
    assert caught.value.__cause__ is error


def test_torch_really_raises_such_an_error():
    with pytest.raises(OutOfMemoryError, match="--max_completion_length"), explain_out_of_memory(1):
        torch.empty(1 << 50)


def test_other_errors_stay_what_they_are():
    with pytest.raises(RuntimeError, match=r"^shapes differ$"), explain_out_of_memory(4):
        raise RuntimeError("shapes differ")


def test_a_run_without_memory_ends_with_the_option(tmp_path, monkeypatch):
    def exhausted(*_):
        raise torch.OutOfMemoryError("CUDA out of memory.")

    trainer = trainer_of(tmp_path)
    monkeypatch.setattr(decoder, "decode", exhausted)
    with pytest.raises(OutOfMemoryError, match=r"no memory for 8 completion.*CUDA out of memory.*`--rows_per_batch 4`"):
        trainer.train()


@pytest.mark.parametrize(("rows", "below"), [(1, 1), (2, 1), (3, 2), (4, 2), (5, 4), (64, 32), (65, 64)])
def test_the_power_below(rows, below):
    assert power_below(rows) == below
