"""Builds and checks what a run consists of, from what users hand to the trainer."""
