"""One bag on its way into the trajectory store: which way its episodes are made, and from which of its topics."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from marlgpt_policy.grid.nav_grid import NavGrid, build_grid
from marlgpt_policy.grid.occupancy_map import OccupancyMap, from_occupancy_grid, load_map_yaml
from marlgpt_policy.robots.robots_file import FleetFile, load_robots

from marlgpt_training.bags import pose_frames as frames
from marlgpt_training.bags.bag_reader import BagError, Decoder, Record, open_bag, records
from marlgpt_training.bags.decision_inference import Inference
from marlgpt_training.bags.decisions import DecisionEpisodes, has_observations
from marlgpt_training.bags.inventory import DECISION, Inventory, because, take_inventory
from marlgpt_training.bags.summary import Summary
from marlgpt_training.bags.tracks import Track, step_time
from marlgpt_training.store.fleet_episode import FleetEpisode

if TYPE_CHECKING:
    from marlgpt_training.bags.import_args import Args


class Import:
    """One bag on its way into the store."""

    def __init__(self, path: Path, args: Args, progress: Callable[[int], None]) -> None:
        """Open the bag.

        Raises:
            BagError: There is none.
        """
        self.args, self.progress = args, progress
        self.bag = open_bag(path)
        self.decode = Decoder(self.bag.distro)
        self.fleet: FleetFile | None = load_robots(args.robots_file) if args.robots_file else None
        self.summary = Summary(str(path), self.bag.name)

    def run(self) -> Iterator[FleetEpisode]:
        """The bag's episodes; what is not taken is counted in ``summary``.

        Raises:
            BagError: Nothing of it can be used; names what is missing and how to help.
        """
        inventory = take_inventory(self.bag, self.decode, self.progress)
        self.summary.topics = list(inventory.topics.values())
        for kind, count in inventory.damaged.items():
            self.summary.dropped[f"message of type {kind} is damaged"] += count
        if inventory.decided and inventory.grids and not self.args.poses:
            episodes = self._decisions(inventory)
        else:
            if inventory.decided is False:
                self.bag.note(
                    "its decisions were recorded by an older version, without observations: poses are used"
                )
            elif inventory.decided and not inventory.grids and not self.args.poses:
                self.bag.note("it has decisions but not their grid (topic fleet/grid): poses are used")
            episodes = self._poses(inventory)
        for episode in episodes:
            self.summary.add(episode)
            yield episode
        self.summary.damage = self.bag.damage

    def _messages(self, wanted: Callable[[Record], bool]) -> Iterator[tuple[Record, Any]]:
        """Decoded messages of a second pass."""
        for record in records(self.bag, self.progress):
            if not wanted(record):
                continue
            try:
                yield record, self.decode(record.type, record.encoding, record.definition, record.data)
            except ValueError:
                self.summary.dropped[f"message of type {record.type} is damaged"] += 1

    # Decisions ------------------------------------------------------------------------------------------

    def _decisions(self, inventory: Inventory) -> Iterator[FleetEpisode]:
        summary = self.summary
        summary.mode, summary.grid = "decisions", inventory.nav
        spec = {"bag": self.bag.name}
        if inventory.nav is not None:
            spec |= {"cell_size": inventory.nav.cell_size, "origin": list(inventory.nav.origin)}
        readers: dict[str, DecisionEpisodes] = {}
        for record, message in self._messages(lambda record: record.type == DECISION):
            if not has_observations(message):
                summary.dropped["decision of an older version"] += 1
                continue
            reader = readers.setdefault(
                record.topic,
                DecisionEpisodes(self.bag.name, inventory.grids, {**spec, "topic": record.topic}),
            )
            yield from reader.take(message)
        for reader in readers.values():
            yield from reader.close()
            summary.seen += reader.seen
            summary.dropped.update(+reader.dropped)
        if not summary.seen:
            raise BagError(f"{self.bag.path}: its decisions are all damaged{because(self.bag)}; try --poses")

    # Poses ----------------------------------------------------------------------------------------------

    def _grid(self, inventory: Inventory) -> tuple[NavGrid, OccupancyMap | None]:
        args, radius = self.args, self.args.radius
        if self.fleet is not None:
            radius = max(robot.radius for robot in self.fleet.robots)
        if args.map is not None:
            plan = load_map_yaml(args.map)
        elif inventory.nav is not None and not args.map_topic:
            return inventory.nav, None
        else:
            record = self._map_record(inventory)
            try:
                plan = from_occupancy_grid(
                    self.decode(record.type, record.encoding, record.definition, record.data)
                )
            except ValueError as error:
                raise BagError(
                    f"{self.bag.path}: its map on {record.topic} cannot be used: {error}; name one with --map"
                ) from error
        return build_grid(plan, radius, args.margin, args.cell_size or None), plan

    def _map_record(self, inventory: Inventory) -> Record:
        maps, wanted = inventory.maps, self.args.map_topic
        if wanted:
            if wanted not in maps:
                raise BagError(
                    f"{self.bag.path}: no map on --map-topic {wanted}; maps are on {', '.join(maps) or 'no topic'}"
                )
            return maps[wanted]
        likely = [topic for topic in maps if topic.rsplit("/", 1)[-1] == "map"] or [
            topic for topic in maps if "costmap" not in topic
        ]
        if not likely:
            kinds = ", ".join(sorted(inventory.topics)[:8])
            raise BagError(
                f"{self.bag.path}: has no map among its topics ({kinds}); name the map's YAML file with --map"
            )
        return maps[min(likely, key=lambda topic: (topic.count("/"), topic))]

    def _sources(self, inventory: Inventory, map_frame: str) -> dict[str, frames.Source]:
        named = {}
        for entry in self.args.topics:
            robot, _, topic = entry.partition("=")
            if not robot or not topic:
                raise BagError(f"--topics {entry}: write ROBOT=TOPIC, e.g. alice=/alice/amcl_pose")
            named[robot] = topic
        by_frame = {}
        for robot in self.fleet.robots if self.fleet else ():
            if self.args.robots and robot.name not in self.args.robots:
                continue
            if robot.pose_source == "tf":
                by_frame[robot.name] = frames.Source(frame=frames.plain_frame(robot.base_frame))
            else:
                topic = "/" + robot.pose_topic.lstrip("/")
                ends = [name for name in inventory.topics if name == topic or name.endswith(topic)]
                if ends:
                    named.setdefault(robot.name, min(ends, key=len))
                else:
                    self.bag.note(f"robot '{robot.name}' of {self.args.robots_file}: no topic {topic}")
        if self.fleet:
            found = by_frame
            if named:
                found |= frames.find_sources(
                    inventory.topics, inventory.frames, set(), map_frame, named, tuple(named)
                )
            return found
        return frames.find_sources(
            inventory.topics, inventory.frames, inventory.children, map_frame, named, self.args.robots
        )

    def _poses(self, inventory: Inventory) -> Iterator[FleetEpisode]:
        summary = self.summary
        summary.mode = "poses"
        grid, summary.map = self._grid(inventory)
        summary.grid = grid
        map_frame = frames.plain_frame(grid.frame_id)
        sources = self._sources(inventory, map_frame)
        if not sources:
            kinds = ", ".join(f"{t.name} ({t.type})" for t in list(inventory.topics.values())[:8])
            raise BagError(
                f"{self.bag.path}: has no poses of robots (Odometry, PoseWithCovarianceStamped, PoseStamped or tf) "
                f"among {kinds}; record them, or name topics with --topics ROBOT=TOPIC"
            )
        by_header = self._clocks_agree(inventory, sources)
        poses = frames.Poses(sources, map_frame, by_header, self.args.trust_frames)
        tracks, goals = self._follow(poses, grid, sources)
        summary.dropped.update(poses.dropped)
        for track in tracks.values():
            track.close()
            summary.dropped.update({f"pose: {reason}": count for reason, count in track.dropped.items()})
            summary.poses += track.poses
            summary.mended += track.mended
        if not any(track.segments for track in tracks.values()):
            raise BagError(
                f"{self.bag.path}: not one pose lies on the map: "
                + (
                    ", ".join(f"{reason} ({count})" for reason, count in summary.dropped.most_common(3))
                    or "none came"
                )
                + "; check --map, --radius and the frames (--trust-frames)"
            )
        step = self.args.step or step_time(list(tracks.values()))
        inference = Inference(grid, tracks, step, self.args.rest, goals)
        spec = {"bag": self.bag.name, "cell_size": grid.cell_size, "origin": list(grid.origin)}
        yield from inference.episodes(self.bag.name, spec)
        result = inference.result
        summary.seen, summary.step_time = result.steps, step
        summary.rests, summary.turns = result.rests, result.turns
        summary.dropped.update(+result.dropped)

    def _clocks_agree(self, inventory: Inventory, sources: dict[str, frames.Source]) -> bool:
        """Whether robots' stamps are of one clock; otherwise the times of reception are used."""
        offsets = [inventory.offsets.get(source.topic) for source in sources.values() if source.topic]
        if not offsets:
            return True
        if None in offsets:
            return False
        agree = max(offsets) - min(offsets) < 1.0
        if not agree:
            self.bag.note("the robots' clocks differ by more than a second: times of reception are used")
        return agree

    def _follow(
        self, poses: frames.Poses, grid: NavGrid, sources: dict[str, frames.Source]
    ) -> tuple[dict[str, Track], dict[str, list]]:
        """The robots' tracks and the goals that were sent to them."""
        tracks = {robot: Track(grid) for robot in sources}
        goals: dict[str, list[tuple[float, tuple[int, int]]]] = {}

        def wanted(record: Record) -> bool:
            if record.type == frames.TF or record.topic in poses.by_topic:
                return True
            return record.type == frames.STAMPED and "goal" in record.topic.rsplit("/", 1)[-1]

        for record, message in self._messages(wanted):
            if record.type == frames.STAMPED and record.topic not in poses.by_topic:
                parts = record.topic.split("/")
                robots = [robot for robot in tracks if robot in parts] or (
                    list(tracks) if len(tracks) == 1 else []
                )
                x, y, _ = frames.planar(message.pose)
                inside = np.isfinite([x, y]).all() and abs(x) < 1e6 and abs(y) < 1e6
                cell = grid.cell_of(np.array([x, y])) if inside else None
                if cell is not None and grid.inside(cell) and grid.free[tuple(cell)]:
                    for robot in robots:
                        time = poses.time(message.header, record.stamp)
                        goals.setdefault(robot, []).append((time, tuple(cell.tolist())))
                else:
                    self.summary.dropped["goal is not on the grid"] += 1
                continue
            for robot, time, x, y, yaw in poses.take(record.topic, record.type, message, record.stamp):
                tracks[robot].pose(time, x, y, yaw)
        return tracks, goals
