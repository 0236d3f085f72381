"""Diagnosis of a run: compares answers of members, finds collapses, and names the reason if the run can't learn."""
