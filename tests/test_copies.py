"""The copy of the journal that a host keeps which doesn't see the leader's directory."""

import pytest

from es_llm._core import Population
from es_llm.checkpoint.identity import encode_header
from es_llm.checkpoint.lock import read_holder
from es_llm.checkpoint.opening import RunOpener
from es_llm.checkpoint.run_directory import RunDirectory
from es_llm.config import ESConfig
from es_llm.errors import ConfigError


def population():
    return Population(run_seed=3, population_size=2)


def opener(directory, rank, job="job"):
    """Opens the run's directory as this host names it, on a rank of this host."""
    header = encode_header({"config": {}}, {})
    config = ESConfig(output_dir=str(directory))
    return RunOpener(config=config, population=population(), header=header, name="D", job=job, rank=rank)


@pytest.fixture
def known():
    run, records = population(), []
    for _ in range(3):
        record = run.tell([0.0, 1.0], sigma=0.1, learning_rate=0.1)
        run.apply(record)
        records.append(run.pack(record))
    return records


def packed(files):
    return [population().pack(record) for record in files.saved]


def test_a_copy_holds_the_known_records_and_its_lock_names_the_job(tmp_path, known):
    copy = opener(tmp_path, 2).copy(RunDirectory(tmp_path), known)
    assert packed(copy) == known
    assert (read_holder(tmp_path)["job"], read_holder(tmp_path)["rank"]) == ("job", 2)
    assert opener(tmp_path, 3).copy(RunDirectory(tmp_path), known) is None, "the host has a copy, or sees the leader's"
    copy.close()
    assert read_holder(tmp_path) == {}


@pytest.mark.parametrize("left", [False, True], ids=["kept", "left"])
def test_a_rank_that_starts_late_leads_from_the_copy_of_its_host(tmp_path, known, left):
    """The rank never heard of the leader, such as after a slow start, while another rank of its host did."""
    copy = opener(tmp_path, 2).copy(RunDirectory(tmp_path), known)
    if left:
        copy.leave()
    files = opener(tmp_path, 3).open()
    assert packed(files) == known
    files.close()
    copy.leave()


def test_another_job_gets_no_copy_in_its_way(tmp_path, known, caplog):
    copy = opener(tmp_path, 2).copy(RunDirectory(tmp_path), known)
    with pytest.raises(ConfigError, match="is in use by process"):
        opener(tmp_path, 0, job="another").open()
    assert opener(tmp_path, 0, job="another").copy(RunDirectory(tmp_path), known) is None
    assert "this host keeps no copy of the journal: `output_dir`" in caplog.text
    copy.close()
    with pytest.raises(ConfigError, match="holds another run"):
        opener(tmp_path, 0, job="another").open()
