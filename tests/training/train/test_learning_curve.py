"""Learning curves from run logs."""

import json

import pytest
from marlgpt_training.train import learning_curve as curve
from marlgpt_training.train.learning_curve import Args, main, read


def write(folder, lines):
    folder.mkdir()
    (folder / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def test_runs_follow_each_other(tmp_path):
    one = write(tmp_path / "one", [
        {"step": 100, "samples": 50, "loss": 1.0, "accuracy": 0.5}, {"step": 100, "samples": 60, "score": 1.0},
    ])  # fmt: skip
    two = write(tmp_path / "two", [{"step": 100, "samples": 50, "loss": 0.5, "accuracy": 0.7}])
    training, rollouts = read([one, two], 1000)
    assert [entry["samples"] for entry in training] == [1050, 1110]
    assert [entry["samples"] for entry in rollouts] == [1060]


def test_draws_a_picture(tmp_path, capsys):
    rollout = {name: 1.0 for name in curve.ROLLOUTS}
    run = write(tmp_path / "run", [
        {"step": 1, "samples": 5, "loss": 1.0, "accuracy": 0.5}, {"step": 1, "samples": 5, "score": 1.0, **rollout},
    ])  # fmt: skip
    assert main(Args([run], tmp_path / "deep" / "curve.png")) == 0
    assert (tmp_path / "deep" / "curve.png").read_bytes()[:4] == b"\x89PNG"
    assert "5 samples, 1 rollouts" in capsys.readouterr().out


def test_says_what_is_missing(tmp_path):
    with pytest.raises(ValueError, match="not the log of a run .*marlgpt train"):
        read([tmp_path], 0)
    with pytest.raises(ValueError, match="nothing was logged yet"):
        read([write(tmp_path / "run", [])], 0)
