"""A low-rank run trains, resumes, replays and agrees on any number of ranks, bit for bit."""

import contextlib
import io
import json
import shutil
from pathlib import Path

import pytest

from es_llm import _core
from es_llm._core import Journal
from es_llm.cli import main
from tests.commands import SMALL, base_sha256, es_llm, result, rewards

pytestmark = pytest.mark.timeout(900)

LOW_RANK = ["train", *SMALL, "--seed", "7", "--perturbation", "low_rank", "--rank", "1"]


def run(*words):
    """Exit code and messages of a command in this process."""
    messages = io.StringIO()
    with contextlib.redirect_stdout(messages), contextlib.redirect_stderr(messages):
        code = main(list(words))
    return code, messages.getvalue()


def done(*words):
    code, messages = run(*words)
    assert code == 0, messages


BATCHED = ["--engine", "batched", "--members_per_unit", "2"]


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """Directory of a run of three iterations in one process."""
    directory = tmp_path_factory.mktemp("low_rank") / "run"
    done(*LOW_RANK, "--max_steps", "3", "--output_dir", str(directory))
    return directory


@pytest.fixture(scope="module")
def batched(tmp_path_factory):
    """The same with several members in a batch."""
    directory = tmp_path_factory.mktemp("batched") / "run"
    done(*LOW_RANK, *BATCHED, "--max_steps", "3", "--output_dir", str(directory))
    return directory


def metrics(directory: Path):
    """The metrics of each iteration."""
    lines = [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]
    return [line for line in lines if "reward" in line]


def parameters(directory: Path):
    """The parameter table in the journal's header."""
    return json.loads(Journal.read(directory / "journal.es").header)["identity"]["model"]["parameters"]


def test_it_trains_with_low_rank_noise_on_matrices_alone(alone, tmp_path):
    assert result(alone)["weights_sha256"] != base_sha256(alone)
    assert len(set(rewards(alone))) == 3
    for entry in parameters(alone):
        assert ("rank" in entry) == (len(entry["shape"]) == 2)
        assert entry.get("perturbation", "low_rank") == "low_rank"
    assert len(metrics(alone)) == 3
    for line in metrics(alone):
        assert line["update/norm"] > 0
        assert 0 < line["update/cosine"] <= 1
    dense = tmp_path / "dense"
    done("train", *SMALL, "--seed", "7", "--max_steps", "3", "--output_dir", str(dense))
    assert base_sha256(dense) == base_sha256(alone)
    assert result(dense)["weights_sha256"] != result(alone)["weights_sha256"]
    assert all(set(entry) == {"name", "shape"} for entry in parameters(dense))


@pytest.mark.mpi
@pytest.mark.parametrize("ranks", [2, 3])
def test_any_number_of_ranks_gives_the_same_bits(alone, tmp_path, ranks):
    directory = tmp_path / "run"
    process = es_llm(*LOW_RANK, "--max_steps", "3", "--output_dir", str(directory), ranks=ranks)
    assert process.returncode == 0, process.stderr
    assert result(directory)["ranks"] == ranks
    assert result(directory)["weights_sha256"] == result(alone)["weights_sha256"]
    assert rewards(directory) == rewards(alone)


def test_members_in_one_batch_earn_the_same_rewards(alone, batched):
    assert rewards(batched) == rewards(alone)
    assert result(batched)["weights_sha256"] == result(alone)["weights_sha256"]


def test_the_unperturbed_model_in_the_batch_of_the_first_members_gives_the_same_answers(alone, batched):
    names = {name for name in metrics(alone)[0] if name.startswith(("answers/", "reference/"))}
    assert {"answers/identical_ratio", "answers/worse_ratio", "reference/reward"} <= names
    assert [{name: line[name] for name in names} for line in metrics(batched)] == [
        {name: line[name] for name in names} for line in metrics(alone)
    ]


def test_how_often_the_unperturbed_model_answers_belongs_to_a_run_of_batched_members(batched, tmp_path):
    directory = tmp_path / "run"
    shutil.copytree(batched, directory)
    words = [*LOW_RANK, "--output_dir", str(directory), "--resume_from_checkpoint", str(directory), "--max_steps", "4"]
    code, messages = run(*words, *BATCHED, "--reference_steps", "2")
    assert code != 0
    assert "`config.reference_steps` was 1, now 2" in messages
    code, messages = run(*words, *BATCHED, "--reference_steps", "0")
    assert code != 0
    assert "`config.reference_steps` was 1, now 0" in messages
    # With more than eight prompts in a unit the unperturbed model answers eight of them in a unit of its own.
    many = ["--prompts_per_iteration", "9", "--prompts_per_unit", "9", "--max_steps", "1"]
    done(*LOW_RANK, *BATCHED, *many, "--output_dir", str(tmp_path / "many"))
    assert (
        "reference_steps" not in json.loads(Journal.read(tmp_path / "many" / "journal.es").header)["identity"]["config"]
    )
    assert "reference/reward" in metrics(tmp_path / "many")[0]


@pytest.mark.mpi
@pytest.mark.parametrize("ranks", [3, 16])
def test_batches_of_members_on_any_number_of_ranks_give_the_same_bits(batched, tmp_path, ranks):
    directory = tmp_path / "run"
    words = [*LOW_RANK, *BATCHED, "--max_steps", "3", "--output_dir", str(directory)]
    process = es_llm(*words, ranks=ranks, timeout_s=600)
    assert process.returncode == 0, process.stderr
    assert result(directory)["weights_sha256"] == result(batched)["weights_sha256"]
    assert rewards(directory) == rewards(batched)


def test_a_run_of_batched_members_resumes_and_replays(batched, tmp_path):
    directory = tmp_path / "run"
    done(*LOW_RANK, *BATCHED, "--max_steps", "1", "--output_dir", str(directory))
    words = ["--output_dir", str(directory), "--resume_from_checkpoint", str(directory), "--max_steps", "3"]
    code, messages = run(*LOW_RANK, *BATCHED[:2], "--members_per_unit", "4", *words)
    assert code != 0
    assert "`config.members_per_unit` was 2, now 4" in messages
    done(*LOW_RANK, *BATCHED, *words)
    assert result(directory)["weights_sha256"] == result(batched)["weights_sha256"]
    done("replay", str(directory), "--output_dir", str(tmp_path / "replayed"))
    assert result(tmp_path / "replayed")["weights_sha256"] == result(batched)["weights_sha256"]


def test_vectors_and_embeddings_can_be_left_out(tmp_path):
    directory = tmp_path / "run"
    done(
        *LOW_RANK,
        *BATCHED,
        "--vectors",
        "frozen",
        "--embeddings",
        "frozen",
        "--max_steps",
        "1",
        "--output_dir",
        str(directory),
    )
    entries = parameters(directory)
    assert entries
    assert all(entry["perturbation"] == "low_rank" for entry in entries)
    assert not any("embed" in entry["name"] for entry in entries)


def test_resume_gives_the_same_bits(alone, tmp_path):
    directory = tmp_path / "run"
    done(*LOW_RANK, "--max_steps", "1", "--output_dir", str(directory))
    words = [*LOW_RANK, "--output_dir", str(directory), "--resume_from_checkpoint", str(directory), "--max_steps", "3"]
    for other, option in ((["--perturbation", "dense"], "perturbation"), (["--rank", "2"], "rank")):
        code, messages = run(*words, *other)
        assert code != 0
        assert f"`config.{option}` was" in messages
    done(*words)
    assert result(directory)["weights_sha256"] == result(alone)["weights_sha256"]
    assert rewards(directory) == rewards(alone)


def test_replay_gives_the_same_bits(alone, tmp_path):
    done("replay", str(alone), "--output_dir", str(tmp_path / "replayed"))
    assert result(tmp_path / "replayed")["weights_sha256"] == result(alone)["weights_sha256"]


def test_a_run_of_some_parameters_replays(tmp_path):
    directory = tmp_path / "run"
    words = ["--trainable", "*mlp*", "*norm*", "--frozen", "*norm.weight", "--max_steps", "2"]
    done(*LOW_RANK, *words, "--output_dir", str(directory))
    names = [entry["name"] for entry in parameters(directory)]
    assert names
    assert all("mlp" in name and not name.endswith("norm.weight") for name in names)
    assert result(directory)["weights_sha256"] != base_sha256(directory)
    done("replay", str(directory), "--output_dir", str(tmp_path / "replayed"))
    assert result(tmp_path / "replayed")["weights_sha256"] == result(directory)["weights_sha256"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--rank", "2"], "`rank` must be 1 with `perturbation` dense, got 2"),
        (["--perturbation", "low_rank", "--rank", "0"], f"`rank` must be an integer in [1, {_core.MAX_RANK}], got 0"),
        (["--vectors", "frozen"], "`vectors` must be full unless `perturbation` is low_rank, got 'frozen'"),
        (["--embeddings", "frozen"], "`embeddings` must be low_rank unless `perturbation` is low_rank, got 'frozen'"),
        (["--engine", "batched"], "has dense noise, which needs separate weights for each member"),
        (["--perturbation", "sparse"], "unknown perturbation 'sparse'"),
        (["--trainable", "*mpl*"], "`trainable`: the pattern '*mpl*' matches no parameter; the nearest names are"),
    ],
)
def test_options_that_contradict_each_other(tmp_path, words, message):
    code, messages = run("train", *SMALL, *words, "--output_dir", str(tmp_path / "run"))
    assert code != 0
    assert message in messages
