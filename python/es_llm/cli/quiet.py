"""Keeps libraries' own chatter out of a run's output."""

from __future__ import annotations

import os


def quiet_libraries() -> None:
    """Errors only from transformers, no progress bars of its loaders, no threads of tokenizers that warn on fork."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    import transformers

    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
