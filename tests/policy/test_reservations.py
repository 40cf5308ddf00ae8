"""Reservations: one holder per cell, and no way to take what another one holds."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from marlgpt_policy.reservations import NOBODY, ReservationError, Reservations

CALLS = st.tuples(
    st.sampled_from(["acquire", "release", "hand_over"]),
    st.tuples(st.integers(0, 1), st.integers(0, 1)),
    st.integers(0, 2),
    st.integers(0, 2),
)


def test_acquire_and_release():
    held = Reservations((2, 3))
    assert (held.holder == NOBODY).all()
    held.acquire(np.array([1, 2]), 4)
    held.acquire(np.array([1, 2]), 4)
    assert held.holder[1, 2] == 4
    held.release(np.array([1, 2]), 4)
    assert (held.holder == NOBODY).all()


def test_a_held_cell_cannot_be_taken_and_the_error_names_both():
    held = Reservations((2, 3))
    held.acquire((0, 1), 0)
    with pytest.raises(ReservationError, match=r"\(0, 1\) is held by robot 0, robot 5"):
        held.acquire((0, 1), 5)
    assert held.holder[0, 1] == 0


def test_only_the_holder_can_release():
    held = Reservations((2, 3))
    held.acquire((0, 1), 0)
    for robot, cell in ((1, (0, 1)), (0, (0, 0))):
        with pytest.raises(ReservationError, match=f"robot {robot} does not hold"):
            held.release(cell, robot)
    assert held.holder[0, 1] == 0


def test_hand_over_passes_the_cell_on():
    held = Reservations((2, 3))
    held.acquire((0, 1), 0)
    held.hand_over((0, 1), 0, 1)
    assert held.holder[0, 1] == 1
    with pytest.raises(ReservationError):
        held.hand_over((0, 1), 0, 2)
    assert held.holder[0, 1] == 1


@settings(max_examples=200, deadline=None)
@given(calls=st.lists(CALLS, max_size=40))
def test_any_sequence_agrees_with_a_dictionary_and_refusals_change_nothing(calls):
    held, model = Reservations((2, 2)), {}
    for call, cell, a, b in calls:
        if call == "acquire":
            allowed, args = model.get(cell, a) == a, (cell, a)
            after = {**model, cell: a}
        elif call == "release":
            allowed, args = model.get(cell) == a, (cell, a)
            after = {key: value for key, value in model.items() if key != cell}
        else:
            allowed, args = model.get(cell) == a, (cell, a, b)
            after = {**model, cell: b}
        if allowed:
            getattr(held, call)(*args)
            model = after
        else:
            with pytest.raises(ReservationError):
                getattr(held, call)(*args)
        found = {tuple(c): held.holder[tuple(c)] for c in np.argwhere(held.holder != NOBODY).tolist()}
        assert found == model
