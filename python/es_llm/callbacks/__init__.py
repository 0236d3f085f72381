"""Callbacks of a run, in transformers' interface, and the progress lines."""
