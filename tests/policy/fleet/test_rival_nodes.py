"""Which of several fleet nodes drives a robot: exactly one, in whatever order their heartbeats arrive."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from marlgpt_policy.fleet.rival_nodes import REMEMBERED, Claim, Phase, Rivals

SILENCE, LISTEN = 0.5, 0.3
MINE = frozenset("ab")


def beat(rivals, now, robots=MINE, **said):
    """A heartbeat of another node arrives."""
    beat.sequence += 1
    values = {"phase": Phase.DRIVING, "incarnation": 5, "node": "other", "sequence": beat.sequence, **said}
    rivals.hear(Claim(robots=frozenset(robots), **values), now)


beat.sequence = 0


@pytest.fixture
def candidate():
    rivals = Rivals("me", SILENCE)
    rivals.begin(100, 0.0, LISTEN)
    return rivals


def test_who_hears_nobody_begins_when_its_time_to_listen_is_over(candidate):
    assert candidate.listening(MINE, 0.29)
    assert not candidate.listening(MINE, 0.31) and candidate.ahead(MINE, 0.31) is None


def test_one_heartbeat_of_the_dead_delays_and_a_second_of_the_living_bars(candidate):
    beat(candidate, 0.1)
    assert candidate.ahead(MINE, 0.1) is None and candidate.listening(MINE, 0.55)
    assert not candidate.listening(MINE, 0.61), "silence: it was the last word of a dead process"
    beat(candidate, 0.7)
    beat(candidate, 0.75)
    assert candidate.ahead(MINE, 0.8).node == "other"


def test_copies_are_no_second_heartbeat_and_own_ones_none_at_all(candidate):
    for _ in range(3):
        candidate.hear(Claim(Phase.DRIVING, 5, "other", MINE, sequence=9), 0.1)
        candidate.hear(Claim(Phase.DRIVING, 100, "me", MINE, sequence=random.randrange(100)), 0.1)
    assert candidate.ahead(MINE, 0.1) is None


def test_others_robots_are_no_reason_and_those_that_stand_are(candidate):
    for now in (0.1, 0.15, 0.2):
        beat(candidate, now, robots="cd")
    assert candidate.ahead(MINE, 0.2) is None and candidate.ahead({"a", "d"}, 0.2) is not None
    assert candidate.driving("c", 0.2).node == "other" and candidate.driving("c", 0.8) is None


def test_who_drives_stays_before_who_waits_and_the_older_before_the_younger(candidate):
    for phase, incarnation, stays in (
        (Phase.CANDIDATE, 99, True), (Phase.CANDIDATE, 101, False), (Phase.WAITING, 101, True),
    ):  # fmt: skip
        beat(candidate, 0.1, phase=phase, incarnation=incarnation)
        beat(candidate, 0.1, phase=phase, incarnation=incarnation)
        assert (candidate.ahead(MINE, 0.1) is not None) == stays, (phase, incarnation)
        beat(candidate, 0.1, phase=Phase.WITHDRAWN, incarnation=incarnation)
        assert candidate.ahead(MINE, 0.1) is None
    candidate.advance(Phase.DRIVING)
    beat(candidate, 0.2, phase=Phase.WAITING, incarnation=1)
    beat(candidate, 0.2, phase=Phase.WAITING, incarnation=1)
    assert candidate.ahead(MINE, 0.2) is None


def test_who_was_frozen_begins_anew_behind_who_took_over(candidate):
    candidate.advance(Phase.DRIVING)
    for now in (9.0, 9.1):
        beat(candidate, now, incarnation=500)
    assert candidate.ahead(MINE, 9.1) is None, "the older one of two that drive stays"
    candidate.begin(900, 9.1, LISTEN)
    assert candidate.ahead(MINE, 9.1).incarnation == 500


def test_phases_do_not_go_back_and_memory_is_bounded(candidate):
    candidate.advance(Phase.DRIVING)
    candidate.advance(Phase.WAITING)
    assert candidate.own.phase is Phase.DRIVING
    for k in range(10 * REMEMBERED):
        beat(candidate, 0.01 * k, incarnation=k + 1000, node=f"n{k}")
    assert len(candidate._others) <= REMEMBERED


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_exactly_one_of_several_stays_whenever_they_begin_and_whatever_is_late(data):
    """Nodes that begin at any time, hear each other from any time on, and whose messages take any time."""
    draw, dice = data.draw, random.Random(data.draw(st.integers(0, 2**32)))
    n = draw(st.integers(2, 4))
    starts = [draw(st.integers(0, 40)) for _ in range(n)]
    map_at = [draw(st.integers(0, 60)) for _ in range(n)]
    found = {(i, j): draw(st.integers(0, 60)) for i in range(n) for j in range(n) if i != j}
    nodes, gone, post, sequence = {}, set(), [], 0
    for step in range(160):
        now = 0.05 * step
        late = dice.randint(0, 3) if step < 80 else 0
        for i in range(n):
            if step == starts[i]:
                nodes[i] = Rivals(f"n{i}", SILENCE)
                nodes[i].begin(1000 + starts[i], now, LISTEN)
        for _, to, claim in [p for p in post if p[0] <= step]:
            if to in nodes:
                nodes[to].hear(claim, now)
        post = [p for p in post if p[0] > step]
        for i, node in nodes.items():
            if i in gone:
                continue
            if node.ahead(MINE, now):
                gone.add(i)
                node.advance(Phase.WITHDRAWN)
            elif not node.listening(MINE, now):
                node.advance(Phase.DRIVING if step >= map_at[i] else Phase.WAITING)
            sequence += 1
            for to in range(n):
                if to != i and step >= found[i, to]:
                    said = Claim(node.own.phase, node.own.incarnation, node.own.node, MINE, sequence)
                    post.append((step + 1 + late, to, said))
        post.sort(key=lambda p: (p[0], p[2].sequence))
    driving = [i for i, node in nodes.items() if node.own.phase is Phase.DRIVING]
    assert len(driving) == 1 and len(gone) == n - 1, (starts, driving, gone)
