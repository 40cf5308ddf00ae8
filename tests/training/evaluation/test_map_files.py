"""Map files in the format of pogema-toolbox."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from marlgpt_training.evaluation.map_files import parse_map, read_maps


def to_text(world):
    """Symbols of a map, the inverse of ``parse_map``."""
    symbols = np.where(world.free, ".", "#")
    for k, (start, goal) in enumerate(world.agents):
        symbols[start], symbols[goal] = chr(ord("a") + k), chr(ord("A") + k)
    if world.starts is not None:
        kinds = {(True, True): ".", (True, False): "@", (False, True): "$", (False, False): "!"}
        for cell in map(tuple, np.argwhere(world.free).tolist()):
            symbols[cell] = kinds[cell in world.starts, cell in world.goals]
    return "\n".join("".join(line) for line in symbols)


def texts(symbols):
    """Lines of equal length, one symbol a cell."""
    return st.integers(1, 6).flatmap(
        lambda width: st.lists(st.text(symbols, min_size=width, max_size=width), min_size=1, max_size=6)
    )


@settings(max_examples=60, deadline=None)
@given(lines=texts("#.@$!"))
def test_a_readable_map_survives_the_round_trip(lines):
    try:
        world = parse_map("m", "\n".join(lines))
    except ValueError as error:
        assert "map 'm'" in str(error)
        assert any(mark in "".join(lines) for mark in "@$!")  # plain maps are always readable
        return
    assert to_text(world) == "\n".join(lines)
    assert 0 <= world.room <= world.free.sum()


@settings(max_examples=40, deadline=None)
@given(lines=texts("#."), agents=st.integers(1, 4))
def test_pogema_finds_room_exactly_where_the_map_says_so(lines, agents):
    pogema = pytest.importorskip("marlgpt_training.environments.pogema_package").import_pogema()
    world = parse_map("m", "\n".join(lines))
    config = pogema.GridConfig(map=(~world.free).astype(int).tolist(), num_agents=agents, seed=1)
    try:
        pogema.pogema_v0(config).reset()
        placed = True
    except (OverflowError, IndexError):
        placed = False
    if world.free.size > 3:  # pogema wants a side of at least two cells
        assert placed == (agents <= world.room)


def test_symbols():
    world = parse_map("w", "@.$\n!#.")
    assert world.free.tolist() == [[True, True, True], [True, False, True]]
    assert world.starts == ((0, 0), (0, 1), (1, 2)) and world.goals == ((0, 1), (0, 2), (1, 2))
    assert world.room == 3
    puzzle = parse_map("p", "b.A\na.B")
    assert puzzle.agents == (((1, 0), (0, 2)), ((0, 0), (1, 2))) and puzzle.room == 2
    assert parse_map("parts", "..#...").room == 2


def test_a_file_is_read_as_it_is(tmp_path):
    path = tmp_path / "maps.yaml"
    path.write_text('one: |-\n  ....#\n  .##.#\n  .....\n007: "..\\n.."\nfolded: >\n  ...\n  #..\n')
    found = read_maps(path)
    assert [world.name for world in found] == ["one", "007", "folded"]
    assert found[0].free.sum() == 11 and found[1].free.shape == (2, 2) and found[2].free.shape == (2, 3)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: |\n  ..\nb: |\n  ..\na: |\n  ..\n", "two maps are called 'a'; rename one"),
        ("a: |\n  ..\n  ...\n", "map 'a' is empty or its lines differ"),
        ("a: ''\n", "map 'a' is empty"),
        ("a: [1, 2]\n", "map 'a' is not a block of text"),
        ("- 1\n", "expected 'name"),
        ("", "expected 'name"),
        ("a: [", "not a readable YAML"),
        ("a: |\n  ..\n  .&\n", "map 'a', line 2: unknown symbol '&'"),
        ("a: |\n  .é\n", "unknown symbol 'é'"),
        ("a: |\n  aA.\n  b..\n", "agent 'b' has 1 starts and 0 goals"),
        ("a: |\n  aA\n  a.\n", "agent 'a' has 2 starts"),
        ("a: |\n  a#A\n", "agent 'a' cannot reach its goal"),
        ("a: |\n  aA@$\n", "mixes the marks"),
        ("a: |\n  @@@\n", "has no cell for a goal"),
        ("a: |\n  @.#$\n", "2 parts that are not connected"),
    ],
)
def test_unreadable_files_name_file_and_map(text, message, tmp_path):
    path = tmp_path / "maps.yaml"
    path.write_text(text)
    with pytest.raises(ValueError) as error:
        read_maps(path)
    assert str(error.value).startswith(str(path)) and message in str(error.value)
    assert "\n" not in str(error.value)
