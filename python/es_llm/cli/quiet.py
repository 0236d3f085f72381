"""Keeps libraries' own chatter out of a run's output."""

from __future__ import annotations

import os


def quiet_libraries() -> None:
    """Errors only from transformers, no progress bars, no threads of tokenizers that warn on fork. Call it before
    anything imports transformers: the bars read their switch when they are imported."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("TQDM_DISABLE", "1")
    import transformers

    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
