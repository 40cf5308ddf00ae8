"""The token layout: the numbers docs/design.md promises, a hash that notices every change, refusals."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from marlgpt_policy.encoders import token_layout as module
from marlgpt_policy.encoders.token_layout import POGEMA_LAYOUT, LayoutError, TokenLayout, pogema_layout

FIELDS = ("attr", "team", "agent", "time", "entity")
LIMITS = {"attr": 129, "team": 3, "agent": 20, "time": 10}


def tiny(**changes) -> TokenLayout:
    """A valid layout of four values in two entities, with some fields replaced."""
    ids = {
        "name": "tiny-1", "environment": 2, "actions": 5,
        "attr": np.array([0, 1, 2, 128]), "team": np.array([1, 1, 2, 0]), "agent": np.array([0, 1, 19, 0]),
        "time": np.array([0, 9, 3, 0]), "entity": np.array([0, 0, 1, 1]),
    }  # fmt: skip
    return TokenLayout(**{**ids, **changes})


def test_pogema_layout_has_the_documented_sizes():
    assert len(POGEMA_LAYOUT) == 356
    assert POGEMA_LAYOUT.entities == 14
    assert POGEMA_LAYOUT.actions == 5
    assert POGEMA_LAYOUT.environment == 2
    assert POGEMA_LAYOUT.environment_value == 0.5


@pytest.mark.parametrize("field", FIELDS)
def test_ids_are_in_range_and_read_only(field):
    ids = getattr(POGEMA_LAYOUT, field)
    assert ids.shape == (356,)
    assert ids.dtype == np.int16
    assert ids.min() >= 0
    assert ids.max() < LIMITS.get(field, 14)
    with pytest.raises(ValueError, match="read-only"):
        ids[0] = 1


def test_pogema_ids_say_what_the_design_says():
    attr, time, entity = POGEMA_LAYOUT.attr, POGEMA_LAYOUT.time, POGEMA_LAYOUT.entity
    assert attr[:121].tolist() == list(range(121))
    assert (entity[:121] == 0).all(), "the window belongs to the observer"
    for i in range(13):
        block = slice(121 + 18 * i, 121 + 18 * (i + 1))
        assert attr[block].tolist() == [121, 122, 123, 124] + [125, 126] * 5 + [127] * 4
        assert time[block].tolist() == [0] * 4 + [1, 1, 2, 2, 3, 3, 4, 4, 5, 5] + [6, 7, 8, 9]
        assert (entity[block] == i).all()
        assert (POGEMA_LAYOUT.agent[block] == i).all()
    assert (attr[-1], entity[-1], POGEMA_LAYOUT.team[-1]) == (128, 13, 0)
    assert (POGEMA_LAYOUT.team[:-1] == 1).all()


def test_every_value_has_its_own_combination_of_ids():
    rows = {tuple(int(getattr(POGEMA_LAYOUT, field)[k]) for field in FIELDS[:4]) for k in range(356)}
    assert len(rows) == 356


def test_hash_is_the_one_that_exported_policies_carry():
    assert POGEMA_LAYOUT.hash == "34ae88121c9532a9"
    assert pogema_layout().hash == POGEMA_LAYOUT.hash


@settings(max_examples=200, deadline=None)
@given(field=st.sampled_from(FIELDS), index=st.integers(0, 355), data=st.data())
def test_hash_changes_with_any_id(field, index, data):
    ids = getattr(POGEMA_LAYOUT, field).copy()
    other = data.draw(st.integers(0, LIMITS.get(field, 356) - 1).filter(lambda v: v != ids[index]))
    ids[index] = other
    try:
        changed = replace(POGEMA_LAYOUT, **{field: ids})
    except LayoutError:
        return  # a layout that cannot exist cannot be mistaken for this one either
    assert changed.hash != POGEMA_LAYOUT.hash


@pytest.mark.parametrize("change", [{"name": "pogema-2"}, {"environment": 1}, {"actions": 6}])
def test_hash_changes_with_name_environment_and_actions(change):
    assert replace(POGEMA_LAYOUT, **change).hash != POGEMA_LAYOUT.hash


def test_a_small_layout_is_accepted_and_copied():
    attr = np.array([0, 1, 2, 128])
    layout = tiny(attr=attr)
    attr[0] = 7
    assert layout.attr[0] == 0
    assert len(layout) == 4
    assert layout.entities == 2


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"attr": np.array([0, 1, 129, 128])}, "'attr' must hold 4 ids in 0..128"),
        ({"attr": np.array([-1, 1, 2, 128])}, "'attr'"),
        ({"attr": np.array([0, 1, 128, 2])}, "must come last"),
        ({"attr": np.array([0, 128, 2, 128])}, "only there"),
        ({"attr": np.array([0, 1, 2, 3])}, "must come last"),
        ({"team": np.array([1, 1, 3, 0])}, "'team'"),
        ({"team": np.array([1, 1, 0])}, "'team'"),
        ({"agent": np.array([0, 1, 20, 0])}, "'agent'"),
        ({"time": np.array([0, 10, 3, 0])}, "'time'"),
        ({"time": np.zeros((4, 1), dtype=int)}, "'time'"),
        ({"entity": np.array([0, 0, 1, 4])}, "'entity'"),
        ({"entity": np.array([0, 1, 0, 1])}, "sorted"),
        ({"actions": 0}, "actions"),
        ({"actions": 21}, "actions"),
    ],
)
def test_malformed_layouts_are_refused(change, complaint):
    with pytest.raises(LayoutError, match=complaint) as caught:
        tiny(**change)
    assert "tiny-1" in str(caught.value)


def test_sizes_agree_with_each_other():
    assert module.WINDOW**2 + module.POGEMA_AGENTS * module.AGENT_VALUES + 1 == 356
    assert module.MAX_ACTIONS == 20
