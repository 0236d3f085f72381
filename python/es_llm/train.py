"""`python -m es_llm.train`: the same as `es-llm train`."""

import sys

from es_llm.cli.main import run_command

if __name__ == "__main__":
    sys.exit(run_command("train", sys.argv[1:]))
