"""Options of a run: frozen dataclasses, validated in one place. A leaf: loads neither torch nor transformers."""

from es_llm.config.es import ESConfig
from es_llm.config.script import ScriptArguments

__all__ = ["ESConfig", "ScriptArguments"]
