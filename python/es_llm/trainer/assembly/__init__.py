"""Builds and checks the parts of a run from the arguments of the trainer."""
