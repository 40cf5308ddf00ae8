"""Static token layouts: what every scalar of an observation means.

MARL-GPT (Nesterova et al. 2026, arXiv 2604.05943) gives each observed scalar four ids: which attribute it
is, whose team and which agent it belongs to, and how many steps ago it was seen. For one environment these
ids never change, only the values do, so a layout is a constant table and an encoder fills a vector.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np

from marlgpt_policy.grid.moves import HISTORY

ATTRIBUTES = 129
"""Size of the attribute id space; id 128 is the environment token."""
TEAMS = 3
"""Team ids: 0 nobody (environment), 1 own team, 2 opponents."""
AGENTS = 20
"""Agent slots within an observation; 0 is the observing agent."""
TIMES = 10
"""Time ids: 0 now, 1..9 steps ago (or the variant of an attribute, where a layout says so)."""
MAX_ACTIONS = 20
"""Width of the action head and of every action mask."""
ENVIRONMENT_ATTRIBUTE = 128
ENVIRONMENT_IDS = {"smac": 1, "pogema": 2, "grf": 3}
BLOCKED = -2.0
"""Mark for blocked or unreachable (ordinary values lie in [-1, 1])."""
FAR = 2.0
"""Mark for farther than the clipping range."""


class LayoutError(ValueError):
    """A token layout is inconsistent, or a file was made for another one."""


@dataclass(frozen=True, eq=False)
class TokenLayout:
    """Ids of the L values of one environment's observation.

    Attributes:
        name: Layout name with version, e.g. ``pogema-1``.
        environment: Environment id (1 SMAC, 2 POGEMA, 3 GRF).
        actions: Number of valid actions (at most 20).
        attr: int16[L] attribute ids, 0..128; the last one is 128, the environment token.
        team: int16[L] team ids, 0..2.
        agent: int16[L] agent slots, 0..19.
        time: int16[L] time ids, 0..9.
        entity: int16[L] entity ids, non-decreasing from 0; values of one entity form one token in the
            ``entity`` reading.
    """

    name: str
    environment: int
    actions: int
    attr: np.ndarray
    team: np.ndarray
    agent: np.ndarray
    time: np.ndarray
    entity: np.ndarray

    def __post_init__(self) -> None:
        bounds = {"attr": ATTRIBUTES, "team": TEAMS, "agent": AGENTS, "time": TIMES, "entity": len(self.attr)}
        for field, limit in bounds.items():
            ids = np.array(getattr(self, field), dtype=np.int16)
            if ids.shape != (len(self.attr),) or ids.min() < 0 or ids.max() >= limit:
                raise LayoutError(
                    f"layout {self.name}: '{field}' must hold {len(self.attr)} ids in 0..{limit - 1}"
                )
            ids.flags.writeable = False
            object.__setattr__(self, field, ids)
        if self.attr[-1] != ENVIRONMENT_ATTRIBUTE or (self.attr[:-1] == ENVIRONMENT_ATTRIBUTE).any():
            raise LayoutError(
                f"layout {self.name}: attribute {ENVIRONMENT_ATTRIBUTE} must come last and only there"
            )
        if (np.diff(self.entity) < 0).any() or not 1 <= self.actions <= MAX_ACTIONS:
            raise LayoutError(
                f"layout {self.name}: entities must be sorted and actions within 1..{MAX_ACTIONS}"
            )

    def __len__(self) -> int:
        return len(self.attr)

    @property
    def entities(self) -> int:
        """Number of tokens in the ``entity`` reading."""
        return int(self.entity[-1]) + 1

    @property
    def hash(self) -> str:
        """First 16 hex digits of the SHA-256 over everything that defines the layout."""
        digest = hashlib.sha256(f"{self.name}|{self.environment}|{self.actions}".encode())
        for field in ("attr", "team", "agent", "time", "entity"):
            digest.update(getattr(self, field).astype("<i2").tobytes())
        return digest.hexdigest()[:16]

    @property
    def environment_value(self) -> float:
        """Value of the environment token: the environment id scaled into [0, 1]."""
        return self.environment / 4.0


# POGEMA: an 11 x 11 window of cost-to-go and up to 13 agents, after MAPF-GPT's observation
# (Andreychuk et al. 2024, arXiv 2409.00134).
WINDOW_RADIUS = 5
WINDOW = 2 * WINDOW_RADIUS + 1
POGEMA_AGENTS = 13
CLIP = 20
AGENT_VALUES = 4 + 2 * HISTORY + 4


def pogema_layout() -> TokenLayout:
    """The POGEMA layout: 121 window values, 13 agents x 18 values, the environment token (L = 356).

    The first agent is the observer and shares its entity with the window, so the ``entity`` reading has
    14 tokens.
    """
    attr, team, agent, time, entity = ([] for _ in range(5))

    def add(a: int, g: int, i: int, t: int, e: int) -> None:
        for ids, value in zip((attr, team, agent, time, entity), (a, g, i, t, e), strict=True):
            ids.append(value)

    for cell in range(WINDOW * WINDOW):
        add(cell, 1, 0, 0, 0)
    for i in range(POGEMA_AGENTS):
        for a in (121, 122, 123, 124):  # row, column, goal row, goal column
            add(a, 1, i, 0, i)
        for t in range(1, HISTORY + 1):  # displacement of the t-th last executed move
            add(125, 1, i, t, i)
            add(126, 1, i, t, i)
        for move in range(4):  # brings up/down/left/right this agent closer to its goal?
            add(127, 1, i, 6 + move, i)
    add(ENVIRONMENT_ATTRIBUTE, 0, 0, 0, POGEMA_AGENTS)
    return TokenLayout(
        "pogema-1",
        ENVIRONMENT_IDS["pogema"],
        5,
        *(np.array(ids) for ids in (attr, team, agent, time, entity)),
    )


POGEMA_LAYOUT = pogema_layout()
