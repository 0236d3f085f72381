"""Models and tokenizers from directories, good and bad."""

import json
import re
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from es_llm.checkpoint.export import export_model
from es_llm.errors import ModelError
from es_llm.model.loading import load_model, load_tokenizer, stored_dtype
from es_llm.model.weights import Weights
from tests.tiny_models import ARCHITECTURES, tiny_model, tiny_tokenizer


@pytest.fixture
def directory(tmp_path):
    """An exported Llama in bfloat16."""
    model = tiny_model("llama")
    Weights(model, dtype="bfloat16")
    export_model(tmp_path / "model", model, tiny_tokenizer())
    return tmp_path / "model"


def edit(path, **changes):
    content = json.loads(path.read_text())
    content.update(changes)
    path.write_text(json.dumps({key: value for key, value in content.items() if value is not None}))


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_a_directory_loads_in_float32_and_eval_mode(name, tmp_path):
    model = tiny_model(name)
    export_model(tmp_path / "model", model, tiny_tokenizer())
    loaded = load_model(tmp_path / "model")
    assert not loaded.training
    assert {w.dtype for w in loaded.parameters()} == {torch.float32}
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), loaded.parameters(), strict=True))
    tokenizer = load_tokenizer(tmp_path / "model")
    text = "12 + 3 = 15\nab"
    assert tokenizer(text)["input_ids"] == tiny_tokenizer()(text)["input_ids"]
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text
    assert (tokenizer.padding_side, tokenizer.pad_token) == ("left", "<pad>")


def test_stored_dtype(directory):
    assert stored_dtype(directory) == "bfloat16"
    assert load_model(directory).dtype == torch.float32
    edit(directory / "config.json", dtype=None)
    assert stored_dtype(directory) is None
    edit(directory / "config.json", torch_dtype="float16")
    assert stored_dtype(directory) == "float16"
    edit(directory / "config.json", torch_dtype="float8_e4m3fn")
    assert stored_dtype(directory) is None


@pytest.mark.parametrize("name", ["./nowhere", "/nowhere/model", "a/b/c", "..", ""])
def test_a_path_without_a_directory_is_refused(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    if name == "..":
        name = "file"
    for load in (load_model, load_tokenizer, stored_dtype):
        with pytest.raises(ModelError, match="no such directory"):
            load(name)


def test_a_hub_id_without_a_hub_is_refused():
    for load in (load_model, load_tokenizer, stored_dtype):
        with pytest.raises(ModelError, match=r"'nobody/no-such-model'.*no such local directory; HF_HUB_OFFLINE is set"):
            load("nobody/no-such-model")


def test_a_missing_configuration_is_refused(directory):
    (directory / "config.json").unlink()
    for load in (load_model, stored_dtype):
        with pytest.raises(ModelError, match=r"no config\.json, got .*model\.safetensors"):
            load(directory)


def test_a_broken_configuration_is_refused(directory):
    (directory / "config.json").write_text("{")
    with pytest.raises(ModelError, match=r"config\.json: not readable as JSON"):
        load_model(directory)
    (directory / "config.json").write_text("[]")
    with pytest.raises(ModelError, match=r"config\.json: expected a JSON object, got list"):
        load_model(directory)
    (directory / "config.json").write_text('{"model_type": "no-such-type"}')
    with pytest.raises(ModelError, match=r"can't be loaded.*no-such-type"):
        load_model(directory)


@pytest.mark.parametrize("kept", [0, 4, 100, -1])
def test_truncated_weights_are_refused(directory, kept):
    path = directory / "model.safetensors"
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(ModelError, match=r"model\.safetensors: not a whole safetensors file"):
        load_model(directory)


def test_pickled_weights_are_refused(directory):
    (directory / "model.safetensors").rename(directory / "pytorch_model.bin")
    with pytest.raises(ModelError, match=r"no model\.safetensors \(pickled weights are refused\), got .*pytorch_model"):
        load_model(directory)


def test_a_missing_shard_is_refused(directory):
    (directory / "model.safetensors").rename(directory / "model-00001-of-00002.safetensors")
    index = {
        "metadata": {},
        "weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"},
    }
    (directory / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(ModelError, match=r"model-00002-of-00002\.safetensors: not a whole"):
        load_model(directory)
    (directory / "model.safetensors.index.json").write_text("{}")
    with pytest.raises(ModelError, match="expected a `weight_map`"):
        load_model(directory)


def test_weights_of_another_shape_are_refused(directory):
    edit(directory / "config.json", intermediate_size=56)
    with pytest.raises(
        ModelError, match=r"6 mismatched weights .*down_proj\.weight \(got \[32, 48\], expected \[32, 56\]\)"
    ):
        load_model(directory)


def test_missing_weights_are_refused(directory):
    edit(directory / "config.json", num_hidden_layers=3)
    with pytest.raises(ModelError, match=r"9 missing weights for LlamaForCausalLM: model\.layers\.2\..* and 4 more"):
        load_model(directory)


def test_unexpected_weights_are_refused(directory):
    edit(directory / "config.json", num_hidden_layers=1)
    with pytest.raises(ModelError, match=r"9 unexpected weights for LlamaForCausalLM: model\.layers\.1\."):
        load_model(directory)


def test_a_tied_head_is_not_missing(tmp_path):
    export_model(tmp_path / "model", tiny_model("qwen2"), tiny_tokenizer())
    model = load_model(tmp_path / "model")
    assert model.lm_head.weight is model.model.embed_tokens.weight


def test_a_missing_pad_token_is_the_eos_token(directory):
    edit(directory / "tokenizer_config.json", pad_token=None)
    assert load_tokenizer(directory).pad_token == "<eos>"
    edit(directory / "tokenizer_config.json", eos_token=None)
    with pytest.raises(ModelError, match="neither a pad nor an end-of-sequence token"):
        load_tokenizer(directory)


def test_a_broken_tokenizer_is_refused(directory):
    (directory / "tokenizer.json").write_text("{")
    with pytest.raises(ModelError, match=r"the tokenizer of .* can't be loaded"):
        load_tokenizer(directory)


def test_a_directory_that_is_deleted_between_checks(directory):
    shutil.rmtree(directory)
    with pytest.raises(ModelError, match="no such directory"):
        load_model(directory)


POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 134\n"


@pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
def test_a_git_lfs_pointer_is_named(directory, name):
    (directory / name).write_text(POINTER)
    with pytest.raises(ModelError, match=rf"{re.escape(name)}: a Git LFS pointer, .*`git lfs pull`"):
        load_model(directory)


@pytest.mark.parametrize(
    "name",
    [
        "tokenizer.json",
        "tokenizer_config.json",
        "chat_template.jinja",
        "generation_config.json",
        "special_tokens_map.json",
        "merges.txt",
        "spiece.model",
        "modeling_own.py",
        "additional_chat_templates/tools.jinja",
    ],
)
def test_a_git_lfs_pointer_of_a_small_file_is_named(directory, name):
    (directory / name).parent.mkdir(exist_ok=True)
    (directory / name).write_text(POINTER)
    for load in (load_model, load_tokenizer):
        with pytest.raises(ModelError, match=rf"{re.escape(name)}: a Git LFS pointer, .*`git lfs pull`"):
            load(directory)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "consolidated.safetensors", "figure.png"])
def test_a_git_lfs_pointer_that_is_not_read_is_allowed(directory, name):
    (directory / name).write_text(POINTER)
    load_model(directory)
    load_tokenizer(directory)


def test_a_shard_that_is_a_git_lfs_pointer_is_named(directory):
    (directory / "model.safetensors").rename(directory / "model-00001-of-00002.safetensors")
    (directory / "model-00002-of-00002.safetensors").write_text(POINTER)
    index = {"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}}
    (directory / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(ModelError, match=r"model-00002-of-00002\.safetensors: a Git LFS pointer"):
        load_model(directory)


@pytest.mark.parametrize("config", [True, False])
def test_an_adapter_is_named_with_its_base(directory, config):
    (directory / "model.safetensors").rename(directory / "adapter_model.safetensors")
    (directory / "adapter_config.json").write_text('{"base_model_name_or_path": "org/base", "peft_type": "LORA"}')
    if not config:
        (directory / "config.json").unlink()
    for load in (load_model, stored_dtype):
        with pytest.raises(ModelError, match=r"an adapter .* of the model 'org/base', .*`merge_and_unload`"):
            load(directory)


WRAPPERS = [
    "module.",
    "_orig_mod.",
    "module._orig_mod.",
    "_fsdp_wrapped_module.",
    "_forward_module.",
    "model.model.",
    "transformer.",
    "policy.net.",
]


@pytest.mark.parametrize("name", ["llama", "qwen2"])
@pytest.mark.parametrize("prefix", WRAPPERS)
def test_weights_of_a_wrapped_module_are_named(tmp_path, name, prefix):
    export_model(tmp_path, tiny_model(name), tiny_tokenizer())
    path = tmp_path / "model.safetensors"
    save_file({f"{prefix}{weight}": tensor for weight, tensor in load_file(path).items()}, path)
    match = rf"weights begin with '{prefix}', expected .*`model\.{prefix}save_pretrained`"
    with pytest.raises(ModelError, match=match):
        load_model(tmp_path)


def test_weights_of_an_adapted_model_are_named(directory):
    path = directory / "model.safetensors"
    weights = {f"base_model.model.{name}": tensor for name, tensor in load_file(path).items()}
    save_file(weights, path)
    with pytest.raises(ModelError, match=r"weights begin with 'base_model\.model\.', .*`merge_and_unload\(\)`"):
        load_model(directory)
    query = "base_model.model.model.layers.0.self_attn.q_proj."
    weights[f"{query}base_layer.weight"] = weights.pop(f"{query}weight")
    weights[f"{query}lora_A.default.weight"] = torch.zeros(2, 32)
    save_file(weights, path)
    with pytest.raises(ModelError, match=r"weights begin with 'base_model\.model\.', .*`merge_and_unload\(\)`"):
        load_model(directory)


@pytest.mark.parametrize("adapter", [True, False])
def test_an_adapters_configuration_beside_a_whole_model_is_named(directory, adapter):
    (directory / "adapter_config.json").write_text('{"base_model_name_or_path": "org/base", "peft_type": "LORA"}')
    if adapter:
        shutil.copy(directory / "model.safetensors", directory / "adapter_model.safetensors")
    for load in (load_model, stored_dtype):
        with pytest.raises(ModelError, match=r"beside a whole model, .*remove adapter_config\.json"):
            load(directory)


def test_a_weights_file_as_model_gets_a_hint_to_its_directory(directory):
    with pytest.raises(ModelError, match="no such directory, it is a file; name the directory"):
        load_model(directory / "model.safetensors")


def test_the_type_of_a_configuration_of_several_parts(directory):
    edit(directory / "config.json", dtype=None, text_config={"dtype": "bfloat16"})
    assert stored_dtype(directory) == "bfloat16"


def test_the_directory_of_a_run_gets_a_hint_to_its_model(directory):
    run = directory.parent
    for load in (load_model, load_tokenizer, stored_dtype):
        with pytest.raises(
            ModelError, match=rf"no config\.json, .*the trained model is in {re.escape(str(directory))}$"
        ):
            load(run)
    (run / "journal.es").write_bytes(b"")
    (run / "config.json").write_text('{"sigma": 0.1}')
    for load in (load_model, load_tokenizer, stored_dtype):
        with pytest.raises(ModelError, match=rf"directory of a run, .* model is in {re.escape(str(directory))}$"):
            load(run)
    for name in ("checkpoint-9", "checkpoint-10"):
        shutil.copytree(directory, run / name)
    shutil.rmtree(directory)
    with pytest.raises(ModelError, match=r"name one of those in it, such as .*checkpoint-10, got checkpoint-10, check"):
        load_model(run)
    for name in ("checkpoint-9", "checkpoint-10"):
        shutil.rmtree(run / name)
    with pytest.raises(ModelError, match="without a trained model so far"):
        load_model(run)


def test_the_directory_around_checkpoints_gets_a_hint_to_one(directory):
    directory.rename(directory.parent / "checkpoint-7")
    for load in (load_model, load_tokenizer):
        with pytest.raises(ModelError, match=r"name one of those in it, such as .*checkpoint-7, got checkpoint-7$"):
            load(directory.parent)


def test_a_model_with_directories_of_models_inside_loads(directory):
    shutil.copytree(directory, directory / "checkpoint-1", ignore=shutil.ignore_patterns("checkpoint-1"))
    load_model(directory)
    load_tokenizer(directory)
