"""The table of streams is complete, has no overlaps, equals the table in the docs, and gives the words of earlier
runs."""

import itertools
import re
from pathlib import Path

import numpy as np
import pytest

from es_llm import _core
from es_llm.noise import reference
from es_llm.noise.streams import DATA_ORDER, SAMPLES, STREAMS, random_words

ROOT = Path(__file__).parent.parent


def test_no_two_streams_overlap():
    for one, other in itertools.combinations(STREAMS.values(), 2):
        assert one.stop <= other.start or other.stop <= one.start
    assert all(0 <= words.start < words.stop <= 2**32 for words in STREAMS.values())


def test_the_kinds_of_noise_are_those_of_the_core():
    for kind, number in _core.NOISE_KINDS.items():
        counters = reference.counters(_core.Noise(0, 0, 0), _core.MAX_TENSORS - 1, _core.MAX_ELEMENTS - 1, 1, kind)
        assert STREAMS[kind].stop == int(counters[0, 1]) + 1
        assert number == STREAMS[kind].start >> 28


def test_the_docs_list_every_stream():
    text = (ROOT / "docs/noise.md").read_text()
    rows = re.findall(r"^\| `(\w+)` \| ([0-9a-f]{8})(?: to ([0-9a-f]{8}))? \|", text, re.M)
    found = {name: range(int(first, 16), int(last or first, 16) + 1) for name, first, last in rows}
    assert found == STREAMS


def test_every_stream_of_the_package_is_in_the_table():
    """No other file calls the generator."""
    for path in sorted((ROOT / "python/es_llm").rglob("*.py")):
        text = path.read_text()
        if path.name not in ("streams.py", "reference.py"):
            assert "philox" not in text, path


@pytest.mark.parametrize("stream", [DATA_ORDER, SAMPLES])
def test_the_words_are_those_of_the_generator(stream):
    seed = 0x0123456789ABCDEF
    words = random_words(stream, seed, np.arange(3), [[5], [2**32 - 1]], 7)
    assert words.shape == (2, 3, 4)
    key = seed & 0xFFFF_FFFF, seed >> 32
    for row, column in np.ndindex(2, 3):
        counter = np.array([[column, stream, (5, 2**32 - 1)[row], 7]], np.uint32)
        assert (words[row, column] == reference.philox4x32(counter, key)[0]).all()
