"""`python -m es_llm`: the same as `es-llm`."""

import sys

from es_llm.cli import main

if __name__ == "__main__":
    sys.exit(main())
