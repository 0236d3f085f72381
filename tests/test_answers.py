"""The answers of members are compared by checksums. The expected shares are written in the tests."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from es_llm.rollout.engine import Completion
from es_llm.trainer.learning.answers import TRACED_PROMPTS, compare, decode_answers, encode_answers

YES, NO = ("yes", (1, 2, 9)), ("no", (3, 9))


def answers(*texts_and_ids, rewards=None, finished=True):
    completions = [Completion(text, ids, finished) for text, ids in texts_and_ids]
    return decode_answers(encode_answers(completions, rewards or [0.0] * len(completions)))


def test_all_answers_equal_the_unperturbed_models():
    compared = compare({0: answers(YES, NO), 1: answers(YES, NO)}, {0: 0, 1: 1}, answers(YES, NO))
    assert compared.alike
    assert (compared.identical, compared.distinct, compared.spread, compared.pair_identical) == (1.0, 0.5, 0.0, None)


def test_shares_of_three_members():
    members = {
        0: answers(YES, NO, rewards=[1.0, 0.0]),
        1: answers(NO, NO, rewards=[0.0, 0.0]),
        2: answers(YES, YES, rewards=[1.0, None]),
    }
    compared = compare(members, {0: 0, 1: 1, 2: 2}, answers(YES, NO, rewards=[1.0, 0.0]))
    assert not compared.alike
    assert compared.identical == pytest.approx(4 / 6)
    assert compared.distinct == pytest.approx((2 / 3 + 2 / 3) / 2)
    assert compared.spread == 1.0  # a missing reward differs from any reward
    assert compared.lost == pytest.approx(1 / 3)
    assert (compared.worse, compared.noisy, compared.cells) == (pytest.approx(1 / 6), 0.0, 6)
    assert (compared.reference.rights, compared.reference.answers, compared.reference.reward) == (1, 2, 0.5)
    assert compared.reference.distinct == 2


def test_mirrored_pairs_are_compared_with_each_other():
    members = {0: answers(YES, NO), 1: answers(YES, YES), 2: answers(NO, NO), 3: answers(NO, NO)}
    compared = compare(members, {0: 7, 1: 7, 2: 8, 3: 8}, None)
    assert compared.pair_identical == 0.75
    assert (compared.identical, compared.lost, compared.reference) == (None, None, None)


def test_empty_and_cut_off_answers():
    member = answers((" \n", (5,)), YES, finished=False)
    compared = compare({0: member}, {0: 0}, None)
    assert (compared.empty, compared.cut_off, compared.sound) == (0.5, 1.0, 0.0)


def test_a_share_of_nothing_is_not_reported():
    metrics = compare({0: answers(YES)}, {0: 0}, answers(NO, rewards=[None])).metrics()
    assert "answers/lost_ratio" not in metrics
    assert "answers/identical_pairs_ratio" not in metrics
    assert "reference/reward" not in metrics
    assert metrics["answers/identical_ratio"] == 0.0


def test_equal_answers_with_different_rewards_are_noise():
    members = {0: answers(YES, NO, rewards=[0.1, 0.5]), 1: answers(YES, YES, rewards=[0.2, 0.7])}
    assert compare(members, {0: 0, 1: 1}, None).noisy == 0.5
    failed = {0: answers(YES, rewards=[None]), 1: answers(YES, rewards=[0.2])}
    assert compare(failed, {0: 0, 1: 1}, None).noisy == 0.0


def test_no_members():
    assert compare({}, {}, answers(YES)) is None


def test_order_and_boundaries_of_tokens_count():
    texts = [("a", (1, 2)), ("a", (2, 1)), ("a", (1, 2, 0)), ("a", (12,)), ("a", ())]
    assert len(set(answers(*texts)["tokens"].tolist())) == len(texts)


@given(
    st.lists(st.tuples(st.lists(st.integers(0, 2**31)), st.floats(width=32) | st.none(), st.booleans()), max_size=12)
)
def test_answers_are_decoded_as_they_were_encoded(rows):
    completions = [Completion("x" if finished else "", tuple(ids), finished) for ids, _, finished in rows]
    data = encode_answers(completions, [reward for _, reward, _ in rows])
    assert len(data) == 9 * min(TRACED_PROMPTS, len(rows))
    decoded = decode_answers(data)
    for row, (_, reward, finished) in zip(decoded, rows, strict=False):
        assert np.isnan(row["reward"]) if reward is None else row["reward"].tobytes() == np.float32(reward).tobytes()
        assert row["flags"] == (0 if finished else 3)
