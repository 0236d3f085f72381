"""The model as Evolution Strategies see it: an ordered parameter table, master weights and live weights."""
