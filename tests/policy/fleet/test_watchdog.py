"""The watchdog's rules: silence, latched stops, and what a restarted fleet must be told again."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from marlgpt_policy.fleet.watchdog import REPEAT_AFTER, Watchdog

TIMEOUT = 0.5


class Driven:
    """A watchdog and the fleet's heartbeats, 50 ms apart."""

    def __init__(self, robots=("a", "b")):
        self.dog = Watchdog(list(robots), TIMEOUT)
        self.now, self.sequence, self.incarnation = 100.0, 0, 1

    def beat(self, robots="ab", stopped=False, times=1, commanded=""):
        for _ in range(times):
            self.now += 0.05
            self.sequence += 1
            for robot in commanded:
                self.dog.command(robot, self.now)
            self.dog.heartbeat(self.sequence, stopped, list(robots), self.now, (self.incarnation, "n"))
        return self

    def other(self, robots="ab", incarnation=7, sequence=0, **said):
        """A heartbeat of another process at the same time."""
        self.dog.heartbeat(
            sequence or self.sequence, False, list(robots), self.now, (incarnation, "other"), **said
        )

    def restart(self, pause=2.0):
        self.now += pause
        self.dog.hold(self.now)
        self.sequence = 0
        self.incarnation += 1
        return self

    @property
    def held(self):
        return self.dog.hold(self.now)


def test_nothing_is_held_before_the_first_heartbeat_but_for_an_emergency_stop():
    dog = Watchdog(["a", "b"], TIMEOUT)
    assert dog.hold(1e6) == [] and dog.age(1e6) is None
    dog.emergency_stop("b", 1e6)
    assert dog.hold(1e6) == ["b"]
    dog.emergency_stop(None, 1e6)
    assert dog.hold(1e6) == ["a", "b"]
    assert dog.repeats(2e6) == [], "nobody is there to be told"


def test_silence_holds_exactly_the_robots_that_were_driven_until_heartbeats_return():
    fleet = Driven("abc").beat("ab")
    assert fleet.held == []
    assert fleet.dog.hold(fleet.now + 0.99 * TIMEOUT) == []
    assert fleet.dog.hold(fleet.now + TIMEOUT) == ["a", "b"], "c is not in the fleet"
    assert fleet.dog.hold(fleet.now + 1e5) == ["a", "b"] and fleet.dog.silent
    fleet.restart().beat()
    assert fleet.held == [] and not fleet.dog.silent


def test_copies_of_a_heartbeat_are_no_sign_of_life():
    fleet = Driven().beat()
    for k in range(20):
        fleet.dog.heartbeat(fleet.sequence - k % 2, False, ["a", "b"], fleet.now + k * 0.02, (1, "n"))
    assert fleet.dog.hold(fleet.now + TIMEOUT) == ["a", "b"]
    fleet.dog.heartbeat(fleet.sequence, False, ["a", "b"], fleet.now + 9.0, (1, "n"))
    assert fleet.dog.hold(fleet.now + 9.0) == ["a", "b"], "not after the silence either"


def test_robots_that_join_are_learnt_and_removed_ones_left_alone():
    fleet = Driven().beat().beat("abc").beat("bc")
    assert list(fleet.dog.known) == ["a", "b", "c"]
    assert fleet.dog.hold(fleet.now + TIMEOUT) == ["b", "c"]


def test_an_emergency_stop_ends_only_when_a_fleet_that_confirmed_it_is_resumed():
    fleet = Driven().beat()
    fleet.dog.emergency_stop(None, fleet.now)
    assert fleet.beat().held == ["a", "b"], "in flight before the fleet heard of it"
    assert fleet.beat(times=20).held == ["a", "b"]
    assert fleet.beat(stopped=True, times=20).held == ["a", "b"]
    assert fleet.beat().held == []


def test_an_emergency_stop_of_one_robot_ends_when_it_is_resumed():
    fleet = Driven().beat()
    fleet.dog.emergency_stop("a", fleet.now)
    assert fleet.beat().held == ["a"]
    assert fleet.beat("b", times=3).held == ["a"]
    assert fleet.beat("b", stopped=True).beat("b").held == ["a"], "resuming all does not resume it"
    assert fleet.beat("ab").held == []


def test_a_robot_stopped_before_it_joins_stays_stopped():
    fleet = Driven().beat("a")
    fleet.dog.emergency_stop("b", fleet.now)
    assert fleet.beat("ab", times=10).held == ["b"]
    assert fleet.dog.repeats(fleet.now) == ["b"]
    assert fleet.beat("a").beat("ab").held == []


def test_stops_that_are_not_confirmed_are_repeated_at_intervals():
    fleet = Driven().beat()
    fleet.dog.emergency_stop(None, fleet.now)
    fleet.dog.emergency_stop("a", fleet.now)
    fleet.beat()
    assert fleet.dog.repeats(fleet.now) == [], "it may not have had the time"
    fleet.beat(times=round(REPEAT_AFTER / 0.05))
    assert fleet.dog.repeats(fleet.now) == [None, "a"]
    assert fleet.dog.repeats(fleet.now + REPEAT_AFTER / 2) == []
    fleet.beat("b", stopped=True, times=10)
    assert fleet.dog.repeats(fleet.now) == []


@pytest.mark.parametrize("pause", [0.05, 2.0])
def test_a_restarted_fleet_inherits_its_stop(pause):
    fleet = Driven().beat(times=5).beat(stopped=True, times=5)
    fleet.restart(pause).beat(times=18)  # it counts once the one before is silent
    assert fleet.held == ["a", "b"]
    assert fleet.dog.repeats(fleet.now) == [None]
    assert fleet.beat(stopped=True).beat().held == []


def test_a_restarted_fleet_inherits_the_stop_of_one_robot():
    fleet = (
        Driven().beat(times=5).beat("b", times=5)
    )  # a was stopped by a service: the watchdog heard no topic
    assert fleet.held == []
    fleet.restart().beat("ab", times=8)
    assert fleet.held == ["a"]
    assert fleet.dog.repeats(fleet.now) == ["a"]
    assert fleet.beat("b").beat("ab").held == []


def test_a_restarted_fleet_that_does_not_know_a_robot_is_stopped_until_resumed():
    fleet = Driven().beat("abc").restart().beat("ab")
    assert fleet.dog.orphans == {"c"} and fleet.held == ["a", "b", "c"]
    fleet.beat("ab", times=8)
    assert fleet.dog.repeats(fleet.now) == [None]
    assert fleet.beat("abc", stopped=True).held == ["a", "b", "c"] and not fleet.dog.orphans
    assert fleet.beat("abc").held == []


def test_heartbeats_of_another_fleet_are_not_heard():
    fleet = Driven().beat()
    for k in range(40):
        fleet.now += 0.05
        fleet.other("cd", sequence=k + 1)
    assert fleet.held == ["a", "b"] and fleet.dog.silent and fleet.dog.foreign == 40
    assert list(fleet.dog.known) == ["a", "b"]


def test_a_second_sender_keeps_nobody_silent_when_the_commands_cease():
    fleet = Driven().beat(times=5, commanded="ab")
    for k in range(60):  # the first one is dead; the other says that it drives the same robots
        fleet.now += 0.05
        fleet.other(sequence=k + 1)
        if k * 0.05 > 2 * TIMEOUT:
            assert fleet.held == ["a", "b"] and fleet.dog.uncommanded == {"a", "b"}
    for k in range(60, 70):
        fleet.now += 0.05
        fleet.dog.command("a", fleet.now)
        fleet.other(sequence=k + 1)
    assert fleet.held == ["b"], "a is commanded again"


def test_whose_commands_cease_is_held_whatever_heartbeats_say():
    fleet = Driven().beat(times=5, commanded="ab").beat(times=9, commanded="a")
    assert fleet.held == []
    assert fleet.beat(times=2, commanded="a").held == ["b"]
    assert fleet.beat(commanded="ab").held == []
    assert fleet.beat(robots="a", times=30, commanded="a").held == [], "b is stopped by itself, or gone"
    assert fleet.beat(robots="ab").held == [], "it may be commanded just after"
    assert fleet.beat(times=30, commanded="a").held == ["b"]


def test_who_is_taken_over_is_held_until_the_new_sender_commands_it():
    """Also where its first heartbeat is the first event after the timeout: else nobody would have been sent zero."""
    fleet = Driven().beat(times=5, commanded="ab")
    fleet.now += TIMEOUT
    fleet.sequence, fleet.incarnation = 0, 2
    fleet.dog.heartbeat(1, False, ["a", "b"], fleet.now, (2, "n"))
    assert fleet.dog.sender == (2, "n") and fleet.held == ["a", "b"]
    fleet.sequence = 1
    assert fleet.beat(commanded="a").held == ["b"]
    assert fleet.beat(commanded="ab").held == []


def test_two_that_drive_the_same_robots_are_stopped_unless_one_gives_way():
    fleet = Driven().beat(times=3)
    for k in range(6):
        fleet.beat().other(sequence=k + 1)
    assert fleet.beat(times=20).held == [] and not fleet.dog.contest, "it gave way"
    for k in range(20):
        fleet.beat().other(sequence=k + 7)
    assert fleet.held == ["a", "b"] and fleet.dog.contest == ("n", "other")
    assert fleet.beat(times=20).held == ["a", "b"], "until resumed"
    assert fleet.beat(stopped=True).beat().held == [] and not fleet.dog.contest


def test_the_one_that_stays_may_be_the_second():
    fleet = Driven().beat(times=3)
    for k in range(40):
        fleet.now += 0.05
        fleet.other(sequence=k + 1)
    assert fleet.held == [] and fleet.dog.sender == (7, "other") and not fleet.dog.stopped


@given(st.data())
def test_without_a_confirmed_stop_no_sequence_of_heartbeats_releases_one(data):
    """Restarts, pauses, copies and reordering included: only stopped-then-not-stopped, in order, is a release."""
    fleet = Driven().beat(times=3)
    fleet.dog.emergency_stop(None, fleet.now)
    for _ in range(data.draw(st.integers(1, 30))):
        fleet.now += data.draw(st.sampled_from([0.0, 0.05, 0.4, 0.6, 5.0]))
        fleet.dog.heartbeat(
            data.draw(st.integers(0, 5)), False, data.draw(st.sampled_from(["ab", "a", ""])), fleet.now,
            (data.draw(st.integers(1, 3)), "n"),
        )  # fmt: skip
        assert fleet.held == ["a", "b"]


@given(st.data())
def test_after_silence_everything_that_was_driven_last_is_held(data):
    fleet = Driven("abcd")
    for _ in range(data.draw(st.integers(1, 30))):
        fleet.now += data.draw(st.sampled_from([0.0, 0.05, 0.4, 0.6, 5.0]))
        robots = data.draw(st.sampled_from(["ab", "abcd", "a", ""]))
        if data.draw(st.booleans()):
            fleet.dog.emergency_stop(data.draw(st.sampled_from([None, "a", "b"])), fleet.now)
        sender = data.draw(st.integers(1, 3)), "n"
        fleet.dog.heartbeat(data.draw(st.integers(0, 5)), data.draw(st.booleans()), robots, fleet.now, sender)
        assert set(fleet.dog.hold(fleet.now + TIMEOUT)) >= fleet.dog.driven
