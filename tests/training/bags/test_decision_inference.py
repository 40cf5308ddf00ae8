"""Recorded decisions: the imported observations and moves are those of the fleet, bit for bit."""

import numpy as np
import pytest
from marlgpt_sim.bags.bag_writer import BagWriter
from marlgpt_training.bags import decisions as decisions_module
from marlgpt_training.bags.bag_reader import Decoder, open_bag, records
from marlgpt_training.bags.decisions import DecisionEpisodes, grid_of
from marlgpt_training.dataloader.episode_unrolling import unroll
from marlgpt_training.dataloader.samples import expand
from marlgpt_training.dataloader.sampling import SamplingConfig, episode_samples
from marlgpt_training.store.shards import encode_shard, read_shard, write_shard

pytest.importorskip("rclpy")

from fleet_sim import Stub, place  # noqa: E402
from marlgpt_policy.nodes.messages import conversions
from rclpy.serialization import serialize_message  # noqa: E402
from rclpy.time import Time  # noqa: E402
from std_msgs.msg import Header  # noqa: E402

DECISION, GRID = "marlgpt_msgs/msg/FleetDecision", "marlgpt_msgs/msg/Grid"
LINES = (
    "..........",
    ".##.##.##.",
    "..........",
    ".##.##.##.",
    "..........",
)


class Witness(Stub):
    """Remembers what it was shown and what it answered."""

    def __init__(self):
        super().__init__()
        self.shown = []

    def __call__(self, values, valid, action_mask):
        output = super().__call__(values, valid, action_mask)
        self.shown.append((values.copy(), valid.copy(), action_mask.copy(), output.probabilities.copy()))
        return output


class Recording:
    """A fleet whose grid and decisions go into a bag, as the fleet node's would."""

    def __init__(self, path, sim):
        self.sim, self.bag, self.decisions = sim, BagWriter(path, ["marlgpt_msgs"]), []
        for topic, kind in (("/fleet/grid", GRID), ("/fleet/decisions", DECISION)):
            self.bag.add_topic(topic, kind, [])
        grid = conversions.grid_message(sim.fleet.grid)
        self.bag.write("/fleet/grid", GRID, serialize_message(grid), 1)

    def tick(self):
        now = self.sim.time
        result = self.sim.tick()
        if result.decision is not None:
            self.decisions.append(result.decision)
            header = Header(frame_id="map", stamp=Time(nanoseconds=round(now * 1e9)).to_msg())
            message = conversions.decision_message(self.sim.fleet, result.decision, header)
            data = serialize_message(message)
            self.bag.write("/fleet/decisions", DECISION, data, round(now * 1e9) + 1)
        return result


def import_decisions(path):
    """Episodes of a bag, by the parts of the importer."""
    bag, decode = open_bag(path), Decoder("")
    episodes, reader = [], DecisionEpisodes(bag.name, {}, {})
    for record in records(bag):
        message = decode(record.type, record.encoding, record.definition, record.data)
        if record.type == GRID:
            reader.grids[message.hash] = grid_of(message)
        else:
            episodes += reader.take(message)
    return [*episodes, *reader.close()], reader


def jammed_fleet(execution, witness, random):
    """Twelve robots in narrow aisles with endless goals; one falls silent, one does not obey, and one is stopped."""
    cells = [(r, c) for r in range(5) for c in range(10) if LINES[r][c] == "."]
    starts = random.permutation(len(cells))[:12]
    sim = place(
        LINES, *[cells[k] for k in starts], policy=witness, execution=execution, temperature=0.5, noise=0.001
    )
    for i in range(12):
        sim.go(i, cells[random.integers(len(cells))])
    return sim, cells


@pytest.mark.parametrize("execution", ["asynchronous", "synchronous"])
def test_bit_for_bit(tmp_path, execution, monkeypatch):
    """With faults, detours, remedies and cleared ways, every token, mask and move comes back as it was."""
    monkeypatch.setattr(decisions_module, "LENGTH", 100)
    random, witness = np.random.default_rng(3), Witness()
    sim, cells = jammed_fleet(execution, witness, random)
    recording = Recording(tmp_path / "bag", sim)
    for tick in range(1600):
        if tick == 200:
            sim.silent.add(2)
        if tick == 300:
            sim.deaf.add(5)
        if tick == 700:
            sim.silent.clear(), sim.deaf.clear()
        if tick in (500, 900):
            (sim.fleet.stop if tick == 500 else sim.fleet.resume)(7)
        for i in recording.tick().reached:
            sim.go(i, cells[random.integers(len(cells))])
    recording.bag.close()
    decisions = recording.decisions
    assert any(len(decision.detours) for decision in decisions)
    assert any((decision.remedy > 0).any() for decision in decisions)
    assert sum(sim.fleet.remedies.values()) > sim.fleet.remedies["sampling"]

    episodes, reader = import_decisions(tmp_path / "bag")
    assert len(episodes) > 1 and reader.taken == reader.seen == sim.fleet.decisions
    write_shard(tmp_path / "a.parquet", episodes)
    stored = read_shard(tmp_path / "a.parquet")
    assert encode_shard(stored) == encode_shard(episodes)
    rows = [(replay, step) for replay in map(unroll, stored) for step in range(len(replay.episode.actions))]
    assert len(rows) == len(decisions) == len(witness.shown)
    closed_moves = 0
    for (replay, step), decision, shown in zip(rows, decisions, witness.shown, strict=True):
        values, valid, mask = replay.encode(step)
        assert np.array_equal(values, shown[0]) and values.dtype == shown[0].dtype
        assert np.array_equal(valid, shown[1]) and np.array_equal(mask, shown[2])
        episode = replay.episode
        assert np.array_equal(episode.actions[step], np.where(decision.held, -1, decision.executed))
        members = np.flatnonzero(~decision.held)
        moves = sim.grid.moves[tuple(decision.cells[members].T)]
        closed_moves += int((moves & ~mask[:, :5]).sum())
    assert closed_moves, "no move was ever closed: the test shows less than it says"
    total = sum(float(episode.rewards.sum()) for episode in stored)
    assert sim.fleet.goals_reached.sum() - 12 <= total <= sim.fleet.goals_reached.sum()
    assert total > 20


def test_batches_hold_the_live_tokens(tmp_path):
    """What training draws from such episodes are observations of the fleet with the moves that it made."""
    random, witness = np.random.default_rng(4), Witness()
    sim, cells = jammed_fleet("asynchronous", witness, random)
    recording = Recording(tmp_path / "bag", sim)
    for _ in range(400):
        for i in recording.tick().reached:
            sim.go(i, cells[random.integers(len(cells))])
    recording.bag.close()
    episodes, _ = import_decisions(tmp_path / "bag")
    live = {}
    for decision, (values, valid, mask, _) in zip(recording.decisions, witness.shown, strict=True):
        members = np.flatnonzero(~decision.held)
        for k, i in enumerate(members):
            key = values[k].tobytes() + valid[k].tobytes() + mask[k, :5].tobytes()
            live.setdefault(key, set()).add(int(decision.executed[i]))
    drawn = 0
    for transitions in (False, True):
        drawing = SamplingConfig(per_episode=100_000, transitions=transitions, td_steps=2)
        for episode in episodes:
            for samples in episode_samples(episode, np.random.default_rng(0), drawing):
                for packed, masks in (
                    (samples.packed, samples.masks), (samples.next_packed, samples.next_masks)
                ):  # fmt: skip
                    if packed is None:
                        continue
                    values, valid = expand(packed)
                    for k in range(len(values)):
                        assert values[k].tobytes() + valid[k].tobytes() + masks[k].tobytes() in live
                values, valid = expand(samples.packed)
                for k, label in enumerate(samples.labels):
                    key = values[k].tobytes() + valid[k].tobytes() + samples.masks[k].tobytes()
                    assert int(label) in live[key] or label == -1
                drawn += len(samples)
                if transitions:
                    assert (samples.bootstraps > 0).all() and (samples.bootstraps < 1).all()
    assert drawn > sim.fleet.decisions
