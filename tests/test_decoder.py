"""The decoder: waiting rows, shared beginnings and dropped rows change no answer."""

import pytest
import torch

from es_llm.rollout import decoder
from es_llm.rollout.decoder import Request
from es_llm.rollout.decoding import generate
from tests.tiny_models import EOS, PAD, tiny_model

pytestmark = pytest.mark.usefixtures("one_thread")

ENDS = [EOS, *range(8, 80, 5)]
"""Many end tokens, so that rows end at many different lengths."""


def prompts(count, common=0, seed=0):
    generator = torch.Generator().manual_seed(seed)
    start = torch.randint(8, 88, (common,), generator=generator).tolist()
    lengths = torch.randint(1, 9, (count,), generator=generator).tolist()
    return [start + torch.randint(8, 88, (length,), generator=generator).tolist() for length in lengths]


def request(**options):
    return Request(**{"max_new_tokens": 16, "eos_ids": ENDS, "pad_id": PAD, **options})


@pytest.mark.parametrize("name", ["qwen2", "mistral", "gpt2", "gpt_neox", "gemma"])
@pytest.mark.parametrize("most_rows", [1, 3, 8, 64])
def test_waiting_rows_get_the_answers_that_they_get_alone(name, most_rows):
    model, rows = tiny_model(name, seed=3), prompts(20)
    answers = decoder.decode(model, rows, request(most_rows=most_rows))
    assert answers == [generate(model, [row], request())[0] for row in rows]
    assert len({len(answer) for answer in answers}) > 4, "rows should end at different lengths"


@pytest.mark.parametrize("most_rows", [None, 4])
@pytest.mark.parametrize("members", [1, 3])
def test_a_shared_beginning_changes_nothing(most_rows, members):
    model = tiny_model("llama", seed=4)
    rows = prompts(5, common=12) * members
    groups = [row // 5 for row in range(5 * members)]
    options = {"groups": groups, "most_rows": most_rows}
    shared = decoder.decode(model, rows, request(**options))
    assert shared == decoder.decode(model, rows, request(share_prefix=False, **options))
    assert shared == generate(model, rows, request())


def test_each_forward_pass_is_announced_with_its_rows():
    model, rows = tiny_model("qwen2"), prompts(6, common=12)
    seen, sizes = [], []
    model.model.register_forward_pre_hook(
        lambda module, args, kwargs: sizes.append(tuple(kwargs["input_ids"].shape)), with_kwargs=True
    )
    groups = [0, 0, 1, 1, 2, 2]
    decoder.decode(
        model,
        rows,
        request(eos_ids=(), max_new_tokens=3, groups=groups, on_rows=lambda rows: seen.append(rows.tolist())),
    )
    assert seen == [[0, 2, 4], list(range(6))], "one row of each group for the beginning, then all rows"
    assert sizes[0] == (3, 12)
    assert [size[0] for size in sizes[1:]] == [6, 6, 6]


def test_a_waiting_row_is_announced_with_the_slot_that_it_takes():
    model, rows = tiny_model("qwen2"), prompts(9)
    seen = []
    decoder.decode(model, rows, request(most_rows=4, on_rows=lambda rows: seen.append(rows.tolist())))
    assert seen[0] == [0, 1, 2, 3]
    assert {row for rows in seen for row in rows} == set(range(9))
    assert all(len(rows) <= 4 for rows in seen)


def test_slots_are_cleared_of_a_row_with_infinite_weights():
    """What a row leaves in its slot is masked for the next one, but NaN times zero is NaN."""
    model, rows = tiny_model("llama"), prompts(3)
    wanted = [decoder.decode(model, [row], request(eos_ids=()))[0] for row in rows]

    class Broken(torch.nn.Module):
        def forward(self, x):
            return torch.where(self.rows.view(-1, 1, 1) == 0, torch.nan, x)

    broken = Broken()
    norm = model.model.layers[0].input_layernorm
    plain = norm.forward
    norm.forward = lambda x: broken(plain(x))

    def rows_are(rows):
        broken.rows = rows

    answers = decoder.decode(model, rows, request(eos_ids=(), most_rows=1, on_rows=rows_are))
    assert answers[1:] == wanted[1:]


def test_a_row_that_has_ended_stays_within_the_context():
    """GPT-2 has an embedding for each position. Row 0 ends in a batch whose other rows came later and go on."""
    model, rows = tiny_model("gpt2", n_positions=24), [[9] * 8] * 15
    length_R = torch.tensor([16, *[6] * 7, *[16] * 7])

    def choose(logits_BV, row_B, count_B):
        return torch.where(count_B + 1 >= length_R[row_B], EOS, 20)

    answers = decoder.decode(model, rows, request(most_rows=8, choose=choose))
    assert [len(answer) for answer in answers] == length_R.tolist()


def test_nothing_to_decode():
    assert decoder.decode(tiny_model("qwen2"), [], request()) == []
    assert generate(tiny_model("qwen2"), [], request()) == []
