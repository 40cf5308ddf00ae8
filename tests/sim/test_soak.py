"""The soak: short runs with many faults touch nothing and lose nothing; results are kept and added up."""

import json
from pathlib import Path

import numpy as np
import pytest
from marlgpt_policy.grid import build_grid
from marlgpt_sim import soak
from marlgpt_sim.soak_run import FLEET_EVENTS, MARGIN, ROBOT_EVENTS, SoakRun

MODEL = Path(__file__).parents[2] / "ros2_ws/src/marlgpt_policy/models/pogema.onnx"


@pytest.mark.slow
@pytest.mark.parametrize("execution", ["asynchronous", "synchronous"])
def test_many_faults_at_once_touch_nothing_and_lose_nothing(execution):
    run = SoakRun(soak.hall_of_boxes(), 12, MODEL, rate=60.0, seed=4, execution=execution)
    results = run.run(2.0)
    assert results["robot_contacts"] == results["wall_contacts"] == 0, results["contacts"]
    assert results["goals"]["lost"] == 0 and results["problems"] == []
    begun = {kind: counts["injected"] for kind, counts in results["faults"].items()}
    assert sum(count > 0 for count in begun.values()) > 15, begun
    assert set(begun) >= {*ROBOT_EVENTS, *FLEET_EVENTS}


def test_without_faults_robots_reach_goals_and_the_same_seed_gives_the_same():
    results = [SoakRun(soak.hall_of_boxes(), 6, MODEL, 0.0, 1, "asynchronous").run(1.0) for _ in range(2)]
    assert results[0] == results[1]
    assert results[0]["goals"]["reached"] >= 3
    assert all(counts["injected"] == 0 for counts in results[0]["faults"].values())


def test_maps_of_the_soak_have_one_large_area():
    for map in (soak.hall_of_boxes(), soak.rooms_and_corridors(), soak.warehouse_map()):
        grid = build_grid(map, 0.22, MARGIN)
        assert (grid.components == 0).sum() > 0.95 * grid.free.sum()


def args(tmp_path, **changes):
    values = {"hours": 0.02, "minutes": 0.2, "robots": 4, "policy": MODEL, "out": tmp_path}
    return soak.Args(**{**values, **changes})


def test_the_command_sums_up_and_does_not_repeat_what_is_there(tmp_path, capsys, monkeypatch):
    assert soak.main(args(tmp_path)) == 0
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["runs"] == len(list((tmp_path / "runs").glob("*.json"))) >= 2
    assert summary["robot_hours"] == pytest.approx(0.02, rel=0.5)
    assert summary["robot_contacts"] == 0
    assert "robot-hours" in capsys.readouterr().out
    monkeypatch.setattr(soak, "run_one", lambda job: pytest.fail("simulated again"))
    assert soak.main(args(tmp_path)) == 0


def test_contacts_starvation_and_lost_goals_fail_the_soak():
    good = SoakRun(soak.hall_of_boxes(), 2, MODEL, 0.0, 1, "asynchronous").run(0.05)
    good["map"] = "boxes"
    assert soak.passed(soak.summarise([good]))
    for change in (
        {"robot_contacts": 1},
        {"wall_contacts": 1},
        {"longest_starved_s": 121.0},
        {"goals": {**good["goals"], "lost": 1}},
        {"problems": ["a model was accepted"]},
    ):
        assert not soak.passed(soak.summarise([good, {**good, **change}])), change


def test_nonsense_is_refused(tmp_path):
    for change in ({"hours": 0.0}, {"minutes": -1.0}, {"robots": 1}, {"rate": -1.0}):
        with pytest.raises(ValueError, match="must be positive"):
            soak.main(args(tmp_path, **change))


def test_halls_are_the_same_every_time():
    np.testing.assert_array_equal(soak.hall_of_boxes().occupied, soak.hall_of_boxes().occupied)
