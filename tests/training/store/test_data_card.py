"""The data card: its numbers are those of the store, whatever else lies there."""

import numpy as np
from marlgpt_training.store.data_card import NAME, card, write_card
from marlgpt_training.store.shards import read_shard, write_shard


def rows(text):
    """Cells of the table, without its head."""
    lines = [line for line in text.splitlines() if line.startswith("|")][2:]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def test_counts_games_per_scenario_and_source(tmp_path, frame_episode):
    episodes = [frame_episode(steps=4 + k, seed=k) for k in range(3)]  # one of three is a success
    episodes[2].source = "student"
    write_shard(tmp_path / "a.parquet", episodes[:2])
    write_shard(tmp_path / "b.parquet", episodes[2:])
    text = card(tmp_path)
    assert text.startswith(f"# {tmp_path.name}\n") and "3 episodes, 30 agent steps" in text
    expert, student = rows(text)
    labels = sum(int((episode.labels >= 0).sum()) for episode in episodes[:2])
    assert expert[:9] == ["smax", "2v3", "smax-2v3-1", "expert", "2", str(labels), "2", "4 to 5", "0.50"]
    assert student[3:5] == ["student", "1"] and student[7:9] == ["6", "0.00"]
    given = np.concatenate([episode.labels[episode.labels >= 0] for episode in episodes[:2]])
    most = np.bincount(given).argmax()
    assert expert[9].startswith(f"{most}: {np.mean(given == most):.0%}")


def test_success_of_one_shot_path_finding_is_reaching_all_goals(tmp_path, shard):
    episodes = read_shard(shard)
    write_shard(tmp_path / "a.parquet", episodes)
    by_family = {row[1]: row for row in rows(card(tmp_path))}
    for family, row in by_family.items():
        mine = [episode for episode in episodes if episode.scenario == family]
        single = [float(episode.ended) for episode in mine if not episode.spec["lifelong"]]
        assert row[8] == (f"{np.mean(single):.2f}" if single else "-")
        assert row[4] == str(len(mine))
    assert set(by_family) == {episode.scenario for episode in episodes}


def test_unreadable_shards_are_listed_and_the_rest_counts(tmp_path, frame_episode):
    write_shard(tmp_path / "a.parquet", [frame_episode()])
    (tmp_path / "b.parquet").write_bytes(b"torn")
    text = card(tmp_path)
    assert "1 episodes" in text and "Not readable:\n\n- ./b.parquet: not a readable Parquet file" in text
    assert str(tmp_path) not in text


def test_an_empty_store_has_a_card(tmp_path):
    assert "0 episodes, 0 agent steps, 0.0 MB" in card(tmp_path) and not rows(card(tmp_path))


def test_is_written_beside_the_shards_and_replaced(tmp_path, frame_episode):
    write_shard(tmp_path / "a.parquet", [frame_episode()])
    assert write_card(tmp_path) == tmp_path / NAME
    write_shard(tmp_path / "b.parquet", [frame_episode()])
    assert write_card(tmp_path).read_text() == card(tmp_path) and "2 episodes" in card(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [NAME, "a.parquet", "b.parquet"]
