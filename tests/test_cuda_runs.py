"""Whole runs on a GPU: ranks that share it, deaths, interruptions and replays, always with the same weights."""

import os
import signal

import pytest
import torch

from tests.commands import es_llm, result, rewards
from tests.jobs import WORDS, Job, kill, same, steps, wait_until
from tests.tiny_models import tiny_model, tiny_tokenizer

pytestmark = [pytest.mark.gpu, pytest.mark.mpi, pytest.mark.slow]

if not torch.cuda.is_available():
    pytest.skip("no CUDA device", allow_module_level=True)

DEVICE = "cuda"
LARGER = {
    "hidden_size": 512, "intermediate_size": 1408, "num_hidden_layers": 12, "num_attention_heads": 8,
    "num_key_value_heads": 2, "head_dim": 64, "initializer_range": 0.05, "max_position_embeddings": 512,
}  # fmt: skip
"""A model of 35 M parameters: its matrix products are those of tensor cores in bfloat16."""


@pytest.fixture(scope="module", params=["embedded", "bfloat16", "batched"])
def options(request, tmp_path_factory):
    """Options of a run on the GPU, with the embedded model or a larger one."""
    if request.param == "embedded":
        return ["--device", DEVICE]
    if request.param == "batched":
        return ["--device", DEVICE, "--engine", "batched", "--perturbation", "low_rank", "--rank", "2"]
    base = tmp_path_factory.mktemp("base")
    tiny_model("qwen2", **LARGER).save_pretrained(base)
    tiny_tokenizer().save_pretrained(base)
    return ["--device", DEVICE, "--model_name_or_path", str(base), "--dtype", "bfloat16"]


@pytest.fixture(scope="module")
def alone(options, tmp_path_factory):
    """The directory of a run in one process."""
    directory = tmp_path_factory.mktemp("alone") / "run"
    ran = es_llm(*WORDS, *options, "--output_dir", str(directory))
    assert ran.returncode == 0, ran.stderr
    assert len(set(rewards(directory))) > 1, "a run in which nothing changes proves nothing"
    return directory


def test_ranks_that_share_a_gpu_give_the_bits_of_one_rank(options, alone, tmp_path):
    job = Job(tmp_path / "D", *options, ranks=3)
    code, output = job.end()
    assert code == 0, output
    assert same(tmp_path / "D", alone)
    assert rewards(tmp_path / "D") == rewards(alone)


def test_masters_in_host_memory_have_the_same_bits(options, alone, tmp_path):
    ran = es_llm(*WORDS, *options, "--master_device", "cpu", "--output_dir", str(tmp_path / "D"))
    assert ran.returncode == 0, ran.stderr
    assert same(tmp_path / "D", alone)
    assert rewards(tmp_path / "D") == rewards(alone)


@pytest.mark.parametrize("device", ["cpu", DEVICE])
def test_a_replay_has_the_same_bits_on_either_device(alone, tmp_path, device):
    replayed = es_llm("replay", str(alone), "--output_dir", str(tmp_path / "R"), "--device", device)
    assert replayed.returncode == 0, replayed.stderr
    assert same(tmp_path / "R", alone)


def test_a_run_of_the_cpu_is_replayed_on_the_gpu(options, tmp_path):
    ran = es_llm(*WORDS, *options, "--device", "cpu", "--max_steps", "4", "--output_dir", str(tmp_path / "D"))
    assert ran.returncode == 0, ran.stderr
    replayed = es_llm("replay", str(tmp_path / "D"), "--output_dir", str(tmp_path / "R"), "--device", DEVICE)
    assert replayed.returncode == 0, replayed.stderr
    assert same(tmp_path / "R", tmp_path / "D")


@pytest.mark.parametrize("victims", [[0], [0, 2]])
def test_ranks_that_die_on_a_gpu_are_survived(options, alone, tmp_path, victims):
    job = Job(tmp_path / "D", *options, ranks=3)
    wait_until(lambda: steps(tmp_path / "D") >= 3)
    pids = job.pids()
    for rank in victims:
        kill(pids[rank])
    code, output = job.end()
    assert code == 0, output
    assert same(tmp_path / "D", alone)
    assert rewards(tmp_path / "D") == rewards(alone)


def test_an_interrupted_run_continues_on_another_number_of_ranks(options, alone, tmp_path):
    job = Job(tmp_path / "D", *options, ranks=3)
    wait_until(lambda: steps(tmp_path / "D") >= 3)
    os.kill(job.pids()[1], signal.SIGTERM)
    code, output = job.end()
    assert code == 75, output
    assert steps(tmp_path / "D") < 16
    again = ["--output_dir", str(tmp_path / "D"), "--resume_from_checkpoint", str(tmp_path / "D")]
    ran = es_llm(*WORDS, *options, *again, ranks=2)
    assert ran.returncode == 0, ran.stderr
    assert same(tmp_path / "D", alone)
    assert result(tmp_path / "D")["steps"] == 16
