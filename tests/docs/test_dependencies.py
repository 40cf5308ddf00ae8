"""docs/dependencies.md gives a reason for each direct dependency, and for no other package."""

import os
import re
import sys
import tomllib

sys.path.insert(0, os.path.dirname(__file__))
from pages import ROOT

PAGE = (ROOT / "docs/dependencies.md").read_text()


def declared() -> dict[str, set[str]]:
    """Names of packages by extra; "" for those that are always installed."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    lists = {"": project["dependencies"], **project["optional-dependencies"]}
    return {extra: {re.match(r"[\w.-]+", entry)[0] for entry in entries} for extra, entries in lists.items()}


def explained() -> set[str]:
    """Names in the first column of all tables; brackets say which extra of a package is meant."""
    cells = [line.split("|")[1] for line in PAGE.splitlines() if line.startswith("| ")]
    return {re.sub(r"\[.*\]", "", name.strip()) for cell in cells for name in cell.split(",")} - {"package"}


def test_each_dependency_has_a_reason() -> None:
    assert not set().union(*declared().values()) - explained()


def test_reasons_are_for_what_is_installed() -> None:
    fixed = (
        (ROOT / ".ci/games.txt").read_text()
        + (ROOT / ".ci/setup.sh").read_text()
        + (ROOT / ".ci/envs.sh").read_text()
    )
    known = set().union(*declared().values())
    build = {"setuptools"}  # of pyproject.toml's own build
    assert not [n for n in explained() - known - build if n.lower() not in fixed.lower()]


def test_extras_are_named() -> None:
    assert not [extra for extra in declared() if extra and f"`{extra}`" not in PAGE]
