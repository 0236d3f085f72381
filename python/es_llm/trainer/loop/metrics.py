"""Figures of one iteration, under TRL's names where the meaning is the same."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from es_llm._core import Record, UpdateReport
from es_llm.checkpoint.metrics_log import record_metrics
from es_llm.trainer.loop.iteration import Figures
from es_llm.units.logged import with_logged

_LATER: Final = ("rewards/wait_ratio", "bytes_sent", "bytes_received", "epoch")
"""Names of figures that are added to these."""


def iteration_metrics(
    record: Record, figures: Figures | None, report: UpdateReport, seconds: Mapping[str, float]
) -> dict[str, Any]:
    """Metrics of an iteration: of its record, of its completions (if this rank led it) and of its update; and what
    reward functions logged, under names that are not the trainer's."""
    completions = {
        "completions/mean_length": figures.counts.mean_length,
        "completions/clipped_ratio": figures.counts.clipped_ratio,
        "completions/empty_ratio": figures.counts.empty / figures.counts.completions,
        "rewards/failures": figures.failures,
        **figures.rewards,
        **(figures.comparison.metrics() if figures.comparison is not None else {}),
    } if figures is not None else {}  # fmt: skip
    own = {
        **record_metrics(record),
        **completions,
        "update/norm": report.update_norm,
        "update/cosine": report.cosine,
        "update/moved_ratio": report.moved / report.elements,
        "update/nonfinite": report.nonfinite,
        "seconds": seconds.get("total", 0.0),
        **{f"seconds/{name}": value for name, value in seconds.items() if name != "total"},
    }
    return with_logged(own, figures.logged, _LATER) if figures is not None else own
