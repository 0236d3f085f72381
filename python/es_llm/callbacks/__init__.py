"""Callbacks around the loop, in transformers' shape."""
