"""Units through the bindings. The property tests of their assignment are the core's own."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from es_llm._core import plan_units
from es_llm.errors import ScheduleError


@given(st.integers(1, 12), st.integers(1, 30), st.integers(1, 40))
def test_units_cover_every_cell_once(members, prompts, chunk):
    units = plan_units(members, prompts, chunk)
    cells = [(unit.member, prompt) for unit in units for prompt in range(unit.start, unit.stop)]
    assert cells == [(member, prompt) for member in range(members) for prompt in range(prompts)]
    assert [unit.index for unit in units] == list(range(len(units)))
    assert repr(units[0]) == f"Unit(index=0, member=0, start=0, stop={min(chunk, prompts)})"


def test_refusals_say_what_was_expected():
    with pytest.raises(ScheduleError, match="`prompts` must be at least 1"):
        plan_units(1, 0, 1)
