"""Google Research Football's tokens: the layout, and that nothing of simple115v2 is lost or invented."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from marlgpt_policy.encoders import grf
from marlgpt_policy.encoders.grf import ENCODER, FEATURES, FRAMES, ORDER, SLOTS
from marlgpt_policy.encoders.token_layout import ENVIRONMENT_ATTRIBUTE

LAYOUT = ENCODER.layout
vectors = arrays.arrays(np.float32, (FRAMES, FEATURES), elements=st.floats(-2, 2, width=32))


def test_the_layout_is_the_published_one():
    assert (LAYOUT.environment, LAYOUT.actions, len(LAYOUT)) == (3, 19, 690 + 1)
    assert LAYOUT.attr[-1] == ENVIRONMENT_ATTRIBUTE and LAYOUT.entities == 11 + 11 + 1 + 1 + 1
    assert sorted(set(LAYOUT.time[:-1])) == list(range(6))
    assert LAYOUT.hash == grf.FrameEncoder("grf-1", 3, 19, SLOTS, FRAMES).layout.hash


def test_every_value_has_ids_of_its_own():
    ids = np.array([LAYOUT.attr, LAYOUT.team, LAYOUT.agent, LAYOUT.time])
    assert len(np.unique(ids, axis=1).T) == len(LAYOUT)


def test_a_player_is_one_entity():
    for entity in range(22):
        own = LAYOUT.entity == entity
        assert set(LAYOUT.team[own]) == {1 + entity // 11} and set(LAYOUT.agent[own]) == {entity % 11}
        assert own.sum() == FRAMES * (5 if entity < 11 else 4)
    assert (LAYOUT.team[LAYOUT.entity >= 22] == 0).all()


def test_where_things_stand():
    """One vector written by hand, by the documented order of simple115v2."""
    vector = np.arange(FEATURES, dtype=np.float32)
    frame = dict(zip(((s.attr, s.team, s.agent) for s in SLOTS), vector[ORDER].tolist(), strict=True))
    assert frame[grf.POSITION, 1, 0] == 0 and frame[grf.POSITION + 1, 1, 10] == 21
    assert frame[grf.DIRECTION, 1, 0] == 22 and frame[grf.DIRECTION + 1, 1, 10] == 43
    assert frame[grf.POSITION, 2, 3] == 44 + 6 and frame[grf.DIRECTION, 2, 3] == 66 + 6
    assert [frame[grf.BALL + k, 0, 0] for k in range(3)] == [88, 89, 90]
    assert [frame[grf.BALL_DIRECTION + k, 0, 0] for k in range(3)] == [91, 92, 93]
    assert [frame[grf.BALL_OWNER + k, 0, 0] for k in range(3)] == [94, 95, 96]
    assert [frame[grf.ACTIVE, 1, k] for k in range(11)] == list(range(97, 108))
    assert [frame[grf.GAME_MODE + k, 0, 0] for k in range(7)] == list(range(108, 115))


@given(vectors)
@settings(max_examples=30, deadline=None)
def test_tokens_hold_exactly_the_values_of_simple115v2(vectors):
    assert sorted(ORDER) == list(range(FEATURES))
    frames = vectors[:, ORDER][None]
    values, valid = ENCODER.encode(frames, np.ones(frames.shape, dtype=bool))
    assert valid.all() and values[0, -1] == 0.75
    back = np.empty_like(vectors)
    back[:, ORDER] = values[0, :-1].reshape(FEATURES, FRAMES).T
    np.testing.assert_array_equal(back, vectors)


@given(st.integers(1, 11), st.integers(1, 11))
def test_missing_players_are_no_tokens(own, opponents):
    seen = grf.present(own, opponents)
    assert seen.sum() == 5 * own + 4 * opponents + 9 + 7
    assert {s.agent for s, on in zip(SLOTS, seen, strict=True) if on and s.team == 1} == set(range(own))
    assert {s.agent for s, on in zip(SLOTS, seen, strict=True) if on and s.team == 2} == set(range(opponents))


def test_frames_before_the_episode_are_no_tokens():
    visible = np.zeros((2, FRAMES, FEATURES), dtype=bool)
    visible[:, 0] = grf.present(3, 2)
    values, valid = ENCODER.encode(np.ones(visible.shape, dtype=np.float32), visible)
    assert (valid[:, :-1].sum(axis=1) == visible[0, 0].sum()).all() and (values[~valid] == 0).all()
    assert (LAYOUT.time[:-1][valid[0, :-1]] == 0).all()


def test_the_table_cannot_be_changed():
    with pytest.raises(ValueError):
        ORDER[0] = 1
