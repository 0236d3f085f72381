"""Uploads an exported model, with a model card, to the Hugging Face hub."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Final

import es_llm
from es_llm.config.adopt import HubTarget
from es_llm.errors import ModelError


def upload(directory: Path, target: HubTarget, message: str, *, blocking: bool) -> tuple[HubTarget, Any]:
    """Create the repository if necessary, and upload the files of `directory` in one commit.

    Returns:
        The target with the full name of the repository, and what huggingface_hub returns.
    """
    from huggingface_hub import HfApi

    hub = HfApi(token=target.token)
    assert target.model_id is not None
    try:
        repository = hub.create_repo(target.model_id, private=target.private, exist_ok=True).repo_id
        send = hub.upload_folder if blocking else partial(hub.run_as_future, hub.upload_folder)
        done = send(repo_id=repository, folder_path=directory, commit_message=message, revision=target.revision)
    except Exception as error:  # the client raises many classes: no connection, no token, a name that the hub refuses
        raise ModelError(
            f"the model can't be uploaded to {target.model_id!r}: {' '.join(str(error).split())}; nothing is lost: "
            f"`hf upload {target.model_id} {directory}` uploads it later"
        ) from error
    return replace(target, model_id=repository), done


def write_model_card(directory: Path, title: str, *, base_model: str | None, facts: Mapping[str, Any]) -> None:
    """Write README.md into an exported model's directory."""
    from huggingface_hub import ModelCardData

    tags, data = facts.get("tags") or [], facts.get("dataset_name")
    on_hub = base_model if base_model and base_model.count("/") == 1 and not os.path.exists(base_model) else None
    about = ModelCardData(
        base_model=on_hub,
        datasets=data,
        language=facts.get("language"),
        library_name="transformers",
        license=facts.get("license"),
        tags=[*_TAGS, *([tags] if isinstance(tags, str) else tags)],
    )
    text = (
        f"---\n{about.to_yaml()}\n---\n\n# {title}\n\nAll parameters were fine-tuned by Evolution Strategies "
        f"(arXiv 2509.24372) with es_llm {es_llm.__version__}.\n"
    )
    try:
        directory.mkdir(parents=True, exist_ok=True)
        (directory / "README.md").write_text(text, encoding="utf-8")
    except OSError as error:
        raise ModelError(f"{directory}: the model card can't be written: {error}") from error


_TAGS: Final = ("evolution-strategies", "es_llm")
