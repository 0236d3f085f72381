"""Rows from where people keep them: the hub, files, streams. Knows nothing of tasks, rewards or models."""
