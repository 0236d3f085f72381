"""Print docs/options.md, which lists all options with their values, defaults and meaning.

    python scripts/make_options_page.py > docs/options.md

`tests/test_docs.py` checks that the page is up to date.
"""

from __future__ import annotations

import typing
from dataclasses import Field
from typing import Any

from es_llm.config import ESConfig, ScriptArguments
from es_llm.config.checks import allowed_values
from es_llm.config.fields import default_of, option_topics
from es_llm.config.resolve import EMBEDDED_DEFAULTS

HEAD = """# Options

This page is generated: `python scripts/make_options_page.py > docs/options.md`.

Each option is a flag (`--sigma 0.001`), a name in a YAML or TOML file (`--config run.yaml`), and a field of
[`ESConfig`](../python/es_llm/config/es.py) or, for the options of the command line alone, of
[`ScriptArguments`](../python/es_llm/config/script.py). Flags override the file. A list is given as `--frozen A B`, a
mapping as `--task_args name=value other=value`, and true or false as `--antithetic` or `--antithetic false`.

Options with "yes" in the column "identity" decide the weights of the run, bit for bit. The journal holds their values,
and a run can only be resumed with the same values. The other options may change when a run is resumed, as long as the
model stays the same. An option with an empty default is not set by default.
"""

TABLE = """| option | values | default | identity | meaning |
| --- | --- | --- | --- | --- |
"""

EMBEDDED = """
## The embedded model

Without `model_name_or_path` a run trains the embedded model, and these options have other defaults:

"""


def page() -> str:
    """The page as Markdown."""
    hints = {**typing.get_type_hints(ScriptArguments), **typing.get_type_hints(ESConfig)}
    parts = [HEAD]
    for topic, specs in option_topics(ScriptArguments, ESConfig).items():
        parts.append(f"\n## {topic}\n\n{TABLE}")
        parts += [row(spec, hints[spec.name]) for spec in specs]
    parts += [EMBEDDED, "| option | default |\n| --- | --- |\n"]
    parts += [f"| `{name}` | {shown(value)} |\n" for name, value in EMBEDDED_DEFAULTS.items()]
    return "".join(parts)


def row(spec: Field[Any], declared: Any) -> str:
    """One option as a line of a table."""
    values = ", ".join(f"`{choice}`" for choice in spec.metadata["choices"] or ()) or in_words(spec, declared)
    identity = "yes" if spec.metadata["identity"] else ""
    cells = [f"`{spec.name}`", values, shown(default_of(spec)), identity, escaped(spec.metadata["help"])]
    return f"| {' | '.join(cells)} |\n"


def escaped(text: str) -> str:
    """Text that Markdown shows as it is."""
    return text.replace("<", "&lt;").replace("**", "\\*\\*").replace("|", "\\|")


def in_words(spec: Field[Any], declared: Any) -> str:
    """The values of an option without choices; for lists with the type of their items."""
    lists = [part for part in (declared, *typing.get_args(declared)) if typing.get_origin(part) is list]
    words = allowed_values(spec, declared).replace("a list", f"a list of {ITEMS[lists[0]]}" if lists else "")
    return escaped(words.removeprefix("an ").removeprefix("a ")).replace("true or false", "`true`, `false`")


ITEMS = {list[str]: "texts", list[float]: "numbers"}


def shown(value: Any) -> str:
    """A value as a configuration file has it; empty for no value."""
    if isinstance(value, dict):
        return ", ".join(f"`{name}={inner}`" for name, inner in value.items())
    if value is None or value == []:
        return ""
    return f"`{str(value).lower() if isinstance(value, bool) else value}`"


if __name__ == "__main__":
    print(page(), end="")
