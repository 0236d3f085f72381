"""The formats of prompts in rows: accepted formats, their conversion, and refused formats."""

from __future__ import annotations

import datetime
import decimal
import json

import numpy as np
import pytest

from es_llm.data.messages import checked_prompt, is_messages_as_text, readable
from es_llm.errors import ConfigError
from es_llm.trainer.assembly.rows import rows_of

HI = {"role": "user", "content": "hi"}
PARTS = [{"type": "text", "text": "look:"}, {"type": "text", "text": "2 + 2?"}]


def checked(prompt):
    return checked_prompt(prompt, "`train_dataset` row 3")


@pytest.mark.parametrize(
    ("prompt", "wanted"),
    [
        ("text ", "text "),
        (np.str_("text"), "text"),
        ([HI], [HI]),
        ((HI,), [HI]),
        (np.array([HI], dtype=object), [HI]),
        ([{**HI, "content": PARTS}], [{"role": "user", "content": "look:\n2 + 2?"}]),
        ([{**HI, "content": np.array(PARTS, dtype=object)}], [{"role": "user", "content": "look:\n2 + 2?"}]),
        ([{**HI, "content": ["a", {"type": "input_text", "text": "b"}]}], [{"role": "user", "content": "a\nb"}]),
        ([{**HI, "content": [{"type": "text", "text": "a", "image": None}]}], [{"role": "user", "content": "a"}]),
        ([{**HI, "content": {"type": "text", "text": "a"}}], [{"role": "user", "content": "a"}]),
        ([{**HI, "content": [{"type": None, "text": "a"}, {"text": "b"}]}], [{"role": "user", "content": "a\nb"}]),
        ([{**HI, "content": [{"type": "text", "text": None}, PARTS[1], {"text": None, "image": None}]}],
         [{"role": "user", "content": "2 + 2?"}]),
        ([{**HI, "name": None, "tool_calls": None}], [HI]),
        ([{**HI, "name": "Ada", "score": np.float32(0.5)}], [{**HI, "name": "Ada", "score": 0.5}]),
        ([{"role": "system", "content": ""}, HI], [{"role": "system", "content": ""}, HI]),
        ([HI, {"role": "assistant", "content": "I"}], [HI, {"role": "assistant", "content": "I"}]),
        ([HI, {"role": "assistant", "content": None, "tool_calls": [{"id": None, "f": ("x",)}]}],
         [HI, {"role": "assistant", "content": "", "tool_calls": [{"f": ["x"]}]}]),
    ],
)  # fmt: skip
def test_prompts_have_one_shape(prompt, wanted):
    own = checked(prompt)
    assert own == wanted
    assert type(own) is type(wanted)
    assert checked(own) == own


@pytest.mark.parametrize(
    ("value", "wanted"),
    [
        (datetime.datetime(2024, 1, 2, 3, 4, 5), "2024-01-02T03:04:05"),
        (datetime.date(2024, 1, 2), "2024-01-02"),
        (datetime.time(3, 4), "03:04:00"),
        (np.datetime64("2024-01-02T03:04:05"), "2024-01-02T03:04:05"),
        (decimal.Decimal("1.50"), "1.50"),
        (np.int64(3), 3),
        (np.bool_(True), True),
        (np.arange(3), [0, 1, 2]),
        ({"a": datetime.date(2024, 1, 2), "b": None}, {"a": "2024-01-02"}),
    ],
)
def test_other_fields_of_messages_are_plain_values(value, wanted):
    (message,) = checked([{**HI, "extra": value}])
    assert message == {**HI, "extra": wanted}
    json.dumps(message)


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        ([{"from": "human", "value": "hi"}], r"message 0 must have .* got the keys \['from', 'value'\]: "
         "a ShareGPT conversation. Write `from` as `role`"),
        ([HI, {"speaker": "a", "text": "b"}], r"message 1 must have .* got the keys \['speaker', 'text'\]"),
        ([{"content": "hi"}], r"got the keys \['content'\]"),
        ([{"role": "user"}], r"got the keys \['role'\]"),
        ([{"role": "user", "content": None}], "no value for `content`"),
        ([{"role": None, "content": "hi"}], "no value for `role`"),
        ([{"role": "human", "content": "hi"}], "`role` must be one of system, .*, got 'human'; write it as 'user'"),
        ([{"role": "gpt", "content": "hi"}], "write it as 'assistant'"),
        ([{"role": "User", "content": "hi"}], "write it as 'user'"),
        ([{"role": ["user"], "content": "hi"}], r"`role` must be one of .*, got \['user'\]"),
        ([{"role": "user", "content": 3}], r"`content` must be text or a list of text parts, got 3 \(int\)"),
        ([{"role": "user", "content": float("nan")}], r"got nan \(float\), a missing value"),
        ([{"role": "user", "content": b"hi"}], "`content` must be text"),
        ([{"role": "user", "content": datetime.date(2024, 1, 2)}], "`content` must be text"),
        ([{"role": "user", "content": [{"type": "image_url", "image_url": "x"}]}],
         "part 0 of `content` must be text, got a part of type 'image_url': prompts are text without images"),
        ([{"role": "user", "content": [PARTS[0], {"type": "image"}]}], "part 1 .* of type 'image'"),
        ([{"role": "user", "content": [{"type": "text"}]}], "must have a `text`"),
        ([{"role": "user", "content": [3]}], "part 0 of `content` must be text, got 3"),
        ([[HI]], "message 0 must be a mapping .*; a prompt is one list of messages"),
        (["hi"], r"message 0 must be a mapping with `role` and `content`, got 'hi' \(str\)"),
        ([1, 2], "message 0 must be a mapping"),
        ([], "must be text or messages, not empty"),
        ("", "must be text or messages, not empty"),
        ("   ", r"must be text or messages, not empty, got '   ' \(str\)"),
        ("\n\t", "must be text or messages, not empty"),
        ([{"role": "prompter", "content": "hi"}], "got 'prompter'; write it as 'user'"),
        ([{**HI, "content": [{"type": "text", "text": None}]}], "must have a message with a content"),
        ([{**HI, "content": [{"type": None, "image": b"png"}]}], "must have a `text`"),
        ([{**HI, "content": [{"type": "text", "text": None, "image": b"png"}]}], "must have a `text`"),
        ([{**HI, "content": [{"type": "image", "text": None}]}], "of type 'image'"),
        (None, "must be text or messages, not empty, got None"),
        (b"hi", "must be text or messages"),
        (float("nan"), "a missing value"),
        (datetime.datetime(2024, 1, 2), "write dates that are prompts as text"),
        (HI, "put the message into a list"),
        ({"role": ["user"], "content": ["hi"]}, "write one mapping per message"),
        ([{"role": "user", "content": ""}], "must have a message with a content"),
        ([{"role": "system", "content": " "}, {"role": "user", "content": "\n"}], "must have a message with a content"),
        ([{"role": "system", "content": "be"}, {"role": "user", "content": " "}], "user's last message must have a"),
        ([{"role": "user", "content": []}], "must have a message with a content"),
        ([{**HI, "image": b"png"}], "message 0: `image` must be text, a number, a list or a mapping, got b'png'"),
        ([{**HI, "call": {"f": object()}}], "message 0: `call` must be"),
    ],
)  # fmt: skip
def test_another_format_is_refused_with_its_row(prompt, message):
    with pytest.raises(ConfigError, match=f"`train_dataset` row 3: {'' if message[0] == '`' else '.*'}") as caught:
        checked(prompt)
    assert caught.match(message)


def test_messages_written_as_text_are_recognised():
    chat = [HI, {"role": "assistant", "content": "yes [1]"}]
    for text in (json.dumps(chat), repr(chat), repr(np.array(chat)[:1]), json.dumps(HI), str(np.array(chat))):
        assert is_messages_as_text(text.removeprefix("array(").removesuffix(", dtype=object)")), text
    assert is_messages_as_text(json.dumps([{"from": "human", "value": "hi"}], indent=1))
    for text in ("hi", "[1, 2]", '[{"value": 3}]', '[{"from": "Rome", "value": 3}]', f"{json.dumps(chat)} go on"):
        assert not is_messages_as_text(text), text


def test_prompts_as_shown_to_users():
    assert readable("hi\n") == "hi\n"
    assert readable([{"role": "system", "content": "be"}, HI]) == "system: be\nuser: hi"


@pytest.mark.parametrize(
    ("row", "hint"),
    [
        ({"messages": [HI]}, "`dataset_columns` messages=prompt, or dataset.rename_column('messages', 'prompt'); leave "
                             "the assistant's answer at its end out"),
        ({"id": 1, "conversations": []}, "`dataset_columns` conversations=prompt"),
        ({"question": "?", "answer": "!"}, "`dataset_columns` question=prompt, or"),
        ({"x": 1}, "got the columns ['x']"),
        ({"x": 1, None: 2}, "got the columns ['None', 'x']"),
    ],
)  # fmt: skip
def test_a_column_that_seems_to_be_the_prompt_is_named(row, hint):
    with pytest.raises(ConfigError) as caught:
        rows_of([row], "train_dataset")
    assert "row 0 must have a `prompt`" in str(caught.value)
    assert str(caught.value).partition("; ")[2].startswith("rename one by " + hint[:20]) or "x" in row
    assert hint in str(caught.value)


def test_alpaca_rows_need_both_columns():
    for row in ({"instruction": "Add", "input": "1 2", "output": "3"}, {"instruction": "Add", "input": ""}):
        with pytest.raises(ConfigError, match=r"join `instruction` and `input` .* into one `prompt`") as caught:
            rows_of([row], "train_dataset")
        assert "instruction=prompt" not in str(caught.value)
    with pytest.raises(ConfigError, match="instruction=prompt"):
        rows_of([{"instruction": "Add", "output": "3"}], "train_dataset")


@pytest.mark.parametrize("kind", ["pandas", "arrow"])
def test_a_format_that_gives_tables_is_named(kind):
    datasets = pytest.importorskip("datasets")
    data = datasets.Dataset.from_list([{"prompt": "a", "n": 1}, {"prompt": "b", "n": 2}])
    with pytest.raises(ConfigError, match=r"row 0 must be a mapping of columns, got a p.*dataset\.with_format\(None\)"):
        rows_of(data.with_format(kind), "train_dataset")
    assert len(rows_of(data.with_format(kind).with_format(None), "train_dataset")) == 2


def test_rows_of_data_sets_hold_plain_messages(tmp_path):
    """`datasets` converts dates, and adds keys to messages that lack them."""
    datasets = pytest.importorskip("datasets")
    rows = [
        {"prompt": [{**HI, "at": "2024-01-02T03:04:05"}], "answer": "1"},
        {"prompt": [{"role": "system", "content": "be", "name": "x"}, HI], "answer": "2"},
    ]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    loaded = datasets.load_dataset(
        "json", data_files=str(tmp_path / "rows.jsonl"), split="train", cache_dir=str(tmp_path)
    )
    prompts = [row["prompt"] for row in rows_of(loaded, "train_dataset")]
    json.dumps(prompts)
    assert [[set(message) for message in prompt] for prompt in prompts] == [
        [{"role", "content", "at"}],
        [{"role", "content", "name"}, {"role", "content"}],
    ]
    assert prompts[0][0]["at"].startswith("2024-01-02T03:04:05")
