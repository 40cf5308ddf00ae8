"""Where files lie that come with the packages: in the source tree, in a ROS 2 workspace, or in a Python environment."""

from __future__ import annotations

import sys
from pathlib import Path

import marlgpt_policy

SOURCES = Path(marlgpt_policy.__file__).resolve().parents[2]
"""Folder of the packages in the source tree; something else once they are installed."""


def shipped_file(package: str, name: str) -> Path:
    """A file or folder of a ROS package's share folder.

    Args:
        package: Such as "marlgpt_sim".
        name: Relative to the share folder, such as "maps/warehouse.yaml".

    Raises:
        FileNotFoundError: It is in none of the places; the message names them.
    """
    places = [SOURCES / package / name]
    try:
        from ament_index_python.packages import PackageNotFoundError, get_package_share_directory
    except ImportError:
        pass
    else:
        try:
            places.append(Path(get_package_share_directory(package)) / name)
        except (PackageNotFoundError, OSError, KeyError):
            pass
    # The data files of a wheel lie in PREFIX/share where its modules lie in PREFIX/lib/python3.x/site-packages, which
    # `pip install --user` puts elsewhere than sys.prefix; with `--target` the two lie beside each other.
    around = Path(marlgpt_policy.__file__).resolve().parents
    for prefix in dict.fromkeys([*around[4:5], around[1], Path(sys.prefix)]):
        places.append(prefix / "share" / package / name)
    for place in places:
        if place.exists():
            return place
    tried = ", ".join(map(str, places))
    raise FileNotFoundError(
        f"{name} of {package} is not installed; looked at {tried}; install the package again"
    )


def shipped_policy() -> Path:
    """The ONNX file of the policy that comes with the project."""
    return shipped_file("marlgpt_policy", "models/pogema.onnx")
