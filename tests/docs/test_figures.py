"""Figures that scripts make without measuring anything are made anew here; their numbers are those of the pages."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

sys.path.insert(0, os.path.dirname(__file__))
from pages import ROOT

SCRIPTS = {
    "draw_tables.py": ("games.png", "losses.png", "quality_per_compute.png"),
    "draw_architecture.py": ("architecture.png",),
}


@pytest.mark.parametrize("script", SCRIPTS)
def test_scripts_draw_the_figures_of_the_pages(script: str, tmp_path: Path) -> None:
    names = SCRIPTS[script]
    out = tmp_path / names[0] if len(names) == 1 else tmp_path
    done = subprocess.run(
        [sys.executable, f"benchmarks/{script}", "--out", str(out)],
        cwd=ROOT, capture_output=True, text=True, env=os.environ | {"MPLBACKEND": "Agg"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    for name in names:
        assert (tmp_path / name).stat().st_size > 10_000
        assert (ROOT / "docs/figures" / name).is_file()


def test_figures_are_small_enough_for_a_page() -> None:
    sizes = {path.name: path.stat().st_size for path in (ROOT / "docs/figures").iterdir()}
    assert sizes["demo.gif"] < 1_500_000
    assert not {name: size for name, size in sizes.items() if size > 1_500_000}


def test_the_demo_moves() -> None:
    from PIL import Image

    with Image.open(ROOT / "docs/figures/demo.gif") as picture:
        assert picture.n_frames > 50
        picture.seek(0)
        first = picture.convert("RGB").tobytes()
        picture.seek(50)
        assert picture.convert("RGB").tobytes() != first
