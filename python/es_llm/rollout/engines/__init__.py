"""Rollout engines, one file each: found by the name of their file, see `load_engine`."""
