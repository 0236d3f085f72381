"""Engines by name: an engine in one file outside the package runs from the command line."""

from pathlib import Path

import pytest

from es_llm._core import Journal
from es_llm.errors import ConfigError
from es_llm.rollout import BUILTIN, load_engine
from es_llm.rollout.engine import LogProbs
from es_llm.rollout.engines.hf import HFEngine
from tests.commands import SMALL, base_sha256, es_llm, result, rewards
from tests.fake_engine import GATE, UP
from tests.tiny_models import tiny_model, tiny_tokenizer

FILE = Path(__file__).with_name("fake_engine.py")
RUN = ["train", *SMALL, "--max_steps", "2", "--seed", "3"]


def load(name):
    return load_engine(name, tiny_model(), tiny_tokenizer(), max_completion_length=4)


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """Installs a package with an entry point on the PYTHONPATH of the processes that a test starts."""
    site = tmp_path / "site"
    about = site / "fake_engines-1.0.dist-info"
    about.mkdir(parents=True)
    (site / "fake_engines.py").write_text(FILE.read_text())
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: fake-engines\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text("[es_llm.engines]\nfake = fake_engines:FakeEngine\n")
    monkeypatch.setenv("PYTHONPATH", str(site), prepend=":")


def test_built_in_engines():
    assert list(BUILTIN) == ["batched", "hf"]
    engine = load("hf")
    assert isinstance(engine, HFEngine)
    assert isinstance(engine, LogProbs)


@pytest.mark.parametrize("how", ["path", "path:name", "entry point"])
def test_an_engine_outside_the_package_trains(tmp_path, installed, how):
    name = {"path": str(FILE), "path:name": f"{FILE}:FakeEngine", "entry point": "fake"}[how]
    process = es_llm(*RUN, "--engine", name, "--eval_num_samples", "2", "--output_dir", str(tmp_path / "run"))
    assert process.returncode == 0, process.stderr
    assert "fake prompt: " in process.stdout
    assert "es-llm: answers are fake" in process.stderr
    header = Journal.read(tmp_path / "run" / "journal.es").header
    assert f'"engine": "{Path(name).name}"' in header, "a file is known by its name, wherever it is"
    assert result(tmp_path / "run")["weights_sha256"] != base_sha256(tmp_path / "run")
    assert len(set(rewards(tmp_path / "run"))) == 2
    again = ["--max_steps", "3", "--resume_from_checkpoint", str(tmp_path / "run")]
    other = es_llm(*RUN, *again)
    assert other.returncode == 2
    assert "`config.engine` was " in other.stderr
    process = es_llm(*RUN, *again, "--engine", name, "--eval_num_samples", "2")
    assert process.returncode == 0, process.stderr
    assert result(tmp_path / "run")["steps"] == 3


def test_a_run_with_an_engine_of_its_own_weights_exports_them(tmp_path):
    words = ["--engine", str(FILE), "--output_dir", str(tmp_path / "run")]
    assert es_llm(*RUN, *words).returncode == 0
    replayed = es_llm("replay", str(tmp_path / "run"), "--output_dir", str(tmp_path / "again"))
    assert replayed.returncode == 0, replayed.stderr
    assert result(tmp_path / "again")["weights_sha256"] == result(tmp_path / "run")["weights_sha256"]
    header = Journal.read(tmp_path / "run" / "journal.es").header
    assert GATE in header
    assert UP in header
    assert "down_proj" not in header.partition('"parameters"')[2], "parameters without a target are not trained"
    files = [tmp_path / name / "model" / "model.safetensors" for name in ("run", "again")]
    assert files[0].read_bytes() == files[1].read_bytes()


def test_several_members_in_a_unit_give_the_same_run(tmp_path):
    """The fake engine's answers don't depend on the batch, so units of any size must give the same weights."""
    both = tmp_path / "both.py"
    both.write_text(FILE.read_text().replace("members_per_unit = 1", "members_per_unit = 2"))
    for name, engine in (("one", FILE), ("two", both)):
        process = es_llm(*RUN, "--engine", str(engine), "--output_dir", str(tmp_path / name))
        assert process.returncode == 0, process.stderr
    assert result(tmp_path / "two")["weights_sha256"] == result(tmp_path / "one")["weights_sha256"]
    assert rewards(tmp_path / "two") == rewards(tmp_path / "one")


def test_kl_needs_log_probabilities(tmp_path):
    words = ["--engine", str(FILE), "--eval_num_samples", "2", "--eval_kl", "--output_dir", str(tmp_path / "run")]
    process = es_llm(*RUN, *words)
    assert process.returncode == 2
    assert f"`eval_kl` needs an engine with `log_probs`, the engine {str(FILE)!r} has none" in process.stderr


def test_an_engine_without_all_methods_is_refused(tmp_path):
    path = tmp_path / "half.py"
    path.write_text(
        "class Half:\n    members_per_unit = 1\n    def __init__(self, *given, **named): pass\nbuild = Half\n"
    )
    with pytest.raises(ConfigError, match=r"half.py': Half has no `targets`, `attach`, `evaluate`, "):
        load(str(path))


def test_an_unknown_engine_is_refused():
    with pytest.raises(ConfigError, match=r"unknown engine 'hfx'; did you mean 'hf'\? \(known: batched, hf"):
        load("hfx")
