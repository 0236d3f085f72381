"""`es-llm eval`: evaluate a model on held-out rows, greedily and, with `--eval_num_samples`, on samples."""

from __future__ import annotations

import argparse
import json
import logging
import sys
from pathlib import Path

from es_llm.cli.options import add_run_options, quiet_libraries, run_mailbox, run_options
from es_llm.config import ESConfig
from es_llm.config.parser import Parser
from es_llm.errors import ConfigError
from es_llm.team import Team, together

logger = logging.getLogger(__name__)

mailbox = run_mailbox


def add_arguments(parser: Parser) -> None:
    """Add all options of a run; options that only concern training have no effect."""
    add_run_options(parser)
    parser.add_argument(
        "--base_model_name_or_path", default=argparse.SUPPRESS, help="model that `eval_kl` compares with"
    )
    parser.add_argument("--output", default=argparse.SUPPRESS, help="JSON file for the metrics, which are printed too")


def run(options: argparse.Namespace, team: Team) -> int:
    """Evaluate. The leader prints the metrics as JSON to the standard output, and as a table to the standard error."""
    output, base = getattr(options, "output", None), getattr(options, "base_model_name_or_path", None)
    script, config = run_options(options)
    if output is not None and not Path(output).parent.is_dir():
        raise ConfigError(f"`output` {output!r}: there is no directory {str(Path(output).parent)!r}")
    quiet_libraries()
    from es_llm.assemble import assemble
    from es_llm.checkpoint.run_directory import write_json
    from es_llm.cli.show import show_answers, show_metrics

    trainer = together(team, lambda: assemble(script, config, team))
    if base is not None:
        together(team, lambda: trainer.compare_with(base))
    elif config.eval_kl:
        logger.warning("`eval_kl` compares the model with itself; name its base model with --base_model_name_or_path")
    if team.rank == 0:
        print("\n".join(trainer.prompt_lines(held_out=True)), file=sys.stderr, flush=True)
    metrics = trainer.evaluate()
    if team.leads:
        if config.log_completions:
            show_answers(trainer.answers, sys.stderr)
            print(f"\n{_where_completions_are(config)}", file=sys.stderr)
        show_metrics(metrics, sys.stderr)
        sys.stderr.flush()
        print(json.dumps(metrics, indent=2))
        if output is not None:
            write_json(Path(output), metrics)
    return 0


def _where_completions_are(config: ESConfig) -> str:
    if config.output_dir is None:
        return "completions are not kept: `log_completions` needs `output_dir`"
    return f"completions  {Path(config.output_dir) / 'completions'}/eval-rank*.parquet"
