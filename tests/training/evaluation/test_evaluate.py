"""``marlgpt evaluate`` in the real pogema package, and the model card written from its results."""

import json

import numpy as np
import pytest
import torch
from marlgpt_policy.encoders.token_layout import POGEMA_LAYOUT
from marlgpt_training import cli
from marlgpt_training.environments import map_families as maps
from marlgpt_training.evaluation import episode, evaluate
from marlgpt_training.evaluation import players as contestants
from marlgpt_training.evaluation.instances import Instance
from marlgpt_training.evaluation.map_files import GridMap, parse_map
from marlgpt_training.evaluation.report import normalised_table, table
from marlgpt_training.export import model_card
from marlgpt_training.export.export import to_onnx
from marlgpt_training.model.model import MarlGpt, ModelConfig
from marlgpt_training.seeds import EVALUATION

pytest.importorskip("pogema", reason="pogema is not installed (make setup installs it)")


@pytest.fixture
def policy(tmp_path):
    """A small random policy, exported."""
    torch.manual_seed(0)
    path = tmp_path / "small.onnx"
    model = MarlGpt(ModelConfig(16, 2, 1, "entity"), POGEMA_LAYOUT)
    to_onnx(model, POGEMA_LAYOUT, path, {"step": 3, "samples": 96}, "random weights")
    return path


def task(free, agents=12, seed=1, steps=40, lifelong=True):
    world = free if isinstance(free, GridMap) else GridMap("map", free)
    return Instance(world, agents, seed, lifelong, steps, 12)


def plays(name, instance, **how):
    return episode.play(contestants.Contestant(name, **how), None, instance)


@pytest.mark.parametrize("name", contestants.BASELINES)
def test_every_baseline_plays_and_experts_beat_the_naive(name):
    instance = task(maps.generate("random", EVALUATION))
    result = plays(name, instance)
    assert 0 <= result["avg_throughput"] <= 12 and result["steps"] == 40 and result["decision_ms"] > 0
    if name in ("pibt", "lns"):
        assert result["avg_throughput"] > 2 * plays("random", instance)["avg_throughput"]
        assert result["agent_collisions"] == result["wall_collisions"] == 0 and result["coordination"] == 1
    else:
        assert result["agent_collisions"] > 0 and result["coordination"] < 1
    assert (result["wall_collisions"] > 0) == (name == "random")


def test_one_shot_success_of_pibt_on_an_open_map():
    result = plays("pibt", task(np.ones((12, 12), dtype=bool), 4, lifelong=False))
    assert result["CSR"] == result["ISR"] == 1.0
    assert result["shortest"] <= result["SoC"] <= 4 * result["makespan"]


def test_one_agent_alone_takes_a_shortest_path():
    for seed in range(5):
        result = plays("greedy-path", task(maps.generate("maze", EVALUATION + seed), 1, seed, 200, False))
        assert result["CSR"] == 1 and result["ep_length"] == result["SoC"] == result["shortest"]


def test_refused_moves_are_counted():
    """Two agents meet head-on in a corridor: every move from then on is refused."""
    result = plays(
        "greedy-path", task(parse_map("corridor", "a..b..BA".replace("b..B", "B..b")), 2, 0, 10, False)
    )
    assert result["CSR"] == 0
    assert result["agent_collisions"] == 2 * (10 - 2) or result["agent_collisions"] > 0
    assert result["coordination"] == pytest.approx(1 - result["agent_collisions"] / 20)


def test_congestion_is_the_density_on_the_map_over_that_around_agents():
    result = plays("random", task(np.ones((11, 11), dtype=bool), 1, steps=5))
    assert result["congestion"] == pytest.approx(1 / 121 / result["avg_agents_density"])


def test_a_map_gives_the_same_starts_and_goals_as_its_text_in_pogema():
    pogema = episode.import_pogema()
    marked = "@..!$\n.#.#.\n$.@.@\n"
    for text, lifelong in (
        (marked, True),
        (marked, False),
        ("a.B\n.#.\nb.A\n", False),
        ("....\n.##.\n....", True),
    ):
        target = "restart" if lifelong else "nothing"
        config = pogema.GridConfig(
            map=text, num_agents=2, seed=3, max_episode_steps=8, observation_type="MAPF", on_target=target,
            collision_system="soft",
        )  # fmt: skip
        theirs, _ = pogema.pogema_v0(config).reset()
        ours, _ = episode.environment(task(parse_map("m", text), 2, 3, 8, lifelong)).reset()
        for a, b in zip(theirs, ours, strict=True):
            assert (a["global_obstacles"] == b["global_obstacles"]).all()
            assert tuple(a["global_xy"]) == tuple(b["global_xy"])
            assert tuple(a["global_target_xy"]) == tuple(b["global_target_xy"])


@pytest.mark.parametrize("name", contestants.BASELINES)
@pytest.mark.parametrize("lifelong", [True, False])
def test_maps_in_several_parts_and_with_marks_are_played(name, lifelong):
    parts = parse_map("parts", "....#....\n....#....\n....#....")
    marks = parse_map("marks", "@.!..$\n@.!..$\n@.!..$")
    for world in (parts, marks):
        result = plays(name, task(world, 4, 2, 20, lifelong))
        assert 0 <= result["coordination"] <= 1


def test_the_same_seed_gives_the_same_episode(policy):
    loaded = contestants.load(str(policy))
    who = contestants.Contestant(str(policy), shield=True)
    instance = task(maps.generate("random", EVALUATION + 1), 10)
    results = [episode.play(who, loaded, instance) for _ in range(2)]
    for result in results:
        result.pop("decision_ms"), result.pop("runtime")
    assert results[0] == results[1]
    assert results[0]["agent_collisions"] == 0  # what the shield is for


def test_moves_from_plans_are_counted(policy):
    """A random policy gets nowhere, so that behind the shield plans drive it; nobody else has plans."""
    loaded = contestants.load(str(policy))
    instance = task(maps.generate("random", EVALUATION + 1), 6, steps=60)
    results = {
        shield: episode.play(contestants.Contestant(str(policy), shield), loaded, instance)
        for shield in (True, False)
    }
    assert 0.02 < results[True]["rescued"] < 1
    assert results[False]["rescued"] == plays("pibt", instance)["rescued"] == 0


def test_main_writes_intervals_and_the_card_repeats_them(policy, tmp_path, capsys):
    out, pictures = tmp_path / "evaluation.json", tmp_path / "pictures"
    args = evaluate.Args(
        policy=[str(policy), "pibt"],
        count=3,
        agents="4,8",
        steps=40,
        seeds=2,
        workers=1,
        json=out,
        plots=pictures,
    )
    assert evaluate.main(args) == 0
    report = json.loads(out.read_text())
    assert set(report) >= {"mean_throughput", "by_agents", "policy", "protocol", "policies"}
    assert set(report["by_agents"]) == {"4", "8"}
    assert report["by_agents"]["4"]["episodes"] == 6 and report["by_agents"]["4"]["maps"] == 3
    assert report["by_agents"]["4"]["avg_throughput_ci95"] >= 0
    assert report["protocol"]["seeds"] == 2 and report["protocol"]["interval_over"] == "maps"
    labels = ["small sampled T=0.2 + shield", "small sampled T=0.5", "pibt"]
    assert sorted(report["policies"]) == sorted(labels)
    pibt, mine = report["policies"]["pibt"], report["policies"][labels[0]]
    means = [pibt["by_agents"][n]["avg_throughput"] for n in ("4", "8")]
    assert pibt["mean_throughput"] == pytest.approx(np.mean(means))
    assert pibt["ratio_to_pibt"] == {"value": 1, "low": 1, "high": 1}
    assert mine["ratio_to_pibt"]["value"] == pytest.approx(mine["mean_throughput"] / pibt["mean_throughput"])
    ratio = mine["by_agents"]["4"]["ratio_to_pibt"]
    assert 0 <= ratio["low"] < ratio["value"] < ratio["high"]
    assert pibt["pogema"]["performance"] > mine["pogema"]["performance"] >= 0
    assert pibt["pogema"]["pathfinding"] == pibt["pogema"]["coordination"] == 1
    assert 0 < pibt["pogema"]["scalability"] <= 1
    printed = capsys.readouterr().out
    assert normalised_table(report) in printed
    assert not out.with_name("evaluation.json.partial.jsonl").exists()
    drawn = sorted(path.name for path in pictures.iterdir())
    assert {"avg_throughput.png", "decision_ms.png", "pogema.png"} <= set(drawn)
    card = tmp_path / "card.md"
    assert model_card.main(model_card.Args(policy, [out], card, ["make it"])) == 0
    text = card.read_text()
    for line in table(report).splitlines():
        assert line in text and line in printed
    assert "not trained" in text and "random weights" in text and "make it" in text and "over maps" in text


def test_one_run_holds_all_ways_of_a_policy(policy, tmp_path):
    out = tmp_path / "all.json"
    args = evaluate.Args(
        policy=[str(policy), "random"], count=1, agents="4", steps=4, mode="one-shot", shield="both",
        sample="both", workers=1, pathfinding=False, json=out,
    )  # fmt: skip
    assert evaluate.main(args) == 0
    report = json.loads(out.read_text())
    ways = {(entry["shield"], entry["sample"]) for entry in report["policies"].values()}
    assert len(report["policies"]) == 5 and len(ways) == 4
    assert 0 <= report["mean_success_low"] <= report["mean_success"] <= report["mean_success_high"] <= 1
    assert report["mean_success_low"] < report["mean_success_high"] and report["by_agents"]["4"]["SoC"] > 0
    assert report["protocol"]["interval_over"] == "episodes of one map"


def test_a_stopped_evaluation_goes_on_with_equal_results(tmp_path, monkeypatch, capsys):
    def args(**changed):
        return evaluate.Args(
            **{"policy": ["pibt", "random"], "count": 2, "agents": "4", "steps": 8, "workers": 1} | changed
        )

    whole, broken = tmp_path / "whole.json", tmp_path / "broken.json"
    partial = tmp_path / "broken.json.partial.jsonl"
    assert evaluate.main(args(json=whole)) == 0
    real, played = evaluate.play_in_worker, []

    def stops(job):
        if len(played) == 3:
            raise KeyboardInterrupt
        played.append(job)
        return real(job)

    monkeypatch.setattr(evaluate, "play_in_worker", stops)
    assert evaluate.main(args(json=broken)) == 130
    assert "keeps 3 episodes" in capsys.readouterr().out
    assert not broken.exists() and len(partial.read_text().splitlines()) == 4
    with open(partial, "a") as file:
        file.write('{"key": "torn')
    with pytest.raises(ValueError, match=r"other settings.*\(steps differ\)"):
        evaluate.main(args(json=broken, steps=9))
    played.clear()
    monkeypatch.setattr(evaluate, "play_in_worker", lambda job: played.append(job) or real(job))
    assert evaluate.main(args(json=broken)) == 0
    assert len(played) == 8 - 3 and not partial.exists()

    def timeless(value):
        if isinstance(value, dict):
            return {
                k: timeless(v)
                for k, v in value.items()
                if not k.startswith(("runtime", "decision_ms", "scalab"))
            }
        return value

    assert timeless(json.loads(broken.read_text())) == timeless(json.loads(whole.read_text()))


@pytest.mark.slow
def test_processes_give_what_one_process_gives(tmp_path):
    results = []
    for workers in (1, 2):
        out = tmp_path / f"{workers}.json"
        args = evaluate.Args(policy=["pibt"], count=2, agents="4,8", steps=8, workers=workers, json=out)
        assert evaluate.main(args) == 0
        results.append(json.loads(out.read_text())["mean_throughput"])
    assert results[0] == results[1]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"shield": "maybe"}, "--shield maybe"),
        ({"sample": "maybe"}, "--sample maybe"),
        ({"policy": ["nowhere.onnx"]}, "nowhere.onnx: no such file"),
        ({"policy": ["pibt", "pibt"]}, "both be called 'pibt'"),
        ({"mode": "forever"}, "--mode forever"),
        ({"maps": "nowhere.yaml"}, "nowhere.yaml"),
        ({"agents": "8,x"}, "--agents 8,x: 'x' is not a positive"),
        ({"agents": "0"}, "'0' is not a positive"),
        ({"agents": "5000"}, "none of 200 generated 'random' maps has room"),
        ({"steps": 0}, "--steps 0: at least 1"),
        ({"seeds": 0}, "--seeds 0: at least 1"),
        ({"count": 0}, "--count 0: at least 1"),
        ({"temperature": 0.0}, "--temperature 0: must be above 0"),
    ],
)
def test_bad_options_are_named(options, message):
    with pytest.raises(ValueError) as error:
        evaluate.main(evaluate.Args(**{"policy": ["pibt"], "workers": 1, "agents": "4", **options}))
    assert message in str(error.value) and "\n" not in str(error.value)


def test_places_that_cannot_be_written_are_found_before_the_work(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(evaluate, "play_all", lambda *_: pytest.fail("work began"))
    (tmp_path / "file").write_text("")
    for option, place in (
        ("json", tmp_path / "file" / "out.json"),
        ("json", tmp_path),
        ("plots", tmp_path / "file"),
    ):
        assert cli.main(["evaluate", "--policy", "pibt", "--agents", "4", f"--{option}", str(place)]) == 1
        said = capsys.readouterr().err
        assert said.startswith("marlgpt evaluate: ") and str(place) in said and said.count("\n") == 1


def test_map_files_without_room_or_with_fixed_agents(tmp_path, capsys):
    path = tmp_path / "maps.yaml"
    path.write_text("small: |\n  ...\n  ...\nlarge: |\n  .....\n  .....\n")
    args = evaluate.Args(policy=["pibt"], maps=str(path), agents="4", steps=4, workers=1)
    assert evaluate.main(args) == 0
    assert (
        "left out for want of room: 1 of the maps and agent counts, e.g. small with 4"
        in capsys.readouterr().out
    )
    report = tmp_path / "all.json"
    path.write_text("".join(f"m{k}: |\n  .....\n  .....\n" for k in range(18)))
    args.json, args.pathfinding = report, False
    assert evaluate.main(args) == 0  # all maps of a file, unless --count says otherwise
    found = json.loads(report.read_text())
    assert found["by_agents"]["4"]["maps"] == found["protocol"]["maps_per_count"] == 18
    args.count = 2
    assert evaluate.main(args) == 0
    assert "the first 2 of 18 maps; --count 18 takes all" in capsys.readouterr().out
    assert json.loads(report.read_text())["by_agents"]["4"]["maps"] == 2
    args.count = args.json = None
    path.write_text("small: |\n  ...\n  ...\nlarge: |\n  .....\n  .....\n")
    args.agents = "6,7"
    with pytest.raises(ValueError, match="no map has room for 6 or 7 agents"):
        evaluate.main(args)
    path.write_text("puzzle: |\n  a.B\n  b.A\n")
    args.agents = "2"
    with pytest.raises(ValueError, match="map 'puzzle' gives every agent .* --mode one-shot"):
        evaluate.main(args)
    args.mode = "one-shot"
    assert evaluate.main(args) == 0
