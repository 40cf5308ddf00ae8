"""SMAX's layout: every unit an entity, the same meaning for every number of units, nothing of units out of sight."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from marlgpt_policy.encoders import smax
from marlgpt_policy.encoders.smax import ALLY, ENEMY, OWN, smax_encoder
from marlgpt_policy.encoders.token_layout import LayoutError

SIZES = st.integers(1, 10)


@pytest.mark.parametrize(
    "allies, enemies, features, frames", [(5, 5, 132, 4), (5, 6, 146, 4), (10, 10, 267, 2)]
)
def test_sizes_of_the_scenarios(allies, enemies, features, frames):
    encoder = smax_encoder(allies, enemies)
    assert (encoder.features, encoder.frames) == (features, frames)
    layout = encoder.layout
    assert layout.name == f"smax-{allies}v{enemies}-1" and layout.environment == 1
    assert layout.actions == 5 + enemies
    assert len(layout) == features * frames + 1 and layout.entities == allies + enemies + 1


def test_is_made_once_per_size():
    assert smax_encoder(5, 5) is smax_encoder(5, 5)
    assert smax_encoder(5, 5).layout.hash != smax_encoder(5, 6).layout.hash


@pytest.mark.parametrize("allies, enemies", [(0, 5), (5, 0), (11, 5), (5, 11)])
def test_refuses_sides_that_do_not_fit(allies, enemies):
    with pytest.raises(LayoutError, match=f"smax {allies}v{enemies}: each side needs 1 to 10 units"):
        smax_encoder(allies, enemies)


@given(SIZES, SIZES)
@settings(deadline=None, max_examples=60)
def test_ids_mean_the_same_for_every_number_of_units(allies, enemies):
    encoder = smax_encoder(allies, enemies)
    layout = encoder.layout
    assert len(layout) <= 700 and 1 <= encoder.frames <= 4
    ids = list(zip(layout.attr, layout.team, layout.agent, layout.time, strict=True))
    assert len(set(ids)) == len(ids), "two values have the same ids"
    units = [("own", 1, 0, OWN)]
    units += [("ally", 1, i, ALLY) for i in range(1, allies)]
    units += [("enemy", 2, i, ENEMY) for i in range(enemies)]
    for entity, (_, team, agent, attrs) in enumerate(units):
        at = layout.entity == entity
        assert set(layout.team[at]) == {team} and set(layout.agent[at]) == {agent}
        np.testing.assert_array_equal(layout.attr[at], np.repeat(attrs, encoder.frames))
        np.testing.assert_array_equal(layout.time[at], np.tile(np.arange(encoder.frames), len(attrs)))


@given(SIZES, SIZES, st.data())
@settings(deadline=None, max_examples=40)
def test_units_out_of_sight_leave_no_values(allies, enemies, data):
    encoder = smax_encoder(allies, enemies)
    hidden = data.draw(st.sets(st.integers(0, allies + enemies - 1)))
    entity = encoder.layout.entity[: -1 : encoder.frames]
    shape = (allies, encoder.frames, encoder.features)
    visible = np.broadcast_to(~np.isin(entity, list(hidden)), shape)
    values, valid = encoder.encode(np.ones(shape, dtype=np.float32), visible)
    of_hidden = np.isin(encoder.layout.entity, list(hidden))
    assert not valid[:, of_hidden].any() and not values[:, of_hidden].any()
    assert valid[:, ~of_hidden].all() and (values[:, :-1][:, ~of_hidden[:-1]] == 1).all()


def test_attributes_of_a_unit_differ_and_stay_below_the_environment_token():
    for attrs in (OWN, ALLY, ENEMY):
        assert len(set(attrs)) == len(attrs) and max(attrs) < 128
    assert smax.AIMS_AT_ME >= 40 and smax.FOCUS >= 40  # below are those shared with SMACv2
