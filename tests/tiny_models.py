"""Small random models of each architecture, and a tokenizer with characters as tokens; no download."""

from __future__ import annotations

import string
from typing import Any

import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

PAD, EOS, UNKNOWN = 0, 1, 2
CHARACTERS = "\n " + string.digits + string.ascii_letters + "+-*/()=<>.,:;'?!_[]{}|"
VOCABULARY = {token: index for index, token in enumerate(["<pad>", "<eos>", "<unk>", *dict.fromkeys(CHARACTERS)])}

_SIZES = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 128,
}
_GPT_NEOX = {key: size for key, size in _SIZES.items() if key not in {"num_key_value_heads", "head_dim"}}
_GPT2 = {"n_embd": 32, "n_inner": 48, "n_layer": 2, "n_head": 4, "n_positions": 128}

ARCHITECTURES: dict[str, tuple[str, dict[str, Any]]] = {
    "qwen2": ("qwen2", {**_SIZES, "tie_word_embeddings": True}),
    "qwen2-untied": ("qwen2", {**_SIZES, "tie_word_embeddings": False}),
    "qwen3": ("qwen3", {**_SIZES, "tie_word_embeddings": True}),
    "llama": ("llama", {**_SIZES, "tie_word_embeddings": False}),
    "mistral": ("mistral", {**_SIZES, "tie_word_embeddings": False, "sliding_window": 16}),
    "gemma": ("gemma", {**_SIZES, "tie_word_embeddings": True}),
    "gpt_neox": ("gpt_neox", {**_GPT_NEOX, "tie_word_embeddings": False}),
    "gpt2": ("gpt2", {**_GPT2, "tie_word_embeddings": True}),
    "gpt2-untied": ("gpt2", {**_GPT2, "tie_word_embeddings": False}),
}

_EXPERTS = {
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 16,
    "n_routed_experts": 8,
    "num_experts": 8,
    "num_local_experts": 8,
    "n_group": 1,
    "topk_group": 1,
    "first_k_dense_replace": 1,
}
_LATENT = {"kv_lora_rank": 8, "q_lora_rank": 8, "qk_rope_head_dim": 8, "qk_nope_head_dim": 8, "v_head_dim": 8}
_ERNIE = {"moe_num_experts": 8, "moe_k": 2, "moe_intermediate_size": 16, "tie_word_embeddings": False}
_HEADLESS = {key: size for key, size in _SIZES.items() if key != "head_dim"}
_VISION = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "image_size": 16,
    "patch_size": 4,
}

FURTHER: dict[str, tuple[str, dict[str, Any]]] = {
    "ernie4_5_moe": ("ernie4_5_moe", {**_HEADLESS, **_ERNIE}),
    "deepseek_v3": ("deepseek_v3", {**_HEADLESS, **_EXPERTS, **_LATENT, "num_key_value_heads": 4}),
    "qwen3_moe": ("qwen3_moe", {**_SIZES, **_EXPERTS, "decoder_sparse_step": 1}),
    "qwen3_next": (
        "qwen3_next",
        {
            **_SIZES,
            **_EXPERTS,
            "linear_num_key_heads": 2,
            "linear_num_value_heads": 2,
            "linear_key_head_dim": 8,
            "linear_value_head_dim": 8,
            "shared_expert_intermediate_size": 16,
            "layer_types": ["linear_attention", "full_attention"],
        },
    ),
    "gpt_oss": ("gpt_oss", {**_SIZES, **_EXPERTS}),
    "rwkv": ("rwkv", {"hidden_size": 32, "attention_hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}),
    "mamba": ("mamba", {"hidden_size": 32, "num_hidden_layers": 2, "state_size": 8}),
    "gemma3": (
        "gemma3",
        {"text_config": {**_SIZES}, "vision_config": {**_VISION}, "mm_tokens_per_image": 4, "image_token_index": 80},
    ),
}
"""Models with declared types, with experts, without attention, and with a vision tower."""


def tiny_model(name: str = "qwen2", *, seed: int = 0, **overrides: Any) -> PreTrainedModel:
    """A random model in float32 and eval mode; the same bits for the same arguments."""
    model_type, options = (ARCHITECTURES | FURTHER)[name]
    common = {"vocab_size": len(VOCABULARY), "pad_token_id": PAD, "bos_token_id": None, "eos_token_id": EOS}
    common |= {"initializer_range": 0.3}
    if "text_config" in options:
        options = {**options, "text_config": {**common, **options["text_config"]}}
    config = AutoConfig.for_model(model_type, **{**common, **options, **overrides})
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model: PreTrainedModel = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
        for parameter in model.parameters():  # biases and norms start as constants, which would hide swapped tensors
            if parameter.ndim == 1:
                parameter.data.add_(0.1 * torch.randn_like(parameter))
    return model.eval()


def tiny_tokenizer() -> PreTrainedTokenizerFast:
    """One token per character; `<pad>`, `<eos>` and `<unk>` come first. Left padding."""
    tokenizer = Tokenizer(models.WordLevel(VOCABULARY, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), behavior="isolated")
    tokenizer.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        eos_token="<eos>",
        unk_token="<unk>",
        padding_side="left",
        clean_up_tokenization_spaces=False,
        chat_template=(
            "{% for message in messages %}<{{ message['role'] }}>{{ message['content'] }}\n{% endfor %}"
            "{% if add_generation_prompt %}<assistant>{% endif %}"
        ),
    )
