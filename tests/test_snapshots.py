"""Snapshots are exact, complete and bound to the journal. A resume starts from the newest good snapshot."""

from __future__ import annotations

import json
import threading
from types import SimpleNamespace

import pytest
import torch
from transformers import AutoModelForCausalLM, TrainerCallback

from es_llm import ESConfig, ESTrainer, _core
from es_llm._core import Journal
from es_llm.checkpoint import snapshot as module
from es_llm.checkpoint.run_directory import RunDirectory
from es_llm.checkpoint.snapshot import Snapshots
from es_llm.comm import SingleMailbox
from es_llm.errors import ModelError
from es_llm.model.live import DTYPES
from es_llm.model.weights import Weights
from es_llm.team import Team
from es_llm.trainer.loop.run_log import Progress
from es_llm.trainer.loop.weight_store import WeightStore
from tests.deaf import cut_off
from tests.rank_threads import run_ranks
from tests.tiny_models import ARCHITECTURES, tiny_model, tiny_tokenizer

ROWS = [{"prompt": f"{a:2d} {a + 1:2d} {a + 2:2d}={3 * a + 3:3d}:"} for a in range(1, 9)]


def digits(completions, **columns):
    return [sum(c.isdigit() for c in text) / (1 + len(text)) for text in completions]


class StopAt(TrainerCallback):
    """Raises an error after a step."""

    def __init__(self, step):
        self.step = step

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == self.step:
            raise RuntimeError("power cut")


class SaveAt(TrainerCallback):
    """Asks for a snapshot after a step, and counts the snapshots that were saved."""

    def __init__(self, step):
        self.step, self.saved = step, []

    def on_step_end(self, args, state, control, **kwargs):
        control.should_save = state.global_step == self.step

    def on_save(self, args, state, control, **kwargs):
        self.saved.append(state.global_step)


def make(directory, team=None, callbacks=None, **options):
    options = {
        "population_size": 4, "sigma": 0.02, "learning_rate": 0.02, "max_steps": 8, "max_completion_length": 4,
        "prompts_per_iteration": 4, "output_dir": str(directory), "eval_on_start": False, **options,
    }  # fmt: skip
    return ESTrainer(
        model=None, reward_funcs=digits, args=ESConfig(**options), train_dataset=ROWS, callbacks=callbacks,
        team=team or Team(SingleMailbox()),
    )  # fmt: skip


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """SHA-256 of an undisturbed run's weights."""
    return make(tmp_path_factory.mktemp("whole") / "run").train().metrics["weights_sha256"]


@pytest.fixture
def updates(monkeypatch):
    """The iterations whose updates were applied."""
    made, update = [], Weights.update

    def counted(self, record, **options):
        made.append(record.iteration)
        return update(self, record, **options)

    monkeypatch.setattr(Weights, "update", counted)
    return made


def broken_off(directory, step=7, **options):
    """A run that failed after a step, with snapshots of steps 3 and 6."""
    with pytest.raises(RuntimeError, match="power cut"):
        make(directory, callbacks=[StopAt(step)], save_steps=3, **options).train()
    return directory


def records_of(count):
    population = _core.Population(run_seed=5, population_size=4)
    return [population.tell([0.0, 1.0, 3.0, 2.0], sigma=0.01, learning_rate=0.02) for _ in range(count)]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_the_masters_are_restored_exactly(name, dtype, tmp_path):
    model = tiny_model(name)
    weights, records = Weights(model, dtype=dtype), records_of(1)
    weights.update(records[0])
    Snapshots(tmp_path).write(weights, model, tiny_tokenizer(), records)
    other = Weights(tiny_model(name), dtype=dtype)
    assert other.sha256() != weights.sha256()
    mark = Snapshots(tmp_path).restore(other, records, {0: weights.digest()})
    assert mark.step == 1
    assert other.sha256() == weights.sha256()
    live = [weight.clone() for weight in model.parameters()]
    weights.unperturb()
    loaded, info = AutoModelForCausalLM.from_pretrained(tmp_path / "checkpoint-1", output_loading_info=True)
    assert not any(info.values())
    assert loaded.dtype == DTYPES[dtype]
    assert all(torch.equal(mine, theirs) for mine, theirs in zip(model.parameters(), loaded.parameters(), strict=True))
    assert len(live) == len(list(loaded.parameters()))


def test_a_run_keeps_the_newest_snapshots_and_journals_all(tmp_path, whole):
    output = make(tmp_path / "run", save_steps=3, save_total_limit=2).train()
    assert output.metrics["weights_sha256"] == whole
    assert Snapshots(tmp_path / "run").steps() == [6, 8]
    events = [json.loads(text) for text in Journal.read(tmp_path / "run" / "journal.es").events]
    assert [event["step"] for event in events if event["event"] == "snapshot"] == [3, 6, 8]
    assert not [path for path in (tmp_path / "run").iterdir() if path.name.startswith(".checkpoint")]


def test_a_later_snapshot_that_existed_does_not_displace_the_new_one(tmp_path):
    for step in (3, 6, 9):
        (tmp_path / f"checkpoint-{step}").mkdir()
    Snapshots(tmp_path).keep(6, 1)
    assert Snapshots(tmp_path).steps() == [6, 9]


def test_a_resume_starts_from_the_newest_snapshot(tmp_path, whole, updates):
    directory = broken_off(tmp_path / "run")
    updates.clear()
    output = make(directory).train(resume_from_checkpoint=str(directory))
    assert updates == [6, 7]
    assert output.metrics["weights_sha256"] == whole


def test_a_snapshot_may_be_named_as_transformers_does(tmp_path, whole):
    directory = broken_off(tmp_path / "run")
    output = make(directory).train(resume_from_checkpoint=str(directory / "checkpoint-3"))
    assert output.metrics["weights_sha256"] == whole


@pytest.mark.parametrize("ranks", [1, 3])
def test_several_ranks_start_from_a_snapshot(tmp_path, whole, updates, ranks, monkeypatch):
    directory = broken_off(tmp_path / "run")
    updates.clear()
    one, load = threading.Lock(), module.load_model

    def load_alone(path):  # transformers can't load in several threads
        with one:
            return load(path)

    monkeypatch.setattr(module, "load_model", load_alone)

    def train(mailbox):
        with one:
            trainer = make(directory, team=Team(mailbox))
        return trainer.train(resume_from_checkpoint=str(directory)).metrics

    assert {metrics["weights_sha256"] for metrics in run_ranks(ranks, train)} == {whole}
    assert sorted(updates) == sorted([6, 7] * ranks)


def damage_weights(path):
    data = bytearray((path / "model.safetensors").read_bytes())
    data[-100] ^= 1
    (path / "model.safetensors").write_bytes(data)


def cut_weights(path):
    data = (path / "model.safetensors").read_bytes()
    (path / "model.safetensors").write_bytes(data[:-5])


def forge_digest(path):
    mark = json.loads((path / "es_llm_snapshot.json").read_text())
    (path / "es_llm_snapshot.json").write_text(json.dumps({**mark, "digest": "0" * 16}))


def forge_records(path):
    mark = json.loads((path / "es_llm_snapshot.json").read_text())
    (path / "es_llm_snapshot.json").write_text(json.dumps({**mark, "records_sha256": "0" * 64}))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (damage_weights, "the file is damaged"),
        (cut_weights, "isn't used"),
        (forge_digest, "the journal has another digest for iteration 6"),
        (forge_records, "other records than the journal's"),
        (lambda path: (path / "es_llm_snapshot.json").write_text("{"), "can't be read"),
        (lambda path: (path / "es_llm_snapshot.json").write_text('{"step": 6}'), "can't be read"),
        (lambda path: (path / "es_llm_snapshot.json").unlink(), "can't be read"),
    ],
)
def test_a_bad_snapshot_is_reported_and_the_previous_one_is_used(tmp_path, whole, updates, caplog, damage, message):
    directory = broken_off(tmp_path / "run")
    damage(directory / "checkpoint-6")
    updates.clear()
    output = make(directory).train(resume_from_checkpoint=str(directory))
    assert updates == [3, 4, 5, 6, 7]
    assert output.metrics["weights_sha256"] == whole
    assert message in caplog.text


def test_without_space_for_a_snapshot_the_run_continues(tmp_path, whole, monkeypatch):
    def refuse(*args, **options):
        raise ModelError("no space left on device")

    monkeypatch.setattr(module, "export_model", refuse)
    output = make(tmp_path / "run", save_steps=3).train()
    assert output.metrics["weights_sha256"] == whole
    events = [json.loads(text) for text in Journal.read(tmp_path / "run" / "journal.es").events]
    assert [event["step"] for event in events if event["event"] == "snapshot failed"] == [3, 6, 8]


def test_a_callback_may_ask_for_a_snapshot(tmp_path):
    callback = SaveAt(5)
    make(tmp_path / "run", callbacks=[callback]).train()
    assert callback.saved == [5]
    assert Snapshots(tmp_path / "run").steps() == [5]


class Reports:
    """What a rank reports to its team in a rebuild."""

    rank = 0

    def __init__(self):
        self.signs, self.reported = 0, []

    def alive(self):
        self.signs += 1

    def digest(self, iteration, digest):
        self.reported.append((iteration, digest))


def rebuild(trainer, directory, journal, iteration):
    progress = Progress(records=journal.records)
    log = SimpleNamespace(directory=RunDirectory(directory), digests=journal.digests, progress=progress)
    team = Reports()
    WeightStore(trainer.run, trainer._parts.model, trainer.callbacks, log).rebuild(team, iteration)
    return team


def test_wrong_weights_are_rebuilt_from_the_newest_snapshot(tmp_path, whole, updates):
    directory = broken_off(tmp_path / "run")
    journal = Journal.read(directory / "journal.es")
    trainer, replayed = make(tmp_path / "other"), make(tmp_path / "third").run.weights
    for record in journal.records:
        replayed.update(record)
    updates.clear()
    last = len(journal.records) - 1
    team = rebuild(trainer, directory, journal, last)
    assert team.signs == len(updates) > 0
    assert updates == [6]
    assert trainer.run.weights.sha256() == replayed.sha256()
    assert team.reported == [(last, replayed.digest())]


@pytest.mark.parametrize("compared", [1, 4, 6])
def test_the_digest_of_a_rebuild_is_of_the_iteration_that_is_compared(tmp_path, whole, compared):
    directory = broken_off(tmp_path / "run")
    journal = Journal.read(directory / "journal.es")
    trainer, replayed = make(tmp_path / "other", digest_steps=0), make(tmp_path / "third").run.weights
    expected = {}
    for step, record in enumerate(journal.records, 1):
        replayed.update(record)
        expected[step] = replayed.digest()
    team = rebuild(trainer, directory, journal, compared - 1)
    assert team.reported == [(compared - 1, expected[compared])]
    assert trainer.run.weights.sha256() == replayed.sha256()


def test_a_rank_that_slept_rebuilds_its_weights_between_two_comparisons(tmp_path):
    """The other ranks report no digest of the iteration at which the rank rebuilds its weights."""
    options = {"max_steps": 12, "digest_steps": 4, "unit_timeout_s": 3.0}
    alone = make(tmp_path / "alone", **options).train().metrics["weights_sha256"]
    lock, ready, asleep, awake = threading.Lock(), threading.Barrier(3), threading.Event(), threading.Event()

    class Sleep(TrainerCallback):
        """On rank 2 after iteration 2: a weight changes, and the rank sends and receives nothing until `awake`."""

        def __init__(self):
            self.weights = None

        def on_step_end(self, args, state, control, **given):
            if state.global_step == 2:
                self.weights.master[0].view(-1)[:1].view(torch.int32).bitwise_xor_(1 << 12)
                asleep.set()
                assert awake.wait(60)
                asleep.clear()

    class Wake(TrainerCallback):
        """On rank 0: wakes rank 2 between two comparisons, which are after steps 4 and 8."""

        def on_step_end(self, args, state, control, **given):
            if state.global_step == 6:
                awake.set()

    def work(mailbox):
        callbacks = {0: [Wake()], 1: [], 2: [Sleep()]}[mailbox.rank]
        with lock:
            team = Team(cut_off(mailbox, asleep) if mailbox.rank == 2 else mailbox)
            trainer = make(tmp_path / "team", team, callbacks, **options)
        for callback in callbacks:
            callback.weights = trainer.run.weights
        ready.wait(60)
        trainer.train()
        return trainer.run.weights.sha256()

    assert set(run_ranks(3, work, timeout_s=120)) == {alone}
    events = [json.loads(text) for text in Journal.read(tmp_path / "team" / "journal.es").events]
    reported = [(event["event"], event.get("rank", event.get("ranks"))) for event in events if "rank" in str(event)]
    assert ("lost", 2) in reported
    assert ("diverged", [2]) in reported
