"""Which episode seeds are for what. The ranges do not overlap: nothing that is measured was trained on.

| seeds | for |
|---|---|
| 0 to ``HELD_OUT`` - 1 | training, tuning of experts |
| from ``HELD_OUT`` on | validation of POGEMA policies while they train (:func:`validation_seed`) |
| from ``GAME_VALIDATION`` on | the same for the other games |
| from ``EVALUATION`` on | evaluation |
| from ``COMPARISON`` on | comparisons of losses (``benchmarks/compare_losses.py``) |
"""

HELD_OUT = 1_000_000
"""Training draws smaller seeds. Where a map is too small, POGEMA draws another one from the same block of so many."""
GAME_VALIDATION = HELD_OUT + 500_000
EVALUATION = HELD_OUT + 10_000_000
COMPARISON = HELD_OUT + 20_000_000


def validation_seed(agents: int, k: int) -> int:
    """Seed of the ``k``-th validation map for a number of agents."""
    return HELD_OUT + 7919 * agents + k
