"""The soak: drawn runs are repeatable, its books cannot be fooled, failures are found, cut down, kept and replayed."""

import dataclasses
import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from marlgpt_policy.grid.nav_grid import build_grid
from marlgpt_policy.motion.safety_margins import smallest_margin
from marlgpt_policy.policy.shipped_files import shipped_policy
from marlgpt_sim.commands import soak
from marlgpt_sim.soak import soak_report
from marlgpt_sim.soak.broken_rules import RULES, broken
from marlgpt_sim.soak.drawn_maps import FAMILIES, PIXEL_FAMILIES, draw_map
from marlgpt_sim.soak.scenario import Event, Scenario, draw, draw_events
from marlgpt_sim.soak.soak_run import SoakRun

MODEL = shipped_policy()
CASES = sorted((Path(__file__).parent / "cases").glob("*.json"))
QUIET = Scenario(
    seed=4, family="hall", cells=36, placed=8, robots=tuple(range(8)), ticks=1200, first_settle=0.0
)


def run(scenario, rule=None):
    return soak.simulate(scenario, MODEL, rule)


# What is drawn ------------------------------------------------------------------------------------------------


def test_a_scenario_is_the_same_for_a_seed_and_survives_json():
    for seed in range(60):
        scenario = draw(seed)
        assert scenario == draw(seed) != draw(seed + 1)
        assert Scenario.from_json(scenario.to_json()) == scenario
    written = scenario.replace(events=tuple(draw_events(draw(3))))
    assert written.events and Scenario.from_json(written.to_json()) == written
    with pytest.raises(ValueError, match="no 'wheels'"):
        Scenario.from_json('{"seed": 1, "wheels": 4}')


def test_scenarios_spread_over_all_that_is_promised_and_keep_to_the_bounds():
    drawn = [draw(seed) for seed in range(1500)]
    for name, wanted in {
        "family": {*FAMILIES, *PIXEL_FAMILIES}, "policy": {"shipped", "random", "stampeding"},
        "execution": {"asynchronous", "synchronous"}, "mode": {"centralised", "decentralised"},
        "holonomic": {0.0, 0.5, 1.0},
    }.items():  # fmt: skip
        assert {getattr(s, name) for s in drawn} == wanted
    fills = np.array([s.fill for s in drawn])
    assert np.histogram(fills, (0.04, 0.1, 0.3, 0.5, 0.7, 0.92))[0].min() > 50
    assert max(max(s.rates.values(), default=0.0) for s in drawn) > 55
    assert sum(s.margin == smallest_margin(s.pose_error) for s in drawn) > 500
    for s in drawn:
        assert s.margin >= smallest_margin(s.pose_error) and s.cmd_delay + s.cmd_timeout <= s.latency + 1e-9
        for event in draw_events(s.replace(ticks=1200)):
            if event.kind in ("pose_noise", "pose_bias"):
                size = event.size
                error = np.sqrt(2) * (s.noise + size.get("xy", 0.0)) + np.hypot(
                    size.get("x", 0.0), size.get("y", 0.0)
                )
                other = "pose_bias" if event.kind == "pose_noise" else "pose_noise"
                assert error * (2 if other in s.rates else 1) <= s.pose_error * (1 + 1e-9) or s.noise
                assert error <= s.pose_error + 1e-9


@pytest.mark.parametrize("family", [*FAMILIES, *PIXEL_FAMILIES])
def test_maps_have_one_large_area_of_about_the_size_asked_for(family):
    for seed in range(6):
        radius, margin = 0.15 + 0.05 * seed, smallest_margin(0.005 * seed)
        map = draw_map(family, 150, seed, radius, margin, bool(seed % 2), (1.0, 2.0, 0.4 * seed))
        grid = build_grid(map, radius, margin)
        large = int((grid.components == 0).sum())
        assert large > 0.6 * grid.free.sum(), (family, seed)
        if family != "warehouse":
            assert 40 <= large <= 400, (family, seed)


# A run --------------------------------------------------------------------------------------------------------


def test_a_run_is_the_same_for_its_seed_and_from_the_events_that_it_recorded():
    scenario = draw(7, minutes=1.0).replace(
        policy="stampeding", rates={"stall": 60.0, "push": 60.0, "robot_stopped": 60.0}
    )
    first, second = run(scenario), run(scenario)
    assert first.results() == second.results() and first.recorded
    again = run(scenario.replace(events=tuple(first.recorded)))
    np.testing.assert_array_equal(again.world.poses, first.world.poses)
    assert again.recorded == first.recorded


def test_without_faults_goals_are_reached_and_all_is_accounted_for():
    results = run(QUIET).results()
    goals = results["goals"]
    assert results["failure"] is None and goals["reached"] >= 8
    assert goals["given"] == goals["reached"] + goals["taken_back"] + goals["refused"] + goals["open"]
    assert sum(results["events"].values()) == 0


def test_robots_that_decide_for_themselves_pass_the_same_checks():
    scenario = QUIET.replace(mode="decentralised", network_loss=0.3, network_delay=4, rates={"stall": 30.0})
    results = run(scenario).results()
    assert results["failure"] is None and results["goals"]["reached"] >= 2, results
    assert results["events"]["stall"] > 0


# Goals --------------------------------------------------------------------------------------------------------


def test_a_fleet_that_forgets_goals_fails():
    """Counted from the fleet's own list, as the soak once did, nothing would be lost."""
    found = run(QUIET, "goals")
    assert found.failure.kind == "goal" and "missing from the fleet" in found.failure.what


def test_a_fleet_that_only_says_that_it_reached_goals_fails(monkeypatch):
    from marlgpt_policy.fleet.fleet import Fleet

    original = Fleet.tick

    def tick(self, now):
        result = original(self, now)
        if now > 5.0:
            dropped = np.flatnonzero(self.goals[:, 0] >= 0)
            self.goals[dropped] = -1
            result = dataclasses.replace(result, reached=dropped.tolist())
        return result

    monkeypatch.setattr(Fleet, "tick", tick)
    assert run(QUIET).failure.kind == "goal"


def test_a_fleet_that_goes_elsewhere_than_it_was_told_fails(monkeypatch):
    from marlgpt_policy.fleet.fleet import Fleet

    monkeypatch.setattr(
        Fleet, "set_goal", lambda self, robot, x, y: self.goals.__setitem__(robot, self.cells[robot])
    )
    assert run(QUIET).failure.kind == "goal"


def test_robots_that_never_move_starve(monkeypatch):
    from marlgpt_policy.fleet.fleet import Fleet

    original = Fleet.tick

    def tick(self, now):
        return dataclasses.replace(original(self, now), commands=np.zeros((len(self), 3)))

    monkeypatch.setattr(Fleet, "tick", tick)
    results = run(QUIET.replace(ticks=2600)).results()
    assert results["starved_robots"] == results["unserved_robots"] == 8
    assert results["longest_starved_s"] > 120.0


# Failures -----------------------------------------------------------------------------------------------------


def test_an_exception_of_the_fleet_is_a_failure_that_says_where(monkeypatch):
    from marlgpt_policy.motion.edge_coupling import Edges

    def settle(self, *_):
        raise RuntimeError("out of order")

    monkeypatch.setattr(Edges, "settle", settle)
    failure = run(QUIET).failure
    assert failure.kind == "exception" and "out of order" in failure.what


@pytest.fixture(scope="module")
def ram():
    """A run in which nobody looks ahead: something touches within minutes."""
    for seed in range(60):
        drawn = draw(seed, minutes=2.0, mode="centralised")
        few = min(drawn.placed, 8)  # a trial of cutting down takes half a second, not ten
        scenario = drawn.replace(
            policy="stampeding", aims={"push_beside_docking": 300.0, "set_down_ahead": 300.0},
            cells=min(drawn.cells, 3 * few), placed=few, robots=tuple(range(few)), waiting=(),
        )  # fmt: skip
        found = run(scenario, "docking")
        if found.failure is not None and found.failure.kind == "contact":
            return found
    pytest.fail("no contact although nobody looks ahead")


def test_a_failing_run_is_cut_down_and_its_test_input_replays(ram, tmp_path, capsys):
    small = soak.cut_down_run(ram, MODEL, "docking", 15.0)
    assert run(small, "docking").failure.kind == "contact"
    assert small.ticks <= ram.scenario.ticks
    assert len(small.robots) < len(ram.scenario.robots) or len(small.events) < len(ram.recorded)
    file = tmp_path / "case.json"
    options = {"minutes": None, "mode": None, "broken": "docking"}
    soak.write_input(file, small, ram, options)
    assert soak.main(soak.Args(replay=str(file))) == soak.FAILED
    assert "failed: contact" in capsys.readouterr().out


def test_aimed_pushes_and_set_downs_meet_docking_robots():
    found = run(
        QUIET.replace(
            cells=60, placed=20, robots=tuple(range(20)), ticks=1800, margin=0.14,
            aims={"push_beside_docking": 600.0, "set_down_ahead": 600.0},
        )
    )  # fmt: skip
    aimed = Counter(event.aim for event in found.recorded)
    assert aimed["push_beside_docking"] > 0 and aimed["set_down_ahead"] > 0
    assert any(event.kind == "set_down" for event in found.recorded)
    assert found.situations.counts["docking_beside_another"] > 0


def test_leaders_stall_so_that_followers_wait_just_before_a_cell_and_a_broken_rule_shows():
    crowd = QUIET.replace(
        cells=60, placed=36, robots=tuple(range(36)), ticks=4800, margin=smallest_margin(0.0),
        aims={"stall_at_limit": 400.0},
    )  # fmt: skip
    found = run(crowd)
    assert found.failure is None, found.failure
    aimed = [event.kind for event in found.recorded if event.aim == "stall_at_limit"]
    assert aimed.count("stall") >= 3 and "goal_replaced" in aimed
    for seed in range(4, 12):
        found = run(crowd.replace(seed=seed), "settling")
        if found.failure is not None:
            break
    assert found.failure.kind == "rule" and "ended its edge although" in found.failure.what


def test_nobody_is_set_down_where_others_cannot_stop():
    soak_run = SoakRun(QUIET, MODEL)
    x, y = soak_run.world.poses[0, :2]
    event = Event(0, "set_down", 1, size={"x": x + 0.5, "y": y, "yaw": 0.0})
    soak_run.world.velocities[0] = (0.5, 0.0, 0.0)
    soak_run._apply(event)
    assert soak_run.recorded == []


def test_a_robot_that_a_hand_pushes_into_a_wall_counts_apart_and_one_that_drives_there_fails():
    pushed = Scenario.from_json(next(c for c in CASES if c.stem == "pushed_past_a_corner").read_text())
    found = run(pushed)
    assert found.failure is None and found.counts["walls_by_push"] == 1
    found = SoakRun(pushed.replace(events=()), MODEL)
    found.driver.tick = lambda poses, clock: np.tile([0.5, 0.0, 0.0], (len(found.bodies), 1))
    found.run()
    assert found.failure.kind in ("wall", "contact")


@pytest.mark.parametrize("case", CASES, ids=lambda path: path.stem)
def test_runs_that_failed_once_pass_now(case):
    found = run(Scenario.from_json(case.read_text()))
    assert found.failure is None, found.failure


@pytest.mark.parametrize(
    "case", [c for c in CASES if json.loads(c.read_text()).get("broken")], ids=lambda p: p.stem
)
def test_runs_that_failed_with_a_broken_rule_still_do(case):
    text = case.read_text()
    found = run(Scenario.from_json(text), json.loads(text)["broken"])
    assert found.failure is not None and found.failure.kind == json.loads(text)["failed"]


def test_rules_are_whole_again_afterwards():
    for rule, patches in RULES.items():
        before = [getattr(holder, name) for holder, name, _ in patches]
        with broken(rule):
            assert all(
                getattr(holder, name) is not old
                for (holder, name, _), old in zip(patches, before, strict=True)
            )
        assert all(
            getattr(holder, name) is old for (holder, name, _), old in zip(patches, before, strict=True)
        )
    with pytest.raises(ValueError, match="no rule 'gravity'"), broken("gravity"):
        pass


# The command --------------------------------------------------------------------------------------------------


def args(tmp_path, **changes):
    values = {"hours": 0.5, "minutes": 0.5, "seed": 5, "out": tmp_path / "soak", "cut_down_for": 0.0}
    return soak.Args(**values | changes)


def test_the_command_sums_up_does_not_repeat_what_is_there_and_repeats_old_code(
    tmp_path, capsys, monkeypatch
):
    assert soak.main(args(tmp_path)) == 0
    summary = json.loads((tmp_path / "soak/summary.json").read_text())
    assert summary["runs"] == len(list((tmp_path / "soak/runs").glob("*.json"))) >= 1
    assert summary["robot_hours"] >= 0.5 and summary["failures"]["contact"] == 0
    assert "campaign seed 5" in (out := capsys.readouterr().out) and "robot-hours" in out
    monkeypatch.setattr(soak, "ProcessPoolExecutor", NoPool)
    assert soak.main(args(tmp_path)) == 0
    monkeypatch.setattr(soak, "code_hash", lambda: "another")
    with pytest.raises(AssertionError, match="simulated again"):
        soak.main(args(tmp_path))


class NoPool:
    def __init__(self, *_, **__):
        pass

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def submit(self, *_):
        raise AssertionError("simulated again")


def test_a_seed_from_the_clock_is_kept_until_the_campaign_is_complete(tmp_path):
    options = args(tmp_path, seed=None)
    options.out.mkdir()
    seed, _ = soak.campaign_of(options)
    assert soak.campaign_of(options)[0] == seed
    soak._note_campaign(options, seed, {"minutes": 0.5, "mode": None, "broken": None}, complete=True)
    assert soak.campaign_of(options)[0] != seed


def test_a_broken_rule_is_found_and_the_command_says_how_to_see_it(tmp_path, capsys):
    options = args(tmp_path, broken="goals", hours=5.0, minutes=2.0, stop_at_first=True)
    assert soak.main(options) == soak.FAILED
    summary = json.loads((tmp_path / "soak/summary.json").read_text())
    assert summary["failures"]["goal"] > 0 and summary["robot_hours"] < 20
    out = capsys.readouterr().out
    seed = summary["failed_seeds"][0]
    assert f"marlgpt soak --replay {seed} --minutes 2.0 --broken goals" in out
    assert soak.main(soak.Args(replay=str(seed), minutes=2.0, broken="goals")) == soak.FAILED


def test_failures_and_what_was_never_exercised_fail_a_campaign():
    good = run(QUIET.replace(ticks=40)).results()
    assert soak.passed(soak_report.summarise([good]))
    for kind in soak_report.FAILURES:
        bad = {**good, "failure": {"kind": kind, "tick": 1, "what": "x"}}
        assert not soak.passed(soak_report.summarise([good, bad])), kind
    long = soak_report.summarise([{**good, "robot_hours": 60.0}])
    assert not soak.passed(long)
    missing = {"event stall", "aim set_down_ahead", "situation ring_rotation", "mode decentralised"}
    assert missing <= set(long["never_seen"])
    assert "event stall" in soak_report.in_words(long)


def test_nonsense_is_refused(tmp_path):
    for change in ({"hours": 0.0}, {"minutes": -1.0}, {"workers": 0}):
        with pytest.raises(ValueError, match="must be positive"):
            soak.main(args(tmp_path, **change))
