"""Episodes of games: played by experts and students, labelled, recorded, collected. No game has to be installed."""

import numpy as np
import pytest
import toy_test_game
from hypothesis import given
from hypothesis import strategies as st
from marlgpt_policy.encoders import registry
from marlgpt_training.collection import collect, dagger
from marlgpt_training.collection import game_rollouts as games
from marlgpt_training.dataloader.episode_unrolling import unroll
from marlgpt_training.environments import base
from marlgpt_training.seeds import HELD_OUT
from marlgpt_training.store.frame_episode import FrameEpisode
from marlgpt_training.store.shards import read_shard

ENCODER = toy_test_game.ENCODER
RIGHT = toy_test_game.RIGHT
STAY = toy_test_game.STAY
Toy = toy_test_game.Toy
Walker = toy_test_game.Walker
right = toy_test_game.right


@pytest.fixture(autouse=True)
def toy(monkeypatch):
    """The toy game, known by name."""
    monkeypatch.setitem(base.REGISTRY, "toy", ("toy_test_game", "Toy"))
    monkeypatch.setitem(registry.GAMES, "toy", lambda _: ENCODER)
    monkeypatch.setattr(Toy, "running", 0)
    yield
    registry.encoders.cache_clear()


def by_seed(episodes):
    return {episode.seed: episode for episode in episodes}


def test_the_teacher_drives_and_labels_every_seed_once():
    seeds = list(range(1, 1 + 3 * games.SIDE_BY_SIDE))
    found = by_seed(games.play("toy/3", seeds, Walker()))
    assert sorted(found) == seeds and Toy.running == 0
    for seed, episode in found.items():
        episode.check()
        assert games.won(episode) == (seed % 4 != 0) == episode.ended
        assert episode.source == "expert" and episode.layout == "toy-1" and episode.scenario == "3"
        steps = len(episode.actions)
        assert episode.frames.shape == (steps + 1, 3, 3) and episode.masks.shape == (steps + 1, 3, 20)
        acting = episode.active[:-1]
        assert (episode.labels[acting] == RIGHT).all() and (episode.labels[~acting] == -1).all()
        assert (episode.actions[acting] == RIGHT).all() and (episode.actions[~acting] == STAY).all()


def test_a_teacher_without_a_move_stays_where_it_is_and_labels_nothing():
    (episode,) = games.play("toy/2", [1], games.expert("toy", "clueless"))
    assert (episode.labels == -1).all() and (episode.actions == STAY).all() and not games.won(episode)
    assert not episode.ended and len(episode.actions) == 6


@pytest.mark.parametrize("student", [None, right])
def test_an_episode_depends_on_its_seed_alone(student):
    """However many others run beside it, and in whatever order."""

    def played(seeds):
        random = games.RandomPlayer(1)
        return by_seed(games.play("toy/2", seeds, random, student, temperature=[0.5, 9.0]))

    alone, among = played([13]), played(list(range(20)))
    assert (alone[13].actions == among[13].actions).all() and (alone[13].labels == among[13].labels).all()
    again = played(list(reversed(range(20))))
    assert all((again[s].actions == among[s].actions).all() for s in range(20))
    assert any((again[s].actions[0] != again[s + 4].actions[0]).any() for s in range(0, 16, 4))


def test_random_players_make_every_allowed_move():
    episodes = games.play("toy/1", list(range(1, 40)), games.RandomPlayer(0))
    moves = np.concatenate([e.actions[e.active[:-1]] for e in episodes])
    assert set(moves.tolist()) == {0, 1, 2} and 0 < np.mean([games.won(e) for e in episodes]) < 0.5


def test_a_student_drives_its_share_of_the_episodes():
    seeds = [s for s in range(1, 60) if s % 4]
    found = games.play("toy/2", seeds, games.expert("toy", "clueless"), right, temperature=0.0, share=0.5)
    sources = [episode.source for episode in found]
    assert 0.25 < sources.count("student") / len(seeds) < 0.75
    assert all(games.won(e) == (e.source == "student") for e in found)
    none = games.play("toy/2", seeds[:4], Walker(), right, share=0.0)
    assert {e.source for e in none} == {"expert"}


def test_high_temperature_strays_from_the_best_move():
    seeds = list(range(1, 30))
    cold, hot = (games.play("toy/2", seeds, None, right, heat) for heat in (0.0, 50.0))
    share = [np.mean(np.concatenate([(e.actions == RIGHT)[e.active[:-1]] for e in x])) for x in (cold, hot)]
    assert share[0] == 1 and share[1] < 0.7
    assert all((e.labels == -1).all() for e in cold)  # nobody labels


def test_only_what_is_to_be_kept_comes_back():
    kept = games.play("toy/2", list(range(12)), Walker(), keep=games.won)
    assert sorted(e.seed for e in kept) == [s for s in range(12) if s % 4]


def test_nobody_drives():
    for arguments in ((None,), (None, right, 1.0, 0.5)):
        with pytest.raises(ValueError, match="toy/2: nobody drives"):
            games.play("toy/2", [1], *arguments)


def test_games_are_closed_when_something_fails(monkeypatch):
    def broken(*_):
        raise RuntimeError("no idea")

    with pytest.raises(RuntimeError, match="no idea"):
        games.play("toy/2", [1, 2, 3], Walker(), broken)
    assert Toy.running == 0
    with pytest.raises(ValueError, match="invalid literal"):
        games.play("toy/two", [1, 2], Walker())


moves_and_masks = st.integers(1, 5).flatmap(
    lambda n: st.tuples(
        st.lists(st.integers(-1, 19), min_size=n, max_size=n),
        st.lists(st.sets(st.integers(0, 19), min_size=1), min_size=n, max_size=n),
    )
)


@given(moves_and_masks)
def test_moves_become_allowed_ones_and_allowed_ones_stay(given_moves):
    moves, sets = np.array(given_moves[0]), given_moves[1]
    mask = np.zeros((len(moves), 20), dtype=bool)
    for row, chosen in enumerate(sets):
        mask[row, list(chosen)] = True
    for move, found, chosen in zip(moves, games.allowed(moves, mask), sets, strict=True):
        assert found == (move if move in chosen else min(chosen))


@pytest.mark.parametrize("text", ["smax", "smax/", "/5v5", ""])
def test_games_are_named_with_their_scenario(text):
    with pytest.raises(ValueError, match="write GAME/SCENARIO"):
        games.split(text)


def test_experts_are_those_that_the_game_names():
    assert games.experts_of("toy/2") == ("walker", "clueless", "random")
    assert games.default_expert("toy/2") == "walker"
    with pytest.raises(ValueError, match="toy has no expert 'lns'; choose walker or clueless or random"):
        games.expert("toy", "lns")
    with pytest.raises(ValueError, match="unknown game 'chess'"):
        games.experts_of("chess/1")


def test_a_dagger_shard_holds_what_the_student_saw(tmp_path):
    seen = []

    def student(values, valid, mask):
        seen.append((values.copy(), valid.copy(), mask.copy()))
        return right(values, valid, mask)

    task = dagger.Task.parse("toy/2:walker", "lns")
    assert task.layout.name == "toy-1"
    dagger.label(task, tmp_path / "a.parquet", HELD_OUT - 1, 1, 128, student)
    (episode,) = read_shard(tmp_path / "a.parquet")
    assert isinstance(episode, FrameEpisode) and episode.source == "student" and episode.seed < HELD_OUT
    assert (episode.labels[episode.active[:-1]] == RIGHT).all() and len(seen) == len(episode.actions)
    replay = unroll(episode)
    for step, inputs in enumerate(seen):
        for ours, theirs in zip(replay.encode(step), inputs, strict=True):
            np.testing.assert_array_equal(ours, theirs)
    dagger.label(task, tmp_path / "b.parquet", HELD_OUT - 2, 4, 128, student)
    assert all(episode.seed < HELD_OUT for episode in read_shard(tmp_path / "b.parquet"))


def collected(out, **changed):
    return collect.Args(
        **{"out": out, "game": "toy/2", "shards": 2, "episodes": 8, "workers": 1, "seed": 3} | changed
    )


def test_collect_writes_shards_of_new_seeds_and_the_card(tmp_path, capsys):
    assert collect.main(collected(tmp_path)) == 0
    paths = sorted(tmp_path.glob("*.parquet"))
    assert [path.name for path in paths] == [f"toy-2-walker-3-{k:05d}.parquet" for k in range(2)]
    episodes = [episode for path in paths for episode in read_shard(path)]
    seeds = [episode.seed for episode in episodes]
    assert len(set(seeds)) == 16 and max(seeds) < HELD_OUT
    labels = sum(int((episode.labels >= 0).sum()) for episode in episodes)
    assert f"{labels:,} new labelled agent steps" in capsys.readouterr().out
    card = (tmp_path / "CARD.md").read_text()
    assert f"| toy | 2 | toy-1 | expert | 16 | {labels:,} | 2 |" in card
    assert "| 0.75 | 2: 100% |" in card  # three of four seeds can be won; the walker walks
    before = [path.read_bytes() for path in paths]
    assert collect.main(collected(tmp_path)) == 0
    assert [path.read_bytes() for path in paths] == before
    assert collect.main(collected(tmp_path / "again")) == 0
    assert [path.read_bytes() for path in sorted((tmp_path / "again").glob("*.parquet"))] == before


def test_collect_keeps_winners_only(tmp_path, capsys):
    assert collect.main(collected(tmp_path, winners=True)) == 0
    episodes = [episode for path in tmp_path.glob("*.parquet") for episode in read_shard(path)]
    assert len(episodes) == 12 and all(map(games.won, episodes))
    assert "kept the 12 won episodes of 16 (75%)" in capsys.readouterr().out
    assert "| 1.00 | 2: 100% |" in (tmp_path / "CARD.md").read_text()


def test_collect_says_where_nobody_wins(tmp_path, capsys):
    args = collected(tmp_path, expert="clueless", winners=True, shards=1)
    assert collect.main(args) == 1
    assert "none of 8 episodes was won" in capsys.readouterr().err
    assert not list(tmp_path.glob("*.parquet"))


def test_collect_refuses_an_expert_of_another_game(tmp_path):
    with pytest.raises(ValueError, match="--expert lns: choose walker or clueless or random for toy/2"):
        collect.main(collected(tmp_path, expert="lns"))
