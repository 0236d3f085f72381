"""Engines that turn prompts into completions on the current live weights."""
