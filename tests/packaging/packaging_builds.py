"""What the tests of packaging share: clean copies of the sources, and an environment in which training is missing."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from places import ROOT

LEFT_OUT = shutil.ignore_patterns("__pycache__", "*.egg-info", "build", "*.nbi", "*.nbc")
PACKAGES = ROOT / "ros2_ws" / "src"
MISSING = ("marlgpt_training", "torch", "onnx", "pyarrow", "safetensors", "tensorboardX")
"""What is not installed on a robot's computer."""


def copy(source: Path, target: Path) -> Path:
    """Copy a folder as `cp -r` does: links stay links, so what leads out of the folder dangles."""
    return Path(shutil.copytree(source, target, symlinks=True, ignore=LEFT_OUT))


def without_training(folder: Path) -> Path:
    """Fill a folder that, first on PYTHONPATH, makes `MISSING` look not installed, in child processes, too."""
    folder.mkdir()
    for name in MISSING:
        message = f"No module named {name!r}"
        (folder / f"{name}.py").write_text(f"raise ModuleNotFoundError({message!r}, name={name!r})\n")
    return folder


def environment(*modules: Path, **more: str) -> dict[str, str]:
    """This process's environment with these folders first on PYTHONPATH.

    Workspaces stay out of it (the project's own, too), and with them all that would be found there by mistake; a test
    that needs one names it in ``more``.
    """
    own = {name: value for name, value in os.environ.items() if not name.startswith(("COLCON_", "AMENT_"))}
    paths = [*map(str, modules), *filter(None, [own.get("PYTHONPATH")])]
    start = {
        "PYTHONPATH": os.pathsep.join(paths),
        "MARLGPT_NO_WORKSPACE": "1",
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    return own | start | more
