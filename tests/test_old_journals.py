"""A run of journal format version 1, made before version 2 existed: it is replayed to the same bits, not continued."""

import shutil
from pathlib import Path

from .commands import es_llm, result

RUN_V1 = Path(__file__).parent / "data" / "run_v1.es"
SHA256 = "e189724c2195f5d1df461b1d462d147eb98d02449a3ff45e7c080b434e54bae3"
"""SHA-256 of the weights after the four iterations, as the run printed it: 6 members in antithetic pairs, embedded
model."""
OPTIONS = [
    "--population_size", "6", "--antithetic", "true", "--prompts_per_iteration", "32", "--sigma", "0.02",
    "--learning_rate", "0.05", "--eval_on_start", "false", "--max_eval_samples", "4", "--digest_steps", "2",
]  # fmt: skip


def test_a_version_1_run_replays_to_its_weights(tmp_path):
    process = es_llm("replay", str(RUN_V1), "--output_dir", str(tmp_path / "replayed"), fresh=True)
    assert process.returncode == 0, process.stderr
    assert result(tmp_path / "replayed")["weights_sha256"] == SHA256
    process = es_llm("inspect", str(RUN_V1), fresh=True)
    assert process.returncode == 0, process.stderr
    assert "version 1" in process.stdout


def test_a_version_1_run_is_not_continued(tmp_path):
    shutil.copy(RUN_V1, tmp_path / "journal.es")
    before = (tmp_path / "journal.es").read_bytes()
    process = es_llm("train", *OPTIONS, "--max_steps", "5", "--resume_from_checkpoint", str(tmp_path))
    assert process.returncode != 0
    assert "format version 1, which is read and replayed, but no longer continued" in process.stderr
    assert "es-llm replay" in process.stderr
    assert (tmp_path / "journal.es").read_bytes() == before
