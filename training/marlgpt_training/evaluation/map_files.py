"""Maps in the format of pogema-toolbox: a YAML file of ``name: |`` entries, one text block per map.

The symbols are those of ``GridConfig.str_map_to_list`` in pogema 1.4.0:

| symbol | cell |
|---|---|
| ``#`` | wall |
| ``.`` | free, start and goal |
| ``@`` ``$`` ``!`` | free; only a start; only a goal; neither (warehouses) |
| ``a`` ... ``z``, ``A`` ... ``Z`` | start of an agent, goal of the agent with the same letter (puzzles) |
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import yaml
from scipy import ndimage

Cell = tuple[int, int]
SYMBOLS = "'#', '.', '@', '$', '!' and letters"


@dataclasses.dataclass(frozen=True, eq=False)
class GridMap:
    """One map.

    Attributes:
        name: Unique in a run.
        free: bool[R, C] cells that are no walls.
        starts: Cells (row, column) where agents may start, None: all free ones.
        goals: Cells that may be goals, None: all free ones.
        agents: (start, goal) of every agent where the map fixes them, else empty.
    """

    name: str
    free: np.ndarray
    starts: tuple[Cell, ...] | None = None
    goals: tuple[Cell, ...] | None = None
    agents: tuple[tuple[Cell, Cell], ...] = ()

    @property
    def room(self) -> int:
        """The most agents that find a start and a goal.

        pogema draws both from the same connected part, two different cells for each agent.
        """
        if self.agents:
            return len(self.agents)
        if self.starts is not None:
            return min(len(self.starts), len(self.goals))
        labels, _ = ndimage.label(self.free)
        return int((np.bincount(labels.ravel())[1:] // 2).sum())


def parse_map(name: str, text: str) -> GridMap:
    """The map in ``text``, its lines separated by white space as in pogema.

    Raises:
        ValueError: Empty, ragged, a foreign symbol, letters without partner, marks beside letters, or starts
            and goals that are not connected; the message does not name the file.
    """
    lines = str(text).split()
    if not lines or len({len(line) for line in lines}) != 1:
        raise ValueError(f"map '{name}' is empty or its lines differ in length")
    symbols = np.array([list(line) for line in lines])
    cells = {symbol: [(int(r), int(c)) for r, c in np.argwhere(symbols == symbol)] for symbol in set(text)}
    letters = {symbol for symbol in cells if symbol.isascii() and symbol.isalpha()}
    for symbol in np.unique(symbols):
        if symbol not in {*"#.@$!"} | letters:  # of a string "" would be a part, which NumPy makes of "\0"
            row = int(np.argwhere(symbols == symbol)[0, 0])
            raise ValueError(f"map '{name}', line {row + 1}: unknown symbol '{symbol}'; known are {SYMBOLS}")
    free = symbols != "#"
    labels, _ = ndimage.label(free)
    if any(mark in cells for mark in "@$!"):
        return _with_marks(name, free, cells, letters, labels)
    return GridMap(name, free, agents=_lettered(name, cells, letters, labels))


def _with_marks(name, free, cells, letters, labels) -> GridMap:
    if letters:
        raise ValueError(
            f"map '{name}' mixes the marks '@', '$', '!' with letters; pogema takes one or the other"
        )
    # In reading order, as pogema collects them, so that its draws are the same.
    starts, goals = (tuple(sorted(cells.get(".", []) + cells.get(mark, []))) for mark in "@$")
    if not starts or not goals:
        raise ValueError(f"map '{name}' has no cell for a {'start' if not starts else 'goal'}")
    parts = {int(labels[cell]) for cell in starts + goals}
    if len(parts) > 1:
        raise ValueError(f"map '{name}': starts and goals lie in {len(parts)} parts that are not connected")
    return GridMap(name, free, starts, goals)


def _lettered(name, cells, letters, labels) -> tuple[tuple[Cell, Cell], ...]:
    found = []
    for letter in sorted({symbol.lower() for symbol in letters}):
        start, goal = cells.get(letter, []), cells.get(letter.upper(), [])
        if len(start) != 1 or len(goal) != 1:
            raise ValueError(
                f"map '{name}': agent '{letter}' has {len(start)} starts and {len(goal)} goals; one '{letter}' "
                f"and one '{letter.upper()}' are needed"
            )
        if labels[start[0]] != labels[goal[0]]:
            raise ValueError(f"map '{name}': agent '{letter}' cannot reach its goal")
        found.append((start[0], goal[0]))
    return tuple(found)


class _Loader(yaml.BaseLoader):
    """Text only, no numbers or dates; two maps of one name, of which yaml would drop the first, are refused."""

    def construct_mapping(self, node, deep=False):
        names = [str(key.value) for key, _ in node.value]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise yaml.YAMLError(f"two maps are called '{twice[0]}'; rename one of them")
        return super().construct_mapping(node, deep)


def read_maps(path: str | Path) -> list[GridMap]:
    """All maps of a file, in its order.

    Raises:
        ValueError: Naming the file and the map that cannot be read, or whose name is there twice.
    """
    try:
        entries = yaml.load(Path(path).read_text(), Loader=_Loader)
    except (OSError, yaml.YAMLError, ValueError, RecursionError) as error:
        raise ValueError(
            f"{path}: not a readable YAML file of maps ({' '.join(str(error).split())})"
        ) from error
    if not isinstance(entries, dict) or not entries:
        raise ValueError(f"{path}: expected 'name: |' entries with one map each")
    found = []
    for name, text in entries.items():
        try:
            if not isinstance(text, str):
                raise ValueError(f"map '{name}' is not a block of text")
            found.append(parse_map(str(name), text))
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error
    return found
