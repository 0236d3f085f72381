"""The engine's check of a model before a run finds parameters that text doesn't reach, and batches that mix answers."""

import json
import logging
import subprocess
import sys

import pytest
import torch
import transformers
from transformers import AutoModelForCausalLM, GPT2Config

from es_llm import ESConfig, ESTrainer
from es_llm._core import Journal
from es_llm.cli.main import main
from es_llm.comm import SingleMailbox
from es_llm.errors import ConfigError, ModelError
from es_llm.model.used import Used, groups
from es_llm.rollout.engine import Sampling
from es_llm.rollout.engines.hf import HFEngine
from es_llm.rollout.probe import Batching
from es_llm.team import Team
from tests.reward_digits import digits
from tests.tiny_models import ARCHITECTURES, FURTHER, tiny_model, tiny_tokenizer

PROMPTS = ["1 + 2 =", "7", "Say a number:", "((12))", "9"]


def engine(model, length=6, **options):
    return HFEngine(model, tiny_tokenizer(), max_completion_length=length, **options)


def trainer(model, tmp_path, **options):
    return ESTrainer(
        model=model,
        reward_funcs=digits,
        args=ESConfig(
            population_size=4, sigma=0.5, learning_rate=0.5, max_steps=2, max_completion_length=8,
            prompts_per_iteration=4, eval_on_start=False, output_dir=str(tmp_path / "run"), **options,
        ),
        train_dataset=[{"prompt": prompt} for prompt in PROMPTS],
        team=Team(SingleMailbox()),
    )  # fmt: skip


@pytest.mark.parametrize("name", [*ARCHITECTURES, *(name for name in FURTHER if name != "gemma3")])
def test_text_reaches_all_parameters_of_a_language_model(name):
    assert engine(tiny_model(name)).unused == frozenset()


def test_text_does_not_reach_a_vision_tower():
    model = tiny_model("gemma3")
    unused = engine(model).unused
    eyes = ("model.vision_tower.", "model.multi_modal_projector.")
    assert unused == {name for name, _ in model.named_parameters() if name.startswith(eyes)}
    assert groups(model, unused) == ["model.vision_tower.*", "model.multi_modal_projector.*"]


def test_a_run_and_its_replay_leave_the_vision_tower_unchanged(tmp_path, caplog, capsys):
    base = tiny_model("gemma3")
    base.save_pretrained(tmp_path / "base")
    tiny_tokenizer().save_pretrained(tmp_path / "base")
    before = {name: weight.clone() for name, weight in base.named_parameters()}
    with caplog.at_level(logging.WARNING):
        run = trainer(str(tmp_path / "base"), tmp_path)
    assert "take no part when the model reads and writes text" in caplog.text
    assert "model.vision_tower.*" in caplog.text
    output = run.train()
    eyes = ("model.vision_tower.", "model.multi_modal_projector.")
    for name, weight in run.model.named_parameters():
        assert torch.equal(weight, before[name]) == name.startswith(eyes), name
    header = json.loads(Journal.read(str(tmp_path / "run" / "journal.es")).header)
    names = {row["name"] for row in header["identity"]["model"]["parameters"]}
    assert names == {name for name in before if not name.startswith(eyes)}
    assert main(["replay", str(tmp_path / "run"), "--output_dir", str(tmp_path / "again")]) == 0
    assert output.metrics["weights_sha256"] in capsys.readouterr().out


class Expert(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.up, self.spare = torch.nn.Linear(4, 4), torch.nn.Linear(4, 4)

    def forward(self, x):
        return self.up(x)


class Routed(torch.nn.Module):
    """A model in which each token goes to one expert. Two weights are read as tensors, and some are not read at all."""

    def __init__(self):
        super().__init__()
        self.experts = torch.nn.ModuleList(Expert() for _ in range(4))
        self.named = torch.nn.ModuleDict({f"expert_{i}": Expert() for i in range(3)})
        self.towers = torch.nn.ModuleDict({"text": torch.nn.Linear(4, 4), "image": torch.nn.Linear(4, 4)})
        self.stacked = torch.nn.Parameter(torch.randn(4, 4, 4))
        self.table = torch.nn.Parameter(torch.randn(4))
        self.idle = torch.nn.Parameter(torch.randn(4))
        self.extra = torch.nn.ModuleList([torch.nn.Linear(4, 4)])

    def forward(self, x):
        x = self.experts[2](x) + self.named["expert_1"](x) + self.towers["text"](x)
        return torch.nn.functional.linear(x, self.stacked[1]) * self.table.detach()


def test_experts_that_a_router_did_not_select_count_as_used():
    module = Routed()
    used = Used(module)
    with used.watch(), torch.inference_mode():
        module(torch.randn(2, 4))
    unused = used.unused()
    spare = {f"experts.{i}.spare" for i in range(4)} | {f"named.expert_{i}.spare" for i in range(3)}
    wanted = {f"{name}.{kind}" for name in (*spare, "towers.image", "extra.0") for kind in ("weight", "bias")} | {
        "idle"
    }
    assert unused == wanted
    assert not any(child._forward_pre_hooks for child in module.modules())


def test_a_weight_without_use_in_a_language_model_is_found(tmp_path):
    model = tiny_model("llama")
    model.model.layers[0].mlp.extra = torch.nn.Linear(4, 4)
    model.model.spare = torch.nn.Parameter(torch.randn(3))
    names = {"model.layers.0.mlp.extra.weight", "model.layers.0.mlp.extra.bias", "model.spare"}
    assert engine(model).unused == names
    run = trainer_of_module(model, tmp_path)
    assert not names & {parameter.name for parameter in run.run.weights.table.parameters}


def trainer_of_module(model, tmp_path):
    return ESTrainer(
        model=model,
        reward_funcs=digits,
        processing_class=tiny_tokenizer(),
        args=ESConfig(population_size=2, prompts_per_iteration=2, max_completion_length=3, output_dir=str(tmp_path)),
        train_dataset=[{"prompt": prompt} for prompt in PROMPTS],
        team=Team(SingleMailbox()),
    )


def test_the_context_of_a_model_of_several_parts_is_that_of_its_text():
    own = engine(tiny_model("gemma3"), 100)
    with pytest.raises(ConfigError, match="context of 128"):
        own.check_lengths(["a" * 29])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", [*ARCHITECTURES, *FURTHER])
def test_models_of_attention_can_be_padded(name, dtype):
    model = tiny_model(name).to(dtype)
    before = [(tensor.data_ptr(), tensor.dtype) for tensor in (*model.parameters(), *model.buffers())]
    assert (engine(model).batching is Batching.PADDED) == (name != "rwkv")
    assert before == [(tensor.data_ptr(), tensor.dtype) for tensor in (*model.parameters(), *model.buffers())]


def test_a_model_that_mixes_the_rows_of_a_batch_answers_each_by_itself(tmp_path, caplog):
    """transformers' RWKV ignores the attention mask, and adds up the states of a batch."""
    own = engine(tiny_model("rwkv"))
    alone = [own.complete([prompt])[0] for prompt in PROMPTS]
    assert own.complete(PROMPTS) == alone
    assert own.complete(PROMPTS[::-1]) == alone[::-1]
    one = [own.log_probs([p], [c])[0] for p, c in zip(PROMPTS, alone, strict=True)]
    for together, by_itself in zip(own.log_probs(PROMPTS, alone), one, strict=True):
        assert torch.equal(together, by_itself)
    with caplog.at_level(logging.WARNING):
        trainer_of_module(tiny_model("rwkv"), tmp_path)
    assert "different lengths share a batch: a batch holds each prompt by itself" in caplog.text


def test_a_model_that_ignores_the_mask_gets_prompts_of_one_length():
    model = tiny_model("llama")
    forward = model.forward

    def without_mask(input_ids=None, attention_mask=None, cache=None, use_cache=None, logits_to_keep=0):
        return forward(input_ids=input_ids, cache=cache, use_cache=use_cache, logits_to_keep=logits_to_keep)

    model.forward = without_mask
    own = engine(model, 12)
    assert own.batching is Batching.EQUAL
    assert own.complete(PROMPTS) == [own.complete([prompt])[0] for prompt in PROMPTS]
    samples = [(row, 0) for row in range(len(PROMPTS))]
    sampled = own.complete(PROMPTS, Sampling(seed=3, temperature=1.0, addresses=samples))
    for row, sample in enumerate(samples):
        alone = Sampling(seed=3, temperature=1.0, addresses=[sample])
        assert own.complete([PROMPTS[row]], alone) == [sampled[row]]


def test_a_model_that_cannot_continue_a_text_is_refused():
    model = tiny_model("llama")
    model.forward = lambda input_ids, attention_mask, cache, use_cache, pixels=None: pixels.shape
    with pytest.raises(ModelError, match=r"LlamaForCausalLM can't continue a text: AttributeError"):
        engine(model)


@pytest.mark.parametrize(("name", "option"), [("gpt2", "n_positions"), ("llama", "max_position_embeddings")])
def test_a_short_context_is_enough_for_the_first_look(name, option, caplog):
    model, tokenizer = tiny_model(name, **{option: 16}), tiny_tokenizer()
    tokenizer.model_max_length = 64
    assert HFEngine(model, tokenizer, max_completion_length=4).batching is Batching.PADDED
    assert not caplog.records


@pytest.mark.parametrize("context", [1, 2, 3, 4, 5, 16, 17, 63, 64, 66, 128])
@pytest.mark.parametrize("loop", [True, False])
def test_a_look_stays_within_the_context(context, loop, caplog):
    model = AutoModelForCausalLM.from_config(
        GPT2Config(vocab_size=96, n_positions=context, n_embd=16, n_layer=1, n_head=2, bos_token_id=1, eos_token_id=1)
    ).eval()
    tokenizer = tiny_tokenizer()
    tokenizer.model_max_length = context
    with caplog.at_level(logging.WARNING):
        own = HFEngine(model, tokenizer, max_completion_length=1, loop=loop)
    assert own.batching is Batching.PADDED
    assert own.unused == frozenset()
    assert not caplog.text


def test_a_look_at_the_embedded_model_logs_nothing():
    code = (
        "from es_llm.model.loading import load_model, load_tokenizer; from es_llm.rollout.engines.hf import HFEngine\n"
        "HFEngine(load_model(), load_tokenizer(), max_completion_length=4)"
    )
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "Token indices sequence length" not in process.stderr


@pytest.mark.parametrize("limit", [6, 16, 40, None])
def test_the_text_of_a_look_fits_the_limit_of_the_tokenizer(limit, caplog):
    tokenizer = tiny_tokenizer()
    tokenizer.model_max_length = limit or 10**30
    transformers.logging.enable_propagation()
    try:
        with caplog.at_level(logging.WARNING):
            HFEngine(tiny_model("qwen2"), tokenizer, max_completion_length=1)
    finally:
        transformers.logging.disable_propagation()
    assert "Token indices sequence length" not in caplog.text
