"""Data sets from files and streams have the same rows, and a resumed run continues with the very next prompts."""

from __future__ import annotations

import itertools
import json

import datasets
import pytest

from es_llm import ESConfig, ESTrainer
from es_llm.assemble import _task
from es_llm.comm import SingleMailbox
from es_llm.config import ScriptArguments
from es_llm.data.loading import has_split, load_split, renamed
from es_llm.data.order import PromptOrder
from es_llm.data.stream import PromptStream
from es_llm.errors import ConfigError
from es_llm.rewards import inline
from es_llm.team import Team
from es_llm.trainer.assembly.rows import rows_of
from tests.commands import SMALL, es_llm, result

ROWS = [{"prompt": f"{number},1,2=9:", "wanted": number} for number in range(10)]


@pytest.fixture(scope="module", autouse=True)
def no_shared_cache(tmp_path_factory):
    before = datasets.config.HF_DATASETS_CACHE
    datasets.config.HF_DATASETS_CACHE = tmp_path_factory.mktemp("cache")
    yield
    datasets.config.HF_DATASETS_CACHE = before


def write(directory, kind):
    """Write the rows as a file or directory of this kind, and return its path."""
    data, path = datasets.Dataset.from_list(ROWS), directory / f"rows.{kind}"
    match kind:
        case "json":
            path.write_text(json.dumps(ROWS))
        case "jsonl":
            data.to_json(path)
        case "csv":
            data.to_csv(path)
        case "parquet":
            data.to_parquet(path)
        case "arrow":
            data.save_to_disk(directory / "saved")
            path = next((directory / "saved").glob("*.arrow"))
        case "saved":
            data.save_to_disk(path)
        case "dict":
            datasets.DatasetDict({"train": data, "test": data.select(range(3))}).save_to_disk(path)
        case "directory":
            path.mkdir()
            data.to_json(path / "train.jsonl")
            data.select(range(3)).to_json(path / "test.jsonl")
    return str(path)


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("kind", ["json", "jsonl", "csv", "parquet", "arrow", "saved", "dict", "directory"])
def test_every_kind_of_file(tmp_path, kind, streaming):
    path = write(tmp_path, kind)
    rows = [{**row, "wanted": str(row["wanted"])} for row in ROWS] if kind == "csv" else ROWS
    assert list(load_split(path, "train", streaming=streaming)) == rows
    assert has_split(path, "train")
    assert has_split(path, "test") == (kind in ("dict", "directory"))
    if kind in ("dict", "directory"):
        assert list(load_split(path, "test", streaming=streaming)) == ROWS[:3]


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("kind", ["json", "jsonl", "parquet", "saved", "dict", "directory"])
def test_slices(tmp_path, kind, streaming):
    path = write(tmp_path, kind)
    for part, wanted in (("[2:5]", ROWS[2:5]), ("[:3]", ROWS[:3]), ("[7:]", ROWS[7:]), ("[8:99]", ROWS[8:])):
        assert list(load_split(path, f"train{part}", streaming=streaming)) == wanted


@pytest.mark.parametrize(
    ("name", "split", "message"),
    [
        ("nowhere/at-all", "train", "`dataset_name` 'nowhere/at-all', split 'train', can't be loaded"),
        ("rows.txt", "train", "must be one of .json"),
        ("torn.json", "train", "'torn.json' line 1 column 16 isn't JSON: Expecting ',' delimiter"),
        ("rows.jsonl", "test", "split 'test', can't be loaded"),
        ("empty.jsonl", "train", "'empty.jsonl' has no rows, expected at least one: the file is empty"),
        ("head.csv", "train", "'head.csv', split 'train', has no rows, expected at least one"),
        ("stream.jsonl", "train[:50%]", "must be like train\\[0:100\\]"),
        ("stream.jsonl", "train[3]", "must be like train\\[0:100\\]"),
    ],
)
def test_what_cannot_be_loaded(tmp_path, monkeypatch, name, split, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "rows.txt").write_text("x")
    (tmp_path / "torn.json").write_text('[{"prompt": "a"')
    (tmp_path / "empty.jsonl").write_text("")
    (tmp_path / "head.csv").write_text("prompt,answer\n")
    write(tmp_path, "jsonl")
    with pytest.raises(ConfigError, match=message):
        load_split(name.replace("stream", "rows"), split, streaming=name.startswith("stream"))


def test_numbers_as_prompts_are_named(tmp_path):
    (tmp_path / "rows.csv").write_text("prompt,wanted\n12,1\n13,2\n")
    assert rows_of(load_split(str(tmp_path / "rows.csv"), "train"), "train_dataset")[0] == {
        "prompt": "12",
        "wanted": "1",
    }
    (tmp_path / "rows.jsonl").write_text('{"prompt": 12}\n')
    with pytest.raises(ConfigError, match=r"row 0: `prompt` must be text .*got 12 \(int\); write numbers .* as text"):
        rows_of(load_split(str(tmp_path / "rows.jsonl"), "train"), "train_dataset")


def test_rewards_are_checked_against_the_columns_of_a_stream(tmp_path):
    with pytest.raises(ConfigError, match=r"`length` needs `wanted`, which `train_dataset` doesn't give"):
        trainer(tmp_path, stream([{"prompt": "a"}]))
    with pytest.raises(ConfigError, match="got an empty stream"):
        trainer(tmp_path, datasets.IterableDataset.from_generator(lambda: iter(())))


def test_columns_are_renamed():
    data = datasets.Dataset.from_list([{"question": "q", "prompt": "old", "a": 1}])
    assert list(renamed(data, {"question": "prompt", "a": "answer"})) == [{"prompt": "q", "answer": 1}]
    with pytest.raises(ConfigError, match=r"no column 'query', the data set has \['a', 'prompt', 'question'\]"):
        renamed(data, {"query": "prompt"})
    with pytest.raises(ConfigError, match="two columns get the same name"):
        renamed(data, {"question": "x", "a": "x"})


def stream(rows=ROWS, shards=1):
    return datasets.Dataset.from_list(rows).to_iterable_dataset(num_shards=shards)


def prompts(data, **options):
    settings = {"per_iteration": 4, "seed": 3, "shuffle": True, **options}
    return PromptStream(data, checked=lambda rows: rows_of(rows, "train_dataset"), **settings)


@pytest.mark.parametrize("shuffle", [False, True])
def test_a_stream_gives_the_same_rows_wherever_one_begins(shuffle):
    whole = prompts(stream(), shuffle=shuffle)
    batches = [whole.batch(iteration) for iteration in range(8)]
    assert whole.batch(7) == batches[7]
    for start in (5, 2, 7, 0):
        assert prompts(stream(), shuffle=shuffle).batch(start) == batches[start]
        assert whole.batch(start) == batches[start], "back again, as after a rebuild"
    asked = [row["wanted"] for batch in batches for row in batch]
    assert sorted(asked[:10]) == sorted(asked[10:20]) == list(range(10)), "each row once per epoch"
    assert (asked[:10] == asked[10:20]) is not shuffle
    assert (
        not shuffle
        or asked[:10] != [row["wanted"] for it in range(3) for row in prompts(stream(), seed=4).batch(it)][:10]
    )


def test_an_empty_stream_and_a_bad_row():
    with pytest.raises(ConfigError, match="empty stream"):
        prompts(datasets.IterableDataset.from_generator(lambda: iter(()))).batch(0)
    with pytest.raises(ConfigError, match=r"row 1 must have the columns|row 1 must have a `prompt`"):
        prompts(
            datasets.IterableDataset.from_generator(lambda: iter([{"prompt": "a"}, {"text": "b"}])), shuffle=False
        ).batch(0)


def test_fixed_prompts_are_the_first_ones():
    order = PromptOrder(ROWS, per_iteration=4, seed=0, shuffle=True, fixed=True)
    assert order.batch(0) == order.batch(5) == ROWS[:4]
    assert order.epoch(3) == 3


@pytest.mark.parametrize(
    ("options", "size"),
    [({}, 1000), ({"max_eval_samples": 7}, 7), ({"dataset_test_split": "test[10:15]"}, 5),
     ({"dataset_test_split": "test[10:15]", "max_eval_samples": 3}, 3),
     ({"dataset_streaming": False}, 2000), ({"dataset_streaming": False, "max_eval_samples": 7}, 7)],
)  # fmt: skip
def test_held_out_rows_of_a_stream_are_read_as_far_as_they_are_needed(tmp_path, monkeypatch, options, size):
    for split in ("train", "test"):
        rows = ({"prompt": f"{split} {number}", "answer": number} for number in range(2000))
        (tmp_path / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    asked = []

    def watch(name, split, *, config=None, streaming=False):
        asked.append((split.partition("[")[0], streaming))
        return load_split(name, split, config=config, streaming=streaming)

    monkeypatch.setattr("es_llm.assemble.load_split", watch)
    script = ScriptArguments(dataset_name=str(tmp_path), **{"task": "gsm8k", "dataset_streaming": True, **options})
    task = _task(script)
    assert len(task.eval) == size
    first = 10 if "dataset_test_split" in options else 0
    assert [row["prompt"] for row in task.eval[:3]] == [f"test {number}" for number in range(first, first + 3)]
    assert set(asked) == {("train", script.dataset_streaming), ("test", script.dataset_streaming)}
    with pytest.raises(ConfigError, match="`max_eval_samples` must be an integer > 0, or none, got 0"):
        ScriptArguments(max_eval_samples=0)


def test_a_stream_without_an_end_has_held_out_rows(monkeypatch):
    def endless():
        return datasets.IterableDataset.from_generator(
            lambda: ({"prompt": f"{number}", "answer": 1} for number in itertools.count())
        )

    monkeypatch.setattr("es_llm.assemble.load_split", lambda *given, **named: endless())
    monkeypatch.setattr("es_llm.assemble.has_split", lambda *given, **named: True)
    assert len(_task(ScriptArguments(task="gsm8k", dataset_name="x", dataset_streaming=True)).eval) == 1000


@inline
def length(completions, wanted, **columns):
    return [len(text) + goal / 7 for text, goal in zip(completions, wanted, strict=True)]


def trainer(directory, data, **options):
    args = ESConfig(
        population_size=4, sigma=0.02, learning_rate=0.02, max_completion_length=4, prompts_per_iteration=3,
        output_dir=str(directory), eval_on_start=False, **options,
    )  # fmt: skip
    return ESTrainer(None, length, args, data, team=Team(SingleMailbox()))


@pytest.mark.parametrize("kind", ["list", "dataset", "stream"])
def test_resume_in_the_middle_of_an_epoch_continues_with_the_next_prompts(tmp_path, kind, monkeypatch):
    make = {"list": lambda: ROWS, "dataset": lambda: datasets.Dataset.from_list(ROWS), "stream": stream}[kind]
    asked = []

    def watch(batch):
        def spy(self, iteration):
            rows = batch(self, iteration)
            asked.append((iteration, [row["wanted"] for row in rows]))
            return rows

        return spy

    for cls in (PromptOrder, PromptStream):
        monkeypatch.setattr(cls, "batch", watch(cls.batch))
    whole = trainer(tmp_path / "whole", make(), max_steps=5).train().metrics["weights_sha256"]
    undisturbed, asked[:] = dict(asked), []
    trainer(tmp_path / "parts", make(), max_steps=2).train()
    asked.clear()
    parts = trainer(tmp_path / "parts", make(), max_steps=5).train(resume_from_checkpoint=True)
    assert parts.metrics["weights_sha256"] == whole
    assert [iteration for iteration, _ in asked] == [2, 3, 4]
    assert dict(asked) == {iteration: undisturbed[iteration] for iteration in (2, 3, 4)}


@pytest.mark.mpi
@pytest.mark.slow
def test_the_command_line_on_a_stream_of_renamed_columns(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps({"question": row["prompt"], "goal": row["wanted"]}) + "\n" for row in ROWS))
    words = ["train", *SMALL, "--max_steps", "3", "--dataset_name", str(path), "--dataset_columns", "question=prompt"]
    at = words.index("--task_args")
    del words[at : at + 3]
    for name_of_run, ranks in (("alone", None), ("two", 2)):
        process = es_llm(*words, "--dataset_streaming", "--output_dir", str(tmp_path / name_of_run), ranks=ranks)
        assert process.returncode == 0, process.stderr
    assert result(tmp_path / "alone")["weights_sha256"] == result(tmp_path / "two")["weights_sha256"]
    process = es_llm(*words, "--dataset_columns", "quest=prompt", "--output_dir", str(tmp_path / "bad"))
    assert process.returncode == 2
    assert "no column 'quest'" in process.stderr
