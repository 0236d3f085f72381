"""The journal through the bindings: old versions stay readable; cuts, flipped bits, a full disk and kills."""

import contextlib
import os
import random
import resource
import signal
import subprocess
import sys
import tempfile
import threading
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from es_llm._core import JOURNAL_VERSION, Journal, JournalWriter, Population
from es_llm.errors import JournalCorruptError, JournalError

DATA = os.path.join(os.path.dirname(__file__), "data")
SAMPLES = {version: os.path.join(DATA, f"journal_v{version}.bin") for version in (1, 2)}

APPEND = """
import sys
from es_llm._core import JournalWriter, Population
path, count = sys.argv[1], int(sys.argv[2])
population = Population(run_seed=0, population_size=5)
writer = JournalWriter.create(path, "{}")
print("created", flush=True)
for iteration in range(count):
    fitness = [float(iteration * member % 7) for member in range(5)]
    record = population.tell(fitness, sigma=1e-3, learning_rate=5e-4, cursor=iteration)
    writer.append_record(record)
    population.apply(record)
    print(population.iteration, flush=True)
"""

LIMITED = """
import resource, sys
from es_llm._core import Journal, JournalWriter, Population
from es_llm.errors import JournalError
path = sys.argv[1]
population = Population(run_seed=0, population_size=5)
writer = JournalWriter.create(path, "{}")
def next_record():
    return population.tell([1.0, 2.0, 3.0, 4.0, 5.0], sigma=1e-3, learning_rate=5e-4)
for _ in range(3):
    record = next_record()
    writer.append_record(record)
    population.apply(record)
good = Journal.read(path).good_bytes
resource.setrlimit(resource.RLIMIT_FSIZE, (good + 40, resource.RLIM_INFINITY))
for _ in range(2):
    try:
        writer.append_record(next_record())
    except JournalError as error:
        print(error)
    else:
        sys.exit("the append succeeded")
    assert Journal.read(path).good_bytes == good and Journal.read(path).torn_bytes == 0
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
writer.append_record(next_record())
assert len(Journal.read(path).records) == 4
"""


def tell(population, fitness):
    return population.tell(fitness, sigma=1e-3, learning_rate=5e-4, cursor=10 * population.iteration)


def make(path, iterations=3):
    """A journal of a small run, and its records."""
    population = Population(run_seed=0, population_size=3)
    writer = JournalWriter.create(path, '{"name": "test"}')
    records = []
    for iteration in range(iterations):
        record = tell(population, [1.0, None, float(iteration)])
        writer.append_record(record)
        population.apply(record)
        writer.append_digest(iteration, 2**63 + iteration)
        records.append(record)
    writer.append_event('{"event": "end"}')
    writer.close()
    return records


@pytest.mark.parametrize("version", SAMPLES)
def test_every_version_is_readable_for_ever(version):
    assert max(SAMPLES) == JOURNAL_VERSION
    journal = Journal.read(SAMPLES[version])
    assert journal.version == version
    assert journal.header == '{"format": "sample", "name": "Größe"}'
    assert journal.events == ['{"event": "evaluation", "accuracy": 0.25}']
    assert journal.digests == {0: 0x0123456789ABCDEF, 2: 2**64 - 1}
    assert (journal.good_bytes, journal.torn_bytes) == (os.path.getsize(SAMPLES[version]), 0)
    seed = 2**64 - 3
    if version == 1:
        with pytest.raises(JournalError, match="hold no run seed"):
            _ = journal.records
    first, second, third = journal.with_run_seed(5 if version > 1 else seed).records
    assert {record.run_seed for record in (first, second, third)} == {seed}, "later records hold their seed"
    assert {record.rate_folded for record in (first, second, third)} == {version == 1}
    assert (first.iteration, first.sigma, first.learning_rate, first.cursor) == (0, 0.001, 0.0005, 0)
    assert first.fitness == [0.5, None, -1.25]
    assert first.coefficients.tolist() == [0.25, 0.0, -0.5]
    assert (second.iteration, second.cursor, second.fitness) == (1, 64, [1.0] * 9)
    tiny = float(np.float32(1e-45)) if version == 1 else 1e-45
    assert second.coefficients.tolist() == [tiny, 0.0, 3.0]
    folded = np.array([1e-45, 0.0, 3.0]) * (1.0 if version == 1 else 0.0005 / 9)
    np.testing.assert_array_equal(second.sgd_coefficients(), folded.astype(np.float32))
    assert (third.iteration, third.sigma, third.learning_rate, third.cursor) == (2, 0.002, 1e-05, 2**40)
    assert third.fitness == [None] * 8 + [1e308]
    assert third.coefficients.size == 0


def test_an_old_version_is_not_continued(tmp_path):
    path = tmp_path / "run.journal"
    with open(SAMPLES[1], "rb") as file:
        before = file.read()
    path.write_bytes(before + b"torn")
    for begin in (JournalWriter.open, JournalWriter.take_over):
        with pytest.raises(
            JournalError, match=r"version 1, which is read and replayed, but no longer continued.*es-llm replay"
        ):
            begin(path)
    assert path.read_bytes() == before + b"torn"


def test_what_was_written_is_read(tmp_path):
    path = tmp_path / "run.journal"
    records = make(path)
    journal = Journal.read(path)
    assert journal.header == '{"name": "test"}'
    assert journal.records == records
    assert journal.digests == {0: 2**63, 1: 2**63 + 1, 2: 2**63 + 2}
    assert journal.events == ['{"event": "end"}']
    assert os.listdir(tmp_path) == ["run.journal"]
    expected = f"Journal(version=2, records=3, digests=3, events=1, good_bytes={path.stat().st_size}, torn_bytes=0)"
    assert repr(journal) == expected


def test_any_cut_is_a_prefix_and_the_run_goes_on_to_the_same_bytes(tmp_path):
    path, cut_path = tmp_path / "whole", tmp_path / "cut"
    records = make(path)
    whole = path.read_bytes()
    header = 8 + 13 + len('{"name": "test"}')
    for cut in range(len(whole)):
        cut_path.write_bytes(whole[:cut])
        if cut < header:
            with pytest.raises(JournalError, match="cut"):
                JournalWriter.open(cut_path)
            continue
        writer = JournalWriter.open(cut_path)
        found = Journal.read(cut_path)
        assert found.torn_bytes == 0
        assert found.records == records[: len(found.records)]
        for record in records[max(0, len(found.records) - 1) :]:
            if record.iteration >= len(found.records):
                writer.append_record(record)
            if record.iteration not in found.digests:
                writer.append_digest(record.iteration, 2**63 + record.iteration)
        if not found.events:
            writer.append_event('{"event": "end"}')
        assert cut_path.read_bytes() == whole, f"cut at {cut}"


@pytest.mark.parametrize("version", SAMPLES)
@settings(deadline=None)
@given(st.data())
def test_any_damage_is_refused_or_leaves_a_prefix(version, data):
    with open(SAMPLES[version], "rb") as file:
        whole = file.read()
    records = Journal.read(SAMPLES[version]).with_run_seed(0).records
    damaged = bytearray(whole[: data.draw(st.integers(0, len(whole)))])
    for at in data.draw(st.lists(st.integers(0, max(0, len(damaged) - 1)), max_size=3)):
        if damaged:
            damaged[at] ^= data.draw(st.integers(1, 255))
    with tempfile.NamedTemporaryFile() as file:
        file.write(damaged)
        file.flush()
        try:
            journal = Journal.read(file.name)
        except JournalError:
            return
    assert journal.with_run_seed(0).records == records[: len(journal.with_run_seed(0).records)]
    assert journal.good_bytes + journal.torn_bytes == len(damaged)


def test_damage_in_the_middle_is_located_and_good_records_are_counted(tmp_path):
    path = tmp_path / "run.journal"
    make(path)
    whole = bytearray(path.read_bytes())
    whole[len(whole) // 2] ^= 1
    path.write_bytes(whole)
    with pytest.raises(JournalCorruptError, match=r"at byte \d+, in frame 3: .*; the 1 iterations before it are good"):
        Journal.read(path)
    with pytest.raises(JournalCorruptError):
        JournalWriter.open(path)
    assert path.read_bytes() == whole, "a damaged journal isn't touched"


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"", "is no journal"), (b"{}", "is no journal"), (b"ESLLMJ\x03\x00", "version 3"), (b"ESLLMJ\x02\x00", "header")],
)
def test_files_that_are_no_journal_are_refused(tmp_path, content, message):
    path = tmp_path / "file"
    path.write_bytes(content)
    with pytest.raises(JournalError, match=message):
        Journal.read(path)
    with pytest.raises(JournalError, match="No such file"):
        Journal.read(tmp_path / "missing")


def test_create_refuses_an_existing_file_and_a_missing_directory(tmp_path):
    path = tmp_path / "run.journal"
    path.write_text("precious")
    with pytest.raises(JournalError, match="never overwritten"):
        JournalWriter.create(path, "{}")
    assert path.read_text() == "precious"
    with pytest.raises(JournalError, match="No such file"):
        JournalWriter.create(tmp_path / "missing" / "run.journal", "{}")
    assert os.listdir(tmp_path) == ["run.journal"]


def test_only_one_of_many_threads_creates_the_journal(tmp_path):
    path, made = tmp_path / "run.journal", []

    def create(number):
        with contextlib.suppress(JournalError):
            made.append((number, JournalWriter.create(path, str(number))))

    threads = [threading.Thread(target=create, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [str(number) for number, _ in made] == [Journal.read(path).header]
    assert os.listdir(tmp_path) == ["run.journal"]


def test_order_is_kept_and_a_closed_writer_refuses(tmp_path):
    path = tmp_path / "run.journal"
    population = Population(run_seed=0, population_size=2)
    record = tell(population, [1.0, 2.0])
    writer = JournalWriter.create(path, "{}")
    with pytest.raises(JournalError, match="a digest of iteration 1, whose record isn't written"):
        writer.append_digest(0, 1)
    writer.append_record(record)
    with pytest.raises(JournalError, match="expected the record of iteration 2, got iteration 1"):
        writer.append_record(record)
    writer.append_digest(0, 1)
    with pytest.raises(JournalError, match="differs"):
        writer.append_digest(0, 2)
    other = JournalWriter.open(path)
    other.append_event("{}")
    with pytest.raises(JournalError, match="another process cut it or writes to it"):
        writer.append_event("{}")
    writer.close()
    writer.close()
    with pytest.raises(JournalError, match="closed"):
        writer.append_event("{}")
    path.unlink()
    with pytest.raises(JournalError, match="deleted"):
        other.append_event("{}")


def test_a_full_disk_keeps_good_records_and_the_writer_stays_usable(tmp_path):
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[1] == resource.RLIM_INFINITY
    path = str(tmp_path / "run.journal")
    done = subprocess.run([sys.executable, "-c", LIMITED, path], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for line in done.stdout.splitlines():
        assert path in line
        assert "File too large" in line
        assert "its 3 iterations are safe" in line


def test_a_journal_that_does_not_fit_leaves_nothing_behind(tmp_path):
    code = """
import resource, sys
from es_llm._core import JournalWriter
resource.setrlimit(resource.RLIMIT_FSIZE, (20, resource.RLIM_INFINITY))
JournalWriter.create(sys.argv[1], '{"name": "longer than the disk"}')
"""
    command = [sys.executable, "-c", code, str(tmp_path / "run.journal")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert "es_llm.errors.JournalError" in done.stderr
    assert "can't create it: File too large" in done.stderr
    assert os.listdir(tmp_path) == []


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(12))
def test_a_kill_at_any_moment_leaves_at_least_what_was_reported(tmp_path, seed):
    path = tmp_path / "run.journal"
    delay = random.Random(seed)
    worker = subprocess.Popen([sys.executable, "-c", APPEND, path, "100000"], stdout=subprocess.PIPE, text=True)
    assert worker.stdout is not None
    assert worker.stdout.readline() == "created\n"
    time.sleep(delay.uniform(0, 0.15))
    worker.send_signal(signal.SIGKILL)
    lines = worker.stdout.read().splitlines(keepends=True)
    worker.stdout.close()
    worker.wait()
    written = max((int(line) for line in lines if line.endswith("\n")), default=0)
    journal = Journal.read(path)
    assert len(journal.records) in (written, written + 1)
    for iteration, record in enumerate(journal.records):
        assert (record.iteration, record.cursor) == (iteration, iteration)
        assert record.fitness == [float(iteration * member % 7) for member in range(5)]
    JournalWriter.open(path).append_event("{}")
    assert Journal.read(path).torn_bytes == 0


def test_a_writer_reads_its_own_file(tmp_path):
    """A writer reads the file that it opened, even if another file has the name now."""
    path = str(tmp_path / "journal.es")
    JournalWriter.create(path, "{}").close()
    old = JournalWriter.take_over(path)
    old.append_event('{"event": "old"}')
    new = JournalWriter.take_over(path)
    new.append_event('{"event": "new"}')
    assert old.journal().events == ['{"event": "old"}']
    assert new.journal().events == ['{"event": "old"}', '{"event": "new"}'] == Journal.read(path).events
    new.close()
    with pytest.raises(JournalError, match="closed"):
        new.journal()
