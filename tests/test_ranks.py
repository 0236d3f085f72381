"""The same run gives the same bits on any number of ranks: weights and rewards, f32 and bf16."""

import pytest

from tests.commands import SMALL, base_sha256, es_llm, result, rewards

pytestmark = pytest.mark.mpi


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """Directory of a run in one process, per live type."""
    runs = {}

    def run(dtype):
        if dtype not in runs:
            runs[dtype] = train(tmp_path_factory.mktemp(dtype) / "run", dtype)
        return runs[dtype]

    return run


def train(directory, dtype, ranks=None):
    """Three ranks are real starts of Python, so that each has a seed of its own for `hash`."""
    words = ["train", *SMALL, "--max_steps", "5", "--seed", "7", "--dtype", dtype, "--output_dir", str(directory)]
    process = es_llm(*words, ranks=ranks, fresh=ranks == 3)
    assert process.returncode == 0, process.stderr
    return directory


@pytest.mark.parametrize(("dtype", "ranks"), [("float32", 2), ("float32", 3), ("float32", 16), ("bfloat16", 3)])
def test_same_bits(alone, tmp_path, dtype, ranks):
    many = train(tmp_path / "many", dtype, ranks)
    one = alone(dtype)
    assert result(many)["ranks"] == ranks
    assert result(many)["weights_sha256"] == result(one)["weights_sha256"]
    assert rewards(many) == rewards(one)
    assert len(set(rewards(one))) == 5
    assert result(one)["weights_sha256"] != base_sha256(one)
    assert result(many)["eval_after"] == result(one)["eval_after"]


def test_another_seed_gives_other_bits(alone, tmp_path):
    words = ["train", *SMALL, "--max_steps", "5", "--seed", "8", "--dtype", "float32"]
    assert es_llm(*words, "--output_dir", str(tmp_path / "other")).returncode == 0
    assert result(tmp_path / "other")["weights_sha256"] != result(alone("float32"))["weights_sha256"]


def test_resume_on_another_number_of_ranks(alone, tmp_path):
    directory = tmp_path / "run"
    words = ["train", *SMALL, "--seed", "7", "--dtype", "float32", "--output_dir", str(directory)]
    assert es_llm(*words, "--max_steps", "2", ranks=3).returncode == 0
    process = es_llm(*words, "--max_steps", "5", "--resume_from_checkpoint", str(directory), ranks=2)
    assert process.returncode == 0, process.stderr
    assert result(directory)["weights_sha256"] == result(alone("float32"))["weights_sha256"]
    assert rewards(directory) == rewards(alone("float32"))
