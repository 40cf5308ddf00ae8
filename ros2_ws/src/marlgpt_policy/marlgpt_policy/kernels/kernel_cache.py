"""A place for compiled kernels, also where neither this package nor the user's folder can be written to.

Numba refuses to import a module with cached kernels where it finds no folder to write to, and looks at no cache in a
folder that it cannot write to. In a read-only container that would mean: no start at all, and nothing to gain from a
cache baked into the image. So there the kernels live in a temporary folder, which begins with a copy of the baked ones.
"""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile
from pathlib import Path

VARIABLE = "NUMBA_CACHE_DIR"


def provide() -> None:
    """Point Numba to a folder that can be written to, if it would find none; before it is imported.

    Raises:
        OSError: There is no such folder on this machine.
    """
    given = os.environ.get(VARIABLE, "")
    if _writable(Path(given)) if given else any(map(_writable, _usual())):
        return
    try:
        folder = tempfile.mkdtemp(prefix="marlgpt_kernels_")
    except OSError as error:
        raise OSError(
            f"no folder for compiled kernels can be written to; set {VARIABLE} to one, as on a tmpfs ({error})"
        ) from error
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    if given and os.path.isdir(given):
        shutil.copytree(given, folder, dirs_exist_ok=True)
    os.environ[VARIABLE] = folder


def _usual() -> list[Path]:
    """Where Numba looks if it is told nothing: beside the source, and the user's cache."""
    user = Path(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"))
    return [Path(__file__).parent / "__pycache__", user / "numba"]


def _writable(folder: Path) -> bool:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return False
    return os.access(folder, os.W_OK | os.X_OK)
