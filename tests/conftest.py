"""Fixtures for all tests, and where the modules lie that they share."""

import random
import sys
from pathlib import Path

import numpy as np
import pytest

HERE = Path(__file__).parent
sys.path[:0] = [
    str(folder)
    for folder in (HERE, *(HERE / name for name in ("packaging", "policy", "policy/mapf", "sim", "training")))
]


@pytest.fixture(autouse=True)
def seeded():
    """Start every test from the same global random state, whatever ran before it."""
    random.seed(0)
    np.random.seed(0)


GRAPH = (
    "policy/nodes",
    "sim/nodes",
    "sim/commands",
    "sim/bags",
    "sim/view",
    "sim/gazebo",
    "training/finetune",
    "msgs",
)
"""Folders whose tests start nodes or talk over DDS."""


def pytest_collection_modifyitems(items):
    """Mark tests by where they lie, for `make test-quick`."""
    for item in items:
        folder = item.path.parent.relative_to(HERE).as_posix()
        if folder.startswith(GRAPH):
            item.add_marker(pytest.mark.graph)
