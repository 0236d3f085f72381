"""Reward functions in TRL's shape, and the parts they are made of. Loads no torch."""
