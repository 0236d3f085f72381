"""Evaluation of the unperturbed weights on held-out rows: its work, its collective call, its history in a run."""
