"""The protocol between robots on a simulated network that loses, delays and reorders: nobody shares a cell."""

from __future__ import annotations

import heapq
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from marlgpt_policy.decentralised.cell_protocol import Peers
from marlgpt_policy.decentralised.peer_state import Rules

STEP = 0.05  # s of true time between two turns of every robot


class Robot:
    """A robot that wanders: it asks for random neighbours and leaves cells as fast as it is allowed to."""

    def __init__(self, name, start, offset, rate):
        self.name, self.offset, self.rate = name, offset, rate
        self.body = [start]  # cells that nobody else may have: all it held when it died, or claims after that
        self.peers = None
        self.wakes = 0.0  # true time at which its process starts
        self.incarnation = 0
        self.wants = None
        self.carried = (
            False  # by hand to another cell: the rules cannot know of it before it has joined there
        )

    def clock(self, time):
        return self.offset + self.rate * time

    def occupied(self):
        return self.peers.held if self.joined else self.body

    @property
    def joined(self):
        return self.peers is not None and self.peers.joined


class Floor:
    """Robots on a small grid with true time, a network between them, and a checker."""

    def __init__(self, seed, n=None, shape=None, cell_time=None, delay=None, kinds=Peers, faults=True):
        self.random = random = np.random.default_rng(seed)
        n = n or int(random.integers(3, 6))
        self.shape = shape or [(3, 3), (1, 9), (3, 5), (2, 6), (2, 20)][random.integers(5)]
        cells = [(r, c) for r in range(self.shape[0]) for c in range(self.shape[1])]
        names = tuple(f"r{i}" for i in range(n))
        self.rules = Rules(names, "grid", cell_time or [0.3, 0.7][random.integers(2)], quorum_age=1.0)
        starts = random.permutation(len(cells))
        self.robots = [
            Robot(name, cells[starts[i]], random.uniform(-1e4, 1e4), 1 + random.uniform(-2e-3, 2e-3))
            for i, name in enumerate(names)
        ]
        self.kinds, self.faults = kinds, faults
        self.delay = delay or [0.03, 0.2, 0.8][random.integers(3)]
        self.deaths = [0.0, 0.1, 0.4][random.integers(3)]
        self.loss = np.zeros((n, n))
        self.time, self.next_weather, self.order = 0.0, 3.0, 0
        self.post = []
        self.grants = dict.fromkeys(names, 0)
        self.conflicts = []

    def run(self, seconds):
        end = self.time + seconds
        while self.time < end:
            self.turn()
        return self

    def turn(self):
        random = self.random
        if self.faults and self.time >= self.next_weather:
            self.change_weather()
        while self.post and self.post[0][0] <= self.time:
            _, _, to, state = heapq.heappop(self.post)
            if self.robots[to].peers is not None:
                self.robots[to].peers.receive(state)
        for i in random.permutation(len(self.robots)):
            robot = self.robots[i]
            if robot.peers is None:
                if self.time >= robot.wakes:
                    self.wake(robot)
                continue
            if random.random() < 0.85:
                self.act(robot)
            if random.random() < 0.5:
                self.send(int(i), robot)
        self.check()
        self.time += STEP

    def wake(self, robot):
        robot.incarnation += 1
        robot.peers = self.kinds(robot.name, self.rules, robot.incarnation)
        robot.peers.claim(robot.body)

    def act(self, robot):
        peers, random = robot.peers, self.random
        now = robot.clock(self.time)
        if peers.joined:
            while len(peers.held) > 1 and random.random() < 0.5:
                peers.release(peers.held[0])
            if peers.request is None and random.random() < 0.7 and len(peers.held) < 4:
                wish = self.wish(robot)
                if wish is not None:
                    peers.ask(wish)
            elif random.random() < 0.05:
                peers.drop()
        if peers.tick(now) is not None:
            self.grants[robot.name] += 1

    def wish(self, robot):
        """A neighbour of the last cell, mostly one that brings the robot nearer to where it wants to go."""
        random, held = self.random, robot.peers.held
        r, c = held[-1]
        if robot.wants in (None, (r, c)) or random.random() < 0.03:
            robot.wants = (int(random.integers(self.shape[0])), int(random.integers(self.shape[1])))
        near = [(r - 1, c), (r + 1, c), (r, c - 1), (r, c + 1)]
        near = [
            cell for cell in near if min(cell) >= 0 and cell[0] < self.shape[0] and cell[1] < self.shape[1]
        ]
        near = [cell for cell in near if cell not in held]
        if random.random() < 0.7:
            near.sort(key=lambda cell: abs(cell[0] - robot.wants[0]) + abs(cell[1] - robot.wants[1]))
            return near[0] if near else None
        return near[random.integers(len(near))] if near else None

    def send(self, i, robot):
        state = robot.peers.message(robot.clock(self.time))
        for to in range(len(self.robots)):
            if to != i and self.random.random() >= self.loss[i, to]:
                self.order += 1
                late = self.time + self.random.uniform(0.0, self.delay)
                heapq.heappush(self.post, (late, self.order, to, state))

    def change_weather(self):
        """New losses per directed link; now and then somebody dies, restarts at once, or is carried away."""
        random, n = self.random, len(self.robots)
        self.next_weather = self.time + random.uniform(0.5, 6.0)
        worst = random.integers(2, 7)
        self.loss = random.choice([0.0, 0.0, 0.2, 0.5, 0.9, 1.0][:worst], size=(n, n))
        kind = random.integers(6)
        if kind == 0:  # two halves that do not hear each other
            side = random.random(n) < 0.5
            self.loss[np.not_equal.outer(side, side)] = 1.0
        elif kind == 1:  # one robot's messages are lost
            self.loss[random.integers(n)] = 1.0
        elif kind == 2:  # one that hears nobody
            self.loss[:, random.integers(n)] = 1.0
        elif kind == 3:  # two that hear the others but not each other
            a, b = random.choice(n, 2, replace=False)
            self.loss[a, b] = self.loss[b, a] = 1.0
        if random.random() < self.deaths:
            self.kill(self.robots[random.integers(n)])

    def kill(self, robot):
        random = self.random
        if robot.peers is None:
            return
        if robot.peers.joined:
            robot.body, robot.carried = list(robot.peers.held), False
        robot.peers = None
        robot.wakes = self.time + random.choice([0.0, 0.3, 2.0, 20.0])
        if random.random() < 0.7 or len(robot.body) == 1:  # it stands between two of its cells, or on one
            k = random.integers(len(robot.body))
            robot.body = robot.body[k : k + int(random.integers(1, 3))]
        if random.random() < 0.1:
            free = [(r, c) for r in range(self.shape[0]) for c in range(self.shape[1])]
            robot.body, robot.carried = [free[random.integers(len(free))]], True

    def check(self):
        taken = {}
        for robot in self.robots:
            for cell in robot.occupied():
                for other in taken.get(cell, ()):
                    by_hand = robot.carried or other.carried
                    if not by_hand or (robot.joined and other.joined):
                        self.conflicts.append((round(self.time, 2), cell, other.name, robot.name))
                taken.setdefault(cell, []).append(robot)


def grants(floor):
    return sum(floor.grants.values())


# Nobody shares a cell -------------------------------------------------------------------------------------


@settings(max_examples=120, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_nobody_shares_a_cell_whatever_the_network_does(seed):
    assert wander(seed).conflicts == []


@pytest.mark.slow
def test_nobody_shares_a_cell_in_hundreds_of_schedules():
    floors = [wander(seed) for seed in range(500)]
    assert [floor.conflicts for floor in floors if floor.conflicts] == []
    assert sum(grants(floor) for floor in floors) > 20 * len(floors)  # the schedules are not just standstill


def wander(seed, kinds=Peers):
    return Floor(seed, kinds=kinds).run(30.0)


def head_on(seed, kinds=Peers, silent_to=(1, 2), rate=1.0):
    """Two robots drive towards each other along a corridor; the first can no longer be heard by some others."""
    floor = Floor(seed, n=3, shape=(2, 24), cell_time=0.3, delay=0.03, kinds=kinds, faults=False)
    ends = [((0, 0), (0, 23)), ((0, 23), (0, 0)), ((1, 23), (1, 23))]
    for robot, (start, wants) in zip(floor.robots, ends, strict=True):
        robot.body, robot.wants = [start], wants
    floor.robots[1].rate = rate
    floor.run(0.5 + 0.5 * (seed % 4))
    floor.loss[0, silent_to] = 1.0
    return floor.run(20.0)


def unheard_by_one(seed, kinds=Peers):
    return head_on(seed, kinds, silent_to=1)


@pytest.mark.parametrize("schedule", [head_on, unheard_by_one])
@pytest.mark.parametrize("seed", range(15))
def test_nobody_runs_into_a_robot_that_fell_silent(seed, schedule):
    assert schedule(seed).conflicts == []


# These assumptions carry the guarantee: without any one of them the checker above finds conflicts -----------


class TakesOthersForSlow(Peers):
    """Believes that nobody takes more than one cell between two of its messages."""

    def reach(self, name, now):
        return min(super().reach(name, now), 1)


class NeedsNoQuorum(Peers):
    def quorum(self, now):
        return True


class KnowsNoCellTime(Peers):
    def tick(self, now):
        self._last_grant = -math.inf
        return super().tick(now)


class WaitsForNoAnswer(Peers):
    def _passes(self, name, cell, now):
        self._asked = 0
        return super()._passes(name, cell, now)


class JoinsAlone(Peers):
    def waits_for(self):
        return None


class AsksNoWitness(Peers):
    """Bounds a silent robot by what it has heard of it alone."""

    def reach(self, name, now):
        rules = self.rules
        return min(super().reach(name, now), rules.steps(rules.quorum_age))


@pytest.mark.parametrize(
    ("kinds", "schedule"),
    [
        (TakesOthersForSlow, wander),
        (KnowsNoCellTime, wander),
        (WaitsForNoAnswer, wander),
        (JoinsAlone, wander),
        (TakesOthersForSlow, head_on),
        (NeedsNoQuorum, head_on),
        (AsksNoWitness, unheard_by_one),
    ],
)
def test_a_broken_assumption_is_found(kinds, schedule):
    assert any(schedule(seed, kinds=kinds).conflicts for seed in range(300))


def test_a_clock_beyond_the_slack_is_found():
    """The second robot's clock runs at a fifth of the true rate: old news of the first looks fresh to it."""
    assert any(head_on(seed, silent_to=1, rate=0.2).conflicts for seed in range(100))


# Life goes on ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("how", ["silent", "dead"])
def test_the_fleet_goes_on_away_from_a_robot_that_is_lost(seed, how):
    floor = Floor(seed, n=5, shape=(12, 12), cell_time=0.7, delay=0.03, faults=False).run(10.0)
    if how == "silent":
        floor.loss[0, :] = 1.0
    else:
        floor.robots[0].body, floor.robots[0].peers = list(floor.robots[0].peers.held), None
        floor.robots[0].wakes = math.inf
    floor.run(10.0)
    before = dict(floor.grants)
    floor.run(60.0)
    more = {name: floor.grants[name] - before[name] for name in before}
    assert more["r0"] == 0
    assert sum(more.values()) > 40 and sum(count > 5 for count in more.values()) >= 2, more
    assert floor.conflicts == []
    # What it may occupy has stopped growing: the cells of one quorum_age and those since the witnesses' states.
    for robot in floor.robots[1:]:
        bound = floor.rules.steps(floor.rules.quorum_age) + floor.rules.steps(1.0) + 1
        assert robot.peers.reach("r0", robot.clock(floor.time)) <= bound


@pytest.mark.parametrize("loss", [0.2, 0.5])
def test_lost_messages_slow_the_fleet_but_do_not_stop_it(loss):
    floor = Floor(1, n=4, shape=(3, 5), cell_time=0.7, delay=0.03, faults=False)
    floor.loss[:] = loss
    floor.run(60.0)
    assert min(floor.grants.values()) > 10
    assert floor.conflicts == []
