"""A forward pass that depends on the weights and the inputs alone, whatever the state of the module."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

import torch

from es_llm.rollout.ends import text_config

_OUTPUTS: Final = {"return_dict": True, "output_attentions": False, "output_hidden_states": False}


@contextmanager
def steady(model: Any) -> Iterator[None]:
    """Turn off what would change answers or their form: training mode (dropout, gradient checkpointing), an autocast
    around the call, torch's default type, outputs that the configuration asks for. Afterwards all of it is restored:
    the module may be the user's. Frozen parameters and hooks are part of the model and stay active.
    """
    training = [module for module in model.modules() if module.training]
    default = torch.get_default_dtype()
    asked = list(_asked(model))
    device = next(model.parameters()).device
    try:
        for module in training:
            module.training = False
        for config, name, _ in asked:
            setattr(config, name, _OUTPUTS[name])
        torch.set_default_dtype(torch.float32)
        with torch.autocast(device.type, enabled=False):
            yield
    finally:
        torch.set_default_dtype(default)
        for config, name, value in asked:
            setattr(config, name, value)
        for module in training:
            module.training = True


def _asked(model: Any) -> Iterator[tuple[Any, str, Any]]:
    config = getattr(model, "config", None)
    if config is None:
        return
    parts = [config] if text_config(config) is config else [config, text_config(config)]
    for part in parts:
        for name, needed in _OUTPUTS.items():
            value = getattr(part, name, needed)
            if value != needed and value is not None:
                yield part, name, value
