"""`es-llm replay D --output_dir E`: base model + journal = trained weights, bit for bit."""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

from es_llm.cli.options import one_process
from es_llm.cli.quiet import quiet_libraries
from es_llm.config.parser import Parser
from es_llm.errors import ConfigError, JournalError, ModelError, ResumeError
from es_llm.team import Team

mailbox = one_process


def add_arguments(parser: Parser) -> None:
    """Where the run is and where the model goes."""
    parser.add_argument("run", help="directory of the run, or its journal")
    parser.add_argument("--output_dir", required=True, help="new directory for model/ and result.json")
    parser.add_argument("--model_name_or_path", help="the base model, if it isn't where the run found it")
    parser.add_argument("--steps", type=int, help="apply only that many iterations")
    parser.add_argument("--device", default="auto", help="cpu, cuda, cuda:<number> or auto; the bits are the same")
    parser.add_argument(
        "--kernel_threads", type=int, default=0, help="threads of the kernels; 0: all cores; the bits are the same"
    )
    parser.add_argument("--trust_remote_code", action="store_true", help="run code that comes with the model")


def run(options: argparse.Namespace, team: Team) -> int:
    """Rebuild the weights, export them, and print their SHA-256."""
    from es_llm._core import Journal
    from es_llm.checkpoint.identity import decode_header

    place = Path(options.run)
    path = place / "journal.es" if place.is_dir() else place
    if not path.is_file():
        raise JournalError(f"no journal at {str(path)!r}")
    journal = Journal.read(str(path))
    header = decode_header(journal.header, str(path))
    steps = len(journal.records) if options.steps is None else options.steps
    if not 0 <= steps <= len(journal.records):
        raise ConfigError(f"`steps` must be in [0, {len(journal.records)}], got {steps}")
    _rebuild(options, journal, header, steps)
    return 0


def _rebuild(options: argparse.Namespace, journal: Any, header: dict[str, Any], steps: int) -> None:
    quiet_libraries()
    from es_llm import _core
    from es_llm.checkpoint.export import export_model, require_replaceable
    from es_llm.checkpoint.replay import replay_records
    from es_llm.checkpoint.run_directory import RunDirectory, write_json
    from es_llm.model.device import device_of_rank
    from es_llm.model.loading import load_model, load_tokenizer
    from es_llm.model.table import ParameterTable
    from es_llm.model.weights import Weights

    _core.set_kernel_threads(options.kernel_threads)
    directory = RunDirectory(Path(options.output_dir))
    directory.refuse_other_run()
    require_replaceable(directory.model.absolute())
    saved, about = header["identity"], header["about"]
    if saved["noise_version"] != _core.NOISE_VERSION:
        raise ResumeError(f"`noise_version` of the journal is {saved['noise_version']}, expected {_core.NOISE_VERSION}")
    name = options.model_name_or_path or about["model_name_or_path"]
    where = {"revision": about.get("revision"), "trust_remote_code": options.trust_remote_code}
    config = saved["config"]
    model = load_model(name, **where)
    device = device_of_rank(options.device, 0)
    table = ParameterTable.from_json(saved["model"]["parameters"])
    try:
        weights = Weights(model, table, dtype=config["dtype"], device=device)
    except ModelError as error:
        raise ResumeError(f"base model {name!r} can't have the journal's weights: {error}") from error
    base = {"base_sha256": weights.sha256(), "frozen_sha256": weights.frozen_sha256()}
    if any(saved["model"][key] != value for key, value in base.items()):
        raise ResumeError(
            f"base model {name!r} has other weights than the run began from: got {base}, "
            f"expected base_sha256 {saved['model']['base_sha256']}; name the right one by --model_name_or_path"
        )
    directory.prepare()
    population = _core.Population(
        run_seed=config["seed"],
        population_size=config["population_size"],
        antithetic=config["antithetic"],
        shaping=config["shaping"],
        failure_policy=config["failure_policy"],
    )
    start = time.perf_counter()
    replay_records(journal.records[:steps], weights, population, journal.digests)
    seconds = time.perf_counter() - start
    weights.unperturb()
    export_model(str(directory.model), model, load_tokenizer(name, **where))
    result = {"steps": steps, "seconds": seconds, "weights_sha256": weights.sha256()}
    write_json(directory.result, result)
    print(f"{steps} iterations replayed in {seconds:.1f} s\nweights_sha256 {result['weights_sha256']}")
