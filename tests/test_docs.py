"""Pages of the documentation: links have targets, and the page of options is up to date."""

import re
import subprocess
import sys
from pathlib import Path
from urllib.parse import unquote

import pytest

ROOT = Path(__file__).parent.parent
PAGES = sorted(path for room in (".", "benches", "dev", "docs") for path in ROOT.glob(f"{room}/*.md"))
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")


def headings(page):
    """Anchors of a page's headings, as GitHub makes them."""
    titles = re.findall(r"^#+ (.*)$", page.read_text(), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_relative_links_have_targets(page):
    for target in LINK.findall(page.read_text()):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = unquote(target).partition("#")
        linked = (page.parent / path).resolve() if path else page
        assert linked.exists(), f"{page.name}: {target} doesn't exist"
        assert linked.is_relative_to(ROOT.resolve()), f"{page.name}: {target} is outside the project"
        assert not anchor or anchor in headings(linked), f"{page.name}: {target} has no such heading"


def test_there_are_links():
    assert sum(len(LINK.findall(page.read_text())) for page in PAGES) > 10


def test_the_page_of_options_is_up_to_date():
    made = subprocess.run(
        [sys.executable, str(ROOT / "scripts" / "make_options_page.py")], capture_output=True, text=True, check=True
    )
    command = "python scripts/make_options_page.py > docs/options.md"
    assert (ROOT / "docs" / "options.md").read_text() == made.stdout, f"docs/options.md is old; run `{command}`"
