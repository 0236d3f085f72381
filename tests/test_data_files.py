"""Values of data files stay exactly as in the files. Errors name the file and the line."""

from __future__ import annotations

import bz2
import codecs
import gzip
import json
import lzma

import pyarrow
import pytest

from es_llm.assemble import _task
from es_llm.config import ScriptArguments
from es_llm.data.loading import has_split, load_split, renamed
from es_llm.errors import ConfigError

VALUES = [
    "2024-01-01", "2024-01-01T10:00:00Z", "12:30", "007", "0.10", "1e5", "1_000", "NA", "null", "None", "nan", "NaN",
    "true", "False", "", " padded ", "inf", "-0", "0x10", "½", "a,b", 'say "yes"', "two\nlines", "\u2028", "[1, 2]",
]  # fmt: skip
NUMBERS = [0, -1, 10**18, 10**30, -(10**40) + 7, 2**63, 2**64, 0.1, 1e-7, 1e300, -0.0, True, False, None]
NESTED = [{"a": 1}, {"b": [1, "x", None]}, [{"c": 1}, {"d": "2024-01-01"}], [], {}, [[1], ["2"]], {"a": None}]


def load(path, split="train", streaming=False):
    return list(load_split(str(path), split, streaming=streaming))


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("kind", ["json", "jsonl", "ndjson"])
def test_json_values_stay_as_the_file_has_them(tmp_path, kind, streaming):
    rows = [{"prompt": "p", "answer": value} for value in [*VALUES, *NUMBERS, *NESTED]]
    path = tmp_path / f"rows.{kind}"
    path.write_text(json.dumps(rows) if kind == "json" else "\n".join(map(json.dumps, rows)))
    loaded = load(path, streaming=streaming)
    assert json.dumps(loaded) == json.dumps(rows)
    for values in (VALUES, NUMBERS, NESTED):  # columns of one kind, whose type a library would guess
        for value in values:
            path.write_text(json.dumps([{"answer": value}]) if kind == "json" else json.dumps({"answer": value}))
            assert json.dumps(load(path, streaming=streaming)) == json.dumps([{"answer": value}])


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize(("kind", "delimiter"), [("csv", ","), ("tsv", "\t")])
def test_csv_values_are_the_text_of_the_file(tmp_path, kind, delimiter, streaming):
    path = tmp_path / f"rows.{kind}"
    for values in [VALUES, *([value] for value in VALUES)]:
        quoted = ['"' + value.replace('"', '""') + '"' for value in values]
        path.write_text(
            "".join(f"{delimiter.join(row)}\n" for row in [("prompt", "answer"), *((v, v) for v in quoted)])
        )
        assert load(path, streaming=streaming) == [{"prompt": value, "answer": value} for value in values]
    path.write_text(delimiter.join(("prompt", "answer")) + f"\n007{delimiter}NA\n\n1.50{delimiter}\n")
    wanted = [{"prompt": "007", "answer": "NA"}, {"prompt": "1.50", "answer": ""}]
    assert load(path, streaming=streaming) == wanted
    path.write_text("prompt" + f"\n{'long ' * 60_000}\n")
    assert len(load(path, streaming=streaming)[0]["prompt"]) == 300_000


@pytest.mark.parametrize("streaming", [False, True])
def test_the_task_receives_the_right_answer_unchanged(tmp_path, streaming):
    path = tmp_path / "rows.jsonl"
    answers = ["2024-01-01", "007", 10**30, 0.5, 1e-05, 1e20]
    path.write_text("".join(json.dumps({"problem": "?", "answer": answer}) + "\n" for answer in answers))
    task = _task(ScriptArguments(task="math", dataset_name=str(path), dataset_streaming=streaming))
    assert [row["answer"] for row in task.train] == [
        "2024-01-01", "007", "1" + 30 * "0", "0.5", "0.00001", "1" + 20 * "0"
    ]  # fmt: skip


PACKERS = {
    "gz": gzip.compress,
    "bz2": bz2.compress,
    "xz": lzma.compress,
    "zst": lambda data: pyarrow.compress(data, "zstd", asbytes=True),
}


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("packer", PACKERS)
def test_packed_files(tmp_path, packer, streaming):
    for kind, text in (("jsonl", '{"prompt": "01"}\n{"prompt": "b"}'), ("csv", "prompt\n01\nb\n"),
                       ("json", '[{"prompt": "01"}, {"prompt": "b"}]'), ("tsv", "prompt\n01\nb\n")):  # fmt: skip
        path = tmp_path / f"rows.{kind}.{packer}"
        path.write_bytes(PACKERS[packer](text.encode()))
        assert load(path, streaming=streaming) == [{"prompt": "01"}, {"prompt": "b"}]
        path.rename(tmp_path / f"plain.{kind}")  # the first bytes of a file show its compression
        assert load(tmp_path / f"plain.{kind}", streaming=streaming) == [{"prompt": "01"}, {"prompt": "b"}]


@pytest.mark.parametrize("kind", ["json", "jsonl", "csv"])
@pytest.mark.parametrize(
    ("mark", "encoding"),
    [(b"", "utf-8"), (codecs.BOM_UTF8, "utf-8"), (codecs.BOM_UTF16_LE, "utf-16-le"),
     (codecs.BOM_UTF16_BE, "utf-16-be"), (codecs.BOM_UTF32_LE, "utf-32-le")],
)  # fmt: skip
def test_encodings_with_a_byte_order_mark(tmp_path, kind, mark, encoding):
    text = {"json": '[{"prompt": "größe"}]', "jsonl": '{"prompt": "größe"}\r\n', "csv": "prompt\r\ngröße\r\n"}[kind]
    path = tmp_path / f"rows.{kind}"
    path.write_bytes(mark + text.encode(encoding))
    assert load(path) == load(path, streaming=True) == [{"prompt": "größe"}]


@pytest.mark.parametrize("streaming", [False, True])
def test_shapes_of_json(tmp_path, streaming):
    rows = [{"prompt": "a", "answer": "1"}, {"prompt": "b", "answer": "2"}]
    shapes = [
        rows,
        {"data": rows},
        {"version": "1.1", "data": rows},
        {"prompt": ["a", "b"], "answer": ["1", "2"]},
    ]
    path = tmp_path / "rows.json"
    for shape in shapes:
        for indent in (None, 2):
            path.write_text("\n" + json.dumps(shape, indent=indent) + "\n\n")
            assert load(path, streaming=streaming) == rows, shape
    path.write_text("\n".join(map(json.dumps, rows)))  # JSON lines in a file named .json
    assert load(path, streaming=streaming) == rows
    one = {"prompt": [{"role": "user", "content": "a"}], "answer": ["1"]}
    for indent in (None, 2):
        path.write_text(json.dumps(one, indent=indent))
        assert load(path, streaming=streaming) == [one]
    path = tmp_path / "rows.jsonl"
    path.write_text("\n" + "\n \n\r\n".join(map(json.dumps, rows)) + "\n\n\n")
    assert load(path, streaming=streaming) == rows
    path.write_text(json.dumps(rows))
    assert load(path, streaming=streaming) == rows


def test_a_column_that_a_row_lacks_is_none_and_nested_objects_gain_no_names(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text('{"prompt": "a", "info": {"x": 1}}\n{"info": {"y": 2}, "prompt": "b", "hint": "h"}\n')
    wanted = [{"prompt": "a", "info": {"x": 1}, "hint": None}, {"prompt": "b", "info": {"y": 2}, "hint": "h"}]
    assert load(path) == load(path, streaming=True) == wanted
    path.write_text('{"prompt": "a"}\n' * 1500 + '{"prompt": "b", "late": 1}\n')
    assert load(path)[-1] == {"prompt": "b", "late": 1}
    with pytest.raises(ConfigError, match=r"row 1500 has the columns \['late'\].*leave `dataset_streaming` out"):
        load(path, streaming=True)


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("rows.jsonl", '{"prompt": "a"}\n\n{"prompt": \n', r"rows.jsonl' line 3 column 11 isn't JSON: Expecting value"),
        ("rows.jsonl", '{"prompt": "a"}\n{"prompt": "b"} {}', r"line 2 column 17 isn't JSON: Extra data"),
        ("rows.jsonl", '{"prompt": "a"}\n["b"]', r"line 2 must be a JSON object of columns, got .*\(list\)"),
        ("rows.json", '[{"prompt": "a"},\n\n {"prompt" "b"}]', r"rows.json' line 3 column 12 isn't JSON"),
        ("rows.json", '[{"prompt": "a"}, 3]', r"row 1 must be a JSON object of columns, got '3' \(int\)"),
        ("rows.json", '"text"', r"must be a JSON object"),
        ("rows.jsonl", '{"prompt": "a", "x": 1e400}', r"line 1 has a value .* 1e400 is too large for float64"),
        ("rows.jsonl", '{"x": ' + "1" * 5000 + "}", r"line 1 has a value that can't be read: .*4300"),
        ("rows.jsonl", '{"x": ' + "[" * 9000 + "}", r"line 1 .*can't be read|isn't JSON"),
        ("rows.csv", "prompt,answer\na,1\nb,2,3\n", r"line 3 has 3 values, expected 2: \['prompt', 'answer'\]"),
        ("rows.csv", "prompt,answer\na\n", r"line 2 has 1 values, expected 2"),
        (
            "rows.csv",
            "prompt;answer\na;1\n",
            r"'prompt;answer': the separator is ';', expected ','; name a file with commas",
        ),
        ("rows.csv", "prompt\tanswer\na, b\t1\n", r"the separator is a tab, expected ','"),
        ("rows.csv.gz", gzip.compress(b"prompt|answer\na|1\n", mtime=0), r"the separator is '\|', expected ','"),
        ("rows.tsv", "prompt,answer\na,1\n", r"the separator is ',', expected a tab"),
        ("rows.csv", 'prompt\n"a\n', r"line 2 isn't CSV: unexpected end of data"),
        ("rows.csv", "prompt,a,a\n1,2,3\n", r"has two columns named 'a'"),
        ("rows.jsonl", '{"prompt": "a"}\n{"prompt": "größe"}'.encode("latin-1"), r"line 2 isn't UTF-8"),
        ("rows.csv", "prompt\na\n".encode("utf-16-le"), r"line 1 has zero bytes, .*is it UTF-16\?"),
        ("rows.jsonl", codecs.BOM_UTF16_LE + b'{"a"', r"can't be|isn't JSON"),
        ("rows.jsonl", b"", r"has no rows, expected at least one: the file is empty"),
        ("rows.jsonl", b"\n\n \n", r"has no rows, expected at least one"),
        ("rows.json", b"[]", r"has no rows, expected at least one"),
        ("rows.csv.gz", gzip.compress(b"", mtime=0), r"has no rows, expected at least one"),
        ("rows.jsonl.gz", gzip.compress(b'{"prompt": "a"}\n' * 900, mtime=0)[:-12], r"can't be read after line \d+"),
        ("rows.jsonl", b"PK\x03\x04rest", r"is a zip archive"),
        ("rows.parquet.gz", b"x", r"must be one of .*: unpack it: parquet has its own compression"),
        ("rows.xlsx", b"PK\x03\x04", r"must be one of .json.*got '.xlsx': save the sheet as CSV"),
        ("rows.txt", b"a", r"must be one of .*got '.txt': plain text has no columns"),
        ("rows.zip", b"PK\x03\x04", r"got '.zip': unpack it first"),
        ("rows", b"a", r"must be one of .json.*got ''"),
    ],
)
def test_what_cannot_be_read_is_named_by_its_line(tmp_path, name, content, message, streaming):
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ConfigError, match=message) as caught:
        load(path, streaming=streaming)
    assert str(path) in str(caught.value)


POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.csv", "rows.parquet", "rows.jsonl.gz", "rows.arrow"])
def test_a_pointer_of_git_lfs(tmp_path, name):
    (tmp_path / name).write_text(POINTER)
    for path in (tmp_path / name, tmp_path):
        with pytest.raises(ConfigError, match=r"a Git LFS pointer.*`git lfs pull`"):
            load(path)


@pytest.mark.parametrize("name", ["rows.jsonl", "./rows", "~/no/rows", "data/rows.csv.gz", "/nowhere/rows"])
def test_a_path_without_a_file(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    for look in (load_split, has_split):
        with pytest.raises(ConfigError, match="there is no such file or directory"):
            look(name, "train")


@pytest.mark.parametrize("streaming", [False, True])
def test_a_directory_is_read_as_its_files(tmp_path, streaming):
    (tmp_path / "train-1.jsonl").write_text('{"prompt": "b", "answer": "007"}\n')
    (tmp_path / "train-0.jsonl.gz").write_bytes(gzip.compress(b'{"prompt": "a", "answer": "2024-01-01"}\n'))
    (tmp_path / "test.jsonl").write_text('{"prompt": "c", "answer": "NA"}\n')
    (tmp_path / "README.md").write_text("# rows")
    (tmp_path / "notes.txt").write_text("x")
    assert [row["answer"] for row in load(tmp_path, streaming=streaming)] == ["2024-01-01", "007"]
    assert load(tmp_path, "test", streaming) == [{"prompt": "c", "answer": "NA"}]
    assert has_split(str(tmp_path), "test")
    assert not has_split(str(tmp_path), "validation")
    with pytest.raises(ConfigError, match="split 'validation', can't be loaded"):
        load(tmp_path, "validation", streaming)
    (tmp_path / "train-2.csv").write_text("prompt\na\n")
    with pytest.raises(ConfigError, match=r"several formats, such as 'train-0.jsonl.gz' and 'train-2.csv'"):
        load(tmp_path, streaming=streaming)


def test_parts_of_files(tmp_path):
    path = tmp_path / "rows.csv"
    path.write_text("prompt\n" + "".join(f"{number}\n" for number in range(10)))
    for part, wanted in (("[:50%]", range(5)), ("[8:99]", (8, 9)), ("[-2:]", (8, 9)), ("[:2]+train[9:]", (0, 1, 9))):
        assert [row["prompt"] for row in load(path, f"train{part}")] == [str(number) for number in wanted]


@pytest.mark.parametrize("streaming", [False, True])
def test_columns_of_files_are_renamed(tmp_path, streaming):
    path = tmp_path / "rows.csv"
    path.write_text("question,prompt,answer\nq,old,007\n")
    data = load_split(str(path), "train", streaming=streaming)
    assert list(renamed(data, {"question": "prompt"})) == [{"prompt": "q", "answer": "007"}]
    with pytest.raises(ConfigError, match="no column 'query'"):
        renamed(data, {"query": "prompt"})
