"""GGUF files as models: what they become, the whole way from a run to its replay, and what is refused."""

import json
import sys

import pytest
import torch
from transformers import AutoModelForCausalLM

from es_llm import ESConfig, ESTrainer
from es_llm.checkpoint.export import export_model
from es_llm.cli.main import main
from es_llm.comm import SingleMailbox
from es_llm.errors import ModelError
from es_llm.model.loading import load_model, load_tokenizer, stored_dtype
from es_llm.rollout.engines.hf import HFEngine
from es_llm.rollout.probe import Batching
from es_llm.team import Team
from tests.reward_digits import digits
from tests.tiny_gguf import write_tiny_gguf
from tests.tiny_models import tiny_model

pytestmark = pytest.mark.filterwarnings("ignore:.*:DeprecationWarning")


@pytest.fixture
def tiny(tmp_path):
    (tmp_path / "files").mkdir()
    return write_tiny_gguf(tmp_path / "files" / "tiny.Q8_0.gguf")


def test_a_file_or_its_directory_is_a_plain_model_in_float32(tiny):
    model = load_model(tiny)
    assert {weight.dtype for weight in model.parameters()} == {torch.float32}
    assert {str(tensor.device) for tensor in (*model.parameters(), *model.buffers())} == {"cpu"}
    assert not model.training
    assert not hasattr(model, "hf_quantizer")
    assert getattr(model.config, "quantization_config", None) is None
    assert stored_dtype(tiny) == stored_dtype(tiny.parent) == "float32"
    same = load_model(tiny.parent)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), same.parameters(), strict=True))
    for (name, weight), written in zip(model.named_parameters(), tiny_model("llama").parameters(), strict=True):
        assert (weight - written).abs().max() < 0.005, name  # half a step of Q8_0
    plain = tiny_model("llama")
    plain.load_state_dict(model.state_dict())
    with torch.inference_mode():
        ids = torch.arange(3, 20)[None]
        torch.testing.assert_close(model(ids).logits, plain(ids).logits, rtol=1e-3, atol=1e-3)
    tokenizer = load_tokenizer(tiny)
    assert tokenizer.decode(tokenizer("3 + 4 = 7")["input_ids"], skip_special_tokens=True) == "3 + 4 = 7"
    assert tokenizer.padding_side == "left"


def test_an_export_is_an_ordinary_directory(tiny, tmp_path):
    model = load_model(tiny)
    export_model(tmp_path / "model", model, load_tokenizer(tiny))
    config = json.loads((tmp_path / "model" / "config.json").read_text())
    assert "quantization_config" not in config
    assert config["dtype"] == "float32"
    for again in (load_model(tmp_path / "model"), AutoModelForCausalLM.from_pretrained(tmp_path / "model")):
        assert all(torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters(), strict=True))
    tokenizer = load_tokenizer(tmp_path / "model")
    assert tokenizer("1 + 12")["input_ids"] == load_tokenizer(tiny)("1 + 12")["input_ids"]


def test_run_resume_and_replay(tiny, tmp_path, capsys):
    def trainer(steps):
        return ESTrainer(
            model=str(tiny),
            reward_funcs=digits,
            args=ESConfig(
                population_size=4, sigma=0.05, learning_rate=0.05, max_steps=steps, max_completion_length=6,
                prompts_per_iteration=4, output_dir=str(tmp_path / "run"), resume_from_checkpoint=str(tmp_path / "run"),
            ),
            train_dataset=[{"prompt": prompt} for prompt in ("1 + 2 =", "7", "Say:", "((12))")],
            team=Team(SingleMailbox()),
        )  # fmt: skip

    first = trainer(1)
    assert first.args.dtype == "float32"
    first.train()
    output = trainer(3).train()
    assert main(["replay", str(tmp_path / "run"), "--output_dir", str(tmp_path / "again")]) == 0
    assert output.metrics["weights_sha256"] in capsys.readouterr().out
    one, two = (load_model(tmp_path / name / "model") for name in ("run", "again"))
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters(), strict=True))


@pytest.mark.parametrize("package", ["gguf", "accelerate"])
@pytest.mark.parametrize("load", [load_model, load_tokenizer])
def test_a_missing_or_broken_package_is_named_with_the_command(tiny, tmp_path, monkeypatch, package, load):
    with monkeypatch.context() as patched:
        patched.setitem(sys.modules, package, None)
        with pytest.raises(ModelError, match=rf"`{package}`.*pip install 'es_llm\[gguf\]'"):
            load(tiny)
    (tmp_path / "broken" / package).mkdir(parents=True)
    (tmp_path / "broken" / package / "__init__.py").write_text("raise ImportError('no libgguf.so')")
    monkeypatch.delitem(sys.modules, package, raising=False)
    monkeypatch.syspath_prepend(tmp_path / "broken")
    with pytest.raises(ModelError, match=rf"`{package}` \(no libgguf\.so\); install it: pip install 'es_llm\[gguf\]'"):
        load(tiny)


@pytest.mark.parametrize("load", [load_model, load_tokenizer])
def test_a_cut_file_is_not_whole(tiny, load):
    data = tiny.read_bytes()
    for size in (4, 20, 30, 1000, 3328, len(data) // 2, len(data) - 100):
        tiny.write_bytes(data[:size])
        with pytest.raises(ModelError, match=rf"tiny.*the file is not whole: it has {size} bytes"):
            load(tiny)


@pytest.mark.parametrize("load", [load_model, load_tokenizer, stored_dtype])
def test_what_is_refused(tiny, tmp_path, load):
    with pytest.raises(ModelError, match=r"nowhere\.gguf'?: no such file"):
        load(tmp_path / "nowhere.gguf")
    write_tiny_gguf(tiny.with_name("other.gguf"))
    with pytest.raises(ModelError, match=r"2 GGUF files, name one of them: other\.gguf, tiny\.Q8_0\.gguf"):
        load(tiny.parent)
    load(tiny)
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(b"PK\x03\x04")
    with pytest.raises(ModelError, match=r"broken\.gguf: not a GGUF file"):
        load(broken)
    broken.write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 98362432\n")
    with pytest.raises(ModelError, match="Git LFS pointer"):
        load(broken)


@pytest.mark.parametrize("kept", [24, 2000, -64])
def test_a_truncated_file_is_refused(tiny, kept):
    tiny.write_bytes(tiny.read_bytes()[:kept])
    with pytest.raises(ModelError, match=r"can't be loaded"):
        load_model(tiny)


@pytest.mark.smollm2
def test_a_real_file_of_four_bits(smollm2, smollm2_gguf):
    model, converted = load_model(smollm2_gguf), load_model(smollm2)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), converted.parameters(), strict=True))
    tokenizer = load_tokenizer(smollm2_gguf)
    chat = [{"role": "user", "content": "What is the capital of France?"}]
    engine = HFEngine(model, tokenizer, max_completion_length=8)
    assert engine.batching is Batching.PADDED
    assert engine.unused == frozenset()
    answer = engine.complete([chat])[0]
    assert "Paris" in answer.text
    assert answer.finished


@pytest.mark.smollm2
def test_a_missing_model_names_the_command(tmp_path, monkeypatch):
    from tests import conftest

    with pytest.raises(pytest.fail.Exception, match="run `make smollm2`"):
        conftest._made(tmp_path / "smollm2-135m-instruct")
