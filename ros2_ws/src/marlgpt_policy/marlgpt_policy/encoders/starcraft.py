"""Attribute ids that SMACv2 and SMAX share: the same number means the same thing in both games.

A feature that only one of them has keeps its id to itself; ids from 40 on are free for more of them.
"""

from __future__ import annotations

ATTACKABLE = 0
"""An enemy in shooting range (1) or not (0)."""
DISTANCE = 1
RELATIVE_X = 2
RELATIVE_Y = 3
HEALTH = 4
SHIELD = 5
UNIT_TYPE = 6
"""First of the unit type's one-hot bits, at most 10."""
CAN_MOVE = 16
"""First of the four move directions that are free: north, south, east, west."""
POSITION_X = 20
POSITION_Y = 21
COOLDOWN = 22
"""Weapon cooldown."""
VISIBLE = 23
"""An ally in sight (1) or not (0)."""
LAST_ACTION = 24
"""First of the last action's features, at most 16."""
