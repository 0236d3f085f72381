"""From a row's prompt to the token ids for the model, and from the model's token ids to the text for rewards."""

from __future__ import annotations

import datetime
import json

import pytest
from tokenizers import processors
from transformers import AddedToken

from es_llm import ESConfig, ESTrainer
from es_llm.comm import SingleMailbox
from es_llm.data.messages import TextPrompts
from es_llm.errors import ConfigError
from es_llm.rollout.decoder import Request
from es_llm.rollout.form import PromptForm
from es_llm.rollout.prompts import PromptEncoder
from es_llm.tasks import load_task
from es_llm.team import Team
from tests.commands import es_llm, result
from tests.tiny_models import EOS, VOCABULARY, tiny_model, tiny_tokenizer

QUESTIONS, TEXT = TextPrompts(questions=True), TextPrompts()
BOS = len(VOCABULARY)
SMOLLM2 = "models/smollm2-135m-instruct"


def bare_tokenizer():
    """The tokenizer of a base model, without a chat template."""
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = None
    return tokenizer


def bos_tokenizer(single="<bos> $A"):
    """A tokenizer that adds special tokens around text, and has a chat template that writes <bos> itself."""
    tokenizer = tiny_tokenizer()
    tokenizer.add_special_tokens({"bos_token": "<bos>"})
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single=single, special_tokens=[("<bos>", BOS), ("<eos>", EOS)]
    )
    tokenizer.chat_template = "<bos>" + tiny_tokenizer().chat_template
    return tokenizer


def encoder(tokenizer, **options):
    return PromptEncoder(tokenizer, embeddings=500, **options)


def form(tokenizer, text=TEXT, **options):
    return PromptForm(ESConfig(**options), tokenizer, text)


def formed(tokenizer, prompt, text=TEXT, **options):
    (row,) = form(tokenizer, text, **options).rows([{"prompt": prompt, "answer": "2"}], "train_dataset")
    assert row["answer"] == "2"
    return row["prompt"]


def said(tokenizer, prompt, text=TEXT, **options):
    own = form(tokenizer, text, **options)
    own.rows([{"prompt": prompt}], "train_dataset")
    return own.describe()


USER = {"role": "user", "content": "1 + 1?"}
SYSTEM = {"role": "system", "content": "be"}


@pytest.mark.parametrize(
    ("text", "options", "template", "wanted", "line"),
    [
        (QUESTIONS, {}, True, [USER], "prompts: text through the tokenizer's chat template (`chat` auto: questions"),
        (QUESTIONS, {}, False, "1 + 1?\n", "prompts: raw text (`chat` auto: the tokenizer has no chat template)"),
        (QUESTIONS, {"chat": "raw"}, True, "1 + 1?\n", "prompts: raw text (`chat` raw)"),
        (QUESTIONS, {"chat": "chat"}, True, [USER], "prompts: text through the tokenizer's chat template (`chat` ch"),
        (QUESTIONS, {"system_prompt": "be"}, True, [SYSTEM, USER], "prompts: text through the tokenizer's chat"),
        (QUESTIONS, {"system_prompt": ""}, True, [{**SYSTEM, "content": ""}, USER], "prompts: text through"),
        (TEXT, {}, True, "1 + 1?\n", "prompts: raw text (`chat` auto: text is sent as the data have it; `chat` c"),
        (TEXT, {}, False, "1 + 1?\n", "prompts: raw text (`chat` auto: the tokenizer has no chat template)"),
        (TEXT, {"chat": "chat"}, True, [USER], "prompts: text through the tokenizer's chat template (`chat` ch"),
        (TEXT, {"chat": "raw"}, True, "1 + 1?\n", "prompts: raw text (`chat` raw)"),
    ],
)  # fmt: skip
def test_the_form_of_text(text, options, template, wanted, line):
    tokenizer = tiny_tokenizer() if template else bare_tokenizer()
    assert formed(tokenizer, "1 + 1?\n", text, **options) == wanted
    assert said(tokenizer, "1 + 1?\n", text, **options).startswith(line)


@pytest.mark.parametrize("chat", ["auto", "chat"])
def test_the_form_of_messages(chat):
    tokenizer = tiny_tokenizer()
    for messages in ([USER], [SYSTEM, USER], [USER, {"role": "assistant", "content": "I"}]):
        assert formed(tokenizer, messages, chat=chat) == messages
    assert said(tokenizer, [USER], chat=chat) == "prompts: messages through the tokenizer's chat template"
    assert said(tokenizer, [USER, {"role": "assistant", "content": "I"}], chat=chat).endswith(
        "where the last message is the assistant's, the completion continues it (a prompt holds no answer)"
    )
    assert formed(tokenizer, [USER], chat=chat, system_prompt="be") == [SYSTEM, USER]
    own = [{**SYSTEM, "content": "mine"}, USER]
    assert formed(tokenizer, own, chat=chat, system_prompt="be") == own


@pytest.mark.parametrize(
    ("prompt", "text", "template", "options", "message"),
    [
        ("1?", TEXT, False, {"chat": "chat"}, "`chat` chat needs a tokenizer with a chat template, this one has none"),
        ([USER], TEXT, True, {"chat": "raw"}, "`train_dataset` row 0: `chat` raw sends text prompts alone"),
        ("1?", TEXT, True, {"system_prompt": "be"}, "`system_prompt` needs a prompt of messages.*; `chat` chat"),
        ("1?", QUESTIONS, False, {"system_prompt": "be"}, "`system_prompt` needs .* tokenizer has no chat template"),
        (" \n", QUESTIONS, True, {}, "`train_dataset` row 0: `prompt` must not be blank"),
        (json.dumps([USER]), TEXT, True, {}, "row 0: `prompt` is a text that holds messages; expected a list"),
        (repr([USER]), TEXT, False, {}, "is a text that holds messages"),
        ("1?", TEXT, True, {"system_prompt": "be", "chat": "raw"}, "`system_prompt` must be none with `chat` raw"),
        ("1?", TEXT, True, {"chat": "yes"}, "`chat` must be one of auto, chat, raw, got 'yes'"),
        ("<bos><user>1?\n", TEXT, True, {"chat": "chat"}, "begins as the chat template's text does"),
    ],
)  # fmt: skip
def test_forms_that_are_refused(prompt, text, template, options, message):
    with pytest.raises(ConfigError, match=message):
        formed(bos_tokenizer() if template else bare_tokenizer(), prompt, text, **options)


def test_text_that_holds_messages_can_be_sent_raw():
    assert formed(tiny_tokenizer(), json.dumps([USER]), chat="raw") == json.dumps([USER])


def test_text_that_the_template_wrote_is_not_sent_through_it_again():
    tokenizer = bos_tokenizer()
    text = tokenizer.apply_chat_template([USER], tokenize=False, add_generation_prompt=True)
    assert formed(tokenizer, text, QUESTIONS) == text
    for kind in (QUESTIONS, TEXT):
        assert "it begins as text that the chat template wrote" in said(tokenizer, text, kind)
        with pytest.raises(ConfigError, match=r"`system_prompt` needs .*; the chat template wrote the text already"):
            formed(tokenizer, text, kind, system_prompt="be")
    assert formed(tokenizer, "is <bos> a token?", QUESTIONS) == [{"role": "user", "content": "is <bos> a token?"}]


def test_countdown_opens_the_assistants_message():
    task = load_task("countdown", train_size=1, eval_size=0)
    text = next(iter(task.train))["prompt"]
    tokenizer = tiny_tokenizer()
    assert formed(tokenizer, text, task.text_prompts) == text
    messages = formed(tokenizer, text, task.text_prompts, chat="chat")
    wanted = f"<user>{text.removesuffix('<think>').strip()}\n<assistant><think>"
    tokenizer.chat_template = (
        "{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}\n{% endfor %}"
        "{% if add_generation_prompt %}<assistant>{% endif %}"
    )
    assert encoder(tokenizer).encode(messages) == tuple(tokenizer(wanted)["input_ids"])


# ---- special tokens of prompts ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("single", "text", "wanted", "notice"),
    [
        ("$A", "ab", "ab", None),
        ("<bos> $A", "ab", "<bos>ab", None),
        (
            "<bos> $A",
            "<bos>ab",
            "<bos>ab",
            "<bos>, which the text of a prompt begins with, isn't put before it a second",
        ),
        ("<bos> $A", "<bos>", "<bos>", None),
        ("<bos> $A", "<bos><user>a\n<assistant>", "<bos><user>a\n<assistant>", "<bos>, which the text of a prompt"),
        ("<bos> $A", "a<bos>b", "<bos>a<bos>b", None),
        ("<bos> $A", " <bos>ab", " <bos>ab", "<bos>, which the text of a prompt"),
        ("<bos> $A", "\n\n <bos><user>a", "\n\n <bos><user>a", "<bos>, which the text of a prompt"),
        ("<bos> $A", " ab", "<bos> ab", None),
        ("<bos> $A", " a<bos>b", "<bos> a<bos>b", None),
        ("<bos> $A", "<bos><bos>a", "<bos><bos>a", "<bos>, which"),
        ("$A <eos>", "ab", "ab", "<eos>, which the tokenizer puts behind each text, is left out of prompts"),
        ("<bos> $A <eos>", "ab", "<bos>ab", "<eos>, which the tokenizer puts behind"),
        ("<bos> $A <eos>", "<bos>ab", "<bos>ab", "<bos>, which the text"),
        ("<bos> $A <eos>", "ab<eos>", "<bos>ab<eos>", "<eos>, which the tokenizer puts behind"),
        ("<bos> $A", "ab<eos>", "<bos>ab<eos>", "<eos>, the end-of-sequence token, is the last token of a"),
        ("<bos> <bos> $A", "ab", "<bos><bos>ab", None),
    ],
)
def test_special_tokens_around_text_are_there_once_and_never_at_its_end(single, text, wanted, notice):
    tokenizer = bos_tokenizer(single)
    own = encoder(tokenizer)
    assert list(own.encode(text)) == tokenizer(wanted, add_special_tokens=False)["input_ids"]
    notices = own.describe(text)[1:]
    assert any(line.startswith(notice) for line in notices) if notice else notices == [] or text == "<bos>"


def test_messages_get_only_the_special_tokens_of_the_template():
    tokenizer = bos_tokenizer("<bos> $A <eos>")
    wanted = tokenizer("<bos><user>1 + 1?\n<assistant>", add_special_tokens=False)["input_ids"]
    assert list(encoder(tokenizer).encode([USER])) == wanted
    assert encoder(tokenizer).describe([USER])[1:] == []


def test_changes_of_messages_by_the_chat_template_are_reported():
    tokenizer = bos_tokenizer()
    tokenizer.chat_template = (
        "{% for m in messages if m['role'] != 'system' %}{{ m['content'] + eos_token }}{% endfor %}"
    )
    lost, ended = encoder(tokenizer).describe([SYSTEM, USER])[1:]
    assert lost == "the chat template leaves out, or changes, the system message of a prompt"
    assert ended.startswith("<eos>, the end-of-sequence token, is the last token of a prompt")
    called = [
        USER,
        {"role": "assistant", "content": "", "tool_calls": [{"name": "f"}]},
        {"role": "tool", "content": "2"},
    ]
    with pytest.raises(ConfigError, match="the chat template doesn't know the `tool_calls` of the prompt"):
        encoder(tokenizer).encode(called)
    tokenizer.chat_template = "{% for m in messages %}{{ m['content'] }}{{ m.get('tool_calls', '') }}{% endfor %}"
    assert "'name'" in encoder(tokenizer).describe(called)[0]


def test_arguments_of_the_template_that_look_like_dates_are_text():
    """YAML and flags read them as dates; a run's header holds text."""
    assert ESConfig(chat_template_kwargs={"date_string": datetime.date(2024, 7, 26)}).chat_template_kwargs == {
        "date_string": "2024-07-26"
    }
    given = {"enable_thinking": False, "tools": [{"name": "f"}], "depth": 2, "x": None}
    assert ESConfig(chat_template_kwargs=given).chat_template_kwargs == given
    with pytest.raises(ConfigError, match="`chat_template_kwargs` must hold texts, numbers, lists and mappings, got"):
        ESConfig(chat_template_kwargs={"tools": [print]})


def test_a_prompt_is_shown_as_the_model_gets_it():
    tokenizer = bos_tokenizer()
    own = encoder(tokenizer)
    assert own.describe(" a\n'b' ") == ["first prompt, 8 tokens: \"<bos> a\\n'b' \""]
    assert own.describe([USER]) == ["first prompt, 25 tokens: '<bos><user>1 + 1?\\n<assistant>'"]
    (long,) = own.describe("x" * 2000 + "y")
    assert "'<bos>xxx" in long
    assert long.endswith("xxxy'")
    assert "' ... 1206 characters ... 'x" in long
    assert len(long) < 900


def test_unusual_messages_have_cache_keys():
    """The engine may get messages that were not checked as rows."""
    odd = [{**USER, "at": object()}]
    tokenizer = tiny_tokenizer()
    assert encoder(tokenizer).encode(odd) == encoder(tokenizer).encode([USER])


# ---- text of completions ----------------------------------------------------------------------------


def ids_of(tokenizer, text):
    return tokenizer(text, add_special_tokens=False)["input_ids"]


def texts(tokenizer, *rows, **options):
    request = Request(max_new_tokens=20, eos_ids=[EOS], pad_id=EOS)
    completions = encoder(tokenizer, **options).completions([[]] * len(rows), rows, request)
    return [completion.text for completion in completions]


def test_text_is_decoded_as_it_was_written():
    """Some tokenizers are configured to remove spaces before punctuation."""
    tokenizer = tiny_tokenizer()
    tokenizer.clean_up_tokenization_spaces = True
    for text in ("x != y", "a , b . c ?", " do n't , it 's", "\n  two\n\n", "f ( x ) 's"):
        row = [*ids_of(tokenizer, text), EOS]
        assert texts(tokenizer, row) == [text]
        assert texts(tokenizer, row, skip_special_tokens=False) == [text]
    assert tokenizer.decode(ids_of(tokenizer, "x != y")) == "x!= y", "the tokenizer does what this test is about"


def thinking_tokenizer():
    tokenizer = tiny_tokenizer()
    tokenizer.add_special_tokens({"additional_special_tokens": [AddedToken("<think>", special=True)]})
    tokenizer.add_tokens([AddedToken("</think>", special=True)])
    return tokenizer


def test_special_tokens_reach_rewards_if_asked_for():
    tokenizer = thinking_tokenizer()
    rows = [
        [*ids_of(tokenizer, "<think>a</think>b"), EOS],
        ids_of(tokenizer, "<think>a</think>"),
        [*ids_of(tokenizer, "a<think>"), EOS],
        [EOS],
        ids_of(tokenizer, "a<unk>b"),
    ]
    assert texts(tokenizer, *rows) == ["ab", "a", "a", "", "ab"]
    kept = texts(tokenizer, *rows, skip_special_tokens=False)
    assert kept[:4] == ["<think>a</think>b", "<think>a</think>", "a<think>", ""]


def test_special_tokens_that_a_prompt_names_are_mentioned():
    tokenizer = thinking_tokenizer()
    ask = [{"role": "user", "content": "use <think> and </think>"}]
    for prompt in (ask, "use <think> and </think>"):
        assert (
            encoder(tokenizer)
            .describe(prompt)[1]
            .startswith("the first prompt names <think>, </think>: special tokens")
        )
        assert len(encoder(tokenizer, skip_special_tokens=False).describe(prompt)) == 1
    assert len(encoder(tokenizer).describe("<eos> and <pad>")) == 1


# ---- runs -------------------------------------------------------------------------------------------


def run(tmp_path, reward, rows, tokenizer, text=TEXT, **options):
    sizes = {"population_size": 2, "max_steps": 1, "max_completion_length": 4, "reward_workers": 0}
    config = ESConfig(output_dir=str(tmp_path / "run"), **sizes, **options)
    trainer = ESTrainer(
        tiny_model(), reward, config, rows, rows[:1] if isinstance(rows, list) else None, tokenizer,
        text_prompts=text, team=Team(SingleMailbox()),
    )  # fmt: skip
    trainer.train()
    return trainer


@pytest.mark.parametrize(
    ("rows", "text", "options", "wanted"),
    [
        ([{"prompt": "1 + 1?\n"}], QUESTIONS, {}, [USER]),
        ([{"prompt": "1 + 1?\n"}], QUESTIONS, {"system_prompt": "be"}, [SYSTEM, USER]),
        ([{"prompt": "1 + 1?\n"}], QUESTIONS, {"chat": "raw"}, "1 + 1?\n"),
        ([{"prompt": "1 + 1?\n"}], TEXT, {}, "1 + 1?\n"),
        ([{"prompt": "1 + 1?\n"}], TEXT, {"chat": "chat"}, [USER]),
        ([{"prompt": ({"role": "user", "content": [{"type": "text", "text": "1 + 1?"}]},)}], TEXT, {}, [USER]),
    ],
)
def test_rewards_get_one_form_and_the_run_says_which(tmp_path, capsys, rows, text, options, wanted):
    seen = []

    def reward(prompts, completions, **columns):
        seen.extend(zip(prompts, completions, strict=True))
        return [1.0] * len(completions)

    trainer = run(tmp_path, reward, rows, tiny_tokenizer(), text, log_completions=True, **options)
    assert seen
    for prompt, completion in seen:
        assert prompt == wanted
        assert isinstance(completion, str) == isinstance(wanted, str)
    shown = capsys.readouterr().out.splitlines()
    assert shown[:2] == trainer.prompt_lines()
    assert shown[0].startswith("prompts: ")
    assert shown[1].startswith("first prompt, ")
    assert trainer.prompt_lines(held_out=True)[1] == shown[1]
    from pyarrow import parquet

    for path in (tmp_path / "run" / "completions").iterdir():
        for row in parquet.read_table(path).to_pylist():
            assert row["prompt"] == (wanted if isinstance(wanted, str) else json.dumps(wanted))


def test_a_streams_questions_go_through_the_template_too(tmp_path):
    datasets = pytest.importorskip("datasets")
    seen = []

    def reward(prompts, completions, **columns):
        seen.extend(prompts)
        return [1.0] * len(completions)

    stream = datasets.Dataset.from_list([{"prompt": "1 + 1?"}]).to_iterable_dataset()
    trainer = run(tmp_path, reward, stream, tiny_tokenizer(), QUESTIONS, prompts_per_iteration=1, reference_steps=0)
    assert seen == [[USER], [USER]]
    assert trainer.prompt_lines()[0].startswith("prompts: text through")


def test_tables_show_what_rewards_get(tmp_path):
    """If special tokens are kept, the tables also have them."""
    from pyarrow import parquet

    seen = set()

    def reward(completions, **columns):
        seen.update(completions)
        return [1.0] * len(completions)

    run(tmp_path, reward, [{"prompt": "1"}], tiny_tokenizer(), log_completions=True, skip_special_tokens=False)
    kept = set()
    for path in (tmp_path / "run" / "completions").iterdir():
        kept |= set(parquet.read_table(path).column("completion").to_pylist())
    assert kept == seen


def test_a_model_that_is_evaluated_elsewhere_gets_the_same_form(tmp_path):
    def reward(prompts, completions, **columns):
        return [float(not isinstance(prompt, str)) for prompt in prompts]

    trainer = run(tmp_path, reward, [{"prompt": "1"}], tiny_tokenizer(), QUESTIONS)
    assert trainer.evaluate([{"prompt": "2"}])["eval_reward"] == 1.0
    with pytest.raises(ConfigError, match="`eval_dataset` row 1: `prompt` must be text or messages, not empty"):
        trainer.evaluate([{"prompt": "2"}, {"prompt": " "}])


@pytest.mark.smollm2
def test_an_instruct_model_just_works(tmp_path):
    out = str(tmp_path / "run")
    words = ["--model_name_or_path", SMOLLM2, "--max_completion_length", "8"]
    process = es_llm(
        "train", *words, "--task", "conciseness", "--max_steps", "2", "--population_size", "2",
        "--max_eval_samples", "2", "--log_completions", "true", "--output_dir", out,
    )  # fmt: skip
    assert process.returncode == 0, process.stderr
    assert "prompts: text through the tokenizer's chat template (`chat` auto: questions of a task" in process.stdout
    assert (
        "<|im_start|>user\\nWhat is the colour of a ripe banana?<|im_end|>\\n<|im_start|>assistant\\n'"
        in process.stdout
    )
    from pyarrow import parquet

    tables = [parquet.read_table(path) for path in (tmp_path / "run" / "completions").iterdir()]
    completions = [text for table in tables for text in table.column("completion").to_pylist()]
    assert len(completions) == 12
    assert all(completions)
    assert result(tmp_path / "run")["steps"] == 2
    for task in ("gsm8k", "math"):
        process = es_llm("eval", *words, "--task", task, "--max_eval_samples", "1", "--task_args", "train_size=1")
        assert process.returncode == 0, process.stderr
        assert json.loads(process.stdout)["eval_completions/mean_length"] > 1
        assert "prompts: text through the tokenizer's chat template" in process.stderr
        assert "first prompt, " in process.stderr
