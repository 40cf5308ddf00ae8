"""Tuning the football script: proposals, resuming, and the real command with a tiny budget."""

import dataclasses
import json

import numpy as np
import pytest
from marlgpt_training.environments import base
from marlgpt_training.environments.grf_gym import import_gfootball
from marlgpt_training.experts import grf_tune
from marlgpt_training.experts.grf_script import STYLES, Style

try:
    import_gfootball()
    WHY = ""
except base.MissingExtra as error:
    WHY = str(error)
needs_football = pytest.mark.skipif(bool(WHY), reason=WHY)


def test_few_episodes_count_little():
    assert grf_tune.Candidate(Style(), 2, 2).score < grf_tune.Candidate(Style(), 30, 40).score
    assert grf_tune.Candidate(Style()).score == 0.25


def test_proposals_come_from_the_better_ones():
    kept = [grf_tune.Candidate(Style(shoot_range=float(k))) for k in (10, 1000)]
    rng = np.random.default_rng(0)
    ranges = [grf_tune.propose(kept, rng).shoot_range for _ in range(200)]
    assert np.mean(np.array(ranges) < 100) > 0.6 and len(set(ranges)) == 200


def test_only_the_same_measurements_are_resumed(tmp_path):
    args = grf_tune.Args(scenario="corner", out=tmp_path / "styles.jsonl")
    assert grf_tune.load(grf_tune.Args()) == grf_tune.load(args) == []
    kept = [grf_tune.Candidate(Style(aim=1.0), 3.0, 8)]
    grf_tune.save(args, kept)
    assert grf_tune.load(args) == kept
    assert grf_tune.load(dataclasses.replace(args, noise=0.2)) == []
    assert grf_tune.load(dataclasses.replace(args, scenario="3_vs_1")) == []


@needs_football
def test_the_command_measures_and_resumes(tmp_path, capsys):
    out = tmp_path / "styles.jsonl"
    args = grf_tune.Args(scenario="run_pass_and_shoot", minutes=0.0, episodes=1, out=out)
    grf_tune.main(args)
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert {Style(**row["style"]) for row in rows} == {*STYLES.values(), Style()}
    assert all(row["played"] == 2 and 0 <= row["wins"] <= 2 for row in rows)
    grf_tune.main(grf_tune.Args(scenario="run_pass_and_shoot", minutes=0.02, episodes=1, out=out))
    again = grf_tune.load(args)
    assert sum(c.played for c in again) > sum(row["played"] for row in rows)
    assert "of" in capsys.readouterr().out
