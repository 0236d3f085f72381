"""`es-llm replay D --output_dir E`: rebuild the trained weights from base model and journal, bit for bit."""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from es_llm.cli.options import FinishedRun, add_finished_run, one_process, quiet_libraries, read_run
from es_llm.config import ESConfig
from es_llm.config.fields import option_fields
from es_llm.config.parser import Parser
from es_llm.errors import ConfigError, ModelError, ResumeError
from es_llm.plugins import file_of, sha256_of
from es_llm.team import Team

if TYPE_CHECKING:
    from es_llm.model.weights import Weights
    from es_llm.optimizers import CheckedOptimizer

mailbox = one_process


def add_arguments(parser: Parser) -> None:
    """Add the arguments: the run, where its model goes, and how to work."""
    add_finished_run(parser)
    parser.add_argument("--output_dir", required=True, help="new directory for model/ and result.json")
    parser.add_argument("--model_name_or_path", help="the base model, if it has moved since the run")
    parser.add_argument("--optim", help="the run's optimizer, if its file has moved since the run")
    parser.add_argument("--iterations", type=int, help="apply only the first N iterations")
    parser.add_argument("--device", default="auto", help="cpu, cuda, cuda:<number> or auto; the bits are the same")
    parser.add_argument(
        "--kernel_threads",
        type=int,
        default=0,
        help="threads of the kernels; 0: all cores; the bits are the same",
    )
    parser.add_argument("--trust_remote_code", action="store_true", help="run code that comes with the model")


def run(options: argparse.Namespace, team: Team) -> int:
    """Rebuild the weights, export them, and print their SHA-256."""
    finished = read_run(options.run)
    available = len(finished.journal.records)
    iterations = available if options.iterations is None else options.iterations
    if not 0 <= iterations <= available:
        raise ConfigError(f"`iterations` must be in [0, {available}], got {iterations}")
    _rebuild(options, finished, iterations)
    return 0


def _rebuild(options: argparse.Namespace, finished: FinishedRun, iterations: int) -> None:
    quiet_libraries()
    from es_llm import _core
    from es_llm.checkpoint.export import export_model, require_replaceable
    from es_llm.checkpoint.replay import replay_records
    from es_llm.checkpoint.run_directory import RunDirectory, write_json
    from es_llm.model.loading import load_model, load_tokenizer

    _core.set_kernel_threads(options.kernel_threads)
    directory = RunDirectory(Path(options.output_dir))
    directory.refuse_other_run()
    require_replaceable(directory.model.absolute())
    saved, about = finished.header["identity"], finished.header["about"]
    if saved["noise_version"] != _core.NOISE_VERSION:
        raise ResumeError(f"`noise_version` of the journal is {saved['noise_version']}, expected {_core.NOISE_VERSION}")
    optimizer = _optimizer(saved, options.optim or about["options"].get("optim", "sgd"))
    name = options.model_name_or_path or about["model_name_or_path"]
    source = {"revision": about.get("revision"), "trust_remote_code": options.trust_remote_code}
    model = load_model(name, **source)
    weights = _base_weights(model, name, saved, optimizer, options.device)
    directory.prepare()
    config = saved["config"]
    population = _core.Population(
        run_seed=config["seed"],
        population_size=config["population_size"],
        antithetic=config["antithetic"],
        failure_policy=config["failure_policy"],
    )
    start = time.perf_counter()
    replay_records(finished.journal.records[:iterations], weights, population, finished.journal.digests)
    seconds = time.perf_counter() - start
    weights.unperturb()
    export_model(str(directory.model), model, load_tokenizer(name, **source))
    result = {"steps": iterations, "seconds": seconds, "weights_sha256": weights.sha256()}
    write_json(directory.result, result)
    print(f"{iterations} iterations replayed in {seconds:.1f} s\nweights_sha256 {result['weights_sha256']}")


def _optimizer(saved: dict[str, Any], optim: str) -> CheckedOptimizer:
    """The run's optimizer, from the file that `optim` names.

    Raises:
        ConfigError: there is no such file, or it can't be used.
        ResumeError: it is another optimizer.
    """
    from es_llm.checkpoint.identity import require_same_optimizer
    from es_llm.optimizers import BUILTIN, load_optimizer

    known = {name: value for name, value in saved["config"].items() if name in option_fields(ESConfig)}
    try:
        optimizer = load_optimizer(optim, ESConfig(**{**known, "optim": optim}))
    except ConfigError as error:
        raise ConfigError(f"{error}; if the optimizer's file has moved, name it with --optim") from error
    file = None if optim in BUILTIN else file_of("optimizer", optim, attribute="build")
    require_same_optimizer(saved, optim, sha256_of(file))
    return optimizer


def _base_weights(model: Any, name: str, saved: dict[str, Any], optimizer: CheckedOptimizer, device: str) -> Weights:
    from es_llm.model.device import device_of_rank
    from es_llm.model.table import ParameterTable
    from es_llm.model.weights import Weights

    table = ParameterTable.from_json(saved["model"]["parameters"])
    try:
        weights = Weights(
            model,
            table,
            optimizer=optimizer,
            dtype=saved["config"]["dtype"],
            device=device_of_rank(device, 0),
        )
    except ModelError as error:
        raise ResumeError(f"base model {name!r} doesn't have the journal's parameters: {error}") from error
    base = {"base_sha256": weights.sha256(), "frozen_sha256": weights.frozen_sha256()}
    if any(saved["model"][key] != value for key, value in base.items()):
        raise ResumeError(
            f"base model {name!r} has other weights than those that the run began from: got {base}, "
            f"expected base_sha256 {saved['model']['base_sha256']}; name the right model by --model_name_or_path"
        )
    return weights
