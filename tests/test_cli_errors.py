"""Bad input on the command line: exit code 2, one clear message, nothing written or damaged."""

import contextlib
import io
import json
import shutil
import subprocess
import sys

import pytest

from es_llm.cli import main
from tests.commands import SMALL, es_llm


def es_llm_here(*words):
    """Exit code and messages of a command run in this process, which has imported everything already."""
    messages = io.StringIO()
    with contextlib.redirect_stderr(messages), contextlib.redirect_stdout(io.StringIO()):
        code = main(list(words))
    return code, messages.getvalue()


def refused(*words, ranks=None):
    """The message of a command that must refuse."""
    if ranks is None:
        code, message = es_llm_here(*words)
    else:
        process = es_llm(*words, ranks=ranks)
        code, message = process.returncode, process.stderr
    assert code == 2, message
    assert "Traceback" not in message
    assert message.count("es-llm: error:") == 1, message
    return message


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A finished run of two steps."""
    directory = tmp_path_factory.mktemp("run") / "D"
    assert es_llm_here("train", *SMALL, "--max_steps", "2", "--output_dir", str(directory)) == (0, "")
    return directory


def test_options(tmp_path):
    target = tmp_path / "D"
    for words, message in [
        (["--sigma", "0"], "`sigma` must be a number > 0 and in the range of float32, got 0.0"),
        (["--population_size", "-2"], "`population_size` must be an integer in [2, 2**24], got -2"),
        (["--populaton_size", "3"], "did you mean '--population_size'"),
        (["--task", "countdwn"], "countdown"),
        (["--task_args", "train_sise=3"], "train_size"),
        (["--task_args", "train_size=abc"], "`train_size` must be an integer, got 'abc'"),
        (["--task_args", "train_size=[1"], "'[1'"),
        (["--task_args", "name=3"], "has no option 'name'"),
        (["--sigma", "1e39"], "`sigma` must be a number > 0 and in the range of float32, got 1e+39"),
        (["--model_name_or_path", str(tmp_path / "nowhere")], "nowhere"),
        (["--reward_funcs", "no.such.module.f"], "no.such.module"),
        (["--reward_funcs", str(tmp_path / "none.py") + ":f"], "no file"),
        (["--max_completion_length", "100000"], "context"),
        (["--frozen", "no.such.*"], "no.such.*"),
        (["--report_to", "no_such_tracker"], "no_such_tracker"),
        (["--resume_from_checkpoint", str(tmp_path / "nothing")], "nothing"),
    ]:
        output = ["--output_dir", str(target)] if "--resume_from_checkpoint" not in words else []
        assert message in refused("train", *words, *output), words
        assert not target.exists(), words


@pytest.mark.mpi
def test_every_rank_refuses_once(tmp_path):
    message = refused("train", "--model_name_or_path", str(tmp_path / "nowhere"), ranks=3)
    assert "nowhere" in message
    assert "got -1.0" in refused("train", "--sigma", "-1", ranks=2)


def test_a_broken_model_directory(tmp_path, run):
    broken = tmp_path / "broken"
    shutil.copytree(run / "model", broken)
    weights = broken / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    assert "model.safetensors" in refused(
        "train", "--model_name_or_path", str(broken), "--output_dir", str(tmp_path / "D")
    )
    assert not (tmp_path / "D").exists()


def test_a_configuration_of_the_wrong_type(tmp_path, run):
    broken = tmp_path / "broken"
    shutil.copytree(run / "model", broken)
    config = json.loads((broken / "config.json").read_text())
    (broken / "config.json").write_text(json.dumps({**config, "num_hidden_layers": "x"}))
    assert "num_hidden_layers" in refused("train", "--model_name_or_path", str(broken))


def test_a_reward_module_that_exits(tmp_path):
    (tmp_path / "exits.py").write_text("import sys\nsys.exit(3)\n")
    assert "fails to import" in refused("train", "--reward_funcs", f"{tmp_path}/exits.py:f")


def test_a_model_directory_that_holds_something_else(tmp_path):
    (tmp_path / "D" / "model").mkdir(parents=True)
    (tmp_path / "D" / "model" / "thesis.doc").write_text("mine")
    assert "thesis.doc" in refused("train", *SMALL, "--output_dir", str(tmp_path / "D"))
    assert not (tmp_path / "D" / "journal.es").exists()


def test_a_directory_that_holds_another_run(run):
    before = (run / "journal.es").read_bytes()
    assert "holds another run" in refused("train", *SMALL, "--output_dir", str(run))
    assert (run / "journal.es").read_bytes() == before


def test_resume_with_other_options_names_the_field(run):
    before = (run / "journal.es").read_bytes()
    again = ["train", *SMALL, "--output_dir", str(run), "--resume_from_checkpoint", str(run)]
    message = refused(*again, "--sigma", "0.5")
    assert "`config.sigma` was" in message
    assert "now 0.5" in message
    message = refused(*again, "--seed", "1", "--learning_rate", "9")
    assert "`config.seed` was" in message
    assert "`config.learning_rate` was" in message
    message = refused(*again, "--task_args", "train_size=41")
    assert "train_size" in message
    assert (run / "journal.es").read_bytes() == before


def test_an_output_directory_that_is_a_file(tmp_path):
    (tmp_path / "file").write_text("")
    assert "can't be created" in refused("train", *SMALL, "--output_dir", str(tmp_path / "file"))


def test_a_journal_with_flipped_bytes(run, tmp_path):
    copy = tmp_path / "D"
    shutil.copytree(run, copy)
    data = bytearray((copy / "journal.es").read_bytes())
    data[len(data) // 3] ^= 0x10
    (copy / "journal.es").write_bytes(data)
    for words in (
        ["train", *SMALL, "--output_dir", str(copy), "--resume_from_checkpoint", str(copy)],
        ["replay", str(copy), "--output_dir", str(tmp_path / "E")],
        ["inspect", str(copy)],
    ):
        assert "journal.es" in refused(*words)
    assert (copy / "journal.es").read_bytes() == bytes(data)


def test_a_full_disk_while_the_journal_is_written(tmp_path):
    """A file size limit simulates a full disk: the write fails in the middle of a record."""
    target = tmp_path / "D"
    code = (
        "import resource, sys\n"
        "from es_llm.cli import main\n"
        "from es_llm.checkpoint.run_files import RunFiles\n"
        "append = RunFiles.append_record\n"
        "def full(self, record):\n"
        "    if record.iteration == 1:\n"
        "        size = self.directory.journal.stat().st_size + 20\n"
        "        resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))\n"
        "    append(self, record)\n"
        "RunFiles.append_record = full\n"
        "sys.exit(main(['train', '--output_dir', sys.argv[1], *sys.argv[2:]]))\n"
    )
    words = [*SMALL, "--max_steps", "3"]
    process = subprocess.run(
        [sys.executable, "-c", code, str(target), *words], capture_output=True, text=True, check=False
    )
    assert process.returncode == 2, process.stderr
    assert "journal.es" in process.stderr
    assert "Traceback" not in process.stderr
    assert es_llm_here("train", *words, "--output_dir", str(target), "--resume_from_checkpoint", str(target))[0] == 0
    assert es_llm_here("train", *words, "--output_dir", str(tmp_path / "whole"))[0] == 0
    shas = [json.loads((d / "result.json").read_text())["weights_sha256"] for d in (target, tmp_path / "whole")]
    assert shas[0] == shas[1]
