"""Rows of data sets: from the hub, files and streams. Knows nothing about tasks, rewards or models."""
