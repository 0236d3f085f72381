"""The command line: `es-llm train | eval | replay | inspect`. `--help` loads neither torch nor mpi4py."""

from es_llm.cli.main import main

__all__ = ["main"]
