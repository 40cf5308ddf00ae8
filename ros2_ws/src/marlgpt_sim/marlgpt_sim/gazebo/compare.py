"""Two simulators that drove the same fleet, compared: goals, contacts, distances, how well paths were followed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from scipy.spatial import cKDTree

from marlgpt_sim.gazebo.drive_log import DriveLog

SAMPLE = 0.05
"""s; times at which both runs are compared."""
STEP = 0.01
"""m; spacing of points on a path."""


def summary(log: DriveLog) -> dict[str, Any]:
    """Figures of one run.

    Returns:
        seconds (simulated), robots, goals, goals_per_minute, contacts (None if the bag does not say), min_separation
        and min_wall_gap (m, between surfaces, by the recorded poses; the latter None without a map), metres driven per
        robot and minute, deviation_mean, deviation_p95 and deviation_max (m, from the line between the cell a robot
        holds and the one it drives to; None without a grid), speed_error and yaw_rate_error (root mean square of
        measured against commanded, m/s and rad/s; None where commands are not stamped with simulated time).
    """
    goals = int(sum(((times >= log.start) & (times <= log.end)).sum() for times in log.reached))
    deviation = edge_deviation(log)
    speed, yaw_rate = command_error(log)
    driven = [np.linalg.norm(np.diff(poses[:, 1:3], axis=0), axis=1).sum() for poses in log.poses]
    minutes = log.seconds / 60.0
    found: dict[str, Any] = {
        "seconds": log.seconds,
        "robots": len(log.names),
        "goals": goals,
        "goals_per_minute": goals / minutes,
        "contacts": None if log.contacts is None else len(log.contacts),
        "min_separation": min_separation(log),
        "min_wall_gap": min_wall_gap(log),
        "metres_per_robot_minute": float(np.mean(driven)) / minutes,
        "deviation_mean": None if deviation is None else float(deviation.mean()),
        "deviation_p95": None if deviation is None else float(np.percentile(deviation, 95)),
        "deviation_max": None if deviation is None else float(deviation.max()),
        "speed_error": speed,
        "yaw_rate_error": yaw_rate,
    }
    return {key: round(value, 4) if isinstance(value, float) else value for key, value in found.items()}


def at_times(poses: np.ndarray, times: np.ndarray) -> np.ndarray:
    """Positions float64[k, 2] of one robot at given times, linear between its poses, held at both ends."""
    return np.stack([np.interp(times, poses[:, 0], poses[:, axis]) for axis in (1, 2)], axis=1)


def min_separation(log: DriveLog) -> float:
    """Smallest gap between the surfaces of two robots, m; inf for one robot.

    Between two sampled moments robots move straight, and the closest approach on the way counts.
    """
    times = np.arange(log.start, log.end, SAMPLE)
    xy = np.stack([at_times(poses, times) for poses in log.poses], axis=1)
    least = np.inf
    for i in range(len(log.names)):
        gap = xy[:, i + 1 :] - xy[:, i : i + 1]
        if not gap.shape[1]:
            break
        start, move = gap[:-1], np.diff(gap, axis=0)
        along = -(start * move).sum(-1) / np.maximum((move * move).sum(-1), 1e-18)
        closest = start + np.clip(along, 0.0, 1.0)[..., None] * move
        distance = np.linalg.norm(closest, axis=-1) - log.radii[i] - log.radii[i + 1 :]
        least = min(least, float(distance.min()))
    return least


def min_wall_gap(log: DriveLog) -> float | None:
    """Smallest gap between a robot's surface and an occupied pixel, m, by the recorded poses."""
    if log.map is None:
        return None
    from marlgpt_sim.world.collision import wall_distance
    from marlgpt_sim.world.fleet_world import _Walls

    walls = _Walls(log.map, False)
    least = np.inf
    for poses, radius in zip(log.poses, log.radii, strict=True):
        for x, y in np.unique(np.round(poses[:, 1:3], 3), axis=0):
            gap = wall_distance(x, y, walls.occupied, walls.distance, walls.resolution, walls.frame) - radius
            least = min(least, float(gap))
    return least


def edge_deviation(log: DriveLog) -> np.ndarray | None:
    """Distances float64[k], m, of robots that drive from the line between the two cells they drive between."""
    rows = np.concatenate([edges for edges in log.edges])
    if not len(rows):
        return None
    xy, start, end = rows[:, 1:3], rows[:, 3:5], rows[:, 5:7]
    edge = end - start
    length2 = (edge * edge).sum(1)
    along = np.clip(((xy - start) * edge).sum(1) / np.maximum(length2, 1e-18), 0.0, 1.0)
    distance = np.linalg.norm(start + along[:, None] * edge - xy, axis=1)
    return distance[length2 > 0.0]


def command_error(log: DriveLog) -> tuple[float | None, float | None]:
    """Root mean square of measured minus commanded speed (m/s) and yaw rate (rad/s), over all robots."""
    differences = []
    for speeds, commands in zip(log.speeds, log.commands, strict=True):
        inside = (speeds[:, 0] >= log.start) & (speeds[:, 0] <= log.end)
        if len(commands) < 2 or commands[-1, 0] < log.start or commands[0, 0] > log.end:
            return None, None
        at = np.searchsorted(commands[:, 0], speeds[inside, 0], side="right") - 1
        known = at >= 0
        differences.append(speeds[inside, 1:][known] - commands[at[known], 1:])
    error = np.sqrt((np.concatenate(differences) ** 2).mean(0))
    return float(error[0]), float(error[1])


def first_paths(log: DriveLog) -> list[np.ndarray]:
    """Each robot's way float64[k, 3] (time since the start, x, y) up to its first goal reached, or to the end."""
    ways = []
    for poses, reached in zip(log.poses, log.reached, strict=True):
        until = reached[0] if len(reached) else log.end
        row = (poses[:, 0] >= log.start) & (poses[:, 0] <= until)
        way = poses[row, :3].copy()
        way[:, 0] -= log.start
        ways.append(way)
    return ways


def path_points(way: np.ndarray) -> np.ndarray:
    """Points float64[k, 2] along a path, `STEP` apart."""
    xy = way[:, 1:3]
    length = np.r_[0.0, np.cumsum(np.linalg.norm(np.diff(xy, axis=0), axis=1))]
    at = np.append(np.arange(0.0, length[-1], STEP), length[-1])
    return np.stack([np.interp(at, length, xy[:, axis]) for axis in (0, 1)], axis=1)


def path_deviation(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Distances float64[k], m, of each path's points from the other path: where they ran, not when."""
    p, q = path_points(a), path_points(b)
    return np.concatenate([cKDTree(q).query(p)[0], cKDTree(p).query(q)[0]])


def together(a: DriveLog, b: DriveLog, within: float) -> np.ndarray:
    """Seconds float64[n] from the start for which each robot stays within a distance of its other self."""
    seconds = min(a.seconds, b.seconds)
    times = np.arange(0.0, seconds, SAMPLE)
    found = []
    for pa, pb in zip(a.poses, b.poses, strict=True):
        distance = np.linalg.norm(at_times(pa, times + a.start) - at_times(pb, times + b.start), axis=1)
        apart = np.flatnonzero(distance > within)
        found.append(times[apart[0]] if len(apart) else seconds)
    return np.array(found)


def compare(a: DriveLog, b: DriveLog) -> dict[str, Any]:
    """Figures of two runs with the same robots, starts and goals.

    Returns:
        same_first_goals (robots whose first goals are the same), path_mean, path_median_max (m; of the ways to the
        first goals: mean distance between the two paths, and the median over robots of the largest one),
        same_route (robots whose ways to the first goal are nowhere further apart than half a cell),
        same_route_mean (m, the mean distance of those), arrival_difference_mean (s, over them: second minus first
        run), together_median (s for which robots stay within half a cell of each other at the same time).
    """
    if a.names != b.names:
        raise ValueError(f"the bags are of other robots: {a.names} and {b.names}")
    grid = a.grid or b.grid
    half = 0.5 * (grid.cell_size if grid else 4.0 * float(a.radii.max()))
    same_goal = [
        bool(len(ga) and len(gb) and np.allclose(ga[0, 1:], gb[0, 1:], atol=1e-3))
        for ga, gb in zip(a.goals, b.goals, strict=True)
    ]
    ways = list(zip(first_paths(a), first_paths(b), strict=True))
    apart = [path_deviation(wa, wb) for wa, wb in ways]
    largest = np.array([d.max() for d in apart])
    same = [i for i in range(len(a.names)) if largest[i] <= half and len(a.reached[i]) and len(b.reached[i])]
    late = [(b.reached[i][0] - b.start) - (a.reached[i][0] - a.start) for i in same]
    found = {
        "same_first_goals": sum(same_goal),
        "path_mean": float(np.mean([d.mean() for d in apart])),
        "path_median_max": float(np.median(largest)),
        "same_route": len(same),
        "same_route_mean": float(np.mean([apart[i].mean() for i in same])) if same else None,
        "arrival_difference_mean": float(np.mean(late)) if late else None,
        "together_median": float(np.median(together(a, b, half))),
    }
    return {key: round(value, 4) if isinstance(value, float) else value for key, value in found.items()}


def draw(logs: dict[str, DriveLog], path: str | Path, seconds: float = 40.0) -> None:
    """Draw the robots' ways in the first seconds of each run over the map, side by side.

    Args:
        logs: Runs by title, all with the same robots.
        path: Picture to write.
        seconds: Simulated seconds from the start that are drawn.
    """
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, len(logs), figsize=(7.2 * len(logs), 5.2), squeeze=False)
    colours = plt.get_cmap("tab20").colors
    for axis, (title, log) in zip(axes[0], logs.items(), strict=True):
        if log.map is not None:
            _draw_map(axis, log)
        for i, poses in enumerate(log.poses):
            way = poses[(poses[:, 0] >= log.start) & (poses[:, 0] <= log.start + seconds)]
            if len(way):
                axis.plot(way[:, 1], way[:, 2], color=colours[i % 20], linewidth=1.4)
                axis.plot(*way[0, 1:3], "o", color=colours[i % 20], markersize=5)
        goals = int(sum(len(times) for times in log.reached))
        axis.set_title(f"{title}: first {seconds:.0f} s of {log.seconds:.0f} s, {goals} goals in all")
        axis.set_aspect("equal")
        axis.set_xlabel("x, m")
        axis.set_ylabel("y, m")
    figure.tight_layout()
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=90)
    plt.close(figure)


def _draw_map(axis: Any, log: DriveLog) -> None:
    """The occupied pixels under the ways, turned as the map is."""
    from matplotlib.transforms import Affine2D

    height, width = (pixels * log.map.resolution for pixels in log.map.shape)
    x, y, yaw = log.map.origin
    turn = Affine2D().rotate(yaw).translate(x, y) + axis.transData
    image = axis.imshow(
        ~log.map.occupied, cmap="gray", origin="lower", extent=(0.0, width, 0.0, height), alpha=0.55
    )
    image.set_transform(turn)
    corners = turn.transform([(0.0, 0.0), (width, 0.0), (0.0, height), (width, height)])
    corners = axis.transData.inverted().transform(corners)
    axis.set_xlim(corners[:, 0].min(), corners[:, 0].max())
    axis.set_ylim(corners[:, 1].min(), corners[:, 1].max())
