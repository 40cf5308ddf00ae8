"""Fixtures for all tests."""

import random

import numpy as np
import pytest


@pytest.fixture(autouse=True)
def seeded():
    """Start every test from the same global random state, whatever ran before it."""
    random.seed(0)
    np.random.seed(0)
