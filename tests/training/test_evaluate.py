"""Evaluation in the real pogema package, and the model card written from it."""

import json

import numpy as np
import pytest
import torch
from marlgpt_policy.layout import POGEMA_LAYOUT
from marlgpt_training import evaluate, maps, model_card
from marlgpt_training.export import to_onnx
from marlgpt_training.model import MarlGpt, ModelConfig

pytest.importorskip("pogema", reason="pogema is not installed (make setup installs it)")


@pytest.fixture
def policy(tmp_path):
    """A small random policy, exported."""
    torch.manual_seed(0)
    path = tmp_path / "small.onnx"
    model = MarlGpt(ModelConfig(16, 2, 1, "entity"), POGEMA_LAYOUT)
    to_onnx(model, POGEMA_LAYOUT, path, {"step": 3, "samples": 96}, "random weights")
    return path


def settings(**options):
    """Arguments of one episode."""
    return {"seed": 1, "steps": 40, "mode": "lifelong", "window": 12, **options}


@pytest.mark.parametrize("name", evaluate.BASELINES)
def test_every_baseline_plays_and_experts_beat_the_naive(name):
    free = maps.generate("random", evaluate.EVALUATION)
    result = evaluate.play(evaluate.Contestant(name), None, free, 12, settings())
    assert 0 <= result["avg_throughput"] <= 12
    if name in ("pibt", "lns"):
        naive = evaluate.play(evaluate.Contestant("random"), None, free, 12, settings())
        assert result["avg_throughput"] > 2 * naive["avg_throughput"]


def test_one_shot_success_of_pibt_on_an_open_map():
    free = np.ones((12, 12), dtype=bool)
    result = evaluate.play(evaluate.Contestant("pibt"), None, free, 4, settings(mode="one-shot"))
    assert result["CSR"] == 1.0
    assert result["ISR"] == 1.0


def test_the_same_seed_gives_the_same_episode(policy):
    from marlgpt_policy.policy import OnnxPolicy

    loaded = OnnxPolicy(policy, POGEMA_LAYOUT, ("CPUExecutionProvider",), 1)
    who = evaluate.Contestant(str(policy), shield=True)
    free = maps.generate("random", evaluate.EVALUATION + 1)
    results = [evaluate.play(who, loaded, free, 10, settings()) for _ in range(2)]
    for result in results:
        result.pop("decision_ms"), result.pop("runtime", None)
    assert results[0] == results[1]


def test_main_writes_intervals_and_the_card_repeats_them(policy, tmp_path, capsys):
    out = tmp_path / "evaluation.json"
    args = evaluate.Args(
        policy=[str(policy), "pibt"], count=2, agents="4,8", steps=24, seeds=2, workers=1, json=out
    )
    assert evaluate.main(args) == 0
    report = json.loads(out.read_text())
    assert set(report) >= {"mean_throughput", "by_agents", "policy", "protocol", "policies"}
    assert set(report["by_agents"]) == {"4", "8"}
    assert report["by_agents"]["4"]["episodes"] == 4
    assert report["by_agents"]["4"]["avg_throughput_ci95"] >= 0
    assert report["protocol"]["seeds"] == 2
    labels = ["small sampled T=1 + shield", "small sampled T=1", "pibt"]
    assert sorted(report["policies"]) == sorted(labels)
    means = [report["policies"]["pibt"]["by_agents"][n]["avg_throughput"] for n in ("4", "8")]
    assert report["policies"]["pibt"]["mean_throughput"] == pytest.approx(np.mean(means))
    printed = capsys.readouterr().out
    card = tmp_path / "card.md"
    assert model_card.main(model_card.Args(policy, [out], card, ["make it"])) == 0
    text = card.read_text()
    for line in evaluate.table(report).splitlines():
        assert line in text and line in printed
    assert "not trained" in text and "random weights" in text and "make it" in text


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"shield": "maybe"}, "--shield maybe"),
        ({"sample": "maybe"}, "--sample maybe"),
        ({"policy": ["nowhere.onnx"]}, "nowhere.onnx"),
        ({"mode": "forever"}, "--mode forever"),
        ({"maps": "nowhere.yaml"}, "nowhere.yaml"),
    ],
)
def test_bad_options_are_named(options, message):
    with pytest.raises(ValueError) as error:
        evaluate.main(evaluate.Args(**{"policy": ["pibt"], "workers": 1, "agents": "4", **options}))
    assert message in str(error.value)


def test_toolbox_map_files(tmp_path):
    path = tmp_path / "maps.yaml"
    path.write_text("one: |\n  ....#\n  .##.#\n  .....\ntwo: |\n  ..\n  ..\n")
    found = dict(evaluate.load_maps(path))
    assert found["one"].tolist() == [
        [True, True, True, True, False],
        [True, False, False, True, False],
        [True, True, True, True, True],
    ]
    assert found["two"].all()
    for text, message in (
        ("a: |\n  ..\n  ...\n", "'a'"),
        ("- 1\n", "expected 'name"),
        ("a: [", "not a readable YAML"),
    ):
        path.write_text(text)
        with pytest.raises(ValueError, match=message):
            evaluate.load_maps(path)
