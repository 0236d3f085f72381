"""Greedy rollouts equal transformers' `generate`, and settings that must not change them don't."""

import pytest
import torch
from transformers import GenerationConfig

from es_llm import _core
from es_llm.checkpoint.export import export_model
from es_llm.errors import ConfigError, ModelError
from es_llm.model.loading import load_model, load_tokenizer
from es_llm.model.weights import Weights
from es_llm.rollout import decoder
from es_llm.rollout.ends import end_ids
from es_llm.rollout.engine import LiveMember
from es_llm.rollout.engines.hf import HFEngine
from tests.tiny_models import ARCHITECTURES, EOS, PAD, tiny_model, tiny_tokenizer

pytestmark = pytest.mark.usefixtures("one_thread")

PROMPTS = [f"{a} + {b * a} = " + "what?" * (b % 3) for a in range(1, 6) for b in range(4)]


def engine(model, length=24, **options):
    return HFEngine(model, tiny_tokenizer(), max_completion_length=length, **options)


def end_often(model, share=4):
    """Make every `share`-th token an end token, so that rows of a random model end at many different lengths."""
    model.generation_config.eos_token_id = [EOS, *range(8, 80, share)]
    return model


def plain_generate(model, prompts, length):
    """Token ids by a direct call of `generate`, up to and with the end token."""
    inputs = tiny_tokenizer()(prompts, return_tensors="pt", padding=True)
    ends = model.generation_config.eos_token_id
    output = model.generate(**inputs, max_new_tokens=length, do_sample=False, pad_token_id=PAD)
    rows = []
    for row in output[:, inputs["input_ids"].shape[1] :].tolist():
        stop = next((i for i, token in enumerate(row) if token in (ends if isinstance(ends, list) else [ends])), None)
        rows.append(tuple(row if stop is None else row[: stop + 1]))
    return rows


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_answers_in_half_precision_are_those_of_generate_on_the_same_batch(name, dtype):
    model = tiny_model(name)
    Weights(model, dtype=dtype)
    end_often(model, share=6)
    wanted = plain_generate(model, PROMPTS, 24)
    own = engine(model)
    assert decoder.is_supported(model)
    assert [c.token_ids for c in own.complete(PROMPTS)] == wanted
    assert engine(model, loop=False).complete(PROMPTS) == own.complete(PROMPTS)
    lengths = {len(ids) for ids in wanted}
    assert len(lengths) > 3, "the rows should have different lengths"


@pytest.mark.parametrize("name", ["qwen2", "mistral", "gpt2"])
@pytest.mark.parametrize("rows", [1, 2, 7, 8, 9, 16, 64])
def test_dropping_finished_rows_changes_nothing(name, rows):
    model = end_often(tiny_model(name, seed=3), share=5)
    prompts = [f"{row * 7} " * (1 + row % 4) for row in range(rows)]
    wanted = engine(model, 40, loop=False).complete(prompts)
    assert engine(model, 40).complete(prompts) == wanted


@pytest.mark.parametrize("loop", [True, False])
def test_generation_defaults_of_the_model_have_no_effect(loop):
    plain, odd = tiny_model("qwen2"), tiny_model("qwen2")
    odd.generation_config = GenerationConfig(
        eos_token_id=plain.generation_config.eos_token_id,
        do_sample=True,
        temperature=5.0,
        top_k=3,
        repetition_penalty=1.8,
        no_repeat_ngram_size=2,
        suppress_tokens=list(range(40)),
        max_length=13,
        min_new_tokens=9,
    )
    kept = odd.generation_config
    assert engine(odd, loop=loop).complete(PROMPTS) == engine(plain).complete(PROMPTS)
    assert odd.generation_config is kept


def test_weights_that_are_written_elsewhere():
    """`complete` uses them as they are; `evaluate` does after `forget`."""
    model = tiny_model("qwen2")
    own = engine(model)
    weights = Weights(model, targets=own.targets())
    live = LiveMember(weights)
    own.attach(live)
    before = own.complete(PROMPTS)
    member, _ = _core.Population(run_seed=1, population_size=2).ask(sigma=1.0)
    perturbed, none = own.evaluate([member, None], PROMPTS)
    assert none == before != perturbed
    weights.perturb(member)
    assert own.complete(PROMPTS) == perturbed
    live.forget()
    assert own.evaluate([None], PROMPTS) == [before]


def test_a_member_s_weights_are_written_once():
    weights = Weights(tiny_model("llama"))
    live = LiveMember(weights)
    population = _core.Population(run_seed=1, population_size=2)
    one, two = population.ask(sigma=1.0)
    wanted = [(one, True), (one, False), (two, True), (None, True), (None, False), (one, True)]
    assert [live.switch(member) for member, _ in wanted] == [written for _, written in wanted]
    assert live.seconds > 0
    live.forget()
    assert live.switch(one), "another writer may have changed the weights"
    population.apply(population.tell([1.0, 2.0], sigma=1.0, learning_rate=1.0))
    assert live.switch(population.ask(sigma=1.0)[0]), "a member of another iteration"


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", ARCHITECTURES)
@pytest.mark.parametrize("threads", [1, 2])
def test_logits_have_equal_bits_for_a_fixed_number_of_threads(name, dtype, threads):
    """With another number of threads logits are nearly equal: torch's fused attention in float32 uses another kernel
    inside a parallel region (measured difference: 1e-7 to 2e-7 for one query; linear layers and bfloat16 have equal
    bits)."""
    model = tiny_model(name)
    Weights(model, dtype=dtype)
    inputs = tiny_tokenizer()(PROMPTS, return_tensors="pt", padding=True)
    with torch.inference_mode():
        wanted = model(**inputs).logits
        torch.set_num_threads(threads)
        logits = [model(**inputs).logits for _ in range(3)]
    assert all(torch.equal(logits[0], other) for other in logits[1:])
    tolerance = 1e-4 if dtype == "float32" else 0.05
    torch.testing.assert_close(logits[0], wanted, rtol=tolerance, atol=tolerance)


def test_messages_go_through_the_chat_template():
    model = tiny_model("llama")
    chat = [
        [{"role": "user", "content": "1 + 1"}],
        [{"role": "system", "content": "be brief"}, {"role": "user", "content": "2"}],
    ]
    texts = ["<user>1 + 1\n<assistant>", "<system>be brief\n<user>2\n<assistant>"]
    assert engine(model).complete(chat) == engine(model).complete(texts)
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = None
    bare = HFEngine(model, tokenizer, max_completion_length=4)
    with pytest.raises(ConfigError, match="need a tokenizer with a chat template"):
        bare.complete(chat)


def test_padding_side_of_the_tokenizer_does_not_matter():
    model, tokenizer = tiny_model("llama"), tiny_tokenizer()
    tokenizer.padding_side = "right"
    right = HFEngine(model, tokenizer, max_completion_length=24)
    assert right.complete(PROMPTS) == engine(model).complete(PROMPTS)


def test_prompts_that_leave_no_room_are_refused():
    own = engine(tiny_model("llama"), 100)
    own.check_lengths(["a" * 28, "a"])
    with pytest.raises(ConfigError, match=r"row 1 has 29 tokens.*`max_completion_length` 100 .*context of 128"):
        own.check_lengths(["a", "a" * 29])
    with pytest.raises(ConfigError, match="has no tokens"):
        own.check_lengths([""])
    with pytest.raises(ConfigError, match="row 0 has 29 tokens"):
        engine(tiny_model("gpt2"), 100).check_lengths(["a" * 29])


def test_options_that_cannot_work_are_refused():
    model = tiny_model("llama")
    with pytest.raises(ConfigError, match="`max_completion_length` must be >= 1, got 0"):
        engine(model, 0)
    tokenizer = tiny_tokenizer()
    tokenizer.pad_token = None
    with pytest.raises(ModelError, match="no pad token"):
        HFEngine(model, tokenizer, max_completion_length=4)


def test_another_models_tokenizer_is_refused():
    with pytest.raises(ModelError, match=r"has token id \d+, but the model has only 20 embeddings"):
        engine(tiny_model("llama", vocab_size=20)).check_lengths(["abcxyz"])


def ends_of(model, tokenizer=None):
    return set(end_ids(model, tokenizer or tiny_tokenizer()))


def test_end_tokens_are_those_of_all_sources():
    model = tiny_model("llama")
    model.generation_config.eos_token_id = None
    model.config.eos_token_id = None
    assert ends_of(model) == {EOS}
    model.config.eos_token_id = 7
    assert ends_of(model) == {7, EOS}
    model.generation_config.eos_token_id = [5, 6]
    assert ends_of(model) == {5, 6, 7, EOS}
    model.generation_config = None
    assert ends_of(model) == {7, EOS}


def test_the_text_part_of_a_configuration_names_end_tokens_too():
    model = tiny_model("gemma3")
    model.config.text_config.eos_token_id = [7, 8]
    assert ends_of(model) >= {7, 8, EOS}


def test_an_end_token_that_only_the_class_defaults_to_is_ordinary_text():
    model = tiny_model("llama")
    model.generation_config.eos_token_id = model.config.eos_token_id = 9
    model.config = type(model.config)(**{**model.config.to_dict(), "eos_token_id": 2})  # Llama's class has 2
    tokenizer = tiny_tokenizer()
    assert ends_of(model, tokenizer) == {9, 2, EOS}, "to this tokenizer 2 is special"
    tokenizer._special_tokens_map["unk_token"] = None
    assert 2 in tokenizer.added_tokens_decoder or ends_of(model, tokenizer) == {9, EOS}


def test_an_answer_ends_at_the_tokenizers_end_when_the_model_names_another():
    model, tokenizer = tiny_model("llama"), tiny_tokenizer()
    first = HFEngine(model, tokenizer, max_completion_length=12).complete(["1 + 1"])[0].token_ids
    end = next(token for token in first[2:] if token not in (EOS, *first[:2]))
    tokenizer.eos_token = tokenizer.convert_ids_to_tokens(end)
    assert model.generation_config.eos_token_id == EOS != tokenizer.eos_token_id
    for loop in (True, False):
        answer = HFEngine(model, tokenizer, max_completion_length=12, loop=loop).complete(["1 + 1"])[0]
        assert answer.finished
        assert answer.token_ids == first[: first.index(end) + 1]


@pytest.mark.parametrize("bad", [-1, 10_000, True, [EOS, None], [EOS, -100], 1.5, "2"])
@pytest.mark.parametrize("source", ["generation_config", "config"])
def test_ids_that_cannot_end_an_answer_are_refused(source, bad):
    model = tiny_model("llama")
    object.__setattr__(getattr(model, source), "eos_token_id", bad)
    with pytest.raises(
        ModelError, match=rf"`eos_token_id` of the model's {source} holds .*expected integers in \[0, 89\)"
    ):
        engine(model)


def test_no_end_anywhere_is_refused():
    model, tokenizer = tiny_model("llama"), tiny_tokenizer()
    model.generation_config.eos_token_id = model.config.eos_token_id = None
    tokenizer.eos_token = None
    with pytest.raises(ModelError, match="names an end-of-sequence token"):
        HFEngine(model, tokenizer, max_completion_length=4)


def test_an_export_names_all_end_tokens(tmp_path):
    model, tokenizer = tiny_model("llama"), tiny_tokenizer()
    model.generation_config.eos_token_id = [5, 6]
    export_model(tmp_path / "model", model, tokenizer)
    assert model.generation_config.eos_token_id == [5, 6]
    again = load_model(tmp_path / "model")
    assert set(again.generation_config.eos_token_id) == {5, 6, EOS}
    assert ends_of(again, load_tokenizer(tmp_path / "model")) == {5, 6, EOS}
