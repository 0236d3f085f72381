"""The rows of an iteration: every row once per epoch, a pure function of seed and iteration."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from es_llm.data.fingerprint import fingerprint
from es_llm.data.order import PromptOrder
from es_llm.errors import ConfigError


def order(size, per_iteration, seed=0, shuffle=True):
    return PromptOrder(
        [{"prompt": str(n)} for n in range(size)], per_iteration=per_iteration, seed=seed, shuffle=shuffle
    )


@given(st.integers(1, 50), st.integers(1, 60), st.integers(0, 2**64 - 1), st.booleans())
def test_every_row_once_per_epoch(size, per_iteration, seed, shuffle):
    prompts = order(size, per_iteration, seed, shuffle)
    epochs = 3
    iterations = -(-epochs * size // prompts.per_iteration)
    asked = [index for iteration in range(iterations) for index in prompts.indices(iteration)]
    for epoch in range(epochs):
        assert sorted(asked[epoch * size : (epoch + 1) * size]) == list(range(size))
    assert prompts.cursor(iterations) == len(asked)


def test_epochs_and_seeds_differ():
    prompts = order(100, 10)
    first, second = ([i for it in range(10 * e, 10 * e + 10) for i in prompts.indices(it)] for e in (0, 1))
    assert first != second
    assert first != [i for it in range(10) for i in order(100, 10, seed=1).indices(it)]


def test_the_order_is_pinned():
    """Runs depend on the order: with another one they couldn't be resumed."""
    assert order(10, 4, seed=42).indices(0) == PINNED[0]
    assert order(10, 4, seed=42).indices(7) == PINNED[1]


PINNED = ([4, 2, 1, 7], [6, 2, 6, 3])


def test_a_batch_of_the_whole_set_is_the_papers_fixed_prompts():
    prompts = order(5, 200)
    assert prompts.indices(0) == prompts.indices(9) == [0, 1, 2, 3, 4]


def test_no_rows():
    with pytest.raises(ConfigError, match="at least one row"):
        order(0, 1)


def test_fingerprint():
    rows = [{"prompt": "a", "target": 1}, {"prompt": "b", "target": 2}]
    assert fingerprint(rows) == fingerprint([dict(reversed(row.items())) for row in rows])
    assert fingerprint(rows) != fingerprint(rows[::-1])
    assert fingerprint(rows)["rows"] == 2
