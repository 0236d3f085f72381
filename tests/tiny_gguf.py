"""A GGUF file of a small random Llama, written by the `gguf` package, with characters as tokens."""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np
from gguf.quants import quantize

from tests.tiny_models import EOS, PAD, UNKNOWN, VOCABULARY, tiny_model

_NAMES = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
}


def write_tiny_gguf(path: Path, *, seed: int = 0) -> Path:
    """Weights of 32 columns are Q8_0, the others float32."""
    model = tiny_model("llama", seed=seed)
    config = model.config
    writer = gguf.GGUFWriter(str(path), "llama")
    writer.add_name("tiny")
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_key_length(config.head_dim)
    writer.add_value_length(config.head_dim)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_vocab_size(config.vocab_size)
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list([{"\n": "Ċ", " ": "Ġ", "|": "12"}.get(token, token) for token in VOCABULARY])
    writer.add_token_merges(["1 2"])
    writer.add_token_types([3 if number <= UNKNOWN else 1 for number in range(len(VOCABULARY))])
    writer.add_bos_token_id(EOS)
    writer.add_eos_token_id(EOS)
    writer.add_pad_token_id(PAD)
    writer.add_unk_token_id(UNKNOWN)
    for name, weight in model.state_dict().items():
        data = weight.numpy().astype(np.float32)
        if ".q_proj" in name:
            data = _paired(data, config.num_attention_heads)
        elif ".k_proj" in name:
            data = _paired(data, config.num_key_value_heads)
        if data.ndim == 2 and data.shape[-1] % 32 == 0:
            kind = gguf.GGMLQuantizationType.Q8_0
            writer.add_tensor(_gguf_name(name), quantize(data, kind), raw_dtype=kind)
        else:
            writer.add_tensor(_gguf_name(name), data)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _paired(weight: np.ndarray, heads: int) -> np.ndarray:
    """The rows of each head with the two halves of a rotation side by side, as GGUF has them for Llama."""
    return weight.reshape(heads, 2, -1, weight.shape[1]).swapaxes(1, 2).reshape(weight.shape)


def _gguf_name(name: str) -> str:
    outer = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}
    module = name.removesuffix(".weight")
    if module in outer:
        return f"{outer[module]}.weight"
    _, _, layer, inner = module.split(".", 3)
    return f"blk.{layer}.{_NAMES[inner]}.weight"
