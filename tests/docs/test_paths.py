"""Everything that the documentation points to is there: files, folders, modules, links, headings, lines."""

import os
import re
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

sys.path.insert(0, os.path.dirname(__file__))
from lines import LINK, wrong_links
from pages import PAGES, ROOT

ELSEWHERE = {
    "localization.launch.py",  # of turtlebot4_navigation
    "marlgpt_spread.py",  # printed in docs/new-environment.md
    "two_robots.py",  # printed in docs/api.md
    "greedy.py",
}
"""Files that pages speak of and that are no part of this repository."""
WRITTEN = {"bag", "logs", "bags", "out", "original", "dagger", "failures", "spread", "expected", "OUT"}
"""Folders that commands write, or the reader makes."""


@cache
def tracked() -> tuple[str, ...]:
    """Files of the repository, those not yet added included, with a slash in front."""
    done = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return tuple("/" + name for name in done.stdout.split("\n") if name and (ROOT / name).exists())


def installed(name: str) -> str:
    """Where in the sources a file lies that is installed in share/PACKAGE/."""
    return re.sub(r"^share/(marlgpt_\w+)/", r"\1/", name)


def prose(page: Path) -> str:
    return re.sub(r"https?://\S+", "", page.read_text())


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_python_files_exist(page: Path) -> None:
    named = set(re.findall(r"(?<![\w*>$/.-])(?:\./|\.\./)*([\w.-]+(?:/[\w.-]+)*\.py)\b", prose(page)))
    missing = [n for n in named if not any(t.endswith("/" + n) for t in tracked())]
    assert not sorted(set(missing) - ELSEWHERE)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_folders_and_other_files_exist(page: Path) -> None:
    quoted = re.findall(r"`([\w.-]+(?:/[\w.-]+)*/?)`", prose(page))
    missing = []
    for name in quoted:
        first = name.split("/")[0]
        if first in WRITTEN or name in ELSEWHERE:
            continue
        if name.endswith("/"):
            if not any(f"/{installed(name)}" in t for t in tracked()):
                missing.append(name)
        elif re.match(r"(docs|tests|training|benchmarks|launch|ros2_ws|\.ci|config|share)/", name):
            path = f"/{installed(name)}"
            if not any(t.endswith(path) or f"{path}/" in t for t in tracked()):
                missing.append(name)
    assert not missing


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_dotted_modules_exist(page: Path) -> None:
    missing = []
    for name in set(re.findall(r"\bmarlgpt_(?:policy|sim|training)(?:\.\w+)+", prose(page))):
        parts = name.split(".")
        # The last parts may be a class and its attribute, or a function.
        tails = ["/".join(parts[:k]) for k in range(len(parts), max(1, len(parts) - 2), -1)]
        if not any(t.endswith((f"/{x}.py", f"/{x}/__init__.py")) for x in tails for t in tracked()):
            missing.append(name)
    assert not missing


def headings(page: Path) -> set[str]:
    """Anchors that GitHub makes of a page's headings."""
    text = re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    titles = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    wrong = []
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if re.match(r"\w+:", target):
            continue
        name, _, anchor = target.partition("#")
        path = (page.parent / name) if name else page
        if not path.exists():
            wrong.append(target)
        elif path.suffix == ".md" and anchor and anchor not in headings(path):
            wrong.append(target)
    assert not wrong


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_to_definitions_name_their_lines(page: Path) -> None:
    assert not wrong_links(page), "run .venv/bin/python tests/docs/lines.py"


def test_one_tick_links_to_the_code() -> None:
    assert len(LINK.findall((ROOT / "docs/one-tick.md").read_text())) > 30


def test_every_page_is_in_the_index() -> None:
    index = (ROOT / "docs/README.md").read_text()
    missing = [
        p.name
        for p in PAGES
        if p.parent == ROOT / "docs" and p.name != "README.md" and f"({p.name})" not in index
    ]
    assert not missing


def test_every_figure_is_shown() -> None:
    pages = "".join(page.read_text() for page in PAGES)
    assert not [f.name for f in (ROOT / "docs/figures").iterdir() if f"figures/{f.name}" not in pages]
