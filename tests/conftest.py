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
LONGEST = (
    "sim/soak/test_soak_slice.py",
    "policy/nodes/test_fleet_node_faults.py",
    "sim/soak/test_soak.py",
    "policy/motion/test_motion_model.py",
    "policy/nodes/test_fuzz_nodes.py",
    "training/train/test_train.py",
    "policy/nodes/test_robot_node.py",
    "training/export/test_export.py",
)
"""Files that take longest. They come first: begun last, one process would work on while the others are done."""


def pytest_collection_modifyitems(items):
    """Mark tests by where they lie, for `make test-quick`; begin with the longest files."""
    rank = {name: k for k, name in enumerate(LONGEST)}
    items.sort(key=lambda item: rank.get(item.path.relative_to(HERE).as_posix(), len(LONGEST)))
    for item in items:
        folder = item.path.parent.relative_to(HERE).as_posix()
        if folder.startswith(GRAPH):
            item.add_marker(pytest.mark.graph)
