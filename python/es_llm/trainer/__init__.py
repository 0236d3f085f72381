"""The training loop: one iteration on one page, around it resume, evaluation and the run directory."""

from es_llm.trainer.trainer import ESTrainer

__all__ = ["ESTrainer"]
