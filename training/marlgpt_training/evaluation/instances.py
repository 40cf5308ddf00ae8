"""What is played: maps with agent counts and seeds, the same for every contestant."""

from __future__ import annotations

import dataclasses

from marlgpt_training.environments import map_families as maps
from marlgpt_training.evaluation.map_files import GridMap, read_maps
from marlgpt_training.experts.lns import window_of
from marlgpt_training.seeds import EVALUATION

GENERATED = 16
"""Generated maps for each agent count where no number is given."""
DRAWS = 200
"""Maps drawn in search of one with enough room."""


@dataclasses.dataclass(frozen=True, eq=False)
class Instance:
    """One task, whoever plays it.

    Attributes:
        map: The map.
        agents: Number of agents.
        seed: Of starts, goals and everything random in the players.
        lifelong: New goals for ever, else one goal each.
        steps: Step limit.
        window: Planning window of the expert, in steps.
        kind: ``main``, or ``pathfinding`` for one agent alone.
    """

    map: GridMap
    agents: int
    seed: int
    lifelong: bool
    steps: int
    window: int
    kind: str = "main"

    @property
    def key(self) -> str:
        """Unique in a run."""
        return f"{self.kind}|{self.map.name}|{self.agents}|{self.seed}"


def agent_counts(text: str) -> list[int]:
    """``8,16,32`` as numbers, each once.

    Raises:
        ValueError: Something between the commas is not a positive whole number.
    """
    found = []
    for part in text.split(","):
        if not part.strip().isdecimal() or int(part) < 1:
            raise ValueError(f"--agents {text}: '{part}' is not a positive whole number; write 8,16,32")
        found.append(int(part))
    return list(dict.fromkeys(found))


def generated(family: str, agents: int, count: int) -> list[GridMap]:
    """``count`` maps of ``family`` with room for ``agents`` agents.

    Raises:
        ValueError: The family's maps are too small.
    """
    found = []
    for k in range(count):
        for draw in range(DRAWS):
            seed = EVALUATION + 1000 * agents + k + 1_000_000 * draw
            free = maps.generate(family, seed)
            if free.sum() >= 2 * agents:
                found.append(GridMap(f"{family}-{seed}", free))
                break
        else:
            raise ValueError(
                f"--agents {agents}: none of {DRAWS} generated '{family}' maps has room; use fewer agents or "
                "--maps with a file of larger maps"
            )
    return found


def instances(
    source: str,
    count: int | None,
    counts: list[int],
    seeds: int,
    lifelong: bool,
    steps: int,
    pathfinding: bool,
) -> tuple[list[Instance], list[str]]:
    """Every task, and the names of tasks left out for want of room (``map with n agents``).

    Args:
        source: Family of generated maps or a YAML file.
        count: Generated maps for each agent count, or the most taken from the file; None: ``GENERATED``, or all.
        counts: Agent counts.
        seeds: Tasks on each map for each agent count.
        lifelong: New goals for ever.
        steps: Step limit.
        pathfinding: Add a task with one agent and one goal for every map and seed.

    Raises:
        ValueError: An unreadable file, a map that does not suit the mode, or no room anywhere.
    """
    from_file = None if source in maps.FAMILIES else read_maps(source)
    if from_file and count is not None and len(from_file) > count:
        print(f"{source}: the first {count} of {len(from_file)} maps; --count {len(from_file)} takes all")
        from_file = from_file[:count]
    generate = GENERATED if count is None else count
    for world in from_file or []:
        if world.agents and lifelong:
            raise ValueError(
                f"{source}: map '{world.name}' gives every agent (letters) a single goal; use --mode one-shot"
            )
    window = window_of(source)
    found, left_out = [], []
    for agents in counts:
        for k, world in enumerate(generated(source, agents, generate) if from_file is None else from_file):
            if agents > world.room:
                left_out.append(f"{world.name} with {agents}")
                continue
            for s in range(seeds):
                seed = 7 * k + 1009 * s + agents
                found.append(Instance(world, agents, seed, lifelong, steps, window))
    if not found:
        raise ValueError(f"--maps {source}: no map has room for {' or '.join(map(str, counts))} agents")
    if pathfinding:
        alone = generated(source, 1, generate) if from_file is None else from_file
        for k, world in enumerate(alone):
            if world.room:
                for s in range(seeds):
                    seed = 7 * k + 1009 * s + 1
                    found.append(Instance(world, 1, seed, False, steps, window, "pathfinding"))
    return found, left_out
