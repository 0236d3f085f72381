"""What holds for every engine with low-rank members. Another engine than the built-in ones is a line of `ENGINES`."""

import re
from dataclasses import replace
from functools import cache, partial

import pytest

from es_llm import _core
from es_llm.model.loading import load_model, load_tokenizer
from es_llm.model.table import ParameterTable
from es_llm.model.weights import Weights
from es_llm.rollout import BUILTIN, load_engine
from es_llm.rollout.engine import LiveMember, Sampling, SmallBatches
from es_llm.rollout.engines.hf import HFEngine
from tests.tiny_models import ARCHITECTURES, EOS, tiny_model, tiny_tokenizer

ENGINES = {
    **{name: partial(load_engine, name) for name in BUILTIN},
    "generate": partial(HFEngine, loop=False),  # of models that the decoder doesn't support
}
PROMPTS = ["12 + 3 = ", "7", "12 + 34 - 5 = what?", "x" * 90, "abc"]
LENGTH = 16
ENDS = [EOS, *range(8, 80, 6)]
"""Many end tokens, so that answers end at many different lengths."""

pytestmark = [pytest.mark.parametrize("engine", ENGINES), pytest.mark.usefixtures("one_thread")]


def attached(engine, model=None, tokenizer=None, ends=ENDS, **options):
    """The engine with its weights, of a model that has these end tokens."""
    model = tiny_model("qwen2") if model is None else model
    model.generation_config.eos_token_id = ends
    options = {"max_completion_length": LENGTH, **options}
    own = ENGINES[engine](model, tokenizer or tiny_tokenizer(), **options)
    table = ParameterTable.from_module(model, perturbation="low_rank")
    own.attach(LiveMember(Weights(model, table, targets=own.targets())))
    return own


@cache
def shared(engine):
    """One engine for several tests, which leave nothing behind in it."""
    return attached(engine)


def members_of(count, sigma=0.1, seed=5):
    return _core.Population(run_seed=seed, population_size=count, antithetic=True).ask(sigma=sigma)


def require_those_of_generate(answers, model, tokenizer, prompts, stops=None):
    """Compare answers with those of a direct call of transformers' `generate`, which pads what has ended."""
    inputs = tokenizer(prompts, return_tensors="pt", padding=True, padding_side="left", add_special_tokens=False)
    options = {"max_new_tokens": LENGTH, "do_sample": False, "pad_token_id": tokenizer.pad_token_id}
    output = model.generate(**inputs, **options, stop_strings=stops, tokenizer=tokenizer)
    for answer, row in zip(answers, output[:, inputs["input_ids"].shape[1] :].tolist(), strict=True):
        assert list(answer.token_ids) == row[: len(answer.token_ids)]
        assert set(row[len(answer.token_ids) :]) <= {tokenizer.pad_token_id}


def tokens_of(completions):
    return [completion.token_ids for completion in completions]


# ---- prompts and members ----------------------------------------------------------------------------


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_answers_without_noise_are_those_of_generate(engine, name):
    model = tiny_model(name)
    own = attached(engine, model)
    (answers,) = own.evaluate([None], PROMPTS)
    require_those_of_generate(answers, model, tiny_tokenizer(), PROMPTS)
    assert len({len(answer.token_ids) for answer in answers}) > 2, "answers should have different lengths"


def test_answers_come_in_the_order_of_members_and_prompts(engine):
    own, members = shared(engine), members_of(4)
    answers = own.evaluate(members, PROMPTS)
    assert [len(each) for each in answers] == [len(PROMPTS)] * 4
    order, turned = [2, 0, 3, 1], [4, 2, 0, 3, 1]
    again = own.evaluate([members[index] for index in order], [PROMPTS[index] for index in turned])
    assert again == [[answers[member][prompt] for prompt in turned] for member in order]
    assert [own.evaluate([member], PROMPTS)[0] for member in members] == answers, "other members change nothing"


def test_the_model_without_noise_may_be_asked_beside_members(engine):
    own, members = shared(engine), members_of(4)
    wanted = [*map(tokens_of, own.evaluate(members, PROMPTS))]
    wanted.insert(1, tokens_of(own.evaluate([None], PROMPTS)[0]))
    assert wanted[1] not in (wanted[0], wanted[2])
    assert [*map(tokens_of, own.evaluate([members[0], None, *members[1:]], PROMPTS))] == wanted


@pytest.mark.parametrize("rows", [1, 3])
def test_fewer_rows_at_a_time_give_the_same_answers(engine, rows):
    own = attached(engine)
    if not isinstance(own, SmallBatches):
        pytest.skip("it decodes all rows of a unit")
    members = [*members_of(4), None]
    answers = own.evaluate(members, PROMPTS)
    own.limit_rows(rows)
    assert [*map(tokens_of, own.evaluate(members, PROMPTS))] == [*map(tokens_of, answers)]
    own.limit_rows(None)
    assert own.evaluate(members, PROMPTS) == answers


def test_nothing_to_answer(engine):
    own = shared(engine)
    assert own.evaluate(members_of(2), []) == [[], []]
    assert own.evaluate([None], []) == [[]]


def test_prompts_of_one_token_and_very_long_ones_are_answered_as_alone(engine):
    own, (member, _) = shared(engine), members_of(2)
    (together,) = own.evaluate([member], ["7", "x" * (128 - LENGTH)])
    assert [own.evaluate([member], [prompt])[0][0] for prompt in ("7", "x" * (128 - LENGTH))] == together


def test_a_member_leaves_nothing_behind(engine):
    own, (one, two) = shared(engine), members_of(2, sigma=1.0)
    none = own.evaluate([None], PROMPTS)
    first, second = own.evaluate([one], PROMPTS), own.evaluate([two], PROMPTS)
    assert own.evaluate([one], PROMPTS) == first
    assert own.evaluate([None], PROMPTS) == none
    assert own.evaluate([two], PROMPTS) == second
    assert len({str(each) for each in (none, first, second)}) == 3, "a large perturbation changes the answers"


# ---- ends -------------------------------------------------------------------------------------------


def test_an_answer_ends_with_the_first_of_several_end_tokens(engine):
    own, tokenizer = shared(engine), tiny_tokenizer()
    completions = [each for answers in own.evaluate(members_of(4), PROMPTS) for each in answers]
    assert {completion.finished for completion in completions} == {True, False}
    assert len({completion.token_ids[-1] for completion in completions if completion.finished}) > 2
    for completion in completions:
        assert completion.finished == (completion.token_ids[-1] in ENDS)
        assert completion.finished or len(completion.token_ids) == LENGTH
        assert not set(completion.token_ids[:-1]) & set(ENDS)
        assert completion.text == tokenizer.decode(completion.token_ids, skip_special_tokens=True)


def test_the_pad_token_may_be_an_end_token(engine):
    tokenizer = tiny_tokenizer()
    tokenizer.pad_token = tokenizer.convert_ids_to_tokens(ENDS[2])
    assert tokenizer.pad_token_id in ENDS
    members = members_of(2)
    answers = attached(engine, tokenizer=tokenizer).evaluate(members, PROMPTS)
    wanted = shared(engine).evaluate(members, PROMPTS)
    assert [tokens_of(each) for each in answers] == [tokens_of(each) for each in wanted]
    assert [[each.finished for each in own] for own in answers] == [[each.finished for each in own] for own in wanted]


# ---- stop strings -------------------------------------------------------------------------------------


def until(completion, stops, decode):
    """The tokens up to the one that completes a stop string, and whether there is one."""
    for count in range(1, len(completion.token_ids) + 1):
        if any(stop in decode(completion.token_ids[:count]) for stop in stops):
            return completion.token_ids[:count], True
    return completion.token_ids, completion.finished


def test_an_answer_ends_with_the_token_that_completes_a_stop_string(engine):
    """A token is a character here, so each stop string lies in several tokens."""
    tokenizer, members = tiny_tokenizer(), members_of(4)
    plain = attached(engine, ends=[EOS]).evaluate(members, PROMPTS)
    stops = [plain[0][0].text[4:6], plain[1][1].text[2:5], plain[2][2].text[-3:], "never there"]
    answers = attached(engine, ends=[EOS], stop_strings=stops).evaluate(members, PROMPTS)
    wanted = [[until(each, stops, tokenizer.decode) for each in own] for own in plain]
    assert [[(each.token_ids, each.finished) for each in own] for own in answers] == wanted
    assert plain[0][0].token_ids != answers[0][0].token_ids
    assert not plain[2][2].finished
    assert answers[2][2].finished, "a stop string at the limit of length: nothing was cut off"


@pytest.mark.parametrize("name", ["qwen2", "gpt2"])
def test_stop_strings_are_those_of_generate(engine, name):
    model = tiny_model(name)
    texts = [answer.text for answer in attached(engine, model, ends=[EOS]).evaluate([None], PROMPTS)[0]]
    stops = [texts[0][3:5], texts[1][6:9], PROMPTS[2][-1] + texts[2][:1]]
    (answers,) = attached(engine, model, ends=[EOS], stop_strings=stops).evaluate([None], PROMPTS)
    require_those_of_generate(answers, model, tiny_tokenizer(), PROMPTS, stops)
    assert len(answers[2].token_ids) == 1, "a stop string may begin in the prompt"


def byte_model():
    """A model whose tokens are bytes, and its tokenizer."""
    tokenizer = load_tokenizer(None)
    return tiny_model("qwen2", vocab_size=len(tokenizer), seed=2), tokenizer


def test_characters_that_are_cut_in_the_middle(engine):
    model, tokenizer = byte_model()
    prompts = [f"é{number}" for number in range(24)]
    own = attached(engine, model, tokenizer, ends=[1])
    (plain,) = own.evaluate([None], prompts)
    assert any(re.search("[\u0080-\u07ff]", each.text) for each in plain)
    assert all(each.text == tokenizer.decode(each.token_ids, skip_special_tokens=True) for each in plain)
    stop = next(found[0] for each in plain if (found := re.search("[\u0080-\u07ff]", each.text)))
    (answers,) = attached(engine, model, tokenizer, ends=[1], stop_strings=[stop]).evaluate([None], prompts)
    wanted = [until(each, [stop], tokenizer.decode) for each in plain]
    assert [(each.token_ids, each.finished) for each in answers] == wanted
    assert any(each.text.endswith(stop) for each in answers)


def test_the_embedded_model_stops_as_with_generate(engine):
    same_as_generate(engine, load_model(None), load_tokenizer(None), ["12 + 30 =", "Use 3, 4 and 7 to make 25."])


@pytest.mark.smollm2
def test_a_real_model_stops_as_with_generate(engine, smollm2):
    """With a vocabulary whose tokens are parts of words."""
    same_as_generate(engine, load_model(smollm2), load_tokenizer(smollm2), ["The sky is", "Once upon a time"])


def same_as_generate(engine, model, tokenizer, prompts):
    own = ENGINES[engine](model, tokenizer, max_completion_length=LENGTH)
    texts = [each.text for each in own.complete(prompts)]
    stops = [text[len(text) // 3 : len(text) // 2 + 1] for text in texts]
    answers = ENGINES[engine](model, tokenizer, max_completion_length=LENGTH, stop_strings=stops).complete(prompts)
    require_those_of_generate(answers, model, tokenizer, prompts, stops)
    assert all(answer.finished and any(stop in answer.text for stop in stops) for answer in answers)
    assert all(len(answer.text) < len(text) for answer, text in zip(answers, texts, strict=True))


# ---- samples ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{}, {"top_k": 7, "top_p": 0.9, "min_p": 0.02, "repetition_penalty": 1.2}])
def test_a_sample_depends_neither_on_its_batch_nor_on_the_engine(engine, options):
    own, members = shared(engine), members_of(4)
    prompts = [*PROMPTS[:3], PROMPTS[0]]
    sampling = Sampling(temperature=1.5, addresses=[(0, 0), (1, 0), (2, 0), (0, 1)], **options)
    together = own.evaluate(members, prompts, sampling)
    assert together == shared("hf").evaluate(members, prompts, sampling)
    assert together[0][0] != together[0][3], "two samples of one prompt differ"
    for index, prompt in enumerate(prompts):
        alone = own.evaluate(members[2:3], [prompt], replace(sampling, addresses=sampling.addresses[index : index + 1]))
        assert alone == [together[2][index : index + 1]]
    assert own.evaluate(members[:2], prompts, sampling) == together[:2]
