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
