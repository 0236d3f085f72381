"""Training on sampled answers: the choice of tokens, common random numbers, and runs."""

import numpy as np
import pytest
import torch
from transformers.generation import RepetitionPenaltyLogitsProcessor

from es_llm import _core
from es_llm.model.table import ParameterTable
from es_llm.model.weights import Weights
from es_llm.noise.streams import SAMPLES, TRAINING_SAMPLES
from es_llm.rollout import load_engine
from es_llm.rollout.engine import LiveMember, Sampling
from es_llm.rollout.sampling import Sampler, uniforms
from tests.commands import SMALL, base_sha256, es_llm, result, rewards
from tests.test_low_rank_runs import done
from tests.tiny_models import tiny_model, tiny_tokenizer

SAMPLED = ["train", *SMALL, "--seed", "7", "--temperature", "1.0", "--num_generations", "2"]
LOGITS = torch.tensor([[4.0, 3.0, 2.0, 1.0, 0.0, -1.0]])


def drawn(count=3000, prompt=(), **options):
    """Frequencies of the first tokens of many samples of `LOGITS`."""
    sampling = Sampling(**{"temperature": 1.0, "addresses": [(0, n) for n in range(count)], **options})
    sampler = Sampler(sampling, [list(prompt)] * count, steps=1)
    rows = torch.arange(count)
    tokens = sampler(LOGITS.expand(count, -1), rows, torch.zeros_like(rows))
    return torch.bincount(tokens, minlength=LOGITS.shape[1]) / count


def softmax(logits, kept=slice(None)):
    weights = torch.zeros(logits.shape[-1])
    weights[kept] = torch.softmax(logits.squeeze(0), -1)[kept]
    return weights / weights.sum()


@pytest.mark.parametrize(
    ("options", "wanted"),
    [
        ({}, softmax(LOGITS)),
        ({"temperature": 2.0}, softmax(LOGITS / 2)),
        ({"top_k": 2}, softmax(LOGITS, [0, 1])),
        ({"top_p": 0.8}, softmax(LOGITS, [0, 1])),
        ({"min_p": 0.1}, softmax(LOGITS, [0, 1, 2])),
        ({"temperature": 0.0}, softmax(LOGITS, [0])),
        ({"temperature": 0.0, "repetition_penalty": 2.0, "prompt": [0]}, softmax(LOGITS, [1])),
    ],
)
def test_tokens_follow_the_filtered_probabilities(options, wanted):
    observed = drawn(**options)
    assert (observed[wanted == 0] == 0).all()
    assert (observed - wanted).abs().max() < 0.035


def test_the_repetition_penalty_is_that_of_transformers():
    prompt, generator = [3, 5, 5], torch.Generator().manual_seed(0)
    sampler = Sampler(Sampling(temperature=0.0, repetition_penalty=1.7, addresses=[(0, 0)]), [prompt], steps=4)
    reference, ids = RepetitionPenaltyLogitsProcessor(1.7), list(prompt)
    row = torch.zeros(1, dtype=torch.long)
    for count in range(4):
        logits = torch.randn(1, 8, generator=generator)
        wanted = int(reference(torch.tensor([ids]), logits.clone()).argmax(-1))
        assert int(sampler(logits, row, row + count)) == wanted
        ids.append(wanted)


def test_training_and_evaluation_draw_other_numbers():
    address = [(1, 2), (3, 4)]
    numbers = [uniforms(stream, 5, address, 6) for stream in (SAMPLES, TRAINING_SAMPLES)]
    assert np.abs(numbers[0] - numbers[1]).min() > 0
    np.testing.assert_array_equal(numbers[0][1], uniforms(SAMPLES, 5, [(3, 4)], 6)[0])


# ---- engines ------------------------------------------------------------------------------------


def attached(name, model, **options):
    engine = load_engine(name, model, tiny_tokenizer(), max_completion_length=10, **options)
    table = ParameterTable.from_module(model, perturbation="low_rank")
    engine.attach(LiveMember(Weights(model, table, targets=engine.targets())))
    return engine


def test_members_with_equal_weights_give_equal_samples():
    """The random numbers belong to the prompt and the sample, not to the member."""
    engine = attached("hf", tiny_model("qwen2"))
    members = _core.Population(run_seed=1, population_size=3).ask(sigma=1e-12)
    sampling = Sampling(temperature=2.0, addresses=[(0, 0), (0, 1), (1, 0)])
    first, *others = engine.evaluate([None, *members], ["ab", "ab", "c"], sampling)
    assert all(other == first for other in others)
    assert first[0] != first[1], "two samples of one prompt differ"


# ---- runs -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """Directory of a run of three iterations in one process."""
    directory = tmp_path_factory.mktemp("sampled") / "run"
    done(*SAMPLED, "--max_steps", "3", "--output_dir", str(directory))
    return directory


def test_a_run_on_samples_trains_and_resumes(alone, tmp_path):
    assert result(alone)["weights_sha256"] != base_sha256(alone)
    directory = tmp_path / "run"
    done(*SAMPLED, "--max_steps", "1", "--output_dir", str(directory))
    words = ["--output_dir", str(directory), "--resume_from_checkpoint", str(directory), "--max_steps", "3"]
    done(*SAMPLED, *words)
    assert result(directory)["weights_sha256"] == result(alone)["weights_sha256"]
    done("replay", str(directory), "--output_dir", str(tmp_path / "replayed"))
    assert result(tmp_path / "replayed")["weights_sha256"] == result(alone)["weights_sha256"]


@pytest.mark.mpi
def test_two_ranks_draw_the_same_samples(alone, tmp_path):
    directory = tmp_path / "run"
    process = es_llm(*SAMPLED, "--max_steps", "3", "--output_dir", str(directory), ranks=2)
    assert process.returncode == 0, process.stderr
    assert rewards(directory) == rewards(alone)
    assert result(directory)["weights_sha256"] == result(alone)["weights_sha256"]


@pytest.mark.parametrize("fixed", [False, True])
def test_an_iteration_draws_new_samples_or_keeps_them(fixed, tmp_path):
    """With the same prompts in each iteration, no update, and a sigma that changes no answer."""
    directory = tmp_path / "run"
    words = ["--prompt_schedule", "fixed", "--sigma", "1e-12", "--learning_rate", "1e-12", "--max_steps", "3"]
    done(*SAMPLED, *words, "--fixed_samples", str(fixed).lower(), "--output_dir", str(directory))
    assert (len(set(rewards(directory))) == 1) == fixed
