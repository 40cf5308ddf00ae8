"""Reservations: one holder per cell, claims in order, and no way to take what another one holds."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from marlgpt_policy.motion.reservations import NOBODY, ReservationError, Reservations

CALLS = st.tuples(
    st.sampled_from(["acquire", "follow", "leave", "give_back", "release_all"]),
    st.tuples(st.integers(0, 1), st.integers(0, 1)),
    st.integers(0, 2),
    st.integers(0, 2),
)


def test_acquire_and_leave():
    held = Reservations((2, 3))
    assert (held.holder == NOBODY).all()
    held.acquire(np.array([1, 2]), 4)
    assert held.holder[1, 2] == held.of((1, 2)) == 4
    held.leave(np.array([1, 2]), 4)
    assert (held.holder == NOBODY).all()


def test_a_held_cell_cannot_be_taken_and_the_error_names_both():
    held = Reservations((2, 3))
    held.acquire((0, 1), 0)
    with pytest.raises(ReservationError, match=r"\(0, 1\) is held by robot 0, robot 5"):
        held.acquire((0, 1), 5)
    assert held.holder[0, 1] == 0


def test_only_who_has_a_claim_can_leave_and_only_the_holder_can_give_back():
    held = Reservations((2, 3))
    held.acquire((0, 1), 0)
    held.follow((0, 1), 0, 1)
    for robot, cell in ((2, (0, 1)), (0, (0, 0))):
        with pytest.raises(ReservationError, match=f"robot {robot} has no claim"):
            held.leave(cell, robot)
    with pytest.raises(ReservationError, match="robot 0 does not hold"):
        held.give_back((0, 1), 0)
    assert held.queue((0, 1)) == [0, 1]


def test_a_cell_that_a_follower_gives_back_belongs_to_whoever_is_still_in_it():
    held = Reservations((2, 3))
    held.acquire((0, 1), 0)
    held.follow((0, 1), 0, 1)
    held.follow((0, 1), 1, 2)
    held.give_back((0, 1), 2)
    assert held.of((0, 1)) == 1, "the last one that has not left"
    held.leave((0, 1), 1)
    assert held.of((0, 1)) == 0
    with pytest.raises(ReservationError):
        held.follow((0, 1), 1, 2)


def test_a_robot_that_turns_round_claims_its_cell_twice():
    held = Reservations((2, 3))
    held.acquire((0, 1), 0)
    held.acquire((0, 1), 0)
    held.leave((0, 1), 0)
    assert held.of((0, 1)) == 0
    held.give_back((0, 1), 0)
    assert held.of((0, 1)) == NOBODY


def check(model, call, cell, a, b):
    """Whether the call is allowed, its arguments, and the queues after it."""
    queue = model.get(cell, [])
    holder = queue[-1] if queue else None
    if call == "acquire":
        return holder in (None, a), (cell, a), {**model, cell: [*queue, a]}
    if call == "follow":
        return holder == a, (cell, a, b), {**model, cell: [*queue, b]}
    if call == "leave":
        rest = list(queue)
        if a in rest:
            rest.remove(a)
        return a in queue, (cell, a), {**model, cell: rest}
    if call == "give_back":
        return holder == a, (cell, a), {**model, cell: queue[:-1]}
    return True, (a,), {key: [robot for robot in value if robot != a] for key, value in model.items()}


@settings(max_examples=200, deadline=None)
@given(calls=st.lists(CALLS, max_size=40))
def test_any_sequence_agrees_with_a_dictionary_and_refusals_change_nothing(calls):
    held, model = Reservations((2, 2)), {}
    for call, cell, a, b in calls:
        allowed, args, after = check(model, call, cell, a, b)
        if allowed:
            getattr(held, call)(*args)
            model = after
        else:
            with pytest.raises(ReservationError):
                getattr(held, call)(*args)
        for r in range(2):
            for c in range(2):
                queue = model.get((r, c), [])
                assert held.queue((r, c)) == queue
                assert held.holder[r, c] == (queue[-1] if queue else NOBODY)
