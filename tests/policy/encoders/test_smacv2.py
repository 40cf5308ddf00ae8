"""The SMACv2 encoder against a description of the package's observation written out here; the package is not needed."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from marlgpt_policy.encoders import smax, starcraft
from marlgpt_policy.encoders.smacv2 import UNIT_TYPES, Smacv2Encoder, smacv2_encoder
from marlgpt_policy.encoders.token_layout import ENVIRONMENT_ATTRIBUTE, LayoutError

RACES = sorted(UNIT_TYPES)


def package_names(race, allies, enemies):
    """Names of the observation's values as the package lists them: (kind of value, team, agent)."""
    full = ["health", "shield"] if race == "protoss" else ["health"]
    bits = ["bit0", "bit1", "bit2"]
    names = [(f"move {way}", 1, 0) for way in ("north", "south", "east", "west")]
    for enemy in range(enemies):
        names += [(n, 2, enemy) for n in ["shootable", "distance", "x", "y", *full, *bits]]
    for ally in range(1, allies):
        names += [(n, 1, ally) for n in ["visible", "distance", "x", "y", *full, *bits]]
    return names + [(n, 1, 0) for n in [*full, "own x", "own y", *bits]]


def attribute(race, name):
    """What attribute id a value of that name must have."""
    if name.startswith("bit"):
        return UNIT_TYPES[race][int(name[3])]
    return {
        "move north": starcraft.CAN_MOVE,
        "move south": starcraft.CAN_MOVE + 1,
        "move east": starcraft.CAN_MOVE + 2,
        "move west": starcraft.CAN_MOVE + 3,
        "shootable": starcraft.ATTACKABLE,
        "visible": starcraft.VISIBLE,
        "distance": starcraft.DISTANCE,
        "x": starcraft.RELATIVE_X,
        "y": starcraft.RELATIVE_Y,
        "health": starcraft.HEALTH,
        "shield": starcraft.SHIELD,
        "own x": starcraft.POSITION_X,
        "own y": starcraft.POSITION_Y,
    }[name]


@pytest.mark.parametrize(
    "race, allies, enemies, size, frames, actions",
    [
        ("terran", 5, 5, 82, 8, 11),
        ("zerg", 5, 5, 82, 8, 11),
        ("protoss", 5, 5, 92, 7, 11),
        ("protoss", 5, 6, 101, 6, 12),
        ("zerg", 10, 10, 162, 4, 16),
        ("protoss", 10, 11, 191, 3, 17),
        ("terran", 12, 3, 122, 5, 18),  # medivacs heal up to 12 allies
    ],
)
def test_sizes(race, allies, enemies, size, frames, actions):
    encoder = smacv2_encoder(race, allies, enemies)
    assert (encoder.features, encoder.frames, encoder.layout.actions) == (size, frames, actions)
    assert len(encoder.layout) == size * frames + 1 <= 700
    assert encoder.layout.name == f"smacv2-{race}-{allies}v{enemies}-1"
    assert encoder.layout.environment == 1
    assert encoder.layout.entities == allies + enemies + 1


def test_history_is_at_most_ten_frames():
    assert smacv2_encoder("zerg", 1, 1).frames == 10


def test_encoders_are_shared():
    assert smacv2_encoder("zerg", 5, 5) is smacv2_encoder("zerg", 5, 5)


@pytest.mark.parametrize(
    "race, allies, enemies, reason",
    [
        ("orc", 5, 5, "unknown race 'orc'"),
        ("zerg", 5, 15, "at most 14|1 to 14"),
        ("zerg", 21, 5, "1 to 20 allies"),
        ("terran", 15, 5, "terran at most 14 allies"),
        ("zerg", 0, 5, "1 to 20 allies"),
        ("zerg", 5, 0, "1 to 14"),
    ],
)
def test_refuses_what_does_not_fit(race, allies, enemies, reason):
    with pytest.raises(LayoutError, match=reason):
        smacv2_encoder(race, allies, enemies)


def test_unit_types_are_those_of_smax():
    marine, marauder, stalker, zealot, zergling, hydralisk = smax.UNIT_TYPES
    assert UNIT_TYPES["protoss"][:2] == (stalker, zealot)
    assert UNIT_TYPES["terran"][:2] == (marine, marauder)
    assert UNIT_TYPES["zerg"][:2] == (zergling, hydralisk)
    everything = [attr for attrs in UNIT_TYPES.values() for attr in attrs]
    assert len(set(everything)) == 9
    assert max(everything) < starcraft.UNIT_TYPE + 10 == starcraft.CAN_MOVE


@settings(deadline=None, max_examples=60)
@given(st.sampled_from(RACES), st.integers(1, 14), st.integers(1, 14))
def test_every_value_gets_its_attribute(race, allies, enemies):
    encoder = Smacv2Encoder(race, allies, enemies)
    names = package_names(race, allies, enemies)
    assert len(names) == encoder.features
    observation = np.arange(1, len(names) + 1, dtype=np.float32)  # a value says where it came from
    features, visible = encoder.frame(observation[None])
    assert visible.all()
    assert sorted(features[0]) == observation.tolist()
    layout = encoder.layout
    for k, value in enumerate(features[0]):
        name, team, agent = names[int(value) - 1]
        token = k * encoder.frames
        found = (layout.attr[token], layout.team[token], layout.agent[token])
        assert found == (attribute(race, name), team, agent), name
    assert layout.attr[-1] == ENVIRONMENT_ATTRIBUTE


@settings(deadline=None, max_examples=60)
@given(st.data(), st.sampled_from(RACES), st.integers(1, 8), st.integers(1, 8))
def test_units_out_of_sight_are_no_tokens(data, race, allies, enemies):
    encoder = smacv2_encoder(race, allies, enemies)
    names = package_names(race, allies, enemies)
    units = sorted({(team, agent) for _, team, agent in names})
    seen = {unit: data.draw(st.booleans(), label=str(unit)) for unit in units}
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    raw = rng.uniform(-1, 1, len(names)).astype(np.float32)
    raw *= [seen[team, agent] for _, team, agent in names]
    features, visible = encoder.frame(raw[None])
    frames = np.zeros((1, encoder.frames, encoder.features), dtype=np.float32)
    shown = np.zeros(frames.shape, dtype=bool)
    frames[:, 0], shown[:, 0] = features, visible
    values, valid = encoder.encode(frames, shown)
    layout = encoder.layout
    for token in range(len(layout) - 1):
        unit = (int(layout.team[token]), int(layout.agent[token]))
        assert valid[0, token] == (seen[unit] and layout.time[token] == 0)
    assert valid[0, -1]
    assert values[0, :-1].sum() == pytest.approx(raw.sum(), abs=1e-4)


def test_entities_are_units():
    layout = smacv2_encoder("protoss", 3, 2).layout
    for entity in range(layout.entities - 1):
        inside = layout.entity == entity
        assert len(set(zip(layout.team[inside].tolist(), layout.agent[inside].tolist(), strict=True))) == 1


def test_refuses_another_observation():
    with pytest.raises(ValueError, match=r"expected \(n, 92\)"):
        smacv2_encoder("protoss", 5, 5).frame(np.zeros((5, 90)))
