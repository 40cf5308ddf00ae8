"""Layouts by name: every game's layouts are found again by their own names, nothing else is."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from marlgpt_policy.encoders import registry
from marlgpt_policy.encoders.registry import frame_encoder, layout_named, layout_of
from marlgpt_policy.encoders.token_layout import POGEMA_LAYOUT, LayoutError

KNOWN = {
    "smax/5v5": "smax-5v5-1",
    "smax/10v10": "smax-10v10-1",
    "smacv2/terran_5v5": "smacv2-terran-5v5-1",
    "smacv2/protoss-5v6": "smacv2-protoss-5v6-1",
    "grf/pass_and_shoot": "grf-1",
    "grf/corner": "grf-1",
}


@pytest.mark.parametrize(("game", "name"), KNOWN.items())
def test_a_game_and_its_layouts_name_give_one_layout(game, name):
    assert layout_of(game).name == name
    assert layout_named(name).hash == layout_of(game).hash == frame_encoder(name).layout.hash


def test_pogema_has_one_layout_and_no_frames():
    assert layout_of("pogema") is layout_named("pogema-1") is POGEMA_LAYOUT
    with pytest.raises(LayoutError, match="unknown token layout 'pogema-1'"):
        frame_encoder("pogema-1")


@given(allies=st.integers(1, 10), enemies=st.integers(1, 10))
@settings(max_examples=20, deadline=None)
def test_all_sides_of_smax_are_found_by_name(allies, enemies):
    layout = layout_of(f"smax/{allies}v{enemies}")
    assert layout_named(layout.name).hash == layout.hash and layout.actions == 5 + enemies


@pytest.mark.parametrize(
    "name",
    ["", "chess-1", "smax", "smax-1", "smax-5v5", "smax-5v5-2", "smax-05v5-1", "smax-11v5-1", "smax-0v1-1", "grf-2",
     "smacv2-orc-5v5-1", "smacv2-terran_5v5-1", "grf-corner-1", "pogema-0"],
)  # fmt: skip
def test_unknown_layouts_are_refused_with_those_that_there_are(name):
    with pytest.raises(LayoutError, match="unknown token layout '.*'; this version knows pogema-1, smax-"):
        layout_named(name)


@given(name=st.text(max_size=24) | st.from_regex(r"(smax|smacv2|grf)-[a-z0-9v-]{0,9}", fullmatch=True))
@settings(max_examples=100, deadline=None)
def test_any_text_is_a_layout_or_a_layout_error(name):
    try:
        assert layout_named(name).name == name
    except LayoutError:
        pass


@pytest.mark.parametrize(
    ("game", "message"),
    [
        ("chess/blitz", "unknown game 'chess'; choose one of pogema, smax"),
        ("smax", "unknown scenario '' of smax"),
        ("smax/fivevfive", "unknown scenario 'fivevfive' of smax"),
        ("smax/11v5", "each side needs 1 to 10 units"),
        ("smacv2/orc-5v5", "unknown race 'orc'"),
    ],
)
def test_unknown_games_and_scenarios(game, message):
    with pytest.raises(ValueError, match=message):
        layout_of(game)


def test_encoders_are_made_once():
    assert frame_encoder("smax-5v5-1") is frame_encoder("smax-5v5-1")
    assert set(registry.GAMES) == {"smax", "smacv2", "grf"}
