"""The public API: every exported name exists and is documented, and the example of docs/api.md runs as printed."""

import importlib
import os
import re
import subprocess
import sys
from types import ModuleType

import pytest

sys.path.insert(0, os.path.dirname(__file__))
from pages import ROOT, blocks

PAGE = ROOT / "docs/api.md"
FOLDERS = ("grid", "encoders", "mapf", "policy", "robots", "motion", "deadlock", "fleet", "decentralised")
PACKAGES = ("marlgpt_policy", *(f"marlgpt_policy.{folder}" for folder in FOLDERS))


@pytest.mark.parametrize("package", PACKAGES)
def test_every_exported_name_is_there(package: str) -> None:
    face = importlib.import_module(package)
    assert len(face.__all__) == len(set(face.__all__)) > 0
    for name in face.__all__:
        assert not isinstance(getattr(face, name), ModuleType), f"{package}.{name} is a module"
    assert set(face.__all__) <= set(dir(face))
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = face.no_such_name


@pytest.mark.parametrize("package", PACKAGES)
def test_the_page_names_what_is_exported_and_nothing_else(package: str) -> None:
    text = PAGE.read_text()
    if package == "marlgpt_policy":
        part = text.split("## marlgpt_policy\n")[1].split("## Its folders")[0]
        cells = [line.split("|")[1] for line in part.splitlines() if line.startswith("| `")]
        named = {name for cell in cells for name in re.findall(r"`(\w+)", cell)}
    else:
        row = next(line for line in text.splitlines() if line.startswith(f"| `{package}` |"))
        named = set(re.findall(r"`(\w+)`", row.split("|")[2]))
    exported = set(importlib.import_module(package).__all__)
    if package == "marlgpt_policy":  # types that others return are named beside these
        assert exported <= named | {"NavGrid", "OccupancyMap"}
        assert named <= exported
    else:
        assert named == exported


def test_importing_the_package_stays_light() -> None:
    code = (
        "import sys, marlgpt_policy, marlgpt_policy.fleet, marlgpt_policy.policy; "
        "print(*({'numpy', 'numba', 'onnxruntime', 'rclpy', 'torch'} & set(sys.modules)))"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == ""


def run(text: str) -> subprocess.CompletedProcess:
    """Run a program from the repository's root, as the page says."""
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, "-c", text], cwd=ROOT, capture_output=True, text=True, env=environment
    )


def test_the_example_runs_as_printed() -> None:
    example, _ = blocks(PAGE, "python")
    done = run(example.text)
    assert done.returncode == 0, done.stderr
    assert re.match(r"2 robots at their goals after \d+\.\d s; never nearer than 0\.\d\d m", done.stdout)


def test_the_planner_drives_the_example() -> None:
    example, planner = blocks(PAGE, "python")
    replaced = example.text.replace("Fleet(grid, policy, robots", "Fleet(grid, Greedy(), robots")
    assert replaced != example.text
    done = run(planner.text + replaced)
    assert done.returncode == 0, done.stderr
    assert re.match(r"2 robots at their goals after \d+\.\d s; never nearer than 0\.\d\d m", done.stdout)
